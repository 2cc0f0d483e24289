"""Functions that were written to be misjudged, and once were.

``WRONG`` has the kind of the finding, ``RIGHT`` what each is, and the options of the audit.
"""

import warnings
from typing import NamedTuple

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


WRONG = {
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


RIGHT = {
    approx_kl: ("k3", {}),
    scripted: ("k1", {}),
    named_tuple: ("k3", {"output": "kl"}),
    meant_absolute: ("abs", {"expect": "abs"}),
    numbers_beside: ("k1", {}),
    longest_as_divisor: (None, {"used_as": "loss"}),
    float32_alone: ("k3", {}),
    own_tokens_in_the_advantage: (None, {"used_as": "loss"}),
}
