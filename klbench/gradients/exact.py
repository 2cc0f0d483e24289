"""Expected gradients and their variance over everything that can be sampled.

No Monte Carlo noise.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from klbench import estimators
from klbench.gradients import normalised, token_mean
from klbench.gradients._combination import EXACT, GROUPED, Combination, coefficient
from klbench.gradients.coefficients import Coefficients, log_probability
from klbench.gradients.group import Group
from klbench.gradients.surrogate import Parts, parts
from klbench.log_terms import log_terms
from klbench.oracles import enumerated
from klbench.types import Atoms, Draws, Estimator, GradientTask, Polynomial, Rollouts


@dataclass(frozen=True)
class GradientMoments:
    """The exact moments of a combination's gradient.

    Parameters
    ----------
    mean
        The expected gradient, shape ``(parameters,)``.
    variance
        Trace of the covariance of one sequence's gradient, given its prompt, averaged over prompts;
        where a baseline ties a group together, that of the group's mean times the size of the
        group.
    total_variance
        The same of the whole objective's gradient, reward and penalty together, at the optimum: the
        policy is the best one for the reward ``log q/p``, and both share one baseline, the exact
        mean. None off-policy.
    size
        The expected length of what the mean is a sum of, before anything cancels: rounding leaves
        the mean so many units in the last place. None where that is no more than one sample's
        gradient is long.
    """

    mean: Tensor
    variance: float
    total_variance: float | None = None
    size: float | None = None


def taken_apart(combination: Combination, rollouts: Rollouts) -> tuple[Tensor, Tensor, Parts]:
    """The coefficients of the direct part, ``(n, T)`` twice, by differentiating the surrogate
    loss itself, and its parts.
    """
    if combination.placement in ("reward", "reward_to_go"):
        return (
            torch.zeros_like(rollouts.log_q),
            torch.zeros_like(rollouts.kl),
            parts(combination, rollouts),
        )
    leaves = rollouts.each(Tensor.detach)
    sides = leaves.log_q.requires_grad_(), leaves.kl.requires_grad_()
    pieces = parts(combination, leaves)
    if not pieces.direct.requires_grad:
        return torch.zeros_like(rollouts.log_q), torch.zeros_like(rollouts.kl), pieces
    token, full = torch.autograd.grad(
        pieces.direct.sum(), sides, allow_unused=True, materialize_grads=True
    )
    return rollouts.kept(token), rollouts.kept(full), pieces


NEAR = 1.0
"""Up to this log-ratio differentiation keeps all digits.

Beyond it, powers of r that should cancel leave their rounding.
"""
FAR = 600.0
"""Beyond this exponent a power of r is split into a float and a ``log_scale``.

Floats end near ``exp(709)``.
"""
TOGETHER_BYTES = 64e6
"""The size of what combinations that are computed together may hold."""
HELD = 24
"""The numbers that one of them holds for each token."""


def _leading(estimator: Estimator) -> Polynomial | None:
    """The estimator's polynomial, or else the one power of r that is left of it where r is huge.

    None where it has neither.
    """
    if estimator.polynomial is not None or not estimator.growth:
        return estimator.polynomial
    at = 2.0 * FAR
    sign, size, doubtful = log_terms(estimator, Draws(np.array([at])))
    return (
        None
        if doubtful.any()
        else ((float(sign[0] * np.exp(size[0] - estimator.growth * at)), estimator.growth, 0),)
    )


def _cancelled(
    combination: Combination, rollouts: Rollouts
) -> tuple[Tensor, Tensor, Tensor] | None:
    """Coefficients from the polynomial in which powers of r have cancelled, their ``log_scale``,
    and where to take them.

    None where there are none: they are those of one score for all tokens, of a whole sequence's
    ratio or of one token.
    """
    if not combination.simple:
        return None
    polynomial, correction = coefficient(combination, _leading), combination.correction
    everywhere = coefficient(combination) is not None
    whole = combination.level == "sequence" and correction in (
        "none",
        "sequence_ratio",
        "truncated_ratio",
    )
    single = rollouts.mask.shape[-1] == 1
    truncated = correction == "truncated_ratio"
    if polynomial is None or not (whole or single) or (truncated and combination.ratio_gradient):
        return None
    log_ratio = (rollouts.log_p - rollouts.log_q).sum(-1, keepdim=True)
    log_scale = torch.zeros_like(log_ratio)
    for _, a, _ in polynomial:
        log_scale = log_scale.maximum(a * log_ratio - FAR)
    far = log_ratio.abs() > NEAR if everywhere else log_scale > 0.0
    total = torch.zeros_like(log_ratio)
    for c, a, b in polynomial:
        total = total + c * torch.exp(a * log_ratio - log_scale) * log_ratio**b
    if combination.baseline == "token_kl":
        total = total - rollouts.kl * (-log_scale).exp()
    if correction != "none":
        log_weight = (rollouts.log_q - rollouts.log_mu).sum(-1, keepdim=True)
        beyond = (
            (log_weight - FAR).clamp(min=0.0)
            if everywhere and not truncated
            else torch.zeros_like(log_weight)
        )
        total = total * (log_weight - beyond).exp().clamp(
            max=combination.cap if truncated else math.inf
        )
        log_scale, far = log_scale + beyond, far | (beyond > 0.0)
    return total * rollouts.mask, log_scale, far.expand_as(rollouts.mask)


def _whole(combination: Combination, rollouts: Rollouts) -> tuple[Coefficients, Tensor, Parts]:
    """All that multiplies each sequence's vectors, how large the scores' part was before
    anything cancelled, and the parts.
    """
    token, full, pieces = taken_apart(combination, rollouts)
    size, log_scale = token.abs(), torch.zeros_like(token[:, :1])
    if combination.ratio_gradient:
        size = size + pieces.direct.detach().abs()[:, None]
    if pieces.weights is not None and pieces.returns is not None:
        scored = pieces.weights * pieces.returns
        token, size = token + scored, size + scored.abs()
    cancelled = _cancelled(combination, rollouts)
    if cancelled is not None:
        exact, log_scale, far = cancelled
        token, size = torch.where(far, exact, token), torch.where(far, exact.abs(), size)
    of_kl = full if combination.estimator == EXACT else None
    return Coefficients(token, of_kl, log_scale), size * rollouts.mask, pieces


def _mean_return(combination: Combination, returns: Tensor, atoms: Atoms) -> Tensor:
    """The expected return, ``(T,)``.

    Terms beyond a float are weighed in log space, where there is one a sequence.
    """
    one_term = combination.level == "sequence" or returns.shape[-1] == 1
    if not one_term or bool(returns.isfinite().all()):
        return atoms.probability @ returns
    log_ratio = (atoms.rollouts.log_p - atoms.rollouts.log_q).sum(-1)
    term = enumerated(
        estimators.get(combination.estimator),
        Draws(log_ratio.numpy()),
        log_probability(atoms)[:, 0].numpy(),
    )
    offset = atoms.probability @ atoms.rollouts.kl if combination.baseline == "token_kl" else 0.0
    return returns.new_full(returns.shape[1:], term.mean) - offset


def _total(
    combination: Combination, whole: Coefficients, pieces: Parts, atoms: Atoms, reward: Tensor
) -> Coefficients:
    """Coefficients of reward and penalty together, where every return is centred.

    ``reward`` is each token's, ``(n, T)``: that of its sequence, centred.
    """
    token, unit = whole.token, (-whole.log_scale).exp()
    if pieces.weights is not None and pieces.returns is not None:
        token = token - pieces.weights * _mean_return(combination, pieces.returns, atoms) * unit
    return replace(whole, token=token - reward * unit)


def _over_their_mean(
    whole: Coefficients, shares: Tensor, atoms: Atoms, gram: Tensor, group: int
) -> tuple[Tensor, float]:
    """The moments of a group whose weights are divided by their mean over it."""
    vectors, full = whole.vectors, whole.full

    def pull(factor: Tensor) -> Tensor:
        factor = factor[:, None]
        return atoms.scores.pull(factor * whole.token, None if full is None else factor * full)

    size = vectors.shape[-1]
    squares = torch.einsum("ni,nij,nj->n", vectors, gram[:, :size, :size], vectors)
    return normalised.moments(
        normalised.Samples(atoms.probability, shares[:, 0], shares[:, 1], squares, pull), group
    )


def _less_the_token_mean(
    whole: Coefficients, pieces: Parts, atoms: Atoms, gram: Tensor, group: int
) -> tuple[Tensor, float]:
    """The moments of a group whose terms have the mean over its tokens subtracted."""
    assert pieces.weights is not None
    assert pieces.totals is not None
    assert pieces.counted is not None
    samples = token_mean.Samples(
        atoms, gram, pieces.totals[:, 0], whole.token, pieces.weights * pieces.counted
    )
    return samples.moments(group)


def _grouped(
    combination: Combination,
    whole: Coefficients,
    pieces: Parts,
    atoms: Atoms,
    gram: Tensor,
    group: int,
) -> tuple[Tensor, float] | None:
    """Return the moments of what ties a group of samples together; None where nothing does."""
    if pieces.shares is not None:
        return _over_their_mean(whole, pieces.shares, atoms, gram, group)
    if pieces.totals is not None:
        return _less_the_token_mean(whole, pieces, atoms, gram, group)
    if combination.baseline not in GROUPED:
        return None
    assert pieces.weights is not None
    assert pieces.returns is not None
    direct = replace(whole, token=whole.token - pieces.weights * pieces.returns).vectors
    groups = Group(
        atoms, gram, pieces.weights, pieces.returns, None if whole.full is None else direct
    )
    if not bool(whole.log_scale.any()) or bool(pieces.returns.isfinite().all()):
        return groups.moments(group)
    # Returns beyond a float are the same for all tokens of a sequence.
    mean_return = _mean_return(combination, pieces.returns, atoms)[0]
    gradient = whole.pull(atoms) - mean_return * groups.pull(pieces.weights)
    # A single sequence's second moment is part of it.
    infinite = bool(whole.second_moment(atoms, gram).isinf())
    return gradient, math.inf if infinite else math.nan


def _own(whole: Coefficients, atoms: Atoms, gram: Tensor) -> tuple[Tensor, list[float]]:
    """Return the mean and the variance of one sequence's gradient, of several combinations."""
    means = whole.pull(atoms)
    return means, (whole.second_moment(atoms, gram) - (means * means).sum(-1)).tolist()


def _prompt(
    combinations: Sequence[Combination], atoms: Atoms, gram: Tensor, group: int, *, on_policy: bool
) -> Iterator[GradientMoments]:
    """Yield the moments of each combination after one prompt.

    The products with the scores, which are much longer than what multiplies them, are of all
    combinations together.
    """
    rollouts, p = atoms.rollouts, atoms.probability
    found = [_whole(each, rollouts) for each in combinations]
    together = Coefficients.stacked(whole for whole, _, _ in found)
    means, variances = _own(together, atoms, gram)
    totals: Sequence[float | None] = [None] * len(found)
    if on_policy:
        reward = -(rollouts.log_p - rollouts.log_q).sum(-1, keepdim=True)
        reward = (reward - p @ reward) * rollouts.mask
        both = (
            _total(each, whole, pieces, atoms, reward)
            for each, (whole, _, pieces) in zip(combinations, found, strict=True)
        )
        totals = _own(Coefficients.stacked(both), atoms, gram)[1]
    lengths = replace(together, token=torch.stack([size for _, size, _ in found]))
    sizes = lengths.size(atoms, gram).tolist()
    for k, (each, (whole, _, pieces)) in enumerate(zip(combinations, found, strict=True)):
        grouped = _grouped(each, whole, pieces, atoms, gram, group)
        mean, variance = (means[k], variances[k]) if grouped is None else grouped
        yield GradientMoments(mean, variance, totals[k], sizes[k])


def all_moments(
    combinations: Sequence[Combination], task: GradientTask, group: int = 8
) -> list[GradientMoments]:
    """Expected gradient and variance of each combination, by enumeration.

    One pass over the prompts for all of them.

    Raises
    ------
    ValueError
        There is no end of what the task can sample.
    """
    prompts: Iterator[Atoms] | None = task.atoms()
    if prompts is None:
        raise ValueError("this task cannot be enumerated")
    # The mean of the group is the mean of the others but for a factor of the gradient.
    sources = [
        replace(each, baseline="leave_one_out") if each.baseline == "batch_mean" else each
        for each in combinations
    ]
    found: dict[Combination, list[GradientMoments]] = {each: [] for each in sources}
    parted = [
        [each for each in found if (each.estimator == EXACT) is full] for full in (False, True)
    ]
    on_policy = task.staleness == 0.0
    for atoms in prompts:
        gram, mask = atoms.scores.gram(), atoms.rollouts.mask
        step = max(1, int(TOGETHER_BYTES / (8 * HELD * mask.numel())))
        for some in (part[k : k + step] for part in parted for k in range(0, len(part), step)):
            moments = _prompt(some, atoms, gram, group, on_policy=on_policy)
            for each, its in zip(some, moments, strict=True):
                found[each].append(its)
    return [
        _averaged(found[source], 1.0 if source is each else 1 - 1 / group)
        for each, source in zip(combinations, sources, strict=True)
    ]


def _averaged(rows: Sequence[GradientMoments], shrink: float) -> GradientMoments:
    """The mean over prompts; ``shrink`` is the factor of the gradient itself."""

    def mean(values: Iterable[float | None]) -> float | None:
        known = [value for value in values if value is not None]
        return sum(known) / len(rows) if known else None

    return GradientMoments(
        shrink * torch.stack([each.mean for each in rows]).mean(0),
        shrink**2 * sum(each.variance for each in rows) / len(rows),
        mean(each.total_variance for each in rows),
        mean(each.size for each in rows),
    )


def moments(combination: Combination, task: GradientTask, group: int = 8) -> GradientMoments:
    """:func:`all_moments` of one combination."""
    return all_moments([combination], task, group)[0]
