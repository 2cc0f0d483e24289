"""KL functions and losses as people write them, without a fault: none of them may get an error."""

import functools

import numpy as np
import torch
import torch.nn.functional as F

# Of log-probabilities, each with the name of what it is.


def k1(logprobs, ref_logprobs):
    return logprobs - ref_logprobs


def k2(logprobs, ref_logprobs):
    return 0.5 * (logprobs - ref_logprobs).square()


def k3(per_token_logps, ref_per_token_logps):
    return (
        torch.exp(ref_per_token_logps - per_token_logps)
        - (ref_per_token_logps - per_token_logps)
        - 1
    )


def k3_accurate(logprobs, ref_logprobs):
    d = ref_logprobs - logprobs
    return torch.expm1(d) - d


def k3_float(log_probs, log_probs_base):
    d = log_probs_base.float() - log_probs.float()
    return d.exp() - 1 - d


def k3_double(log_probs, ref_log_probs):
    d = ref_log_probs.double() - log_probs.double()
    return (torch.expm1(d) - d).to(log_probs.dtype)


def k_half(logprobs, ref_logprobs):
    d = ref_logprobs - logprobs
    return 0.5 * torch.expm1(d) - d


def k_most(logprobs, ref_logprobs, weight=0.7):
    d = ref_logprobs - logprobs
    return weight * torch.expm1(d) - d


def low_var_kl(logprob, ref_logprob):
    kl = torch.clamp(ref_logprob - logprob, min=-20, max=20)
    ratio = torch.exp(kl)
    return torch.clamp((ratio - kl - 1).contiguous(), min=-10, max=10)


def clamped_k1(log_probs, ref_log_probs):
    return (log_probs - ref_log_probs).clamp(min=-10, max=10)


def clamped_ratio(logprobs, ref_logprobs):
    d = (ref_logprobs - logprobs).clamp(-40.0, 40.0)
    return torch.expm1(d) - d


def other_divergence(logprobs, ref_logprobs):
    d = ref_logprobs - logprobs
    return d.exp() * (d - 1) + 1


def chi_squared(logprobs, ref_logprobs):
    return torch.expm1(ref_logprobs - logprobs) ** 2


def straight_through(logprob, ref_logprob):
    d = ref_logprob - logprob
    value, path = torch.expm1(d) - d, 0.5 * d**2
    return path - path.detach() + value.detach()


def approx_kl(logprobs, old_logprobs):
    log_ratio = logprobs - old_logprobs
    return ((log_ratio.exp() - 1) - log_ratio).mean()


def approx_kl_k1(new_logprobs, old_logprobs):
    return (old_logprobs - new_logprobs).mean()


def of_the_log_ratio(log_ratio):
    return torch.expm1(log_ratio) - log_ratio


def distilled(student_logprobs, teacher_logprobs):
    return (student_logprobs - teacher_logprobs).mean()


def with_coefficient(logprobs, ref_logprobs, kl_coef=0.1):
    return kl_coef * (logprobs - ref_logprobs)


def with_kind(logprob, ref_logprob, kl_penalty="mse"):
    if kl_penalty == "mse":
        return 0.5 * (logprob - ref_logprob).square()
    raise NotImplementedError(kl_penalty)


def as_tuple(logprobs, ref_logprobs):
    kl = logprobs - ref_logprobs
    return kl.mean(), {"kl": kl.detach().mean()}


def as_dict(logprobs, ref_logprobs):
    return {"kl": (logprobs - ref_logprobs).sum(-1)}


def talkative(logprobs, ref_logprobs):
    print("computing")
    return logprobs - ref_logprobs


def sum_of_two(logprobs, ref_logprobs):
    d = ref_logprobs - logprobs
    return 0.5 * (0.5 * d**2) + 0.5 * (torch.expm1(d) - d)


def sequence_k3(logprobs, ref_logprobs):
    d = (ref_logprobs - logprobs).sum(-1)
    return torch.expm1(d) - d


def sequence_k2(logprobs, ref_logprobs):
    return (0.5 * (logprobs - ref_logprobs).sum(-1) ** 2).mean()


class Penalty(torch.nn.Module):
    def __init__(self, beta=1.0):
        super().__init__()
        self.beta = beta

    def forward(self, logprobs, ref_logprobs):
        return self.beta * (logprobs - ref_logprobs)


def weighted(logprobs, ref_logprobs, old_logprobs):
    d = ref_logprobs - logprobs
    return torch.exp(logprobs - old_logprobs).detach() * (torch.expm1(d) - d)


def only_what_counts(logprobs, ref_logprobs, mask):
    return (logprobs - ref_logprobs)[mask.bool()]


@torch.no_grad()
def penalized_rewards(scores, logprobs, ref_logprobs, mask, kl_coef=0.1):
    return scores[:, None] - kl_coef * torch.where(mask, logprobs - ref_logprobs, 0.0)


@torch.no_grad()
def rewarded_distance(scores, logprobs, ref_logprobs, mask, kl_coef=0.1):
    return scores[:, None] + kl_coef * torch.where(mask, logprobs - ref_logprobs, 0.0)


PER_TOKEN = {
    k1: "k1",
    k2: "k2",
    k3: "k3",
    k3_accurate: "k3",
    k3_float: "k3",
    k3_double: "k3",
    k_half: "k_lambda:0.5",
    k_most: "k_lambda:0.7",
    low_var_kl: "k3_clamped:10",
    clamped_k1: "k1_openrlhf",
    clamped_ratio: "k3",
    other_divergence: "bregman_kl_pq",
    chi_squared: "bregman_chi2",
    straight_through: "k3",
    with_coefficient: "k1",
    with_kind: "k2",
    talkative: "k1",
    sum_of_two: "0.5 k2 + 0.5 k3",
    weighted: "k3",
}
OTHERS = {
    approx_kl: "k3",
    approx_kl_k1: "k1",
    of_the_log_ratio: "k3",
    distilled: "k1",
    as_tuple: "k1",
    as_dict: "k1",
    only_what_counts: "k1",
    sequence_k3: "k3",
    sequence_k2: "k2",
    Penalty(): "k1",
    functools.partial(with_coefficient, kl_coef=1.0): "k1",
}


# The same in every reduction: f(terms, mask) -> number(s).


def token_mean(k, mask):
    return torch.where(mask, k, 0.0).sum() / mask.sum()


def token_mean_with_epsilon(k, mask):
    return k.masked_fill(~mask.bool(), 0.0).sum() / (mask.sum() + 1e-8)


def chosen_mean(k, mask):
    return k[mask.bool()].mean()


def sequence_sum(k, mask):
    return torch.where(mask, k, 0.0).sum(-1)


def sequence_sum_mean(k, mask):
    return torch.where(mask, k, 0.0).sum(-1).mean()


def mean_of_means(k, mask):
    return (torch.where(mask, k, 0.0).sum(-1) / mask.sum(-1).clamp(min=1)).mean()


def sequence_mean(k, mask):
    return torch.where(mask, k, 0.0).sum(-1) / mask.sum(-1).clamp(min=1)


def token_sum(k, mask):
    return torch.where(mask, k, 0.0).sum()


def constant_divisor(k, mask, longest=1024):
    return torch.where(mask, k, 0.0).sum() / longest


def constant_divisor_of_rows(k, mask, longest=512):
    return torch.where(mask, k, 0.0).sum() / (len(k) * longest)


def masked_tokens(k, mask):
    return torch.where(mask, k, torch.zeros_like(k))


REDUCTIONS = (
    token_mean,
    token_mean_with_epsilon,
    chosen_mean,
    sequence_sum,
    sequence_sum_mean,
    mean_of_means,
    sequence_mean,
    token_sum,
    constant_divisor,
    constant_divisor_of_rows,
    masked_tokens,
)


def reduced(function, reduction):
    """The function, its terms reduced."""

    def both(logprobs, ref_logprobs, mask):
        return reduction(function(logprobs, ref_logprobs), mask)

    both.__name__ = f"{function.__name__}_{reduction.__name__}"
    return both


def cast(function, dtype):
    """The function, which computes in that dtype."""

    def inside(logprobs, ref_logprobs):
        return function(logprobs.to(dtype), ref_logprobs.to(dtype))

    inside.__name__ = f"{function.__name__}_{dtype}".replace("torch.", "")
    return inside


# Logits.


def selective(logits, ids):
    return torch.gather(logits, -1, ids.unsqueeze(-1)).squeeze(-1) - torch.logsumexp(logits, dim=-1)


def gathered_k3(logits, ref_logits, tokens):
    d = selective(ref_logits, tokens) - selective(logits, tokens)
    return torch.expm1(d) - d


def shifted_k1(logits, ref_logits, input_ids):
    return selective(logits[:, :-1], input_ids[:, 1:]) - selective(
        ref_logits[:, :-1], input_ids[:, 1:]
    )


def shifted_k2_mean(logits, ref_logits, labels, attention_mask):
    mask = attention_mask[:, 1:].bool()
    d = selective(ref_logits[:, :-1], labels[:, 1:]) - selective(logits[:, :-1], labels[:, 1:])
    return torch.where(mask, 0.5 * d**2, 0.0).sum() / mask.sum()


def full_kl(logits, ref_logits):
    q, p = logits.log_softmax(-1), ref_logits.log_softmax(-1)
    return (q.exp() * (q - p)).sum(-1)


def full_kl_div(logits, ref_logits):
    return F.kl_div(
        ref_logits.log_softmax(-1), logits.log_softmax(-1), log_target=True, reduction="none"
    ).sum(-1)


def full_masked(student_logits, teacher_logits, mask):
    q, p = student_logits.log_softmax(-1), teacher_logits.log_softmax(-1)
    kl = (q.exp() * (q - p)).sum(-1)
    return kl[mask.bool()].mean()


def distributions_kl(logits, ref_logits):
    d = torch.distributions
    return d.kl_divergence(d.Categorical(logits=logits), d.Categorical(logits=ref_logits))


def of_normalised_logits(full_logprobs, ref_full_logprobs):
    return (full_logprobs.exp() * (full_logprobs - ref_full_logprobs)).sum(-1)


def forward_distillation(student_logits, teacher_logits):
    q, p = student_logits.log_softmax(-1), teacher_logits.log_softmax(-1)
    return F.kl_div(q, p, log_target=True, reduction="none").sum(-1).mean()


LOGITS = {
    gathered_k3: "k3",
    shifted_k1: "k1",
    shifted_k2_mean: "k2",
    full_kl: "full_kl",
    full_kl_div: "full_kl",
    full_masked: "full_kl",
    of_normalised_logits: "full_kl",
    distributions_kl: "full_kl",
    forward_distillation: "full_kl_pq",
}


# NumPy.


def numpy_k1(logprobs, ref_logprobs):
    return np.mean(logprobs - ref_logprobs)


def numpy_k3(logprobs, ref_logprobs, mask):
    d = np.where(mask, ref_logprobs - logprobs, 0.0)
    return (np.expm1(d) - d).sum(-1) / mask.sum(-1)


def numpy_k2(log_ratio):
    return np.square(log_ratio) / 2


NUMPY = {numpy_k1: "k1", numpy_k3: "k3", numpy_k2: "k2"}


# Losses.


def masked_mean(x, mask):
    return torch.where(mask, x, 0.0).sum() / mask.sum()


def grpo(logprobs, ref_logprobs, old_logprobs, advantages, mask, beta=0.04, epsilon=0.2):
    d = torch.where(mask, ref_logprobs - logprobs, 0.0)
    kl = torch.exp(d) - d - 1
    ratio = torch.exp(torch.where(mask, logprobs - old_logprobs, 0.0))
    clipped = ratio.clamp(1 - epsilon, 1 + epsilon)
    pg = -torch.min(ratio * advantages.unsqueeze(1), clipped * advantages.unsqueeze(1))
    per_token = pg + beta * kl
    return (torch.where(mask, per_token, 0.0).sum(-1) / mask.sum(-1)).mean()


def grpo_with_ratio(
    per_token_logps, ref_per_token_logps, old_per_token_logps, advantages, completion_mask
):
    mask = completion_mask.bool()
    d = torch.where(mask, ref_per_token_logps - per_token_logps, 0.0).clamp(-20, 20)
    ratio = torch.exp(torch.where(mask, per_token_logps - old_per_token_logps, 0.0))
    pg = -ratio * advantages[:, None]
    return masked_mean(pg + 0.1 * ratio * (torch.exp(d) - d - 1), mask)


def dr_grpo(logprobs, ref_logprobs, old_logprobs, advantages, mask, beta=0.04):
    d = torch.where(mask, ref_logprobs - logprobs, 0.0)
    ratio = torch.exp(torch.where(mask, logprobs - old_logprobs, 0.0))
    loss = -ratio * advantages[:, None] + beta * (torch.expm1(d) - d)
    return torch.where(mask, loss, 0.0).sum() / (len(loss) * 256)


def verl_like(log_prob, ref_log_prob, old_log_prob, advantages, response_mask):
    ratio = torch.exp(torch.where(response_mask, log_prob - old_log_prob, 0.0).clamp(-20, 20))
    pg = torch.maximum(-advantages * ratio, -advantages * ratio.clamp(0.8, 1.2))
    d = torch.where(response_mask, ref_log_prob - log_prob, 0.0).clamp(-20, 20)
    kl = (d.exp() - d - 1).clamp(-10, 10)
    return masked_mean(pg, response_mask) + 0.001 * masked_mean(kl, response_mask)


def k2_loss(logprobs, ref_logprobs, advantages, mask, beta=0.1):
    d = torch.where(mask, logprobs - ref_logprobs, 0.0)
    return masked_mean(
        -torch.where(mask, logprobs, 0.0) * advantages[:, None] + beta * 0.5 * d**2, mask
    )


def ppo_without_kl(logprobs, old_logprobs, advantages, mask):
    ratio = torch.exp(torch.where(mask, logprobs - old_logprobs, 0.0))
    return masked_mean(
        -torch.minimum(ratio * advantages[:, None], ratio.clamp(0.8, 1.2) * advantages[:, None]),
        mask,
    )


def only_the_penalty(logprobs, ref_logprobs, mask, beta=0.05):
    d = torch.where(mask, logprobs - ref_logprobs, 0.0)
    return beta * (0.5 * d**2).sum(-1).mean()


def full_kl_loss(logits, ref_logits, mask, beta=0.1):
    q, p = logits.log_softmax(-1), ref_logits.log_softmax(-1)
    return beta * masked_mean((q.exp() * (q - p)).sum(-1), mask)


def in_the_reward(logprobs, ref_logprobs, mask, beta=0.1):
    d = torch.where(mask, logprobs - ref_logprobs, 0.0)
    return beta * (d.sum(-1).detach() * torch.where(mask, logprobs, 0.0).sum(-1)).mean()


def leave_one_out(logprobs, ref_logprobs, rewards, mask, beta=0.05):
    kl = torch.where(mask, logprobs - ref_logprobs, 0.0).sum(-1).detach()
    returns = rewards - beta * kl
    advantages = returns - (returns.sum() - returns) / (len(returns) - 1)
    return -(advantages * torch.where(mask, logprobs, 0.0).sum(-1)).mean()


def three_policies(
    logprobs, ref_logprobs, old_logprobs, rollout_logprobs, advantages, mask, beta=0.1
):
    weight = torch.exp(torch.where(mask, old_logprobs - rollout_logprobs, 0.0)).clamp(max=2.0)
    ratio = torch.exp(torch.where(mask, logprobs - old_logprobs, 0.0))
    d = torch.where(mask, ref_logprobs - logprobs, 0.0)
    return masked_mean(-weight * ratio * advantages[:, None] + beta * (torch.expm1(d) - d), mask)


def reward_to_go(logprobs, old_logprobs, ref_logprobs, rewards, response_mask, kl_coef=0.05):
    mask = response_mask.bool()
    logprobs, old, ref = (
        torch.where(mask, each, 0.0) for each in (logprobs, old_logprobs, ref_logprobs)
    )
    penalties = -kl_coef * (old - ref).detach()
    returns = penalties.flip(-1).cumsum(-1).flip(-1) + rewards[:, None]
    ratio = torch.exp(logprobs - old)
    return masked_mean(torch.maximum(-returns * ratio, -returns * ratio.clamp(0.8, 1.2)), mask)


def on_policy_distillation(student_logits, teacher_logits, attention_mask, temperature=1.0):
    mask = attention_mask.bool()[:, :-1]
    student, teacher = (
        F.log_softmax(each[:, :-1] / temperature, -1) for each in (student_logits, teacher_logits)
    )
    return F.kl_div(teacher, student, log_target=True, reduction="none").sum(-1)[mask].mean()


def clipped_on_both_sides(logprobs, old_logprobs, advantages, mask, epsilon=0.2, most=3.0):
    ratio, a = torch.exp(torch.where(mask, logprobs - old_logprobs, 0.0)), advantages[:, None]
    loss = torch.maximum(-ratio * a, -ratio.clamp(1 - epsilon, 1 + epsilon) * a)
    return masked_mean(torch.where(a < 0, torch.minimum(loss, -most * a), loss), mask)


def weights_cut_off(logprobs, old_logprobs, advantages, mask, epsilon=0.2):
    ratio = torch.exp(torch.where(mask, logprobs - old_logprobs, 0.0)).clamp(max=1 + epsilon)
    return masked_mean(
        -ratio.detach() * advantages[:, None] * torch.where(mask, logprobs, 0.0), mask
    )


def far_tokens_left_out(logprobs, old_logprobs, advantages, mask, epsilon=0.2):
    ratio = torch.exp(torch.where(mask, logprobs - old_logprobs, 0.0))
    near = (ratio - 1).abs() < epsilon
    return masked_mean(-ratio * advantages[:, None] * near, mask)


def ratio_of_the_sequence(logprobs, old_logprobs, rewards, mask, epsilon=3e-4):
    advantages = ((rewards - rewards.mean()) / (rewards.std() + 1e-4))[:, None]
    logprobs = torch.where(mask, logprobs, 0.0)
    mean = (logprobs - torch.where(mask, old_logprobs, 0.0)).sum(-1, keepdim=True)
    mean = mean / mask.sum(-1, keepdim=True)
    ratio = torch.exp(mean.detach() + logprobs - logprobs.detach())
    clipped = ratio.clamp(1 - epsilon, 1 + epsilon)
    return masked_mean(-torch.minimum(ratio * advantages, clipped * advantages), mask)


def rollout_far_off_left_out(logprobs, old_logprobs, rollout_logprobs, advantages, mask):
    weight = torch.exp(torch.where(mask, old_logprobs - rollout_logprobs, 0.0))
    weight = torch.where((weight > 0.5) & (weight < 5.0), weight, 0.0)
    return ppo_without_kl(logprobs, old_logprobs, advantages, mask & (weight > 0.0))


def stopped_in_probabilities(logprobs, old_logprobs, advantages, mask, most=0.15):
    kept, old = torch.where(mask, logprobs, 0.0), torch.where(mask, old_logprobs, 0.0)
    a, moved = advantages[:, None], (kept.exp() - old.exp()).detach()
    stopped = ((moved > most) & (a > 0)) | ((moved < -most) & (a < 0))
    return masked_mean(-torch.exp(kept - old) * a * ~stopped, mask)


def some_stopped_by_covariance(logprobs, old_logprobs, advantages, mask, least=0.5):
    kept, old = torch.where(mask, logprobs, 0.0), torch.where(mask, old_logprobs, 0.0)
    a = advantages[:, None]
    together = ((a - a.mean()) * (kept - kept.mean())).detach()
    ratio = torch.exp(kept - old)
    clipped = torch.minimum(ratio * a, ratio.clamp(0.8, 1.2) * a)
    return masked_mean(-clipped * (together < least), mask)


LOSSES = (
    stopped_in_probabilities,
    some_stopped_by_covariance,
    rollout_far_off_left_out,
    clipped_on_both_sides,
    weights_cut_off,
    far_tokens_left_out,
    ratio_of_the_sequence,
    reward_to_go,
    on_policy_distillation,
    leave_one_out,
    three_policies,
    grpo,
    grpo_with_ratio,
    dr_grpo,
    verl_like,
    k2_loss,
    ppo_without_kl,
    only_the_penalty,
    full_kl_loss,
    in_the_reward,
)
