"""Losses of preferences, pairs of which one is the better, and the reward that a policy's loss
implies.

A label says which of two answers is the better one; by Bradley and Terry that is so with
probability ``sigma(r_w - r_l)``. (Bradley and Terry 1952, "Rank analysis of incomplete block
designs".)
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from klbench import divergences
from klbench.rlhf.options import CHIPO


def bradley_terry_loss(chosen: Tensor, rejected: Tensor, smoothing: float = 0.0) -> Tensor:
    """``-(1 - e) log sigma(m) - e log sigma(-m)``, ``m = r_w - r_l``, of each pair.

    With ``e = 0``, ``-log sigma(m)``.

    (Ouyang et al. 2022, "Training language models to follow instructions with human feedback", eq.
    1; the smoothing, for labels of which a share ``e`` is wrong: Mitchell 2023, "A note on DPO with
    noisy preferences", eq. 3.)

    Parameters
    ----------
    chosen, rejected
        Rewards of the better and of the worse answer, any shape.
    smoothing
        ``e``, in [0, 0.5).

    Raises
    ------
    ValueError
        The smoothing is outside that.
    """
    if not 0.0 <= smoothing < 0.5:
        raise ValueError(f"smoothing must be at least 0 and below 0.5, got {smoothing}")
    margin = chosen - rejected
    loss = -logsigmoid(margin)
    return loss if smoothing == 0.0 else (1.0 - smoothing) * loss - smoothing * logsigmoid(-margin)


def implicit_reward(log_ratio: Tensor, beta: float | Tensor, divergence: str = "kl_qp") -> Tensor:
    """The reward for which a policy is the best one, up to a constant of the prompt.

    ``beta phi'(pi/ref)``, 0 at ``pi = ref``.

    The policy that maximises ``E_pi[r] - beta D`` has ``r = beta phi'(pi/ref) + const``, where ``D
    = E_ref[phi(pi/ref)]``. (Wang et al. 2024, "Beyond reverse KL: generalizing direct preference
    optimization with diverse divergence constraints", theorem 1 and eq. 10; for ``kl_qp`` Rafailov
    et al. 2023, "Direct preference optimization", eq. 5.) The names of :mod:`klbench.divergences`
    have ``D_f = E_pi[f(ref/pi)]``: the same divergence for ``phi(t) = t f(1/t)``, so that ``phi'(t)
    = f(r) - r f'(r)`` at ``r = 1/t = ref/pi``. Shifted to 0 at ``t = 1``, with ``q = pi`` and ``p =
    ref``:

    ============= ============= ============================== ====================================
    ``kl_qp``     KL(pi‖ref)    ``log t``                      DPO itself; the literature's reverse
                                                               KL
    ``kl_pq``     KL(ref‖pi)    ``1 - 1/t``                    the literature's forward KL
    ``js``        JS(pi, ref)   ``log(2t / (1 + t)) / 2``      Wang et al. have no half: their beta
                                                               is half of ours
    ``hellinger`` H²(pi, ref)   ``(1 - t^(-1/2)) / 2``
    ``chi2``      χ²(ref‖pi)    ``1 - t^(-2)``
    ``alpha:a``   D_a(ref‖pi)   ``(1 - t^(-a)) / a``           their alpha-divergence; ``a -> 0``
                                                               and 1: both KLs
    ============= ============= ============================== ====================================

    Parameters
    ----------
    log_ratio
        ``log pi/ref`` of whole sequences, any shape, in nats.
    beta
        The penalty's weight, a number or of a shape that spreads over ``log_ratio``.
    divergence
        A name of :mod:`klbench.divergences`.

    Returns ------- The reward, in ``log_ratio``'s dtype, found in float64: powers of ``t`` are
    finite up to 709 nats over the power.
    """
    return (beta * divergences.get(divergence).slope(-log_ratio.double())).to(log_ratio.dtype)


def dpo_loss(
    chosen: Tensor,
    rejected: Tensor,
    beta: float | Tensor,
    smoothing: float = 0.0,
    divergence: str = "kl_qp",
) -> Tensor:
    """``-log sigma(beta (phi'(t_w) - phi'(t_l)))`` of each pair, ``t = pi/ref``.

    The Bradley-Terry loss of implied rewards.

    With ``kl_qp``, KL(pi‖ref), this is ``-log sigma(beta log t_w - beta log t_l)`` (Rafailov et al.
    2023, eq. 7); the other divergences are those of f-DPO (Wang et al. 2024, eq. 11), as in
    :func:`implicit_reward`.

    Parameters
    ----------
    chosen, rejected
        ``log pi/ref`` of whole sequences, the better and the worse answer to one prompt, any shape,
        in nats.
    beta, divergence
        As in :func:`implicit_reward`.
    smoothing
        As in :func:`bradley_terry_loss`: conservative DPO.

    Returns ------- The losses, in the log-ratios' dtype; each is found in float64, since a ``t`` of
    ``exp(-200)`` is nothing strange early on.
    """
    first, second = (
        implicit_reward(each.double(), beta, divergence) for each in (chosen, rejected)
    )
    return bradley_terry_loss(first, second, smoothing).to(chosen.dtype)


def hinge_loss(chosen: Tensor, rejected: Tensor, beta: float) -> Tensor:
    """``max(0, 1 - beta (log t_w - log t_l))`` of each pair, ``t = pi/ref``.

    (Zhao et al. 2023, "SLiC-HF: sequence likelihood calibration with human feedback"; with ratios
    to a reference, as here, Liu et al. 2023, "Statistical rejection sampling improves preference
    optimization".) Its population optimum has log-ratios that are whole multiples of ``1/beta``
    apart: it learns an order, not rewards.
    """
    return (1.0 - beta * (chosen - rejected)).clamp(min=0.0)


def ipo_loss(chosen: Tensor, rejected: Tensor, beta: float) -> Tensor:
    """``(log t_w - log t_l - 1/(2 beta))^2`` of each pair, ``t = pi/ref``, with log-probabilities
    of whole sequences.

    (Azar et al. 2023, "A general theoretical paradigm to understand learning from human
    preferences", eq. 17.) Its population optimum is ``ref exp(P(y > y') / beta) / Z`` with ``y' ~
    ref``, whatever the labels' probabilities. TRL 1.16 has means over tokens in place of sums.
    """
    return (chosen - rejected - 0.5 / beta) ** 2


def chipo_loss(chosen: Tensor, rejected: Tensor, beta: float, limit: float | None = None) -> Tensor:
    """``-log sigma(clip(beta (phi(t_w) - phi(t_l)), -limit, limit))`` of each pair, ``phi(t) = t +
    log t``, ``t = pi/ref``.

    (Huang et al. 2024, "Correcting the mythos of KL-regularization: direct alignment without
    overoptimization via chi-squared preference optimization", where ``limit`` is twice the largest
    reward.) Without a limit that binds, its population optimum is the policy with ``beta phi(t) = r
    + const``.
    """
    first, second = (implicit_reward(each.double(), beta, CHIPO) for each in (chosen, rejected))
    margin = first - second
    if limit is not None:
        margin = margin.clamp(-limit, limit)
    return -logsigmoid(margin).to(chosen.dtype)


def per_token(log_prob: Tensor, tokens: Tensor, beta: float) -> Tensor:
    """``beta / |y| log``.

    The reward that length-normalised losses imply, from sums over ``tokens``.
    """
    return beta * log_prob / tokens


def normalised_dpo_loss(
    chosen: Tensor, rejected: Tensor, tokens: tuple[Tensor, Tensor], beta: float
) -> Tensor:
    """``-log sigma(beta log t_w / |w| - beta log t_l / |l|)`` of each pair, ``t = pi/ref``.

    DPO with means over tokens.

    (Lambert et al. 2024, "Tulu 3: pushing frontiers in open language model post-training".) Its
    population optimum has ``log t = |y| (r + c) / beta`` with the ``c`` of each prompt for which it
    sums to one: length counts.

    Parameters
    ----------
    tokens
        Lengths of the better and of the worse answer, in tokens.
    """
    first, second = (
        per_token(each, length, beta)
        for each, length in zip((chosen, rejected), tokens, strict=True)
    )
    return bradley_terry_loss(first, second)


def simpo_loss(
    log_chosen: Tensor,
    log_rejected: Tensor,
    tokens: tuple[Tensor, Tensor],
    beta: float,
    margin: float = 0.0,
) -> Tensor:
    """``-log sigma(beta log pi_w / |w| - beta log pi_l / |l| - margin)`` of each pair.

    No reference.

    (Meng et al. 2024, "SimPO: simple preference optimization with a reference-free reward", eq. 6.)
    ``log pi`` are sums over tokens. Nothing holds it to a reference, so its population optimum is
    anywhere from it.
    """
    first, second = (
        per_token(each, length, beta)
        for each, length in zip((log_chosen, log_rejected), tokens, strict=True)
    )
    return bradley_terry_loss(first - margin, second)


def kto_reference_point(log_ratios: Sequence[Tensor]) -> Tensor:
    """``max(0, mean)`` of ``log pi/ref`` of answers to other prompts, over all batches.

    What KTO takes for KL(pi‖ref).

    (Ethayarajh et al. 2024, "KTO: model alignment as prospect theoretic optimization".) A constant
    of the step. The answers come from the data, not from the policy, and not after this prompt, so
    it is no estimate of the KL: with answers of the reference it is below 0 in the mean, and the
    clamp makes that 0. The mean is over all batches of a step, each answer alike, before the clamp.

    Parameters
    ----------
    log_ratios
        One tensor a batch, whose last axis is that of answers.
    """
    return torch.cat(list(log_ratios), dim=-1).mean(-1).clamp(min=0.0).detach()


def kto_loss(
    desirable: Tensor,
    undesirable: Tensor,
    point: Tensor | float,
    beta: float,
    weights: tuple[float, float] = (1.0, 1.0),
) -> tuple[Tensor, Tensor]:
    """``w_d (1 - sigma(beta (log t - z)))`` of each desirable answer, ``w_u (1 - sigma(beta (z -
    log t)))`` of the others.

    (Ethayarajh et al. 2024.) ``t = pi/ref``, ``z`` the point of :func:`kto_reference_point`. With
    labels that are right with some probability it is linear in ``sigma(beta (log t - z))``: an
    answer that is more often undesirable than not gets probability 0 in the population's optimum.
    """
    return (
        weights[0] * torch.sigmoid(beta * (point - desirable)),
        weights[1] * torch.sigmoid(beta * (undesirable - point)),
    )
