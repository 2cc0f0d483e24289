"""The length from which token weights, which are biased, err less than noisy sequence weights.

And bounds on their error.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from klbench import gradients
from klbench.gradients import lognormal, recursion
from klbench.policies import markov
from klbench.policies.markov import Chain, divergence
from klbench.rows import Rows
from klbench.studies.horizon.levels import median
from klbench.studies.horizon.series import chain, khat, off_and_noise

RIVALS = (
    ("k1/reward_to_go/token/token_ratio", "k1/reward_to_go/token/sequence_ratio"),
    ("k1/reward_to_go/token/token_ratio", "k1/reward_to_go/token/decision_ratio"),
    ("full_kl/full_with_score/token/token_ratio", "full_kl/full_with_score/token/sequence_ratio"),
    ("full_kl/full_with_score/token/token_ratio", "full_kl/full_with_score/token/decision_ratio"),
)
MARKS = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0)
CAP = 3.0


def errors(name: str, policies: Chain, lengths: Sequence[int], batch: int) -> list[float]:
    """Return the root mean square error of a batch's gradient at each length, in lengths of the
    exact one.
    """
    exact = recursion.exact_gradient(policies, lengths)
    found = recursion.moments(gradients.get(name), policies, lengths)
    assert found is not None
    pairs = [off_and_noise(found[tokens], exact[tokens]) for tokens in lengths]
    return [math.hypot(bias, noise / math.sqrt(batch)) for bias, noise in pairs]


def crossing(lengths: Sequence[int], token: Sequence[float], sequence: Sequence[float]) -> float:
    """Return the length from which token weights err less to the end.

    1 where they always do, inf where they never do.

    Between two lengths the ratio of the errors is taken for straight, both on logarithmic axes.
    """
    ahead = np.log(np.asarray(token)) - np.log(np.asarray(sequence))
    worse = np.flatnonzero(ahead > 0.0)
    if len(worse) == 0:
        return 1.0
    k = int(worse[-1])
    if k == len(lengths) - 1:
        return math.inf
    share = ahead[k] / (ahead[k] - ahead[k + 1])
    return float(lengths[k] * (lengths[k + 1] / lengths[k]) ** share)


def crossing_rows(
    kl_token: float, lag_token: float, lengths: Sequence[int], batch: int, chains: int, seed: int
) -> Rows:
    """Return the rows of table ``crossings`` at one KL and lag.

    Medians over random mixing chains.
    """
    made = [chain("mixing", kl_token, lag_token, lengths[-1], seed, k) for k in range(chains)]
    names = dict.fromkeys(name for pair in RIVALS for name in pair)
    found = {name: [errors(name, each, lengths, batch) for each in made] for name in names}
    rows = []
    for token, sequence in RIVALS:
        at = [
            crossing(lengths, one, other)
            for one, other in zip(found[token], found[sequence], strict=True)
        ]
        middle, low, high = median(at)
        rows.append(
            {
                "series": "mixing",
                "kl_token": kl_token,
                "lag_token": lag_token,
                "token": token,
                "sequence": sequence,
                "batch": batch,
                "tokens": middle,
                "tokens_low": low,
                "tokens_high": high,
                "nats": middle * lag_token,
                "crossed": float(np.mean(np.isfinite(at))),
                "chains": chains,
            }
        )
    return rows


def surrogate_error(policies: Chain, tokens: int) -> float:
    """Return the largest error of the token surrogate over all rewards in [0, 1] of the state at
    the end.

    ``J(q) - J(mu) - sum over t of d_t^mu (Q - M) M^(T-1-t) reward``, Q and M the transition
    matrices: linear in the reward, so that the worst one is 0 or 1 in each state.
    """
    q, mu = policies.kernel(policies.log_q), policies.kernel(policies.log_mu)
    both = np.block([[mu, q - mu], [np.zeros_like(mu), mu]])
    size = len(mu)
    power = np.linalg.matrix_power(both, tokens)
    left = np.linalg.matrix_power(q, tokens) - power[:size, :size] - power[:size, size:]
    error = policies.start @ left
    return float(max(error[error > 0.0].sum(), -error[error < 0.0].sum()))


def bound_rows(
    family: markov.Family, kl_token: float, lag_token: float, lengths: Sequence[int], seed: int
) -> Rows:
    """Return the rows of table ``bounds``; the bounds are those of Li et al.

    2025, arXiv 2512.23075, for rewards up to 1.
    """
    policies = chain(family, kl_token, lag_token, lengths[-1], seed)
    each = divergence(policies.log_mu, policies.log_q)
    largest = float(each.max())
    rows = []
    for tokens in lengths:
        whole = float(policies.occupancy(policies.log_mu, tokens) @ each)
        error = surrogate_error(policies, tokens)
        bounds = {
            "2": tokens * (tokens - 1) * largest,
            "15": 4.0 / 3.0 * tokens**1.5 * largest,
            "1": 2.0 * tokens * math.sqrt(largest * whole),
        }
        rows.append(
            {
                "series": family,
                "tokens": tokens,
                "kl_token": kl_token,
                "lag_token": lag_token,
                "error": error,
                **{f"bound_{name}": bound for name, bound in bounds.items()},
                **{f"slack_{name}": bound / error for name, bound in bounds.items()},
            }
        )
    return rows


def mark_rows() -> Rows:
    """Return table ``marks``."""
    return [
        {
            "nats": nats,
            "ess": math.exp(-2.0 * nats),
            "log_ess": -2.0 * nats,
            "kept": lognormal.kept(nats, CAP),
            "khat": khat(nats),
        }
        for nats in MARKS
    ]
