"""Losses of preferences, pairs of which one is the better, and the reward that a policy's loss implies.

A label says which of two answers is the better one; by Bradley and Terry that is so with probability ``sigma(r_w - r_l)``.
(Bradley and Terry 1952, "Rank analysis of incomplete block designs".)
"""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import logsigmoid

from klbench import divergences


def bradley_terry_loss(chosen: Tensor, rejected: Tensor, smoothing: float = 0.0) -> Tensor:
    """``-(1 - e) log sigma(m) - e log sigma(-m)``, ``m = r_w - r_l``, of each pair: with ``e = 0``, ``-log sigma(m)``.

    (Ouyang et al. 2022, "Training language models to follow instructions with human feedback", eq. 1; the smoothing,
    for labels of which a share ``e`` is wrong: Mitchell 2023, "A note on DPO with noisy preferences", eq. 3.)

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
    """The reward for which a policy is the best one, up to a constant of the prompt: ``beta phi'(pi/ref)``, 0 at ``pi = ref``.

    The policy that maximises ``E_pi[r] - beta D`` has ``r = beta phi'(pi/ref) + const``, where ``D = E_ref[phi(pi/ref)]``.
    (Wang et al. 2024, "Beyond reverse KL: generalizing direct preference optimization with diverse divergence constraints",
    theorem 1 and eq. 10; for ``kl_qp`` Rafailov et al. 2023, "Direct preference optimization", eq. 5.) The names of
    :mod:`klbench.divergences` have ``D_f = E_pi[f(ref/pi)]``: the same divergence for ``phi(t) = t f(1/t)``, so that
    ``phi'(t) = f(r) - r f'(r)`` at ``r = 1/t = ref/pi``. Shifted to 0 at ``t = 1``, with ``q = pi`` and ``p = ref``:

    ============= ============= ============================== ==================================================
    ``kl_qp``     KL(pi‖ref)    ``log t``                      DPO itself; the literature's reverse KL
    ``kl_pq``     KL(ref‖pi)    ``1 - 1/t``                    the literature's forward KL
    ``js``        JS(pi, ref)   ``log(2t / (1 + t)) / 2``      Wang et al. have no half: their beta is half of ours
    ``hellinger`` H²(pi, ref)   ``(1 - t^(-1/2)) / 2``
    ``chi2``      χ²(ref‖pi)    ``1 - t^(-2)``
    ``alpha:a``   D_a(ref‖pi)   ``(1 - t^(-a)) / a``           their alpha-divergence; ``a -> 0`` and 1: both KLs
    ============= ============= ============================== ==================================================

    Parameters
    ----------
    log_ratio
        ``log pi/ref`` of whole sequences, any shape, in nats.
    beta
        The penalty's weight, a number or of a shape that spreads over ``log_ratio``.
    divergence
        A name of :mod:`klbench.divergences`.

    Returns
    -------
    The reward, in ``log_ratio``'s dtype, found in float64: powers of ``t`` are finite up to 709 nats over the power.
    """
    return (beta * divergences.get(divergence).slope(-log_ratio.double())).to(log_ratio.dtype)


def dpo_loss(
    chosen: Tensor,
    rejected: Tensor,
    beta: float | Tensor,
    smoothing: float = 0.0,
    divergence: str = "kl_qp",
) -> Tensor:
    """``-log sigma(beta (phi'(t_w) - phi'(t_l)))`` of each pair, ``t = pi/ref``: the Bradley-Terry loss of implied rewards.

    With ``kl_qp``, KL(pi‖ref), this is ``-log sigma(beta log t_w - beta log t_l)`` (Rafailov et al. 2023, eq. 7); the other
    divergences are those of f-DPO (Wang et al. 2024, eq. 11), as in :func:`implicit_reward`.

    Parameters
    ----------
    chosen, rejected
        ``log pi/ref`` of whole sequences, the better and the worse answer to one prompt, any shape, in nats.
    beta, divergence
        As in :func:`implicit_reward`.
    smoothing
        As in :func:`bradley_terry_loss`: conservative DPO.

    Returns
    -------
    The losses, in the log-ratios' dtype; each is found in float64, since a ``t`` of ``exp(-200)`` is nothing strange early on.
    """
    first, second = (
        implicit_reward(each.double(), beta, divergence) for each in (chosen, rejected)
    )
    return bradley_terry_loss(first, second, smoothing).to(chosen.dtype)
