"""The pure functions that the loops are made of, each with its formula and where it is from.

Sequences are ``(..., n, T)``: any stack of replicas, ``n`` sequences, ``T`` tokens; ``mask`` says
which tokens count.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from klbench.rlhf.options import GROUPED, Normalisation, Whitening

EPSILON, TRL_EPSILON = 1e-8, 1e-4
"""Added to standard deviations before they divide; TRL's."""


def clipped_surrogate(
    log_ratio: Tensor,
    advantage: Tensor,
    clip: float | None,
    dual_clip: float | None = None,
    limit: float | None = None,
) -> Tensor:
    """``min(rho A, clip(rho, 1 - clip, 1 + clip) A)`` with ``rho = exp(log_ratio)``, to be
    maximised; ``rho A`` without a clip.

    ``log_ratio`` is ``log q - log mu`` of policy and sampler. Without a clip, and where the policy
    itself has sampled, its gradient is REINFORCE's, ``A grad log q``. (Schulman et al. 2017,
    "Proximal policy optimization algorithms", eq. 7; eq. 6 without.) With a ``dual_clip`` no less
    than ``dual_clip A`` where ``A < 0`` (Ye et al. 2020, "Mastering complex control in MOBA games
    with deep reinforcement learning", eq. 5); with a ``limit``, ``log_ratio`` is clamped to it
    first.
    """
    ratio = (log_ratio if limit is None else log_ratio.clamp(-limit, limit)).exp()
    gain = ratio * advantage
    if clip is not None:
        gain = gain.minimum(ratio.clamp(1.0 - clip, 1.0 + clip) * advantage)
    return (
        gain
        if dual_clip is None
        else torch.where(advantage < 0, gain.maximum(dual_clip * advantage), gain)
    )


def clip_active(
    log_ratio: Tensor, advantage: Tensor, clip: float | None, dual_clip: float | None = None
) -> Tensor:
    """Return a boolean for each token: whether a clip takes the gradient of the surrogate there."""
    active = torch.zeros_like(log_ratio, dtype=torch.bool)
    ratio = log_ratio.exp()
    if clip is not None:
        active = ((advantage > 0) & (ratio > 1.0 + clip)) | ((advantage < 0) & (ratio < 1.0 - clip))
    return active if dual_clip is None else active | ((advantage < 0) & (ratio > dual_clip))


def gae(rewards: Tensor, values: Tensor, mask: Tensor, *, discount: float, trace: float) -> Tensor:
    """``sum over l of (discount trace)^l delta_{t+l}``, ``delta_t = r_t + discount V_{t+1} - V_t``;
    0 where masked.

    Nothing follows the last token: its next value is 0, for sequences that were cut off too, since
    their reward is final. (Schulman et al. 2016, "High-dimensional continuous control using
    generalized advantage estimation", eqs. 11 and 16.)
    """
    values = values.where(mask, 0.0)
    following = torch.cat([values[..., 1:], torch.zeros_like(values[..., :1])], dim=-1)
    deltas = (rewards + discount * following - values).where(mask, 0.0)
    result, total = [], torch.zeros_like(deltas[..., 0])
    for t in reversed(range(deltas.shape[-1])):
        total = deltas[..., t] + discount * trace * total
        result.append(total)
    return torch.stack(result[::-1], dim=-1).where(mask, 0.0)


def value_loss(
    values: Tensor, targets: Tensor, old: Tensor | None = None, clip: float | None = None
) -> Tensor:
    """``(V - target)^2 / 2``.

    With a clip, the larger of it and that of ``V`` kept within ``clip`` of its old value.

    (Schulman et al. 2017, eq. 9; the clip is that of OpenAI's baselines and of TRL.)
    """
    plain = 0.5 * (values - targets) ** 2
    if clip is None or old is None:
        return plain
    kept = old + (values - old).clamp(-clip, clip)
    return plain.maximum(0.5 * (kept - targets) ** 2)


def adapted_beta(beta: Tensor, kl: Tensor, target: float, gain: float = 0.1) -> Tensor:
    """``beta (1 + gain clip((kl - target) / target, -0.2, 0.2))``.

    A proportional controller in log space.

    Once an update. (Ziegler et al. 2019, "Fine-tuning language models from human preferences",
    section 2.2, with 0.1 for the gain; for that of their code see :func:`controller_gain`.) ``kl``
    and ``target`` are of one kind: nats a sequence, or nats a token, as trainers do that average
    over tokens. A target meant for one is far off for the other.

    Raises
    ------
    ValueError
        The target is not above 0, or the gain below 0.
    """
    if not (target > 0.0 and gain >= 0.0):
        raise ValueError(
            f"expected a target above 0 and a gain of at least 0, got {target:g} and {gain:g}"
        )
    return beta * (1.0 + gain * ((kl - target) / target).clamp(-0.2, 0.2))


def controller_gain(sequences: int, horizon: float) -> float:
    """``n / horizon``: the gain of :func:`adapted_beta` after an update of ``n`` sequences.

    A controller that sees an error of 0.2 or more multiplies beta by about ``exp(0.2)`` within
    ``horizon`` sequences. (Ziegler et al. 2019, in their code and in TRL's of before 1.0, where the
    horizon is 10,000.)

    Raises
    ------
    ValueError
        Either is not above 0.
    """
    if not (sequences > 0 and horizon > 0.0):
        raise ValueError(
            f"expected sequences and a horizon above 0, got {sequences} and {horizon:g}"
        )
    return sequences / horizon


def whitened(advantage: Tensor, mask: Tensor, group: int, whitening: Whitening) -> Tensor:
    """Advantages in units of their spread.

    Over the batch, less its mean, or within each group as GRPO has it.

    Over the batch: ``(A - mean) / (std + 1e-8)`` of all tokens that count. By group: ``A / (std +
    1e-8)`` with the sample standard deviation, within the group, of each sequence's mean over its
    tokens; the baseline has centred it before. (Shao et al. 2024, section 4.1.2.) ``group_trl``
    adds 1e-4 instead, as TRL 1.16 does. ``batch_verl`` divides by the root of the variance and 1e-8
    together, as verl 0.9 does; ``batch_openrlhf`` by that of the variance over n, or of 1e-8 if
    that is more, as OpenRLHF 0.11 does. A penalty in the loss is not in these units: whitening
    changes its weight.
    """
    advantage, alive = advantage.where(mask, 0.0), mask.to(advantage.dtype)
    if whitening == "none":
        return advantage * alive
    if whitening not in GROUPED:
        count = alive.sum((-2, -1), keepdim=True)
        mean = (advantage * alive).sum((-2, -1), keepdim=True) / count
        deviation = (advantage - mean) * alive
        total = deviation.square().sum((-2, -1), keepdim=True)
        if whitening == "batch_openrlhf":
            return deviation / (total / count).clamp(min=EPSILON).sqrt()
        variance = total / (count - 1).clamp(min=1)
        return deviation / (
            (variance + EPSILON).sqrt() if whitening == "batch_verl" else variance.sqrt() + EPSILON
        )
    each = (advantage * alive).sum(-1) / alive.sum(-1)
    spread = each.reshape(*each.shape[:-1], each.shape[-1] // group, group).std(-1)
    epsilon = TRL_EPSILON if whitening == "group_trl" else EPSILON
    return advantage * alive / (spread.repeat_interleave(group, dim=-1)[..., None] + epsilon)


def unit(advantage: Tensor, white: Tensor, mask: Tensor) -> Tensor:
    """Return the divisor of whitening, ``(...)``.

    The ``s`` for which ``s * white`` is closest to the advantages; 1 without.

    A penalty in the loss, which is not divided, has ``s`` times its weight against the reward.
    """
    shared, own = ((each * white).where(mask, 0.0).sum((-2, -1)) for each in (advantage, white))
    return torch.where(own > 0, shared / own, 1.0)


def reduced(per_token: Tensor, mask: Tensor, normalisation: Normalisation) -> Tensor:
    """Per-token losses ``(..., n, T)`` to one of each replica, ``(...)``.

    ``sum``: the mean over sequences of their sums, which is what the policy gradient theorem has.
    ``token``: over all tokens of the batch. ``sequence``: the mean over sequences of their means.
    """
    return reduced_sequences(per_token.where(mask, 0.0).sum(-1), mask, normalisation)


def reduced_sequences(per_sequence: Tensor, mask: Tensor, normalisation: Normalisation) -> Tensor:
    """The same from sums over tokens, ``(..., n)``.

    A penalty and a reward that are reduced alike keep their proportion.
    """
    lengths: Callable[[], Tensor] = lambda: mask.sum(-1).to(per_sequence.dtype)  # noqa: E731
    if normalisation == "sum":
        return per_sequence.mean(-1)
    if normalisation == "token":
        return per_sequence.sum(-1) / lengths().sum(-1)
    return (per_sequence / lengths()).mean(-1)
