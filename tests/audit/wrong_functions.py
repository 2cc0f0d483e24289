"""KL functions and losses as people write them, each with one fault.

Its kind is in the table at the end of each part.
"""

import math

import numpy as np
import torch
import torch.nn.functional as F

# Values of log-probabilities.


def nll_inputs_kl(logprobs, ref_logprobs):
    return ref_logprobs - logprobs


def k3_upside_down(logprobs, ref_logprobs):
    log_ratio = logprobs - ref_logprobs
    return torch.exp(log_ratio) - 1 - log_ratio


def js_divergence_error(per_token_logps, ref_per_token_logps):
    ratio = torch.exp(per_token_logps - ref_per_token_logps)
    return ratio - torch.log(ratio) - 1


def k2_without_half(logprobs, ref_logprobs):
    return (logprobs - ref_logprobs) ** 2


def absolute_kl(logprobs, ref_logprobs):
    return (logprobs - ref_logprobs).abs()


def kl_in_bits(logprobs, ref_logprobs):
    return torch.log2(torch.exp(logprobs)) - torch.log2(torch.exp(ref_logprobs))


def k3_with_log2(logprobs, ref_logprobs):
    ratio = torch.exp(ref_logprobs - logprobs)
    return ratio - 1 - torch.log2(ratio)


def forgotten_minus_one(logprobs, ref_logprobs):
    log_ratio = ref_logprobs - logprobs
    return log_ratio.exp() - log_ratio


def clamped_at_zero(logprobs, ref_logprobs):
    return torch.clamp(logprobs - ref_logprobs, min=0)


def pointwise_kl_div(logprobs, ref_logprobs):
    return F.kl_div(logprobs, ref_logprobs, log_target=True, reduction="none")


def exp_before_clamp(logprobs, ref_logprobs):
    log_ratio = ref_logprobs - logprobs
    return torch.clamp(torch.exp(log_ratio) - log_ratio - 1, min=-10, max=10)


def one_over_r(logprobs, ref_logprobs):
    log_ratio = ref_logprobs - logprobs
    return log_ratio**2 / torch.exp(log_ratio)


def padded_mean(logprobs, ref_logprobs, mask):
    kl = logprobs - ref_logprobs
    return kl.masked_fill(~mask, 0.0).mean()


def mask_times_nan(logprobs, ref_logprobs, mask):
    log_ratio = ref_logprobs - logprobs
    kl = torch.exp(log_ratio) - 1 - log_ratio
    return (kl * mask).sum() / mask.sum()


def ignored_mask(logprobs, ref_logprobs, mask):
    return (logprobs - ref_logprobs).sum(-1) / mask.sum(-1)


def no_grad_kl(logprobs, ref_logprobs):
    with torch.no_grad():
        return 0.5 * (logprobs - ref_logprobs) ** 2


def item_kl(logprobs, ref_logprobs):
    return torch.tensor((logprobs - ref_logprobs).mean().item())


def misaligned(logprobs, ref_logprobs):
    return 0.5 * (logprobs[:, 1:] - ref_logprobs[:, :-1]) ** 2


def rolled(logprobs, ref_logprobs):
    return 0.5 * (logprobs - torch.roll(ref_logprobs, 1, dims=1)) ** 2


def noisy(logprobs, ref_logprobs):
    return F.dropout(0.5 * (logprobs - ref_logprobs) ** 2, 0.1)


def in_place(logprobs, ref_logprobs):
    ref_logprobs -= logprobs
    return torch.exp(ref_logprobs) - 1 - ref_logprobs


def half_inside(logprobs, ref_logprobs):
    log_ratio = (ref_logprobs - logprobs).half()
    return (torch.exp(log_ratio) - 1 - log_ratio).float()


def cumulative(logprobs, ref_logprobs):
    return torch.cumsum(logprobs - ref_logprobs, dim=-1)


def broadcast_lengths(logprobs, ref_logprobs, mask):
    kl = torch.where(mask, logprobs - ref_logprobs, 0.0).sum(-1, keepdim=True)
    return (kl / mask.sum(-1)).mean()


def whitened(logprobs, ref_logprobs):
    kl = 0.5 * (logprobs - ref_logprobs) ** 2
    return kl / kl.mean()


def ratio_minus_one(logprobs, ref_logprobs):
    return torch.exp(ref_logprobs - logprobs) - 1


def straight_through_uphill(logprobs, ref_logprobs):
    d = ref_logprobs - logprobs
    value, path = torch.expm1(d) - d, 0.5 * d**2
    return path.detach() - path + value.detach()


def straight_through_cubed(logprobs, ref_logprobs):
    d = ref_logprobs - logprobs
    value, path = torch.expm1(d) - d, 0.5 * d.abs() ** 3
    return path - path.detach() + value.detach()


def clamped_ratio_near(logprobs, ref_logprobs):
    d = torch.clamp(ref_logprobs - logprobs, -1, 1)
    return torch.expm1(d) - d


def times_the_lengths(logprobs, ref_logprobs, mask):
    kl = torch.where(mask, 0.5 * (logprobs - ref_logprobs) ** 2, 0.0)
    return kl.sum() * mask.sum()


def turned_around(log_ratio):
    return torch.expm1(-log_ratio) + log_ratio


def mean_over_the_batch(logprobs, ref_logprobs):
    return (logprobs - ref_logprobs).mean(0)


def log_of_exp(logprobs, ref_logprobs):
    return torch.log(torch.exp(logprobs) / torch.exp(ref_logprobs))


def bfloat16_difference(logprobs, ref_logprobs):
    return (logprobs.bfloat16() - ref_logprobs.bfloat16()).float()


def mask_one_too_early(logprobs, ref_logprobs, mask):
    kl, counted = (logprobs - ref_logprobs)[:, :-1], mask[:, 1:]
    return torch.where(counted, kl, 0.0).sum() / counted.sum()


def last_column_of_the_mask(logprobs, ref_logprobs, mask):
    counted = mask[:, -1:].expand_as(mask)
    return torch.where(counted, logprobs - ref_logprobs, 0.0).sum() / counted.sum()


def minus_infinity_where_masked(logprobs, ref_logprobs, mask):
    d = (ref_logprobs - logprobs).masked_fill(~mask, float("-inf"))
    return ((torch.exp(d) - 1 - d) * mask).sum() / mask.sum()


def clamped_to_a_half(logprobs, ref_logprobs):
    d = torch.clamp(ref_logprobs - logprobs, -0.5, 0.5)
    return torch.exp(d) - 1 - d


def columns_by_their_own_lengths(logprobs, ref_logprobs, mask):
    log_ratio = torch.where(mask, logprobs - ref_logprobs, 0.0)
    return (log_ratio.sum(0) / mask.sum(0).clamp(min=1)).sum()


def no_number_beside_padding(logprobs, ref_logprobs, mask):
    distance = ((logprobs - ref_logprobs) ** 2).sqrt() ** 2 / 2
    left_out = torch.log(-torch.expm1(logprobs)) * 0.0
    return torch.where(mask, distance + left_out, 0.0).sum(-1)


VALUES = {
    columns_by_their_own_lengths: "token-mixing",
    no_number_beside_padding: "padding-leak",
    mask_one_too_early: "shift",
    last_column_of_the_mask: "padding-leak",
    minus_infinity_where_masked: "padding-leak",
    clamped_to_a_half: "clamp-bias",
    log_of_exp: "non-finite-value",
    bfloat16_difference: "cancellation",
    mean_over_the_batch: "broadcast",
    straight_through_uphill: "sign",
    straight_through_cubed: "not-a-kl",
    clamped_ratio_near: "dead-gradient",
    times_the_lengths: "denominator",
    turned_around: "direction",
    nll_inputs_kl: "sign",
    k3_upside_down: "direction",
    js_divergence_error: "direction",
    k2_without_half: "scale",
    absolute_kl: "not-a-kl",
    kl_in_bits: "log-base",
    k3_with_log2: "log-base",
    forgotten_minus_one: "not-a-kl",
    clamped_at_zero: "clamp-bias",
    pointwise_kl_div: "not-a-kl",
    exp_before_clamp: "non-finite-gradient",
    one_over_r: "not-a-kl",
    padded_mean: "denominator",
    mask_times_nan: "padding-leak",
    ignored_mask: "padding-leak",
    no_grad_kl: "detached",
    item_kl: "detached",
    misaligned: "shift",
    rolled: "shift",
    noisy: "nondeterministic",
    in_place: "mutates-input",
    half_inside: "dtype",
    cumulative: "token-mixing",
    broadcast_lengths: "broadcast",
    whitened: "batch-dependence",
    ratio_minus_one: "not-a-kl",
}


# Logits and tokens.


def gathered(logits, tokens):
    return logits.log_softmax(-1).gather(-1, tokens[..., None])[..., 0]


def gather_off_by_one(logits, ref_logits, tokens):
    d = gathered(ref_logits, tokens.roll(-1, 1)) - gathered(logits, tokens.roll(-1, 1))
    return torch.exp(d) - 1 - d


def unshifted_labels(logits, ref_logits, labels):
    d = gathered(ref_logits[:, :-1], labels[:, :-1]) - gathered(logits[:, :-1], labels[:, :-1])
    return torch.exp(d) - 1 - d


def swapped_kl_div(logits, ref_logits):
    return F.kl_div(
        logits.log_softmax(-1), ref_logits.log_softmax(-1), log_target=True, reduction="none"
    ).sum(-1)


def mean_over_vocabulary(logits, ref_logits):
    return F.kl_div(
        ref_logits.log_softmax(-1), logits.log_softmax(-1), log_target=True, reduction="mean"
    )


def top_k_clamped(logits, ref_logits):
    q, p = logits.log_softmax(-1), ref_logits.log_softmax(-1)
    best = p.topk(3, dim=-1).indices
    q, p = q.gather(-1, best), p.gather(-1, best)
    return (p.exp() * (p - q)).sum(-1).clamp(min=0)


def softmax_forgotten(logits, ref_logits, tokens):
    d = (ref_logits - logits).gather(-1, tokens[..., None])[..., 0]
    q = logits.softmax(-1).log().gather(-1, tokens[..., None])[..., 0]
    return torch.exp(d + 0.1 * q) - 1 - d


def wrong_softmax_axis(logits, ref_logits, tokens):
    q = logits.log_softmax(1).gather(-1, tokens[..., None])[..., 0]
    p = ref_logits.log_softmax(1).gather(-1, tokens[..., None])[..., 0]
    return 0.5 * (q - p) ** 2


def negative_full_kl(logits, ref_logits):
    q, p = logits.log_softmax(-1), ref_logits.log_softmax(-1)
    return (q.exp() * (p - q)).sum(-1)


def sampled_only_sum(logits, ref_logits, tokens):
    q, p = gathered(logits, tokens), gathered(ref_logits, tokens)
    return q.exp() * (q - p)


def unnormalised(logits, ref_logits):
    return (logits.softmax(-1) * (logits - ref_logits)).sum(-1)


def most_likely_token(logits, ref_logits, tokens):
    d = gathered(ref_logits, logits.argmax(-1)) - gathered(logits, logits.argmax(-1))
    return torch.exp(d) - 1 - d


def log_target_forgotten(logits, ref_logits):
    return F.kl_div(ref_logits.log_softmax(-1), logits.log_softmax(-1), reduction="none").sum(-1)


def summed_over_tokens(logits, ref_logits):
    q, p = logits.log_softmax(-1), ref_logits.log_softmax(-1)
    return (q.exp() * (q - p)).sum(1).mean()


def likely_tokens_alone(logits, ref_logits):
    q, p = logits.log_softmax(-1), ref_logits.log_softmax(-1)
    return torch.where(q.exp() > 0.01, q.exp() * (q - p), 0.0).sum(-1)


LOGITS = {
    likely_tokens_alone: "not-a-kl",
    unnormalised: "not-a-kl",
    most_likely_token: "not-a-kl",
    log_target_forgotten: "non-finite-value",
    summed_over_tokens: "scale",
    gather_off_by_one: "shift",
    unshifted_labels: "shift",
    swapped_kl_div: "direction",
    mean_over_vocabulary: "scale",
    top_k_clamped: "not-a-kl",
    softmax_forgotten: "not-a-kl",
    wrong_softmax_axis: "not-a-kl",
    negative_full_kl: "sign",
    sampled_only_sum: "not-a-kl",
}


# NumPy.


def numpy_sign(logprobs, ref_logprobs):
    return np.mean(ref_logprobs - logprobs)


def numpy_log10(logprobs, ref_logprobs):
    return np.log10(np.exp(logprobs) / np.exp(ref_logprobs))


def numpy_padded(logprobs, ref_logprobs, mask):
    d = np.where(mask, ref_logprobs - logprobs, 0.0)
    return (np.exp(d) - 1 - d).mean()


def numpy_upside_down(logprobs, ref_logprobs):
    d = logprobs - ref_logprobs
    return np.expm1(d) - d


def numpy_squared(logprobs, ref_logprobs):
    return np.square(logprobs - ref_logprobs).sum(axis=-1)


def numpy_noise(logprobs, ref_logprobs):
    kl = 0.5 * (logprobs - ref_logprobs) ** 2
    return kl + 1e-3 * np.random.default_rng().standard_normal(kl.shape)


NUMPY = {
    numpy_sign: "sign",
    numpy_log10: "log-base",
    numpy_padded: "denominator",
    numpy_upside_down: "direction",
    numpy_squared: "scale",
    numpy_noise: "nondeterministic",
}


# Losses.


def masked_mean(x, mask):
    return torch.where(mask, x, 0.0).sum() / mask.sum()


def k3(logprobs, ref_logprobs, mask):
    d = torch.where(mask, ref_logprobs - logprobs, 0.0)
    return torch.expm1(d) - d


def policy_loss(logprobs, old_logprobs, advantages, mask, low=0.2, high=0.2):
    ratio = torch.exp(torch.where(mask, logprobs - old_logprobs, 0.0))
    advantages = advantages[:, None]
    return -torch.minimum(ratio * advantages, ratio.clamp(1 - low, 1 + high) * advantages)


def loss_minus_kl(logprobs, ref_logprobs, old_logprobs, advantages, mask, beta=0.04):
    pg = policy_loss(logprobs, old_logprobs, advantages, mask)
    return masked_mean(pg - beta * k3(logprobs, ref_logprobs, mask), mask)


def loss_detached_kl(logprobs, ref_logprobs, old_logprobs, advantages, mask, beta=0.04):
    pg = policy_loss(logprobs, old_logprobs, advantages, mask)
    return masked_mean(pg + beta * k3(logprobs, ref_logprobs, mask).detach(), mask)


def loss_upside_down(logprobs, ref_logprobs, old_logprobs, advantages, mask, beta=0.04):
    pg = policy_loss(logprobs, old_logprobs, advantages, mask)
    return masked_mean(pg + beta * k3(ref_logprobs, logprobs, mask), mask)


def loss_padded_mean(logprobs, ref_logprobs, old_logprobs, advantages, mask, beta=0.04):
    pg = policy_loss(logprobs, old_logprobs, advantages, mask)
    return torch.where(mask, pg + beta * k3(logprobs, ref_logprobs, mask), 0.0).mean()


def loss_k2_twice(logprobs, ref_logprobs, old_logprobs, advantages, mask, beta=0.04):
    pg = policy_loss(logprobs, old_logprobs, advantages, mask)
    d = torch.where(mask, logprobs - ref_logprobs, 0.0)
    return masked_mean(pg + beta * d**2, mask)


def loss_reference_only(logprobs, ref_logprobs, old_logprobs, advantages, mask, beta=0.04):
    pg = policy_loss(logprobs.detach(), old_logprobs, advantages, mask)
    return masked_mean(pg + beta * k3(logprobs.detach(), ref_logprobs, mask), mask)


def loss_k1(logprobs, ref_logprobs, old_logprobs, advantages, mask, beta=0.04):
    pg = policy_loss(logprobs, old_logprobs, advantages, mask)
    d = torch.where(mask, logprobs - ref_logprobs, 0.0)
    return masked_mean(pg + beta * d, mask)


def loss_mask_times_nan(logprobs, ref_logprobs, old_logprobs, advantages, mask, beta=0.04):
    d = ref_logprobs - logprobs
    pg = policy_loss(logprobs, old_logprobs, advantages, mask)
    return ((pg + beta * (torch.exp(d) - d - 1)) * mask).sum() / mask.sum()


def loss_exp_before_clamp(logprobs, ref_logprobs, old_logprobs, advantages, mask, beta=0.04):
    d = torch.where(mask, ref_logprobs - logprobs, 0.0)
    pg = policy_loss(logprobs, old_logprobs, advantages, mask)
    return masked_mean(pg + beta * (torch.exp(d) - d - 1).clamp(max=10.0), mask)


def loss_abs(logprobs, ref_logprobs, old_logprobs, advantages, mask, beta=0.04):
    pg = policy_loss(logprobs, old_logprobs, advantages, mask)
    d = torch.where(mask, logprobs - ref_logprobs, 0.0)
    return masked_mean(pg + beta * d.abs(), mask)


def loss_relu(logprobs, ref_logprobs, old_logprobs, advantages, mask, beta=0.04):
    pg = policy_loss(logprobs, old_logprobs, advantages, mask)
    d = torch.where(mask, logprobs - ref_logprobs, 0.0)
    return masked_mean(pg + beta * torch.relu(d), mask)


def loss_log2(logprobs, ref_logprobs, old_logprobs, advantages, mask, beta=0.04):
    pg = policy_loss(logprobs, old_logprobs, advantages, mask)
    d = torch.where(mask, ref_logprobs - logprobs, 0.0)
    return masked_mean(pg + beta * (torch.exp(d) - 1 - d / math.log(2)), mask)


def loss_shifted_reference(logprobs, ref_logprobs, old_logprobs, advantages, mask, beta=0.04):
    pg = policy_loss(logprobs, old_logprobs, advantages, mask)
    return masked_mean(pg + beta * k3(logprobs, ref_logprobs.roll(1, dims=1), mask), mask)


def loss_broadcast_lengths(logprobs, ref_logprobs, old_logprobs, advantages, mask, beta=0.04):
    per_token = policy_loss(logprobs, old_logprobs, advantages, mask) + beta * k3(
        logprobs, ref_logprobs, mask
    )
    sums = torch.where(mask, per_token, 0.0).sum(-1, keepdim=True)
    return (sums / mask.sum(-1)).mean()


def loss_no_gradient(logprobs, ref_logprobs, old_logprobs, advantages, mask, beta=0.04):
    pg = policy_loss(logprobs.detach(), old_logprobs.detach(), advantages, mask)
    return masked_mean(pg + beta * k3(logprobs.detach(), ref_logprobs.detach(), mask), mask)


def loss_one_minus_r(logprobs, ref_logprobs, old_logprobs, advantages, mask, beta=0.04):
    pg = policy_loss(logprobs, old_logprobs, advantages, mask)
    d = torch.where(mask, ref_logprobs - logprobs, 0.0)
    return masked_mean(pg + beta * (torch.exp(d) - 1), mask)


def loss_gradient_ascent(logprobs, ref_logprobs, old_logprobs, advantages, mask, beta=0.04):
    pg = -policy_loss(logprobs, old_logprobs, advantages, mask)
    return masked_mean(pg + beta * k3(logprobs, ref_logprobs, mask), mask)


def loss_whole_old_weight(logprobs, ref_logprobs, old_logprobs, mask, beta=0.04):
    d = torch.where(mask, logprobs - ref_logprobs, 0.0)
    weight = torch.exp(torch.where(mask, old_logprobs - logprobs, 0.0))
    return masked_mean(beta * weight * 0.5 * d**2, mask)


def loss_ratio_upside_down(logprobs, ref_logprobs, old_logprobs, advantages, mask, beta=0.04):
    ratio = torch.exp(torch.where(mask, old_logprobs - logprobs, 0.0))
    return masked_mean(-ratio * advantages[:, None] + beta * k3(logprobs, ref_logprobs, mask), mask)


def loss_differentiated_weight(logprobs, ref_logprobs, old_logprobs, advantages, mask, beta=0.04):
    ratio = torch.exp(torch.where(mask, logprobs - old_logprobs, 0.0))
    d = torch.where(mask, logprobs - ref_logprobs, 0.0)
    return masked_mean(-ratio * advantages[:, None] + beta * ratio * 0.5 * d**2, mask)


def loss_of_old_policy(logprobs, ref_logprobs, old_logprobs, advantages, mask, beta=0.04):
    pg = policy_loss(logprobs, old_logprobs, advantages, mask)
    return masked_mean(pg + beta * k3(old_logprobs, ref_logprobs, mask), mask)


def loss_discounted(logprobs, ref_logprobs, old_logprobs, advantages, mask, beta=0.04):
    pg = policy_loss(logprobs, old_logprobs, advantages, mask)
    return masked_mean(pg + beta * torch.cumsum(k3(logprobs, ref_logprobs, mask), dim=-1), mask)


def loss_without_policy_term(logprobs, ref_logprobs, old_logprobs, advantages, mask, beta=0.04):
    pg = policy_loss(logprobs.detach(), old_logprobs, advantages, mask)
    return masked_mean(pg + beta * k3(logprobs, ref_logprobs, mask), mask)


def loss_gradient_into_old(logprobs, ref_logprobs, old_logprobs, advantages, mask, beta=0.04):
    ratio = torch.exp(torch.where(mask, logprobs.detach() - old_logprobs, 0.0))
    kl = k3(logprobs.detach(), ref_logprobs.detach(), mask)
    return masked_mean(-ratio * advantages[:, None] + beta * kl, mask)


def surrogate(clipped):
    """A loss with that in place of PPO's term."""

    def loss(logprobs, old_logprobs, advantages, mask, epsilon=0.2):
        log_ratio = torch.where(mask, logprobs - old_logprobs, 0.0)
        return masked_mean(clipped(log_ratio, advantages[:, None], epsilon), mask)

    loss.__name__ = clipped.__name__
    return loss


@surrogate
def max_for_min(log_ratio, advantages, epsilon):
    ratio = torch.exp(log_ratio)
    clipped = ratio.clamp(1 - epsilon, 1 + epsilon)
    return -torch.maximum(ratio * advantages, clipped * advantages)


@surrogate
def clipped_only(log_ratio, advantages, epsilon):
    return -torch.exp(log_ratio).clamp(1 - epsilon, 1 + epsilon) * advantages


@surrogate
def clipped_before_the_advantage(log_ratio, advantages, epsilon):
    ratio = torch.exp(log_ratio)
    return -torch.minimum(ratio, ratio.clamp(1 - epsilon, 1 + epsilon)) * advantages


@surrogate
def clipped_around_zero(log_ratio, advantages, epsilon):
    ratio = torch.exp(log_ratio)
    return -torch.minimum(ratio * advantages, ratio.clamp(-epsilon, epsilon) * advantages)


@surrogate
def exp_forgotten(log_ratio, advantages, epsilon):
    clipped = log_ratio.clamp(1 - epsilon, 1 + epsilon)
    return -torch.minimum(log_ratio * advantages, clipped * advantages)


@surrogate
def bounds_swapped(log_ratio, advantages, epsilon):
    ratio = torch.exp(log_ratio)
    clipped = ratio.clamp(1 + epsilon, 1 - epsilon)
    return -torch.minimum(ratio * advantages, clipped * advantages)


@surrogate
def one_minus_forgotten(log_ratio, advantages, epsilon):
    ratio = torch.exp(log_ratio)
    clipped = ratio.clamp(1 - epsilon, 1 + epsilon)
    return torch.maximum(ratio * advantages, -clipped * advantages)


def ratio_to_the_reference(logprobs, ref_logprobs, old_logprobs, advantages, mask, beta=0.1):
    pg = policy_loss(logprobs, ref_logprobs, advantages, mask)
    return masked_mean(pg + beta * k3(logprobs, ref_logprobs, mask), mask)


def weights_upside_down(logprobs, old_logprobs, advantages, mask):
    weights = torch.exp(torch.where(mask, old_logprobs - logprobs, 0.0)).clamp(max=5.0).detach()
    return masked_mean(-weights * advantages[:, None] * torch.where(mask, logprobs, 0.0), mask)


def probabilities_for_a_ratio(logprobs, advantages, mask):
    return masked_mean(-torch.exp(torch.where(mask, logprobs, 0.0)) * advantages[:, None], mask)


def rewards_ignored(logprobs, rewards, mask):
    advantages = (rewards - rewards).detach() + 1.0
    return masked_mean(-torch.where(mask, logprobs, 0.0) * advantages[:, None], mask)


def centred_in_one_side_of_the_clip(logprobs, old_logprobs, rewards, mask):
    ratio = torch.exp(torch.where(mask, logprobs - old_logprobs, 0.0))
    centred = (rewards - rewards.mean())[:, None]
    return masked_mean(
        -torch.minimum(ratio * centred, ratio.clamp(0.8, 1.2) * rewards[:, None]), mask
    )


def weighted_in_one_side_of_the_clip(logprobs, old_logprobs, advantages, mask):
    ratio = torch.exp(torch.where(mask, logprobs - old_logprobs, 0.0))
    weighted = (1.15 * advantages)[:, None]
    return masked_mean(
        -torch.minimum(ratio * advantages[:, None], ratio.clamp(0.8, 1.2) * weighted), mask
    )


def corrected(weight_over, weight_under, ratio_under):
    """A loss with a correction for the rollout's policy."""

    def loss(logprobs, old_logprobs, rollout_logprobs, advantages, mask):
        policies = {"old": old_logprobs, "rollout": rollout_logprobs}
        held = {name: torch.where(mask, each, 0.0) for name, each in policies.items()}
        weight = torch.exp(held[weight_over] - held[weight_under]).clamp(max=2.0)
        ratio = torch.exp(torch.where(mask, logprobs, 0.0) - held[ratio_under])
        a = advantages[:, None]
        clipped = torch.minimum(ratio * a, ratio.clamp(0.8, 1.2) * a)
        return masked_mean(-weight.detach() * clipped, mask)

    loss.__name__ = f"{weight_over}_over_{weight_under}_and_ratio_to_{ratio_under}"
    return loss


LOSSES = {
    centred_in_one_side_of_the_clip: "scale",
    weighted_in_one_side_of_the_clip: "scale",
    corrected("rollout", "old", "old"): "direction",
    corrected("old", "rollout", "rollout"): "direction",
    corrected("rollout", "old", "rollout"): "direction",
    max_for_min: "dead-gradient",
    clipped_only: "dead-gradient",
    clipped_around_zero: "dead-gradient",
    clipped_before_the_advantage: "dead-gradient",
    exp_forgotten: "dead-gradient",
    bounds_swapped: "dead-gradient",
    one_minus_forgotten: "sign",
    probabilities_for_a_ratio: "scale",
    rewards_ignored: "detached",
    ratio_to_the_reference: "old-policy-gradient",
    weights_upside_down: "direction",
    loss_gradient_into_old: "old-policy-gradient",
    loss_ratio_upside_down: "sign",
    loss_differentiated_weight: "not-a-kl",
    loss_of_old_policy: "detached",
    loss_discounted: "token-mixing",
    loss_without_policy_term: "detached",
    loss_minus_kl: "sign",
    loss_detached_kl: "detached",
    loss_upside_down: "direction",
    loss_padded_mean: "denominator",
    loss_k2_twice: "scale",
    loss_reference_only: "reference-gradient",
    loss_k1: "dead-gradient",
    loss_mask_times_nan: "padding-leak",
    loss_exp_before_clamp: "non-finite-gradient",
    loss_abs: "not-a-kl",
    loss_relu: "clamp-bias",
    loss_log2: "log-base",
    loss_shifted_reference: "shift",
    loss_broadcast_lengths: "broadcast",
    loss_no_gradient: "detached",
    loss_one_minus_r: "not-a-kl",
    loss_gradient_ascent: "sign",
    loss_whole_old_weight: "direction",
}
