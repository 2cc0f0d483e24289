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
from klbench.gradients._combination import GROUPED, Combination, coefficient
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
    log_q, kl = (x.detach().clone().requires_grad_() for x in (rollouts.log_q, rollouts.kl))
    pieces = parts(combination, replace(rollouts, log_q=log_q, kl=kl))
    if not pieces.direct.requires_grad:
        return torch.zeros_like(log_q), torch.zeros_like(kl), pieces
    token, full = torch.autograd.grad(
        pieces.direct.sum(), (log_q, kl), allow_unused=True, materialize_grads=True
    )
    return token * rollouts.mask, full * rollouts.mask, pieces


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
    return Coefficients(token, full, log_scale), size * rollouts.mask, pieces


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
    combination: Combination, whole: Coefficients, pieces: Parts, atoms: Atoms
) -> Coefficients:
    """Coefficients of reward and penalty together, where the reward is ``log q/p`` and every
    return is centred.
    """
    rollouts, p = atoms.rollouts, atoms.probability
    token, unit = whole.token, (-whole.log_scale).exp()
    if pieces.weights is not None and pieces.returns is not None:
        token = token - pieces.weights * _mean_return(combination, pieces.returns, atoms) * unit
    reward = -(rollouts.log_p - rollouts.log_q).sum(-1, keepdim=True)
    return Coefficients(
        token - (reward - p @ reward) * rollouts.mask * unit, whole.full, whole.log_scale
    )


def _over_their_mean(
    whole: Coefficients, shares: Tensor, atoms: Atoms, gram: Tensor, group: int
) -> tuple[Tensor, float]:
    """The moments of a group whose weights are divided by their mean over it."""
    vectors = torch.cat([whole.token, whole.full], dim=-1)

    def pull(factor: Tensor) -> Tensor:
        return atoms.scores.pull(factor[:, None] * whole.token, factor[:, None] * whole.full)

    squares = torch.einsum("ni,nij,nj->n", vectors, gram, vectors)
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
    direct = torch.cat([whole.token - pieces.weights * pieces.returns, whole.full], dim=-1)
    groups = Group(
        atoms, gram, pieces.weights, pieces.returns, direct if whole.full.any() else None
    )
    if not bool(whole.log_scale.any()) or bool(pieces.returns.isfinite().all()):
        gradient, variance = groups.moments(group)
    else:  # returns beyond a float, the same for all tokens of a sequence
        gradient = whole.pull(atoms) - _mean_return(combination, pieces.returns, atoms)[
            0
        ] * groups.pull(pieces.weights)
        # A single sequence's second moment is part of it.
        infinite = bool(whole.second_moment(atoms, gram).isinf())
        variance = math.inf if infinite else math.nan
    shrink = 1 - 1 / group if combination.baseline == "batch_mean" else 1.0
    return shrink * gradient, shrink**2 * variance


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
    found = [_whole(each, atoms.rollouts) for each in combinations]
    together = Coefficients.stacked(whole for whole, _, _ in found)
    means, variances = _own(together, atoms, gram)
    totals: Sequence[float | None] = [None] * len(found)
    if on_policy:
        both = (
            _total(each, whole, pieces, atoms)
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
    found: list[list[GradientMoments]] = []
    for atoms in prompts:
        gram, mask = atoms.scores.gram(), atoms.rollouts.mask
        step = max(1, int(TOGETHER_BYTES / (8 * HELD * mask.numel())))
        found.append(
            [
                moments
                for k in range(0, len(combinations), step)
                for moments in _prompt(
                    combinations[k : k + step],
                    atoms,
                    gram,
                    group,
                    on_policy=task.staleness == 0.0,
                )
            ]
        )
    return [_averaged([of_prompt[k] for of_prompt in found]) for k in range(len(combinations))]


def _averaged(rows: Sequence[GradientMoments]) -> GradientMoments:
    """The mean over prompts."""

    def mean(values: Iterable[float | None]) -> float | None:
        known = [value for value in values if value is not None]
        return sum(known) / len(rows) if known else None

    variance = sum(each.variance for each in rows) / len(rows)
    return GradientMoments(
        torch.stack([each.mean for each in rows]).mean(0),
        variance,
        mean(each.total_variance for each in rows),
        mean(each.size for each in rows),
    )


def moments(combination: Combination, task: GradientTask, group: int = 8) -> GradientMoments:
    """:func:`all_moments` of one combination."""
    return all_moments([combination], task, group)[0]
