"""The rows of table ``distill``.

Exact where everything is enumerated, and from completions of language models.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from klbench.lm.scoring import token_logits
from klbench.pairs import Pair
from klbench.pairs.categorical import CategoricalPair
from klbench.pairs.lm import LmPair
from klbench.pairs.sequence import SequencePair
from klbench.policies.tree import Tree
from klbench.rlhf.objectives import Objective, get
from klbench.rlhf.testbed.distilled import Moments, States, against
from klbench.types import Completions

OWNERS = ("student", "teacher")
ROUNDING = 1e-8
"""Relative distance below which a gradient is the other, up to rounding.

An estimate that far below zero is not negative.
"""

Row = dict[str, Any]


def variants(objective: Objective, ks: Sequence[int], vocabulary: int) -> Iterator[tuple[str, int]]:
    """Yield each support, by its owner, and k that an objective is measured with.

    Without a support there is one of them: the student's whole vocabulary, or the one token that it
    sampled.
    """
    if objective.has_support:
        yield from ((owner, k) for owner in OWNERS for k in dict.fromkeys(ks))
    else:
        yield "student", vocabulary if objective.sent == "vocabulary" else 1


def described(pair: Pair, objective: Objective, owner: str, k: int, vocabulary: int) -> Row:
    """Return what a row says of an objective before anything is measured."""
    return {
        "pair": pair.title,
        "series": pair.series,
        "objective": objective.name,
        "support": owner,
        "k": k,
        "target": objective.target,
        "bytes_per_token": objective.bytes_per_token(k, vocabulary),
    }


def states(pair: Pair) -> States:
    """Return student and teacher of an enumerable pair at all their prefixes."""
    if isinstance(pair, SequencePair):
        sides, tree = pair.token_log_probs, pair.tree
        return States(tree, torch.from_numpy(sides["q"]), torch.from_numpy(sides["p"]))
    assert isinstance(pair, CategoricalPair)
    log_q, log_p = (torch.from_numpy(pair.log_probs[side])[None, None] for side in "qp")
    return States(Tree(log_q.shape[-1] - 1, 1), log_q, log_p)


def token_log_probs(pair: LmPair, completions: Completions) -> tuple[Tensor, Tensor]:
    """Return log-probabilities of student and teacher at each token that counts, ``(tokens, V)``
    in float64.
    """
    assert completions.token is not None
    contexts = pair.contexts(completions)
    with torch.no_grad():
        log_q, log_p = (
            token_logits(lm, contexts, completions.token, completions.mask, pair.scored_temperature)
            .cpu()
            .double()
            for lm in pair.models
        )
    return log_q.log_softmax(-1), log_p.log_softmax(-1)


def enumerated(pair: Pair, names: Sequence[str], ks: Sequence[int]) -> list[Row]:
    """Return the rows of a pair whose every sequence is enumerated."""
    at = states(pair)
    vocabulary = at.log_q.shape[-1]
    whole = torch.ones_like(at.log_q, dtype=torch.bool)
    targets: dict[str, Moments] = {}
    rows = []
    for objective in map(get, names):
        target = targets.setdefault(objective.target, at.moments(get(objective.target), whole))
        for owner, k in variants(objective, ks, vocabulary):
            kept = at.support(owner, k) if objective.has_support else whole
            found = at.moments(objective, kept)
            rows.append(
                described(pair, objective, owner, k, vocabulary)
                | _mass(objective, at, kept)
                | _exact(found, target)
                | {"negative": _negative(at, objective, kept)}
            )
    return rows


def _mass(objective: Objective, at: States, kept: Tensor) -> Row:
    known = objective.sent != "token"
    sides = (("mass", at.log_q), ("teacher_mass", at.log_p))
    return {
        name: at.mean(log.exp().masked_fill(~kept, 0.0).sum(-1)) if known else math.nan
        for name, log in sides
    }


def _negative(at: States, objective: Objective, kept: Tensor) -> float:
    pieces, _ = at.differentiated(objective, kept)
    return at.mean((at.log_q.exp() * (pieces.value < -ROUNDING)).sum(-1))


def _exact(found: Moments, target: Moments) -> Row:
    scale = float(target.gradient.norm())
    sound = math.isfinite(found.value) and math.isfinite(target.value)
    over = 1.0 / scale if sound and scale > 0.0 else math.nan
    rel_bias = float((found.gradient - target.gradient).norm()) * over
    return {
        "truth": target.value,
        "value": found.value,
        "value_se": 0.0,
        "value_bias": found.value - target.value if sound else math.nan,
        "value_bias_se": 0.0,
        "rel_bias": rel_bias,
        "rel_bias_se": 0.0,
        "rel_std": math.sqrt(found.variance) * over if sound else math.nan,
        "unbiased": rel_bias <= ROUNDING,
        "status": status(found.value, target.value, scale),
        "method": "enumeration",
        "samples": 0,
    }


def status(value: float, truth: float, scale: float) -> str:
    """Return ``ok``, or why a row has no gradient."""
    if math.isnan(value):
        return "undefined"
    if math.isinf(value) or math.isinf(truth):
        return "infinite"
    return "ok" if scale > 0.0 else "no gradient"


class Sums:
    """Sums over completions of what one objective, with one support, gives at each token."""

    def __init__(self) -> None:
        self.parts: list[np.ndarray] = []

    def add(self, per_token: Tensor, completion: Tensor, count: int) -> None:
        """Add numbers of tokens, ``(tokens, columns)``, of which each belongs to a completion."""
        total = torch.zeros(count, per_token.shape[-1], dtype=per_token.dtype)
        self.parts.append(total.index_add_(0, completion, per_token).numpy())

    def row(self, *, later: bool) -> Row:
        """Return means with their standard errors.

        ``later``: its gradient needs what follows a token.
        """
        value, truth, off, size, noise, mass, teacher_mass, negative, tokens = np.concatenate(
            self.parts
        ).T
        n, bias = len(value), value - truth
        ratio = off.sum() / size.sum() if size.sum() > 0.0 else math.nan
        rel_bias = math.sqrt(ratio)
        # The delta method, for a root of a ratio of sums.
        error = (
            float((off - ratio * size).std(ddof=1)) * math.sqrt(n) / size.sum()
            if ratio > 0
            else 0.0
        )
        rel_bias_se = error / (2.0 * rel_bias) if rel_bias > 0.0 else 0.0
        known = 1.0 if not later else math.nan
        found = status(float(value.mean()), float(truth.mean()), float(size.sum()))
        return {
            "mass": float(mass.sum() / tokens.sum()),
            "teacher_mass": float(teacher_mass.sum() / tokens.sum()),
            "truth": float(truth.mean()),
            "value": float(value.mean()),
            "value_se": float(value.std(ddof=1)) / math.sqrt(n),
            "value_bias": float(bias.mean()),
            "value_bias_se": float(bias.std(ddof=1)) / math.sqrt(n),
            "negative": float(negative.sum() / tokens.sum()),
            "rel_bias": rel_bias * known,
            "rel_bias_se": rel_bias_se * known,
            "rel_std": math.sqrt(noise.sum() / size.sum()) * known if found == "ok" else math.nan,
            "unbiased": bool(rel_bias * known <= ROUNDING),
            "status": "needs what follows a token" if later and found == "ok" else found,
            "method": "sampling",
            "samples": n,
        }


def at_states(objective: Objective, log_q: Tensor, log_p: Tensor, kept: Tensor) -> Tensor:
    """Return what an objective gives at states, ``(states, 9)``: the columns of :class:`Sums`.

    ``log_q`` and ``log_p`` are ``(states, V)``. Values and gradients are expectations over the next
    token; what later tokens add is left out of the objective and of its target.
    """
    at = States(Tree(log_q.shape[-1] - 1, 1), log_q[:, None], log_p[:, None])
    q, mask = log_q.exp(), kept[:, None]
    target, slope = at.differentiated(get(objective.target), mask)
    pieces, path = at.differentiated(objective, mask)
    score = pieces.score[:, 0]
    scored = against(q, score)
    length = 1.0 - 2.0 * q + (q**2).sum(-1, keepdim=True)
    noise = (q * score**2 * length).sum(-1) - (scored**2).sum(-1)
    off = ((path[:, 0] + scored - slope[:, 0]) ** 2).sum(-1)
    value, truth = ((q * each.value[:, 0]).sum(-1) for each in (pieces, target))
    mass, teacher_mass = (x.exp().masked_fill(~kept, 0.0).sum(-1) for x in (log_q, log_p))
    if objective.sent == "token":
        mass = teacher_mass = torch.full_like(mass, math.nan)
    negative = (q * (pieces.value[:, 0] < -ROUNDING)).sum(-1)
    columns = (value, truth, off, (slope[:, 0] ** 2).sum(-1), noise, mass, teacher_mass, negative)
    return torch.stack([*columns, torch.ones_like(value)], dim=-1)
