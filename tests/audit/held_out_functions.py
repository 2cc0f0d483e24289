"""Functions that were written to be misjudged, and once were.

``WRONG`` has the kind of the finding, ``RIGHT`` what each is, and the options of the audit.
"""

import math
import warnings
from typing import NamedTuple

import numpy as np
import torch


def epsilon_in_probabilities(logprobs, ref_logprobs):
    return torch.log((logprobs.exp() + 1e-5) / (ref_logprobs.exp() + 1e-5))


def last_token_alone(logprobs, ref_logprobs):
    return (logprobs - ref_logprobs)[:, -1]


def _of_tokens(logits, tokens):
    return logits.log_softmax(-1).gather(-1, tokens[..., None])[..., 0]


def the_reference_asked_for_earlier_tokens(logits, ref_logits, tokens):
    mine = _of_tokens(logits[:, :-1], tokens[:, 1:])
    return mine - _of_tokens(ref_logits[:, :-1], tokens[:, :-1])


def _held(mask, *tensors):
    return [torch.where(mask, each, 0.0) for each in tensors]


def _k3(logprobs, ref_logprobs):
    log_ratio = ref_logprobs - logprobs
    return torch.expm1(log_ratio) - log_ratio


def coefficient_twice(logprobs, ref_logprobs, old_logprobs, advantages, mask, beta=0.04):
    logprobs, reference, old = _held(mask, logprobs, ref_logprobs, old_logprobs)
    penalty = beta * _k3(logprobs, reference)
    loss = -torch.exp(logprobs - old) * advantages[:, None] + beta * penalty
    return (loss * mask).sum() / mask.sum()


def penalty_raises_the_reward(logprobs, ref_logprobs, rewards, mask, kl_coef=0.1):
    logprobs, reference = _held(mask, logprobs, ref_logprobs)
    rewards = rewards[:, None] + kl_coef * (logprobs - reference).detach()
    return -(logprobs * rewards).sum() / mask.sum()


def penalty_of_the_next_row(logprobs, ref_logprobs, old_logprobs, advantages, mask, beta=0.04):
    logprobs, reference, old = _held(mask, logprobs, ref_logprobs, old_logprobs)
    penalty = _k3(logprobs, reference).roll(1, 0) * mask
    loss = -torch.exp(logprobs - old) * advantages[:, None] * mask + beta * penalty
    return (loss.sum(-1) / mask.sum(-1)).mean()


def divided_by_the_advantage(logprobs, old_logprobs, advantages, mask):
    logprobs, old = _held(mask, logprobs, old_logprobs)
    loss = -torch.exp(logprobs - old) / advantages[:, None]
    return (loss * mask).sum() / mask.sum()


def _mean(per_token, mask):
    return torch.where(mask, per_token, 0.0).sum() / mask.sum()


def _corrected_by(over, logprobs, old, rollout, reference, advantages, mask):
    weight = torch.exp(over - rollout).clamp(max=2.0).detach()
    term = -weight * torch.exp(logprobs - old) * advantages[:, None]
    return _mean(term + 0.1 * _k3(logprobs, reference), mask)


def policy_over_rollout(logprobs, old_logprobs, rollout_logprobs, ref_logprobs, advantages, mask):
    held = _held(mask, logprobs, old_logprobs, rollout_logprobs, ref_logprobs)
    return _corrected_by(held[0], *held, advantages, mask)


def reference_over_rollout(
    logprobs, old_logprobs, rollout_logprobs, ref_logprobs, advantages, mask
):
    held = _held(mask, logprobs, old_logprobs, rollout_logprobs, ref_logprobs)
    return _corrected_by(held[3], *held, advantages, mask)


def ratio_squared(logprobs, old_logprobs, advantages, mask):
    logprobs, old = _held(mask, logprobs, old_logprobs)
    ratio = torch.exp(logprobs - old)
    return _mean(-ratio.detach() * ratio * advantages[:, None], mask)


def what_became_rare_is_stopped(logprobs, old_logprobs, advantages, mask, most=0.15):
    logprobs, old = _held(mask, logprobs, old_logprobs)
    a, moved = advantages[:, None], old.exp() - logprobs.exp()
    stopped = ((moved > most) & (a > 0)) | ((moved < -most) & (a < 0))
    return _mean(-torch.exp(logprobs - old) * a * ~stopped, mask)


def small_advantages_are_stopped(logprobs, old_logprobs, advantages, mask, most=0.15):
    logprobs, old = _held(mask, logprobs, old_logprobs)
    a, moved = advantages[:, None], logprobs.exp() - old.exp()
    stopped = ((moved > most) & (a > 0)) | ((moved < -most) & (a < 1))
    return _mean(-torch.exp(logprobs - old) * a * ~stopped, mask)


def divided_by_what_is_near(logprobs, old_logprobs, advantages, mask, epsilon=0.2):
    ratio = torch.exp(torch.where(mask, logprobs - old_logprobs, 0.0))
    near = (ratio - 1.0).abs() < epsilon
    return _mean(-ratio * advantages[:, None] / near, mask)


def deviation_of_equal_rewards(logprobs, old_logprobs, rewards, mask):
    advantages = (rewards - rewards.mean()) / rewards.std()
    ratio = torch.exp(torch.where(mask, logprobs - old_logprobs, 0.0))
    return _mean(-ratio * advantages[:, None], mask)


def advantages_of_all_rows(logprobs, old_logprobs, advantages, mask):
    logprobs, old = _held(mask, logprobs, old_logprobs)
    ratio = torch.exp((logprobs - old).sum(-1, keepdim=True) / mask.sum(-1, keepdim=True))
    return -(ratio * advantages).mean()


WRONG = {
    policy_over_rollout: ("direction", {"used_as": "loss"}),
    reference_over_rollout: ("direction", {"used_as": "loss"}),
    ratio_squared: ("scale", {"used_as": "loss"}),
    what_became_rare_is_stopped: ("dead-gradient", {"used_as": "loss"}),
    small_advantages_are_stopped: ("scale", {"used_as": "loss"}),
    divided_by_what_is_near: ("non-finite-value", {"used_as": "loss"}),
    deviation_of_equal_rewards: ("non-finite-value", {"used_as": "loss"}),
    advantages_of_all_rows: ("broadcast", {"used_as": "loss"}),
    epsilon_in_probabilities: ("cancellation", {}),
    the_reference_asked_for_earlier_tokens: ("shift", {}),
    last_token_alone: ("token-mixing", {}),
    coefficient_twice: ("scale", {"used_as": "loss"}),
    penalty_raises_the_reward: ("sign", {"used_as": "loss"}),
    penalty_of_the_next_row: ("padding-leak", {"used_as": "loss"}),
    divided_by_the_advantage: ("non-finite-value", {"used_as": "loss"}),
}


def approx_kl(new_logprobs, old_logprobs):
    log_ratio = new_logprobs - old_logprobs
    return ((log_ratio.exp() - 1) - log_ratio).mean()


def difference(logprobs: torch.Tensor, ref_logprobs: torch.Tensor) -> torch.Tensor:
    return logprobs - ref_logprobs


with warnings.catch_warnings(action="ignore"):  # it is deprecated, and in use
    scripted = torch.jit.script(difference)


class Told(NamedTuple):
    loss: torch.Tensor
    kl: torch.Tensor


def named_tuple(logprobs, ref_logprobs):
    kl = _k3(logprobs, ref_logprobs)
    return Told(kl.sum(), kl)


def meant_absolute(logprobs, ref_logprobs):
    return (logprobs - ref_logprobs).abs()


def numbers_beside(logprobs, ref_logprobs, mask, num_tokens=7, mask_truncated=False):
    return torch.where(mask, logprobs - ref_logprobs, 0.0).sum(-1)


def longest_as_divisor(logprobs, old_logprobs, advantages, mask, max_tokens=512):
    logprobs, old = _held(mask, logprobs, old_logprobs)
    loss = -torch.exp(logprobs - old) * advantages[:, None] * mask
    return loss.sum() / (len(mask) * max_tokens)


def own_tokens_in_the_advantage(logprobs, ref_logprobs, advantages, mask, kl_coef=0.05):
    logprobs, reference = _held(mask, logprobs, ref_logprobs)
    advantages = advantages[:, None] - kl_coef * (logprobs - reference).detach()
    return -(logprobs * advantages).sum() / mask.sum()


def float32_alone(logprobs, ref_logprobs):
    assert logprobs.dtype == torch.float32
    return _k3(logprobs, ref_logprobs)


def both_directions(logits, ref_logits):
    q, p = logits.log_softmax(-1), ref_logits.log_softmax(-1)
    return ((q.exp() - p.exp()) * (q - p)).sum(-1)


def share_called_beta(student_logits, teacher_logits, beta=0.1):
    q, p = student_logits.log_softmax(-1), teacher_logits.log_softmax(-1)
    m = torch.logaddexp(q + math.log1p(-beta), p + math.log(beta))
    return (beta * p.exp() * (p - m) + (1 - beta) * q.exp() * (q - m)).sum(-1).mean()


def skewed(student_logits, teacher_logits, share=0.1):
    q, p = student_logits.softmax(-1), teacher_logits.softmax(-1)
    return (p * (p.log() - (share * p + (1 - share) * q).log())).sum(-1)


def in_chunks(logits, ref_logits):
    total, norm, ref_norm = 0.0, logits.logsumexp(-1, True), ref_logits.logsumexp(-1, True)
    for mine, theirs in zip(logits.chunk(4, -1), ref_logits.chunk(4, -1), strict=True):
        total += ((mine - norm).exp() * (mine - norm - theirs + ref_norm)).sum(-1)
    return total


def in_columns(logprobs, ref_logprobs, mask):
    total, count = logprobs.new_zeros(()), 0
    chunks = (x.split(2, 1) for x in (logprobs, ref_logprobs, mask))
    for mine, theirs, kept in zip(*chunks, strict=True):
        total, count = total + _k3(mine[kept], theirs[kept]).sum(), count + kept.sum()
    return total / count


def packed(logprobs, ref_logprobs, mask):
    row = torch.arange(len(mask)).repeat_interleave(mask.shape[1])[mask.flatten()]
    kl = (logprobs - ref_logprobs).flatten()[mask.flatten()]
    return kl.new_zeros(len(mask)).index_add(0, row, kl)


def masked_array(logprobs, ref_logprobs, mask):
    log_ratio = np.ma.masked_array(ref_logprobs - logprobs, mask=~mask.astype(bool))
    return float((np.expm1(log_ratio) - log_ratio).mean())


def stopped_by_probability(logprobs, old_logprobs, advantages, mask, most=0.2):
    logprobs, old = _held(mask, logprobs, old_logprobs)
    a, moved = advantages[:, None], logprobs.exp() - old.exp()
    stopped = (moved * a.sign() > most).detach()
    return _mean(-torch.exp(logprobs - old) * a * ~stopped, mask)


def bypassed(logprobs, old_logprobs, rollout_logprobs, advantages, mask):
    logprobs, old, rollout = _held(mask, logprobs, old_logprobs, rollout_logprobs)
    ratio, near = torch.exp(logprobs - rollout), (old - rollout).abs() < 1.0
    a = advantages[:, None]
    return _mean(-torch.minimum(ratio * a, ratio.clamp(0.8, 1.2) * a) * near, mask)


RIGHT = {
    both_directions: ("full_jeffreys", {}),
    share_called_beta: ("full_js:0.1", {}),
    skewed: ("full_skew_kl_pq:0.1", {}),
    in_chunks: ("full_kl", {}),
    in_columns: ("k3", {}),
    packed: ("k1", {}),
    masked_array: ("k3", {}),
    stopped_by_probability: (None, {"used_as": "loss"}),
    bypassed: (None, {"used_as": "loss"}),
    approx_kl: ("k3", {}),
    scripted: ("k1", {}),
    named_tuple: ("k3", {"output": "kl"}),
    meant_absolute: ("abs", {"expect": "abs"}),
    numbers_beside: ("k1", {}),
    longest_as_divisor: (None, {"used_as": "loss"}),
    float32_alone: ("k3", {}),
    own_tokens_in_the_advantage: (None, {"used_as": "loss"}),
}
