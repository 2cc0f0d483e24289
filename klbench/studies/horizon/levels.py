"""The bias of token losses, and where it levels off: on random chains, and on each family."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from scipy.stats import binom

from klbench import gradients, streams
from klbench.gradients import recursion
from klbench.policies import markov
from klbench.policies.markov import Chain
from klbench.rows import Row, Rows
from klbench.studies.horizon.columns import Z95
from klbench.studies.horizon.series import chain, off_and_noise

KNOWN: Mapping[int, float] = {2: 0.149, 4: 0.227, 8: 0.268, 128: 0.307, 1024: 0.310}
"""Medians that others found on random chains of six states."""
CHAINS = 200
TOKEN_LOSS = "full_loss"
"""Its mean is that of ``k2_loss``: each token's own KL, without the score of the tokens before."""
REACHED = 0.95
NEAR, SOON = 8, 64
"""Lengths from which growth is taken, and within which what levels off has done so."""


def median(values: Sequence[float]) -> tuple[float, float, float]:
    """Return the median and the ends of its 95 % interval, by the order of the values."""
    ordered = np.sort(np.asarray(values))
    low = int(binom.ppf(0.025, len(ordered), 0.5))
    return float(np.median(ordered)), float(ordered[max(low - 1, 0)]), float(ordered[-max(low, 1)])


def endless(policies: Chain) -> float:
    """Return the bias of token losses as the length grows, of a chain that forgets its start.

    ``sum over s of d(s) q(a|s) (h(a) - mean)`` is left out, d the stationary distribution and h the
    deviation, ``h = kl - K + P h``: what a token adds to all later KLs (Howard 1960, "Dynamic
    Programming and Markov Processes").
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


def levels_rows(lengths: Sequence[int], seed: int) -> Rows:
    """Return table ``levels``.

    Random chains, whose policy and reference have standard normal logits.
    """
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
    return {
        "series": series,
        "kl_token": kl_token,
        **_ends("first", median([each[NEAR] for each in biases])),
        "last_tokens": lengths[-1],
        **_ends("last", median([each[lengths[-1]] for each in biases])),
        "growth": curve[lengths[-1]] / curve[NEAR],
        "levels_at": levels_at,
        "relaxation": float(np.median(slow)),
        "limit": float(np.median(limits)),
        "verdict": "levels off" if levels_at <= SOON else "grows",
        "like": "",
    }


def _ends(name: str, found: tuple[float, float, float]) -> Row:
    return {f"{name}{end}": value for end, value in zip(("", "_low", "_high"), found, strict=True)}


def gap_rows(series: markov.Family, kl_token: float, tokens: int, seed: int, chains: int) -> Rows:
    """Return the rows of table ``gaps`` of a family of chains: medians over random ones."""
    found = [left_out(chain(series, kl_token, 0.0, tokens, seed, k), tokens) for k in range(chains)]
    return [
        _gap(series, kl_token, tokens, gap, median([each[gap] for each in found]))
        | {"share": float(np.median([each[gap] / each[tokens] for each in found]))}
        for gap in gaps(tokens)
    ]


def _gap(
    series: str, kl_token: float, tokens: int, gap: int, found: tuple[float, float, float]
) -> Row:
    return {
        "series": series,
        "kl_token": kl_token,
        "tokens": tokens,
        "gap": gap,
        **_ends("left_out", found),
        "share": math.nan,
    }


def gaps(tokens: int) -> list[int]:
    """Return the gaps that are measured: powers of 2, and all."""
    return [*(2**k for k in range((tokens - 1).bit_length())), tokens]


def left_out(policies: Chain, tokens: int) -> dict[int, float]:
    """Return how long the gradient is that token losses leave out, of KLs within so many later
    tokens.
    """
    kernel, kl = policies.kernel(policies.log_q), policies.token_kl(policies.log_p)
    q, at = np.exp(policies.log_q), policies.start
    reached = []
    for _ in range(tokens):
        reached.append(at)
        at = at @ kernel
    # What k more tokens cost from a state.
    costs = [np.zeros_like(kl)]
    for _ in range(tokens):
        costs.append(kl + kernel @ costs[-1])
    length = float(np.linalg.norm(recursion.exact_gradient(policies, [tokens])[tokens]))
    found = {}
    for gap in gaps(tokens):
        total = np.zeros_like(q)
        for t, state in enumerate(reached):
            later = costs[min(gap, tokens - 1 - t)][policies.after]
            total += state[:, None] * q * (later - (q * later).sum(-1, keepdims=True))
        found[gap] = float(np.linalg.norm(total)) / length
    return found


def sampled_row(sampled: Sequence[Row], horizon: Sequence[Row], found: Sequence[Row]) -> Row | None:
    """Return the row of table ``families`` of the language models.

    ``found`` are the rows of ``gaps``.
    """
    rows = {
        row["tokens"]: row
        for row in sampled
        if row["combination"] == TOKEN_LOSS and row["lag_token"] == 0.0
    }
    own = {row["gap"]: row for row in found if row["series"] == "lm"}
    if NEAR not in rows or NEAR not in own:
        return None
    first, last = ((row["rel_bias"], row["rel_bias_se"]) for row in (rows[NEAR], rows[max(rows)]))
    near, whole = own[NEAR], own[max(own)]
    low, high = (
        near["left_out"] / whole[f"left_out_{end}"] if whole[f"left_out_{end}"] else math.inf
        for end in ("high", "low")
    )
    alike = sorted(
        (abs(row["share"] - near["share"]), row["series"])
        for row in found
        if row["series"] != "lm" and row["gap"] == NEAR and low <= row["share"] <= high
    )
    kl = [row["kl_token"] for row in horizon if row["series"] == "lm"][-1]
    within = own[max(gap for gap in own if gap <= SOON)]
    return {
        "series": "lm",
        "kl_token": kl,
        **_ends("first", _around(*first)),
        "last_tokens": max(rows),
        **_ends("last", _around(*last)),
        "growth": last[0] / first[0] if first[0] else math.nan,
        "levels_at": math.nan,
        "relaxation": math.nan,
        "limit": math.nan,
        "verdict": "levels off" if within["left_out_high"] >= last[0] else "grows",
        "like": ", ".join(name for _, name in alike),
    }


def _around(value: float, se: float) -> tuple[float, float, float]:
    return value, max(value - Z95 * se, 0.0), value + Z95 * se
