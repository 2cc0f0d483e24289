"""The KL penalty of every replica of a stack, by whatever combination its arm has."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

import torch
from torch import Tensor

from klbench import estimators
from klbench.gradients import EXACT, SCORED, Combination
from klbench.gradients import get as get_combination
from klbench.gradients.surrogate import centred, parts, ratio
from klbench.types import Rollouts


@dataclass(frozen=True)
class PenaltyArm:
    """One arm of a comparison.

    A combination (None: no penalty at all) and its weight ``beta`` against the reward.
    """

    combination: Combination | None
    beta: float

    @property
    def name(self) -> str:
        """The combination's name, ``none`` without one."""
        return self.combination.name if self.combination else "none"

    @property
    def exact(self) -> bool:
        """True if its terms need the exact KL of each token's distribution."""
        made_of = self.combination
        return made_of is not None and (
            made_of.estimator == EXACT or made_of.baseline == "token_kl"
        )


def arm(name: str, beta: float) -> PenaltyArm:
    """An arm by the name of its combination.

    Raises
    ------
    klbench.types.ConfigError
        No such combination.
    """
    return PenaltyArm(None if name == "none" else get_combination(name), beta)


@dataclass(frozen=True)
class Returns:
    """The constants that the penalties subtract from the returns.

    Parameters
    ----------
    values
        ``(arms, seeds, n, T)``, to be multiplied by ``beta``; less the baseline that the
        combination names itself. 0 for arms whose penalty stands in the loss alone.
    owned
        Which arms name a baseline themselves, ``(arms,)``.
    corrected
        Which arms give their return an off-policy weight of their own, ``(arms,)``.
    """

    values: Tensor
    owned: Tensor
    corrected: Tensor


@dataclass(frozen=True)
class InLoss:
    """The terms that the penalties add to the loss.

    Parameters
    ----------
    direct
        Differentiated as it stands, times ``beta``: ``(arms, seeds, n)``.
    weights
        Constants, ``(arms, seeds, n, T)``: the off-policy weights of arms whose return has its own;
        0 for the others.
    """

    direct: Tensor
    weights: Tensor


def blocks(arms: Sequence[PenaltyArm]) -> Iterator[tuple[slice, Combination | None]]:
    """Neighbouring arms of one combination."""
    start = 0
    for combination, same in groupby(arms, key=lambda each: each.combination):
        stop = start + len(list(same))
        yield slice(start, stop), combination
        start = stop


def _clamped(rollouts: Rollouts, limit: float | None) -> Rollouts:
    """The rollouts with log-ratios of policy and reference no further than ``limit`` from 0,
    gradient included.
    """
    if limit is None:
        return rollouts
    log_ratio = (rollouts.log_p - rollouts.log_q).clamp(-limit, limit)
    return Rollouts(
        rollouts.log_q, rollouts.log_q + log_ratio, rollouts.log_mu, rollouts.kl, rollouts.mask
    )


def _sequences(rollouts: Rollouts, where: slice) -> Rollouts:
    """The rollouts of some arms as one batch ``(n, T)``.

    What is computed for a sequence depends on no other.
    """
    return rollouts.each(lambda values: values[where].flatten(0, -2))


def returns(
    arms: Sequence[PenaltyArm], rollouts: Rollouts, group: int, clamp: float | None = None
) -> Returns:
    """The returns of a stack of rollouts ``(arms, seeds, n, T)``.

    Each ``group`` of consecutive sequences has one prompt.
    """
    rollouts = _clamped(rollouts, clamp)
    values, owned, corrected = torch.zeros_like(rollouts.log_q), [], []
    for where, combination in blocks(arms):
        scored = combination is not None and combination.placement in SCORED
        if combination is not None and scored:
            found = parts(combination, _sequences(rollouts, where)).returns
            assert found is not None
            values[where] = centred(found.view(values[where].shape), group, combination.baseline)
        owned += [combination is not None and combination.baseline != "none"] * (
            where.stop - where.start
        )
        corrected += [_corrects(combination)] * (where.stop - where.start)
    return Returns(values, torch.tensor(owned), torch.tensor(corrected))


def _corrects(combination: Combination | None) -> bool:
    return (
        combination is not None
        and combination.placement in SCORED
        and combination.correction != "none"
    )


def in_loss(arms: Sequence[PenaltyArm], rollouts: Rollouts, clamp: float | None = None) -> InLoss:
    """Return the terms that a stack of rollouts ``(arms, seeds, n, T)`` adds to the loss."""
    rollouts = _clamped(rollouts, clamp)
    direct, weights = [], torch.zeros_like(rollouts.log_q)
    for where, combination in blocks(arms):
        shape = weights[where].shape
        if combination is None or (
            combination.placement in ("reward", "reward_to_go") and combination.correction == "none"
        ):
            direct.append(weights.new_zeros(shape[:-1]))
            continue
        pieces = parts(combination, _sequences(rollouts, where))
        direct.append(pieces.direct.view(shape[:-1]))
        if _corrects(combination) and pieces.weights is not None:
            weights[where] = pieces.weights.view(shape)
    return InLoss(torch.cat(direct), weights)


def estimates(
    arms: Sequence[PenaltyArm], rollouts: Rollouts, clamp: float | None = None
) -> tuple[Tensor, Tensor]:
    """Return each arm's estimate of every sequence's KL by its own estimator, ``(arms, seeds, n)``,
    and the clamp hits.

    With the arm's off-policy correction, where it has one; k1's for an arm without a penalty. Hits:
    the share of tokens, ``(arms, seeds)``, whose log-ratio ``clamp`` or whose term the estimator
    itself cuts off.
    """
    clamped = _clamped(rollouts, clamp)
    values, hits = [], []
    for where, combination in blocks(arms):
        block = (where.stop - where.start, *rollouts.log_q.shape[1:])
        chosen = combination or get_combination("k1_loss")
        each = _sequences(clamped, where)
        values.append(_value(chosen, each).view(block[:-1]))
        log_ratio, mask = (rollouts.log_p - rollouts.log_q)[where], rollouts.mask[where]
        cut = torch.zeros_like(mask) if clamp is None else log_ratio.abs() > clamp
        own = None if chosen.estimator == EXACT else estimators.get(chosen.estimator).clamp
        if own is not None:
            cut = cut | own.active(
                log_ratio.sum(-1, keepdim=True) if chosen.level == "sequence" else log_ratio
            )
        hits.append((cut & mask).sum((-2, -1)) / mask.sum((-2, -1)))
    return torch.cat(values), torch.cat(hits)


def standard_error(values: Tensor, group: int) -> Tensor:
    """Return the standard error of the mean of ``(..., n)``: ``sqrt(mean variance / n)``.

    Each ``group`` of consecutive values has one prompt.

    The prompts of a batch are not drawn, they are all there are: what sets them apart from each
    other is no noise, and the variance is that within each. NaN with one sequence a prompt, which
    does not tell it.
    """
    if group < 2:
        return torch.full_like(values[..., 0], torch.nan)
    grouped = values.reshape(*values.shape[:-1], -1, group)
    return (grouped.var(-1).mean(-1) / values.shape[-1]).sqrt()


def _value(combination: Combination, rollouts: Rollouts) -> Tensor:
    """The estimate of each sequence, ``(n,)``."""
    weight = ratio(combination, rollouts).detach()
    log_ratio = rollouts.log_p - rollouts.log_q
    terms: dict[bool, Callable[[], Tensor]] = {
        True: lambda: rollouts.kl,
        False: lambda: estimators.get(combination.estimator).terms(log_ratio),
    }
    if combination.level == "sequence":
        whole: Tensor = estimators.get(combination.estimator).terms(log_ratio.sum(-1, keepdim=True))
        if (
            weight.shape[-1] > 1
        ):  # a weight a token on one term: the last one's is that of the whole sequence, or its own
            weight = weight[..., -1:]
        return (weight * whole).sum(-1)
    return rollouts.kept(weight * terms[combination.estimator == EXACT]()).sum(-1)
