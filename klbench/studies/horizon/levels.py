"""Where the bias of token losses levels off: on random chains, and on each family."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy.stats import binom

from klbench import gradients, streams
from klbench.gradients import recursion
from klbench.policies import markov
from klbench.policies.markov import Chain
from klbench.studies.horizon.series import chain, off_and_noise

Row = dict[str, Any]
KNOWN: Mapping[int, float] = {2: 0.149, 4: 0.227, 8: 0.268, 128: 0.307, 1024: 0.310}
"""Medians that others found on random chains of six states."""
CHAINS = 200
TOKEN_LOSS = "full_loss"
"""Its mean is that of ``k2_loss``: each token's own KL, without the score of the tokens before."""
REACHED = 0.95
NEAR, FAR, SOON = 8, 256, 64
"""Lengths between which growth is taken, and within which what levels off has done so."""
Z = 1.96


def median(values: Sequence[float]) -> tuple[float, float, float]:
    """Return the median and the ends of its 95 % interval, by the order of the values."""
    ordered = np.sort(np.asarray(values))
    low = int(binom.ppf(0.025, len(ordered), 0.5))
    return float(np.median(ordered)), float(ordered[max(low - 1, 0)]), float(ordered[-max(low, 1)])


def endless(policies: Chain) -> float:
    """Return the bias of token losses as the length grows, of a chain that forgets its start.

    ``sum over s of d(s) q(a|s) (h(a) - mean)`` is left out, d the stationary distribution and h the deviation,
    ``h = kl - K + P h``: what a token adds to all later KLs (Howard 1960, "Dynamic Programming and Markov Processes").
    """
    kernel, kl = policies.kernel(policies.log_q), policies.token_kl(policies.log_p)
    stationary = markov.stationary(kernel)
    size = len(kl)
    inverse = np.linalg.inv(np.eye(size) - kernel + np.outer(np.ones(size), stationary))
    later = (inverse @ (kl - stationary @ kl))[policies.after]
    q, gap = np.exp(policies.log_q), policies.log_q - policies.log_p
    left_out = stationary[:, None] * q * (later - (q * later).sum(-1, keepdims=True))
    own = stationary[:, None] * q * (gap - kl[:, None])
    return float(np.linalg.norm(left_out) / np.linalg.norm(own + left_out))


def token_bias(policies: Chain, lengths: Sequence[int]) -> dict[int, float]:
    """Return the bias of token losses on samples of the policy, at each length."""
    exact = recursion.exact_gradient(policies, lengths)
    found = recursion.moments(gradients.get(TOKEN_LOSS), policies, lengths)
    assert found is not None
    return {tokens: off_and_noise(found[tokens], exact[tokens])[0] for tokens in lengths}


def levels_rows(lengths: Sequence[int], seed: int) -> list[Row]:
    """Return table ``levels``: random chains, whose policy and reference have standard normal logits."""
    chains = [
        markov.random_chain(streams.generator(seed, "horizon", "random", k)) for k in range(CHAINS)
    ]
    biases = [token_bias(each, lengths) for each in chains]
    limits = [endless(each) for each in chains]
    slow = float(np.median([markov.relaxation(each.kernel(each.log_q)) for each in chains]))
    rows = []
    for tokens in lengths:
        values = [each[tokens] for each in biases]
        middle, low, high = median(values)
        share = np.median([value / limit for value, limit in zip(values, limits, strict=True)])
        rows.append(
            {
                "tokens": tokens,
                "rel_bias": middle,
                "rel_bias_low": low,
                "rel_bias_high": high,
                "known": KNOWN.get(tokens, math.nan),
                "of_limit": float(share),
                "relaxation": slow,
                "chains": CHAINS,
            }
        )
    return rows


def family_row(
    series: markov.Family, kl_token: float, lengths: Sequence[int], seed: int, chains: int
) -> Row:
    """Return the row of table ``families`` of a family of chains: medians over random ones."""
    made = [chain(series, kl_token, 0.0, lengths[-1], seed, k) for k in range(chains)]
    biases = [token_bias(each, lengths) for each in made]
    limits = [endless(each) for each in made] if series == "mixing" else [math.nan]
    slow = [markov.relaxation(each.kernel(each.log_q)) for each in made]
    curve = {tokens: float(np.median([each[tokens] for each in biases])) for tokens in lengths}
    largest = max(curve.values())
    levels_at = min(tokens for tokens, bias in curve.items() if bias >= REACHED * largest)
    end = min(FAR, lengths[-1])
    return {
        "series": series,
        "kl_token": kl_token,
        **_ends("first", median([each[NEAR] for each in biases])),
        "last_tokens": lengths[-1],
        **_ends("last", median([each[lengths[-1]] for each in biases])),
        **_ends("growth", median([each[end] / each[NEAR] for each in biases])),
        "levels_at": levels_at,
        "relaxation": float(np.median(slow)),
        "limit": float(np.median(limits)),
        "verdict": "levels off" if levels_at <= SOON else "grows",
        "like": "",
    }


def _ends(name: str, found: tuple[float, float, float]) -> Row:
    return {f"{name}{end}": value for end, value in zip(("", "_low", "_high"), found, strict=True)}


def sampled_row(
    sampled: Sequence[Row], horizon: Sequence[Row], families: Sequence[Row]
) -> Row | None:
    """Return the row of table ``families`` of the language models, and which families they are like."""
    name = TOKEN_LOSS
    rows = {
        row["tokens"]: row
        for row in sampled
        if row["combination"] == name and row["lag_token"] == 0.0
    }
    if not {NEAR, FAR} <= rows.keys():
        return None
    first, last = ((row["rel_bias"], row["rel_bias_se"]) for row in (rows[NEAR], rows[max(rows)]))
    growth = last[0] / first[0] if first[0] else math.nan
    error = math.hypot(last[1] / first[0], growth * first[1] / first[0]) if first[0] else math.nan
    low, high = max(growth - Z * error, 0.0), growth + Z * error
    near = sorted(
        {row["series"]: row for row in families if low <= row["growth"] <= high}.values(),
        key=lambda row: float(abs(row["growth"] - growth)),
    )
    kl = next(
        row["kl_token"] for row in horizon if row["series"] == "lm" and row["tokens"] == max(rows)
    )
    return {
        "series": "lm",
        "kl_token": kl,
        **_ends("first", _around(*first)),
        "last_tokens": max(rows),
        **_ends("last", _around(*last)),
        **_ends("growth", (growth, low, high)),
        "levels_at": math.nan,
        "relaxation": math.nan,
        "limit": math.nan,
        "verdict": "levels off" if low <= 1.0 else "grows",
        "like": ", ".join(row["series"] for row in near),
    }


def _around(value: float, se: float) -> tuple[float, float, float]:
    return value, max(value - Z * se, 0.0), value + Z * se
