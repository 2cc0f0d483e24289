"""Claims about the gradients that the estimators give, as a loss and in the reward."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import TYPE_CHECKING

from klbench import claims, gradients, streams
from klbench.claims._base import EXACT, Finding, error, percent, show, verdict
from klbench.claims._sequences import (
    LAG,
    MISMATCH,
    Coefficient,
    cosine,
    distance,
    enumerated,
    expected,
    noise,
    penalty,
    task,
)

if TYPE_CHECKING:
    from torch import Tensor

    from klbench.types import GradientTask, Rollouts

LIU = "Liu et al. 2025, Rethinking KL Regularization in RLHF, arXiv:2510.01555"
TANG = (
    "Tang and Munos 2025, On a few pitfalls in KL divergence gradient estimation for RL,"
    " arXiv:2506.09477"
)
POST = "Understanding KL Divergence Estimators in RL, 2025, xihuai18.github.io"
claim = functools.partial(claims.claim, topic="gradients")

GRAD_QP, GRAD_PQ = r"\nabla \mathrm{KL}(q \Vert p)", r"\nabla \mathrm{KL}(p \Vert q)"
WHOLE = "the log-ratio is that of the whole sequence"


def _token_log_ratio(rollouts: Rollouts) -> Tensor:
    return rollouts.log_p - rollouts.log_q


def _k3_slope(log_ratio: Tensor) -> Tensor:
    """Return what multiplies the score in k3's gradient.

    ``d/d(log q) of r - 1 - log r = 1 - r``.
    """
    return -log_ratio.expm1()


@claim(
    "score_identity",
    "The gradient of an expectation is the expectation of f times the score.",
    r"\nabla\, \mathbb{E}_q[f] = \mathbb{E}_q[f\, \nabla \log q]",
    "Williams 1992, REINFORCE",
)
def score_identity(seed: int) -> Finding:
    """The left side leaves out ``E_q[∇f]``.

    0 for a constant f and for ``log q/p``, not for its square.
    """
    import torch

    stream = streams.generator(seed, "claims", "score_identity")
    theta, log_p, fixed = (torch.from_numpy(stream.standard_normal(6)) for _ in range(3))
    theta, log_p = theta.requires_grad_(), log_p.log_softmax(0)

    def off(f: Callable[[Tensor], Tensor]) -> float:
        log_q = theta.log_softmax(0)
        (true,) = torch.autograd.grad((log_q.exp() * f(log_q)).sum(), theta, retain_graph=True)
        (score,) = torch.autograd.grad(
            (log_q.exp().detach() * f(log_q).detach() * log_q).sum(), theta
        )
        return distance(score, true)

    constant, ratio = off(lambda log_q: fixed), off(lambda log_q: log_q - log_p)
    square = off(lambda log_q: 0.5 * (log_q - log_p) ** 2)
    return Finding(
        verdict(
            max(constant, ratio) < EXACT,
            square < EXACT,
            "∇f has mean 0, as where f is without the policy, or log q/p",
        ),
        f"For a softmax of six outcomes the two sides differ by {error(constant)} of their length"
        f" for a fixed f, by {error(ratio)} for f = log q/p, and by {percent(square)} for f = (log"
        " q/p)²/2, whose own gradient has a mean.",
        square,
        0.0,
    )


@claim(
    "k1_loss_nothing",
    "k1 in the loss does nothing: its expected gradient is zero, and only noise is left.",
    r"\mathbb{E}_q[\nabla \log\frac{q}{p}] = 0",
    TANG,
)
def k1_loss_nothing(seed: int, coefficient: Coefficient | None = None) -> Finding:
    """``∇(log q/p)`` is the score itself."""
    slope = coefficient or (lambda rollouts: rollouts.log_q.new_ones(rollouts.log_q.shape))
    of, length = task(), float(task().gradient("kl_qp").norm())
    mean, spread = float(expected(of, slope).norm()), noise(of, slope)
    return Finding(
        verdict(mean < EXACT * length and spread > 0.1 * length),
        f"Over all sequences its expected gradient is {error(mean / length)} of the length of"
        f" ∇KL(q‖p), and the noise of one sample {show(spread / length)} times that length.",
        mean / length,
        0.0,
    )


def _per_sample(of: GradientTask, seed: int, slope: Callable[[Tensor], Tensor]) -> float:
    """The largest distance, over 32 samples, of the gradient of k2 of the sequence from
    ``slope(log q/p)`` times its score.
    """
    import torch

    theta = of.theta().requires_grad_()
    rollouts = of.rollouts(
        theta, of.sample(streams.generator(seed, "claims", "k2_loss_is_k1_reward"), 32)
    )
    worst = 0.0
    for u, log_q in zip(penalty(rollouts)[:, 0], rollouts.log_q.sum(-1), strict=True):
        (loss,) = torch.autograd.grad(0.5 * u**2, theta, retain_graph=True)
        (score,) = torch.autograd.grad(log_q, theta, retain_graph=True)
        worst = max(worst, float((loss - slope(u.detach()) * score).norm() / score.norm()))
    return worst


@claim(
    "k2_loss_is_k1_reward",
    "k2 in the loss is k1 in the reward, and both follow ∇KL(q‖p).",
    r"\mathbb{E}_q[\nabla \frac{1}{2}(\log r)^2] = \mathbb{E}_q[\log\frac{q}{p} \nabla"
    rf" \log q] = {GRAD_QP}",
    LIU,
)
def k2_loss_is_k1_reward(seed: int, slope: Callable[[Tensor], Tensor] = lambda u: u) -> Finding:
    """``∇ (u²/2) = u ∇log q`` with ``u = log q/p``.

    Of the whole sequence, or token by token, which is not the same.
    """
    of = task()
    target = of.gradient("kl_qp")
    whole = distance(expected(of, lambda rollouts: slope(penalty(rollouts))), target)
    tokens = distance(expected(of, lambda rollouts: slope(-_token_log_ratio(rollouts))), target)
    sample = _per_sample(of, seed, slope)
    return Finding(
        verdict(max(whole, sample) < EXACT, tokens < EXACT, WHOLE),
        f"Taken of the whole sequence, the two differ by {error(sample)} on each of 32 samples, and"
        f" their mean over all sequences from ∇KL(q‖p) by {error(whole)} of its length; squared"
        f" token by token and added up, by {percent(tokens)}, since earlier tokens get no share in"
        " later terms.",
        tokens,
        0.0,
    )


@claim(
    "k3_loss_gradient",
    "k3 in the loss follows the gradient of KL(p‖q), not of the KL(q‖p) whose value it estimates.",
    rf"\mathbb{{E}}_q[\nabla((r - 1) - \log r)] = {GRAD_PQ}",
    POST,
)
def k3_loss_gradient(seed: int, slope: Callable[[Tensor], Tensor] = _k3_slope) -> Finding:
    """``∇k3 = (1 - r) ∇log q``, whose mean is ``-E_p[∇log q]``."""
    of = task()
    qp, pq = of.gradient("kl_qp"), of.gradient("kl_pq")
    whole = expected(of, lambda rollouts: slope(-penalty(rollouts)))
    tokens = expected(of, lambda rollouts: slope(_token_log_ratio(rollouts)))
    off = distance(whole, pq)
    return Finding(
        verdict(off < EXACT and distance(whole, qp) > EXACT, distance(tokens, pq) < EXACT, WHOLE),
        f"With the ratio of the whole sequence it differs from ∇KL(p‖q) by {error(off)} of its"
        f" length, and from ∇KL(q‖p) by {percent(distance(whole, qp))}; with token ratios, as GRPO"
        f" has it, by {percent(distance(tokens, pq))} from the first and"
        f" {percent(distance(tokens, qp))} from the second.",
        distance(whole, qp),
        0.0,
    )


def _combined(name: str, of: GradientTask, group: int = 8) -> Tensor:
    """The expected gradient of a combination, from :mod:`klbench.gradients`."""
    from klbench.gradients import exact

    return exact.moments(gradients.get(name), of, group).mean


@claim(
    "straight_through_repairs",
    "Straight-through, the value of k3 with the gradient of k2, repairs k3 in the loss.",
    rf"\mathbb{{E}}[\nabla k_{{3+}}] = {GRAD_QP}",
    "verl, kl_loss_type low_var_kl+; Liu et al. 2025",
)
def straight_through_repairs(seed: int, name: str = "k3_plus_sequence") -> Finding:
    """Compare samples of the policy itself with samples of an earlier policy."""
    fresh, stale = (
        distance(_combined(name, of), of.gradient("kl_qp")) for of in (task(), task(LAG))
    )
    token = distance(_combined("k3_plus", task()), task().gradient("kl_qp"))
    return Finding(
        verdict(fresh < EXACT, max(stale, token) < EXACT, f"the policy itself samples and {WHOLE}"),
        f"On samples of the policy its expected gradient differs from ∇KL(q‖p) by {error(fresh)} of"
        f" its length; on samples of a policy {LAG:g} nats behind by {percent(stale)}, and with"
        f" token log-ratios by {percent(token)}.",
        stale,
        0.0,
    )


def _weighted_k3(of: GradientTask, weight: Coefficient) -> tuple[float, float]:
    """``E_mu`` of the sum of weighted token k3, and ``KL(q‖p)`` by the chain rule.

    Both in nats, means over prompts.
    """
    value, truth = [], []
    for atoms in enumerated(of):
        rollouts = atoms.rollouts
        log_ratio = _token_log_ratio(rollouts)
        k3 = (log_ratio.expm1() - log_ratio) * rollouts.mask
        value.append(float(atoms.probability @ (weight(rollouts) * k3).sum(-1)))
        truth.append(float(rollouts.log_q.sum(-1).exp() @ penalty(rollouts)[:, 0]))
    return math.fsum(value) / len(value), math.fsum(truth) / len(truth)


@claim(
    "token_ratio_unbiased",
    "The ratio q/μ of each token makes k3 unbiased on stale samples, in value and in gradient.",
    r"\mathbb{E}_\mu[\sum_t\, \frac{q_t}{\mu_t}\, k_{3,t}] = \mathrm{KL}(q \Vert p)",
    "DeepSeek-AI 2025, DeepSeek-V3.2, unbiased KL estimate",
)
def token_ratio_unbiased(
    seed: int, weight: Coefficient = lambda rollouts: (rollouts.log_q - rollouts.log_mu).exp()
) -> Finding:
    """The token's ratio corrects the token, not the prefix that it follows, which μ has chosen."""
    off, astray = {}, {}
    for horizon in (1, 3):
        of = task(LAG, horizon)
        value, truth = _weighted_k3(of, weight)
        off[horizon] = (value - truth) / truth
        astray[horizon] = distance(_combined("k3_ratio_loss", of), of.gradient("kl_qp"))
    exact = {horizon: max(abs(off[horizon]), astray[horizon]) < EXACT for horizon in off}
    fresh = task(0.0, 3)
    already = distance(_combined("k3_ratio_loss", fresh), fresh.gradient("kl_qp"))
    repaired = distance(_combined("k1_prefix_ratio_loss", of), of.gradient("kl_qp"))
    return Finding(
        verdict(exact[1], exact[3], "each sequence is one token"),
        f"On samples of a policy {LAG:g} nats behind, value and gradient are off by {error(off[1])}"
        f" and {error(astray[1])} of theirs where sequences have one token, and by"
        f" {percent(abs(off[3]))} and {percent(astray[3])} where they have up to three. Of the"
        f" gradient, {percent(already)} is off on fresh samples already, since what a token does to"
        " later ones is left out; with the ratio of all tokens up to each one it is off by"
        f" {error(repaired)}.",
        astray[3],
        0.0,
    )


@claim(
    "mask_on_policy_alone",
    "A mask on the policy's term alone, as TRL has it for vLLM, brings reward and penalty together"
    " closer to the gradient that is meant.",
    r"\mathbb{E}_\mu[\frac{\pi}{\mu} 1_{\pi/\mu \leq 3}\, A \nabla \log q"
    r" - \beta \nabla k_3] = 0",
    "TRL 1.16, vllm_importance_sampling_mode sequence_mask",
)
def mask_on_policy_alone(seed: int, name: str = "mask_on_policy_alone") -> Finding:
    """Compare objectives at their optimum, where the exact gradient is 0, in units of that of the
    penalty.
    """
    from klbench.gradients import objective

    of, alike = task(mismatch=MISMATCH), task()
    length = float(of.gradient("kl_qp").norm())
    off = {
        each: float(objective.bias_at_optimum(objective.OBJECTIVES[each], of).norm()) / length
        for each in objective.OBJECTIVES
    }
    fresh = float(objective.bias_at_optimum(objective.OBJECTIVES[name], alike).norm()) / length
    return Finding(
        verdict(off[name] < off["no_mask"]),
        f"For the best policy, whose exact gradient is 0, and an engine {MISMATCH:g} nats from the"
        " trainer, TRL's mask, exp(sum(old - sampler)) up to 3, on the policy's term alone leaves"
        f" {percent(off['mask_on_policy_alone'])} of the length of ∇KL(q‖p), no weight at all"
        f" {percent(off['no_mask'])}, and the mask on both terms {percent(off['mask_on_both'])};"
        f" {percent(fresh)} are left where the engine computes what the trainer does, since the"
        " penalty is that of single tokens.",
        off[name],
        off["no_mask"],
    )


@claim(
    "k3_reward_gradient",
    "In the reward, k3's expected gradient is ∇KL(q‖p) − ∇KL(p‖q).",
    rf"\mathbb{{E}}_q[k_3 \nabla \log q] = {GRAD_QP} - {GRAD_PQ}",
    POST,
)
def k3_reward_gradient(
    seed: int, terms: Callable[[Tensor], Tensor] = lambda x: x.expm1() - x
) -> Finding:
    """``E_q[(r - 1) ∇log q] = -∇KL(p‖q)`` comes on top of k1's part."""
    of = task()
    qp, pq = of.gradient("kl_qp"), of.gradient("kl_pq")
    whole = expected(of, lambda rollouts: terms(-penalty(rollouts)))
    tokens = expected(
        of,
        lambda rollouts: (terms(_token_log_ratio(rollouts)) * rollouts.mask).sum(-1, keepdim=True),
    )
    off = distance(whole, qp - pq)
    return Finding(
        verdict(off < EXACT, distance(tokens, qp - pq) < EXACT, WHOLE),
        f"With the ratio of the whole sequence it differs from that by {error(off)} of its length,"
        f" which at 0.5 nats is {percent(float(whole.norm() / qp.norm()))} of that of ∇KL(q‖p)"
        f" (cosine of the angle between them: {show(cosine(whole, qp))}); a sum of token k3 differs"
        f" from it by {percent(distance(tokens, qp - pq))}.",
        off,
        EXACT,
    )


def _groups_of_two(of: GradientTask, baseline: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """The expected gradient of k1 in the reward of x, less a baseline made of x's and y's.

    Over all pairs of sequences.
    """
    import torch

    total = []
    for atoms in enumerated(of):
        p, u = atoms.probability, penalty(atoms.rollouts)
        advantage = (u - baseline(u, u.T)) @ p
        token = (p * advantage)[:, None] * atoms.rollouts.mask
        total.append(atoms.scores.pull(token))
    return torch.stack(total).mean(0)


@claim(
    "group_mean_shrinks",
    "A group mean with the sample itself in it scales the KL gradient by 1 − 1/n.",
    rf"\mathbb{{E}}[(u_i - \bar{{u}}) \nabla \log q_i] = (1 - \frac{{1}}{{n}})\, {GRAD_QP}",
    "Kool et al. 2019; Ahmadian et al. 2024, arXiv:2402.14740",
)
def group_mean_shrinks(
    seed: int, baseline: Callable[[Tensor, Tensor], Tensor] = lambda x, y: (x + y) / 2.0
) -> Finding:
    """Groups of two enumerated here, groups of eight from :mod:`klbench.gradients`."""
    of, n = task(), 8
    target = of.gradient("kl_qp")
    expectations = [
        (_groups_of_two(of, baseline), 0.5),
        (_groups_of_two(of, lambda x, y: y + 0.0 * x), 1.0),
        (_combined("k1_reward_batch_mean", of, n), 1.0 - 1.0 / n),
        (_combined("k1_reward_leave_one_out", of, n), 1.0),
    ]
    off = max(distance(found, factor * target) for found, factor in expectations)
    two, two_alone, eight, eight_alone = (
        float(found @ target / (target @ target)) for found, _ in expectations
    )
    return Finding(
        verdict(off < EXACT),
        f"With the mean of the whole group the expected gradient is {show(two)} times ∇KL(q‖p) in"
        f" groups of 2 and {show(eight)} times in groups of {n}; with the mean of the others"
        f" {show(two_alone)} and {show(eight_alone)} times.",
        eight,
        1.0 - 1.0 / n,
    )


def _gaussian_gradients(mean: float, std: float, wanted: str) -> tuple[Tensor, Tensor]:
    """Gradients of ``KL(q‖p)`` and of ``KL(p‖q)`` in q's mean, or mean and std.

    ``q = N(mean, std)``, ``p = N(0, 1)``.
    """
    import torch

    m, s = (torch.tensor(each, dtype=torch.float64, requires_grad=True) for each in (mean, std))
    qp = (s**2 + m**2 - 1.0) / 2.0 - s.log()
    pq = s.log() + (1.0 + m**2) / (2.0 * s**2) - 0.5
    of = [m, s] if wanted == "mean and std" else [m]
    first, second = (torch.stack(torch.autograd.grad(each, of)) for each in (qp, pq))
    return first, second


@claim(
    "shifted_gaussians_suffice",
    "A shift between two Gaussians of equal variance shows whether a loss follows ∇KL(q‖p).",
    rf"{GRAD_QP} \neq {GRAD_PQ}",
    "common in toy experiments",
)
def shifted_gaussians_suffice(seed: int, mean: float = 1.0, std: float = 1.0) -> Finding:
    """Compare the gradients in the mean alone, where both divergences are ``m²/2``, with those
    in the spread.
    """
    blind = _gaussian_gradients(mean, std, "mean")
    wider = _gaussian_gradients(mean, 1.5 * std, "mean")
    both = _gaussian_gradients(mean, std, "mean and std")
    off = distance(blind[1], blind[0])
    return Finding(
        verdict(off > EXACT),
        f"In the mean, the gradients of KL(q‖p) and KL(p‖q) differ by {error(off)} of their length,"
        " so that a loss that follows the wrong one passes; they differ by"
        f" {percent(distance(wider[1], wider[0]))} with 1.5 times the spread, and by"
        f" {percent(distance(both[1], both[0]))} where the spread is a parameter too.",
        off,
        EXACT,
    )
