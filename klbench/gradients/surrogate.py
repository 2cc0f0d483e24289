"""The loss that a trainer differentiates, for every combination, written once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from klbench import estimators
from klbench.gradients._combination import GROUPED, SCORED, Combination
from klbench.types import Rollouts


@dataclass(frozen=True)
class Parts:
    """A surrogate loss taken apart: ``direct + sum over t of weights * (returns - baseline) * log_q``, one a sequence.

    Parameters
    ----------
    direct
        What is differentiated as it stands, shape ``(n,)``.
    weights, returns
        Constants, shape ``(n, T)``; ``returns`` before any baseline that the group gives. None where no score is used.
    """

    direct: Tensor
    weights: Tensor | None
    returns: Tensor | None


def _terms(name: str, combination: Combination, rollouts: Rollouts) -> Tensor:
    """The estimator's terms, ``(n, T)`` at token level and ``(n, 1)`` at sequence level."""
    log_ratio = rollouts.log_p - rollouts.log_q
    if combination.level == "sequence":
        terms: Tensor = estimators.get(name).terms(log_ratio.sum(-1, keepdim=True))
        return terms
    # Every estimator is 0 at log r = 0 but for rounding; a masked token gets exactly that.
    result: Tensor = estimators.get(name).terms(log_ratio).where(rollouts.mask, 0.0)
    return result


def ratio(combination: Combination, rollouts: Rollouts) -> Tensor:
    """The weight of each term, ``(n, T)``, or ``(n, 1)`` where all have the sequence's; 1 without a correction."""
    log_weight = rollouts.log_q - rollouts.log_mu
    if not combination.ratio_gradient:
        log_weight = log_weight.detach()
    whole = log_weight.sum(-1, keepdim=True)
    kinds: dict[str, Callable[[], Tensor]] = {
        "none": lambda: torch.ones_like(whole),
        "token_ratio": lambda: log_weight.exp(),
        "prefix_ratio": lambda: log_weight.cumsum(-1).exp(),
        "sequence_ratio": lambda: whole.exp(),
        "truncated_ratio": lambda: (
            (log_weight if combination.level == "token" else whole).exp().clamp(max=combination.cap)
        ),
    }
    return kinds[combination.correction]()


def _future(terms: Tensor) -> Tensor:
    """Return the sum of each term and those after it: ``(n, T)``."""
    return terms.flip(-1).cumsum(-1).flip(-1)


def _summed(values: Tensor, rollouts: Rollouts) -> Tensor:
    """Over the tokens that count; ``(n, 1)`` are of whole sequences. A weight of inf after the end must not become a NaN."""
    whole = values.shape[-1] == 1 and rollouts.mask.shape[-1] > 1
    return (values if whole else values.where(rollouts.mask, 0.0)).sum(-1)


def parts(combination: Combination, rollouts: Rollouts) -> Parts:
    """The surrogate loss of each sequence, taken apart."""
    placement = combination.placement
    weight = ratio(combination, rollouts)
    full = placement in ("full", "full_with_score")
    terms = rollouts.kl if full else _terms(combination.estimator, combination, rollouts)
    if placement == "straight_through":
        path = _terms(combination.gradient_of, combination, rollouts)
        terms = terms.detach() + path - path.detach()
    in_loss = placement not in ("reward", "reward_to_go")
    direct = (
        _summed(weight * terms, rollouts) if in_loss else torch.zeros_like(rollouts.log_q[:, 0])
    )
    if combination.length_mean:
        direct = direct / rollouts.mask.sum(-1)
    if placement not in SCORED:
        return Parts(direct, None, None)
    constant = terms.detach()
    if placement == "reward_to_go":
        returns = _future(constant)
    elif placement == "full_with_score":
        returns = _future(constant) - constant
    else:
        returns = constant.sum(-1, keepdim=True).expand_as(rollouts.log_q)
    if combination.baseline == "token_kl":
        returns = returns - rollouts.kl.detach()
    return Parts(direct, weight.detach().where(rollouts.mask, 0.0), returns)


def centred(returns: Tensor, group: int, baseline: str) -> Tensor:
    """Return returns ``(..., n, T)`` less a baseline that each ``group`` of consecutive sequences, those of one prompt, gives.

    ``batch_mean`` subtracts the mean of the group, which shrinks the gradient by ``1 - 1/group`` (Shao et al. 2024,
    "DeepSeekMath", section 4.1.2); ``leave_one_out`` the mean of the others, which does not (Kool et al. 2019; Ahmadian et al.
    2024, eq. 7). Other baselines are none of a group, and nothing is subtracted.

    Raises
    ------
    ValueError
        The group does not divide ``n``, or leaves nothing when one is left out.
    """
    if baseline not in GROUPED:
        return returns
    n = returns.shape[-2]
    if n % group:
        raise ValueError(f"{n} sequences do not make groups of {group}")
    if baseline == "leave_one_out" and group < 2:
        raise ValueError(f"leave_one_out needs at least 2 sequences in a group, got {group}")
    grouped = returns.reshape(*returns.shape[:-2], n // group, group, returns.shape[-1])
    # Equal returns have no advantage: what rounding would leave of it, whitening and Adam make into steps.
    grouped = grouped - grouped[..., :1, :]
    result = (grouped - grouped.mean(-2, keepdim=True)).flatten(-3, -2)
    return result * (group / (group - 1)) if baseline == "leave_one_out" else result


def surrogate(combination: Combination, rollouts: Rollouts, group: int | None = None) -> Tensor:
    """The loss of each sequence, shape ``(n,)``; the mean of its gradient is the combination's gradient.

    The sequences are samples of one prompt; each ``group`` of consecutive ones (all of them, where it is None) shares the
    baselines that are means over a group.

    Raises
    ------
    ValueError
        A leave-one-out baseline with fewer than 2 sequences, or a group size that does not divide ``n``.
    """
    pieces = parts(combination, rollouts)
    if pieces.weights is None or pieces.returns is None:
        return pieces.direct
    returns = centred(pieces.returns, group or len(pieces.returns), combination.baseline)
    return pieces.direct + _summed(pieces.weights * returns * rollouts.log_q, rollouts)
