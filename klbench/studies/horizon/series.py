"""Rows of series that are known exactly: in closed form, by recursion, or by enumeration."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from klbench import streams
from klbench.gradients import Combination, lognormal, recursion
from klbench.gradients.lognormal import Lognormal
from klbench.metrics.tails import pareto_khat
from klbench.pairs.sequence import SequencePair
from klbench.policies import markov
from klbench.policies.markov import Chain
from klbench.rows import Row, Rows
from klbench.studies.gradient.rows import measure
from klbench.studies.staleness.run import effective_sample_size

BATCH = 256
"""Sequences in the batch that k-hat is of."""
BOUNDED = ("truncated_ratio", "clipped_ratio", "masked_ratio", "sequence_mask")


def row_of(
    series: str,
    combination: Combination,
    tokens: int,
    nats: tuple[float, float, float],
    found: tuple[float, float],
    log_ess: float,
    khat: float,
    method: str,
) -> Row:
    """Return a row of ``horizon``.

    ``nats`` are KL and lag a token and the KL of all, ``found`` bias and noise.
    """
    return {
        "series": series,
        "combination": combination.name,
        "tokens": tokens,
        "kl_token": nats[0],
        "lag_token": nats[1],
        "kl": nats[2],
        "rel_bias": found[0],
        "rel_std": found[1],
        "ess": math.exp(log_ess),
        "log_ess": log_ess,
        "khat": khat,
        "method": method,
    }


def khat(nats: float) -> float:
    """Return k-hat of a batch whose lognormal ratios stand at their quantiles."""
    return pareto_khat(lognormal.quantiles(nats, BATCH))[0]


def _weighted_nats(combination: Combination, lag_token: float, tokens: int) -> float:
    """Return the lag of what one weight is of; NaN where there is none, or it is bounded."""
    kinds = [each.kind for each in combination.factors]
    if not lag_token or len(kinds) != 1 or kinds[0] in BOUNDED:
        return math.nan
    if kinds[0] == "geometric_ratio":
        return lag_token / tokens
    return lag_token * (1 if kinds[0] == "token_ratio" else tokens)


def lognormal_rows(
    chosen: Sequence[Combination], kl_token: float, lag_token: float, lengths: Sequence[int]
) -> Rows:
    """Return the rows of independent Gaussian steps, of every combination that has a closed
    form.
    """
    at, rows = Lognormal(kl_token, lag_token), []
    for tokens in lengths:
        for each in chosen:
            found = lognormal.measure(each, at, tokens)
            if found is None:
                continue
            nats = _weighted_nats(each, lag_token, tokens)
            tail = math.nan if math.isnan(nats) else khat(nats)
            known = (kl_token, lag_token, tokens * kl_token)
            rows.append(
                row_of(
                    "lognormal", each, tokens, known, found[:2], found.log_ess, tail, "closed-form"
                )
            )
    return rows


def chain(
    family: markov.Family, kl_token: float, lag_token: float, tokens: int, seed: int, k: int = 0
) -> Chain:
    """Return the k-th random chain of a family; lags differ in the sampler alone."""
    stream = streams.generator(seed, "horizon", family, k)
    return markov.make(family, stream, kl_token, lag_token, tokens)


def off_and_noise(moments: recursion.Moments, exact: np.ndarray) -> tuple[float, float]:
    """Return bias and noise in lengths of the exact gradient."""
    length = float(np.linalg.norm(exact))
    variance = max(moments.variance, 0.0)
    return float(np.linalg.norm(moments.mean - exact)) / length, math.sqrt(variance) / length


def chain_rows(
    chosen: Sequence[Combination],
    family: markov.Family,
    kl_token: float,
    lag_token: float,
    lengths: Sequence[int],
    seed: int,
) -> Rows:
    """Return the rows of one Markov policy, of every combination whose recursion closes."""
    policies = chain(family, kl_token, lag_token, lengths[-1], seed)
    exact = recursion.exact_gradient(policies, lengths)
    kls = {tokens: policies.kl(tokens) for tokens in lengths}
    rows = []
    for each in chosen:
        for tokens, moments in (recursion.moments(each, policies, lengths) or {}).items():
            found = off_and_noise(moments, exact[tokens])
            known = (kl_token, lag_token, kls[tokens])
            rows.append(
                row_of(family, each, tokens, known, found, moments.log_ess, math.nan, "recursion")
            )
    return rows


def gru_rows(
    chosen: Sequence[Combination], kl_token: float, lag_token: float, tokens: int, seed: int
) -> Rows:
    """Return the rows of a small recurrent policy of which every sequence is enumerated."""
    pair = SequencePair(
        vocabulary=3,
        prompts=2,
        horizon=tokens,
        kl=kl_token * tokens,
        lag=lag_token * tokens,
        behind="random",
        seed=seed,
    )
    measured, _ = measure(pair, chosen, 8, 0, seed)
    sizes = effective_sample_size(pair)
    known = (kl_token, lag_token, kl_token * tokens)
    rows = []
    for each, row in zip(chosen, measured, strict=True):
        kinds = {factor.kind for factor in each.factors}
        size = 1.0 if not kinds else sizes["ess_token" if kinds <= {"token_ratio"} else "ess"]
        log_ess = math.nan if kinds & {*BOUNDED, "geometric_ratio"} else math.log(size)
        found = (row["rel_bias"], row["rel_std"])
        rows.append(row_of("gru", each, tokens, known, found, log_ess, math.nan, "enumeration"))
    return rows
