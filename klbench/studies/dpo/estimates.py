"""Estimates of a policy's KL while DPO trains it.

From its own completions, from the reference's, from the pairs.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from klbench import estimators
from klbench.rlhf.penalty import standard_error
from klbench.rlhf.preferences import kto_reference_point
from klbench.rlhf.testbed import Testbed
from klbench.rlhf.testbed.dpo_world import Preferences, expected_mismatch, ratios
from klbench.rows import Rows
from klbench.types import Draws


def _leaves(log_q: Tensor, uniform: np.ndarray) -> Tensor:
    """Sequences by inversion.

    ``(..., prompts, leaves)`` and uniforms ``(seeds, prompts, n)`` to ``(..., prompts, n)``.
    """
    ends = log_q.exp().cumsum(-1)[..., :-1].contiguous()
    drawn = torch.from_numpy(uniform).expand(*log_q.shape[:-1], -1).contiguous()
    return torch.searchsorted(ends, drawn, right=True)


def _mean(values: Tensor, leaves: Tensor) -> tuple[Tensor, Tensor]:
    """Mean over the sampled sequences of all prompts, and its standard error, by prompt.

    ``(..., prompts, n)`` to ``(...)``.
    """
    each = values.gather(-1, leaves)
    return each.mean((-2, -1)), standard_error(each.flatten(-2), each.shape[-1])


def _uniform(testbed: Testbed, n: int, step: int, what: str) -> np.ndarray:
    return np.stack(
        [testbed.stream(k, what, step).random((testbed.prompts, n)) for k in testbed.seeds]
    )


def k1(testbed: Testbed, log_q: Tensor, n: int, step: int) -> dict[str, Tensor]:
    """``kl_estimate`` and its standard error for a stack ``(arms, seeds, prompts, leaves)``, by
    k1 from its own completions.
    """
    mean, error = _mean(
        log_q - testbed.leaf_log_p, _leaves(log_q, _uniform(testbed, n, step, "completions"))
    )
    return {"kl_estimate": mean, "kl_estimate_se": error}


def views(testbed: Testbed, log_probs: Tensor) -> dict[tuple[str, str], Tensor]:
    """Return the value of each estimator, ``(name, level)``, for each sequence, ``(seeds, prompts,
    leaves)``.

    ``log_probs`` are of next tokens, ``(seeds, prompts, nodes, tokens)``; ``full`` is the sum of
    exact KLs over these.
    """
    node, token, mask = testbed.tree.paths
    log_ratio = torch.where(mask, (testbed.log_p - log_probs)[..., node, token], 0.0)
    kl = torch.where(
        mask, (log_probs.exp() * (log_probs - testbed.log_p)).sum(-1)[..., node], 0.0
    ).sum(-1)
    whole = log_ratio.sum(-1)
    result = {("k1", "sequence"): -whole}
    for name in ("k2", "k3"):
        terms = estimators.get(name).terms
        result[name, "token"] = torch.where(mask, terms(Draws(log_ratio)), 0.0).sum(-1)
        result[name, "sequence"] = terms(Draws(whole))
    return result | {("full", "token"): kl}


def rows(
    testbed: Testbed, log_probs: Tensor, preferences: Preferences, n: int, size: int, step: int
) -> Rows:
    """One row a seed and estimator: what it said, what it says on average, and the exact KL."""
    log_q = testbed.tree.sum_along(log_probs.detach())
    exact = (log_q.exp() * (log_q - testbed.leaf_log_p)).sum(-1).mean(-1)
    found = {}
    mine = _leaves(log_q, _uniform(testbed, n, step, "completions"))
    for (name, level), values in views(testbed, log_probs.detach()).items():
        found["policy", name, level] = (
            *_mean(values, mine),
            (log_q.exp() * values).sum(-1).mean(-1),
        )
    # Both answers of a pair come from the reference: weighted by q/p, t log t with t = q/p, they
    # tell KL(q‖p) too.
    weighted = (log_q - testbed.leaf_log_p).exp() * (log_q - testbed.leaf_log_p)
    theirs = _leaves(testbed.leaf_log_p, _uniform(testbed, n, step, "answers"))
    found["reference", "k1 weighted", "sequence"] = (*_mean(weighted, theirs), exact)
    both = [
        weighted.flatten(1).gather(-1, places)
        for places in (preferences.chosen, preferences.rejected)
    ]
    seen = (both[0] + both[1]) / 2.0
    found["pairs", "k1 weighted", "sequence"] = (
        seen.mean(-1),
        seen.std(-1) / seen.shape[-1] ** 0.5,
        exact,
    )
    return [
        {
            "pairs": size,
            "step": step,
            "seed": k,
            "samples_of": source,
            "estimator": name,
            "level": level,
            "kl": float(exact[j]),
            "estimate": float(mean[j]),
            "estimate_se": float(error[j]),
            "expected": float(expected[j]),
        }
        for (source, name, level), (mean, error, expected) in found.items()
        for j, k in enumerate(testbed.seeds)
    ]


def points(
    testbed: Testbed, log_q: Tensor, preferences: Preferences, size: float, step: int
) -> Rows:
    """One row a seed: KTO's reference point for a policy ``(seeds, prompts, leaves)``, beside the
    KL that it stands for.

    ``one`` and ``all`` are its expectations with batches of one answer and of all there are, by
    enumeration. The point is convex in the batch's mean, so with any other batch it lies between
    them.
    """
    log_ratio = log_q - testbed.leaf_log_p
    details = ratios(testbed, log_q[None], preferences).detailed
    mismatched = details("kto").mismatched(slice(0, 1))[0]
    found = {
        "kl": (log_q.exp() * log_ratio).sum(-1).mean(-1),
        "mismatched": expected_mismatch(testbed, log_ratio),
        "one": expected_mismatch(testbed, log_ratio.clamp(min=0.0)),
        "all": expected_mismatch(testbed, log_ratio).clamp(min=0.0),
        "point": kto_reference_point([mismatched]),
    }
    return [
        {"pairs": size, "step": step, "seed": k}
        | {name: float(each[j]) for name, each in found.items()}
        for j, k in enumerate(testbed.seeds)
    ]
