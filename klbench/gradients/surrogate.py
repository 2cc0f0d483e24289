"""The loss that a trainer differentiates, for every combination, written once."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from klbench import estimators
from klbench.gradients import corrections
from klbench.gradients._combination import GROUPED, SCORED, TOKEN_MEAN, Combination
from klbench.gradients.corrections import Factor
from klbench.gradients.kinds import KINDS
from klbench.types import Rollouts


@dataclass(frozen=True)
class Parts:
    """A surrogate loss taken apart.

    ``direct + sum over t of weights * (returns - baseline) * log_q``, one a sequence.

    Parameters
    ----------
    direct
        What is differentiated as it stands, shape ``(n,)``.
    weights, returns
        Constants, shape ``(n, T)``; ``returns`` before any baseline that the group gives. None
        where no score is used.
    shares
        Where weights are normalised, the sum of each sequence's weights and their number, ``(n,
        2)``: all of the above is yet to be divided by the ratio of the two's sums over the group.
    totals, counted
        With the baseline ``token_mean``, the sum of each sequence's terms and their number, ``(n,
        2)``, and the discounted number of terms in each return, ``(n, T)``: the ratio of the two
        sums over the group is subtracted from each term.
    """

    direct: Tensor
    weights: Tensor | None
    returns: Tensor | None
    shares: Tensor | None = None
    totals: Tensor | None = None
    counted: Tensor | None = None


def _terms(name: str, combination: Combination, rollouts: Rollouts) -> Tensor:
    """The estimator's terms, ``(n, T)`` at token level and ``(n, 1)`` at sequence level."""
    to = rollouts.log_p if combination.reference == "reference" else rollouts.log_mu
    log_ratio = to - rollouts.log_q
    if combination.level == "sequence":
        terms: Tensor = estimators.get(name).terms(log_ratio.sum(-1, keepdim=True))
        return terms
    # Every estimator is 0 at log r = 0 but for rounding; a masked token gets exactly that.
    return rollouts.kept(estimators.get(name).terms(log_ratio))


def ratio(combination: Combination, rollouts: Rollouts, advantage: Tensor | None = None) -> Tensor:
    """The weight of each term, ``(n, T)``, or ``(n, 1)`` where all have the sequence's.

    1 without a correction.

    ``advantage`` is what signed factors take. A normalised weight is not yet divided by its mean
    over the group.
    """
    return _product(combination, combination.factors, rollouts, advantage)


def _weighed(combination: Combination, rollouts: Rollouts) -> Tensor:
    """Return the detached weight before any rejection: what normalised weights are divided by the
    mean of.
    """
    weights = [each for each in combination.factors if KINDS[each.kind].keeps == "ratio"]
    return _product(combination, weights, rollouts).detach()


def _product(
    combination: Combination,
    chosen: Iterable[Factor],
    rollouts: Rollouts,
    advantage: Tensor | None = None,
) -> Tensor:
    log_q = rollouts.log_q if combination.ratio_gradient else rollouts.log_q.detach()
    sides = {"q": log_q, "old": rollouts.log_old, "mu": rollouts.log_mu}
    whole = combination.level == "sequence"
    found: Tensor = corrections.product(
        chosen, sides, rollouts.mask, sequence=whole, advantage=advantage
    )
    return found


def _future(terms: Tensor, gamma: float = 1.0) -> Tensor:
    """Return the sum of each term and those after it, each discounted by its distance.

    ``(n, T)``.
    """
    if gamma == 1.0:
        return terms.flip(-1).cumsum(-1).flip(-1)
    total, found = torch.zeros_like(terms[:, 0]), []
    for t in reversed(range(terms.shape[-1])):
        total = terms[:, t] + gamma * total
        found.append(total)
    return torch.stack(found[::-1], dim=-1)


def _led_to(combination: Combination, terms: Tensor, rollouts: Rollouts) -> Tensor:
    """Return what follows each token, every later term weighted with the tokens between, less the
    baseline: ``(n, T)``.

    ``R_t = k_t + gamma (b_{t+1} + w_{t+1} (R_{t+1} - b_{t+1}))`` with one token's ratio ``w`` and
    ``b``, the exact KL of the next one or 0; ``w`` has the mean 1, so that ``b`` changes no
    expectation. The exact KL after a token is a term of that token.
    """
    log_ratio = rollouts.log_q - rollouts.log_mu
    full = combination.placement == "full_with_score"
    weight, kl = log_ratio.detach().exp(), rollouts.kl.detach()
    baseline = kl if combination.baseline == "token_kl" else torch.zeros_like(kl)
    later, found = torch.zeros_like(kl[:, 0]), []
    for t in reversed(range(kl.shape[-1])):
        after = torch.zeros_like(later) if t + 1 == kl.shape[-1] else kl[:, t + 1]
        total = (after if full else terms[:, t]) + combination.gamma * later
        found.append(total - baseline[:, t])
        later = baseline[:, t] + weight[:, t] * found[-1]
        later = later.where(rollouts.mask[:, t], 0.0)
    return torch.stack(found[::-1], dim=-1)


def _summed(values: Tensor, rollouts: Rollouts) -> Tensor:
    """Over the tokens that count; ``(n, 1)`` are of whole sequences.

    A weight of inf after the end must not become a NaN.
    """
    whole = values.shape[-1] == 1 and rollouts.mask.shape[-1] > 1
    return (values if whole else rollouts.kept(values)).sum(-1)


def weight_of(combination: Combination, rollouts: Rollouts) -> Tensor:
    """Return the detached weight of each term, before any is divided by a mean.

    ``(n, T)`` or ``(n, 1)``, signed ones too.
    """
    found = parts(combination, rollouts) if combination.signed else None
    if found is not None and found.weights is not None:
        return found.weights
    return ratio(combination, rollouts).detach()


def parts(combination: Combination, rollouts: Rollouts) -> Parts:
    """The surrogate loss of each sequence, taken apart."""
    placement = combination.placement
    full = placement in ("full", "full_with_score")
    terms = rollouts.kl if full else _terms(combination.estimator, combination, rollouts)
    if placement == "straight_through":
        path = _terms(combination.gradient_of, combination, rollouts)
        terms = terms.detach() + path - path.detach()
    returns = _returns(combination, terms, rollouts) if placement in SCORED else None
    # What is minimised is the penalty: the advantage that a signed weight looks at is its negative.
    weight = ratio(combination, rollouts, None if returns is None else -returns)
    in_loss = placement not in ("reward", "reward_to_go")
    of_term = _before(weight, rollouts) if combination.per_decision and full else weight
    direct = (
        _summed(of_term * terms, rollouts) if in_loss else torch.zeros_like(rollouts.log_q[:, 0])
    )
    if combination.length_mean:
        direct = direct / rollouts.mask.sum(-1)
    shares = (
        _shares(_weighed(combination, rollouts), rollouts.mask) if combination.normalised else None
    )
    if returns is None:
        return Parts(direct, None, None, shares)
    if combination.truncated_decision:
        returns = _cut(combination, terms.detach(), of_term.detach())
        return Parts(direct, rollouts.mask.to(returns.dtype), returns)
    weights = rollouts.kept(weight.detach())
    if combination.length_mean:
        weights = weights / rollouts.mask.sum(-1, keepdim=True)
    if combination.baseline != TOKEN_MEAN:
        return Parts(direct, weights, returns, shares)
    ones = rollouts.mask.to(weights.dtype)
    totals = _shares(terms.detach(), rollouts.mask)
    return Parts(direct, weights, returns, None, totals, _future(ones, combination.gamma))


def _returns(combination: Combination, terms: Tensor, rollouts: Rollouts) -> Tensor:
    """Return the constants that multiply each token's score, ``(n, T)``, before the weights and
    a group's baseline.
    """
    constant = terms.detach()
    if combination.per_decision:
        return _led_to(combination, constant, rollouts)
    if combination.placement == "reward_to_go":
        returns = _future(constant, combination.gamma)
    elif combination.placement == "full_with_score":
        returns = _future(constant) - constant
    else:
        returns = constant.sum(-1, keepdim=True).expand_as(rollouts.log_q)
    return returns - rollouts.kl.detach() if combination.baseline == "token_kl" else returns


def _cut(combination: Combination, terms: Tensor, weight: Tensor) -> Tensor:
    """Return the sum of what follows each token, each term with its own cut-off weight, ``(n, T)``.

    A term after a token has another weight than the token: no recursion from one to the next.
    """
    weighted = weight * terms
    returns = _future(weighted, combination.gamma)
    return returns - weighted if combination.placement == "full_with_score" else returns


def _before(weight: Tensor, rollouts: Rollouts) -> Tensor:
    """Return the ratio of the tokens before each one, from that of all up to it: ``(n, T)``."""
    first = torch.ones_like(weight[:, :1])
    return torch.cat([first, weight[:, :-1]], dim=-1)


def _shares(weight: Tensor, mask: Tensor) -> Tensor:
    """Return the sum of each sequence's weights and their number, ``(n, 2)``.

    1 where all its tokens have the same.
    """
    if weight.shape[-1] == 1 and mask.shape[-1] > 1:
        return torch.cat([weight, torch.ones_like(weight)], dim=-1)
    return torch.stack([weight.where(mask, 0.0).sum(-1), mask.sum(-1).to(weight.dtype)], dim=-1)


def centred(returns: Tensor, group: int, baseline: str) -> Tensor:
    """Return returns ``(..., n, T)`` less a baseline that each ``group`` of consecutive sequences,
    those of one prompt, gives.

    ``batch_mean`` subtracts the mean of the group, which shrinks the gradient by ``1 - 1/group``
    (Shao et al. 2024, "DeepSeekMath", section 4.1.2); ``leave_one_out`` the mean of the others,
    which does not (Kool et al. 2019; Ahmadian et al. 2024, eq. 7). Other baselines are none of a
    group, and nothing is subtracted.

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
    # Equal returns have no advantage: what rounding would leave of it, whitening and Adam make into
    # steps.
    grouped = grouped - grouped[..., :1, :]
    result = (grouped - grouped.mean(-2, keepdim=True)).flatten(-3, -2)
    return result * (group / (group - 1)) if baseline == "leave_one_out" else result


def _less_the_token_mean(returns: Tensor, totals: Tensor, counted: Tensor, group: int) -> Tensor:
    """Return returns ``(n, T)`` whose every term has the mean term of its group's tokens
    subtracted.

    Raises
    ------
    ValueError
        The group does not divide ``n``.
    """
    if len(returns) % group:
        raise ValueError(f"{len(returns)} sequences do not make groups of {group}")
    total, number = totals.view(-1, group, 2).sum(1).repeat_interleave(group, 0).unbind(-1)
    return returns - (total / number)[:, None] * counted


def surrogate(combination: Combination, rollouts: Rollouts, group: int | None = None) -> Tensor:
    """The loss of each sequence, shape ``(n,)``.

    The mean of its gradient is the combination's gradient.

    The sequences are samples of one prompt; each ``group`` of consecutive ones (all of them, where
    it is None) shares the baselines that are means over a group.

    Raises
    ------
    ValueError
        A leave-one-out baseline with fewer than 2 sequences, or a group size that does not divide
        ``n``.
    """
    pieces = parts(combination, rollouts)
    size = group or len(rollouts.log_q)
    loss = pieces.direct
    if pieces.weights is not None and pieces.returns is not None:
        returns = (
            _less_the_token_mean(pieces.returns, pieces.totals, pieces.counted, size)
            if pieces.totals is not None and pieces.counted is not None
            else centred(pieces.returns, size, combination.baseline)
        )
        loss = loss + _summed(pieces.weights * returns * rollouts.log_q, rollouts)
    if pieces.shares is None:
        return loss
    total, number = (
        pieces.shares.view(-1, size, 2).sum(1, keepdim=True).expand(-1, size, 2).unbind(-1)
    )
    # A group without any weight has nothing to divide.
    return loss * (number / total).where(total > 0.0, 1.0).flatten()
