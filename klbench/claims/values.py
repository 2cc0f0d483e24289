"""Claims about what the estimators estimate, and how noisily."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence

import numpy as np

from klbench import claims, divergences, estimators
from klbench.claims._base import EXACT, Finding, close, error, percent, show, verdict
from klbench.claims._finite import Finite, crossing, exact, finite, random_pairs, shift
from klbench.claims._sequences import enumerated, penalty, task
from klbench.types import Draws

SCHULMAN = "Schulman 2020, Approximating KL Divergence"
claim = functools.partial(claims.claim, topic="values")
Terms = Callable[[np.ndarray], np.ndarray]
"""Log-ratios to terms."""

K1, K2, K3, R_LOG_R = (estimators.get(name).terms for name in ("k1", "k2", "k3", "bregman_kl_pq"))
KL, KL_PQ = r"\mathrm{KL}(q \Vert p)", r"\mathrm{KL}(p \Vert q)"
SHIFT = "for Gaussians of equal variance"


def _bias(terms: Terms, pairs: Sequence[Finite]) -> float:
    """The largest distance of ``E_q[terms]`` from ``KL(q‖p)`` over some pairs, in nats."""
    return max(abs(pair.mean(terms(pair.log_ratio)) - pair.kl_qp) for pair in pairs)


@claim(
    "ratio_mean_one",
    "Under samples of the policy, the ratio r = p/q has mean 1.",
    r"\mathbb{E}_{x \sim q}\left[p(x)/q(x)\right] = 1",
    SCHULMAN,
)
def ratio_mean_one(seed: int, ratio: Terms = np.exp) -> Finding:
    """``E_q[r]`` is the mass that p has where q samples: 1 only if that is all of p's."""
    covered = [*random_pairs(seed, "ratio_mean_one", 50), finite([0.5, 0.3, 0.2], [0.2, 0.5, 0.3])]
    cut = finite([0.6, 0.4, 0.0], [0.5, 0.3, 0.2])  # as top-k and top-p sampling do to a policy
    off = max(abs(pair.mean(ratio(pair.log_ratio)) - 1.0) for pair in covered)
    mean = cut.mean(ratio(cut.log_ratio))
    return Finding(
        verdict(off < EXACT, close(mean, 1.0), "q(x) > 0 wherever p(x) > 0"),
        f"Over {len(covered)} pairs where q gives every outcome some probability, the mean is off"
        f" by {error(off)}; where q leaves out an outcome to which p gives 20 %, as sampling with"
        f" top-k or top-p does, it is {show(mean)}, and the mean of k3 is off by"
        f" {show(_bias(K3, [cut]))} nats.",
        mean,
        1.0,
    )


@claim(
    "k1_unbiased_noisy",
    "k1 is unbiased, and noisy near the reference: one sample spreads over more than the value"
    " itself.",
    rf"\mathbb{{E}}_q[-\log r] = {KL},\ \ \mathrm{{sd}}_q[-\log r] > {KL}",
    SCHULMAN,
)
def k1_unbiased_noisy(seed: int, terms: Terms = K1) -> Finding:
    """Bias by enumeration.

    The noise of a single sample for shifted Gaussians, up to a KL of 0.5 nats.
    """
    pairs = list(random_pairs(seed, "k1_unbiased_noisy"))
    bias = _bias(terms, pairs)
    near = {kl: exact(shift(kl), "k1")[0].std / kl for kl in (0.005, 0.05, 0.5)}
    far = exact(shift(4.0), "k1")[0].std / 4.0
    return Finding(
        verdict(bias < EXACT and min(near.values()) > 1.0),
        f"Over {len(pairs)} enumerated pairs, the bias is {error(bias)} nats. A single sample's"
        f" standard deviation is {show(near[0.005])} times the true value at KL = 0.005,"
        f" {show(near[0.5])} times at 0.5 {SHIFT}, and less than the value itself only far out"
        f" ({show(far)} times at KL = 4).",
        near[0.5],
        1.0,
    )


@claim(
    "k2_less_variance",
    "k2 has less variance than k1, and a small bias near r = 1.",
    r"\mathrm{Var}_q[\frac{1}{2}(\log r)^2] < \mathrm{Var}_q[\log r]",
    SCHULMAN,
)
def k2_less_variance(seed: int, name: str = "k2") -> Finding:
    """Exact moments for shifted Gaussians: the bias relative to KL must vanish with KL.

    The variances cross where they do.
    """
    kls = (0.005, 0.05, 0.5)
    moments = {kl: exact(shift(kl), name, "k1") for kl in (*kls, 2.0)}
    bias = {kl: abs(k.mean - kl) / kl for kl, (k, _) in moments.items()}
    quieter = {kl: k.std < k1.std for kl, (k, k1) in moments.items()}
    small = bias[0.005] < 0.01 and bias[0.005] < bias[0.05] < bias[0.5]
    cross = crossing(name, "k1", 0.05, 2.0) if quieter[0.05] and not quieter[2.0] else math.nan
    times = {kl: k.std / k1.std for kl, (k, k1) in moments.items()}
    return Finding(
        verdict(
            small and all(quieter[kl] for kl in kls),
            quieter[2.0],
            f"KL(q‖p) < {show(cross)} ({SHIFT})",
        ),
        f"For Gaussians of equal variance, the standard deviation is {show(times[0.005])} times"
        f" k1's at KL = 0.005, the same at {show(cross)}, and {show(times[2.0])} times it at 2; the"
        f" bias is {percent(bias[0.005])} of the true value at KL = 0.005 and {percent(bias[0.5])}"
        " at 0.5.",
        times[2.0],
        1.0,
    )


def _softmax_path(size: int = 6) -> tuple[np.ndarray, np.ndarray, float]:
    """Logits, a direction, and ``v' F v`` with Fisher's matrix there.

    The variance of the direction under the softmax.
    """
    logits, direction = np.cos(2.0 * np.arange(size)), np.sin(1.0 + 3.0 * np.arange(size))
    probs = np.exp(logits - np.logaddexp.reduce(logits))
    return logits, direction, float(probs @ (direction - probs @ direction) ** 2)


def _second_order(terms: Terms, curvature: float, step: float) -> tuple[float, float]:
    """Return, at a step h, ``E_q[terms]`` relative to ``f''(1)/2 h² v'Fv``, and the ratio of
    remainders at h and h/2.
    """
    logits, direction, fisher = _softmax_path()
    log_p = logits - np.logaddexp.reduce(logits)

    def at(h: float) -> tuple[float, float]:
        moved = logits + h * direction
        log_q = moved - np.logaddexp.reduce(moved)
        value, expected = (
            math.fsum(np.exp(log_q) * terms(log_p - log_q)),
            0.5 * curvature * h * h * fisher,
        )
        return value / expected, value - expected

    (relative, far), (_, near) = at(step), at(step / 2.0)
    return relative, far / near


@claim(
    "second_order_agreement",
    "Near the reference, f-divergences with the same f''(1) agree to second order.",
    r"D_f(p_0, p_\theta) = \frac{f''(1)}{2}\,\theta^{T} F\,\theta + O(\Vert\theta\Vert^3)",
    SCHULMAN,
)
def second_order_agreement(seed: int, names: Sequence[str] = ()) -> Finding:
    """Halving the step must divide the remainder by 8, for every registered generator."""
    chosen = {name: divergences.get(name) for name in names or divergences.names()}

    def ratio(divergence: divergences.Divergence) -> tuple[float, float]:
        return _second_order(lambda x: divergence.gap(Draws(x)), divergence.curvature, 0.01)

    found = {name: ratio(divergence) for name, divergence in chosen.items()}
    orders = {name: math.log2(abs(ratio)) for name, (_, ratio) in found.items()}
    least = min(2.0**order for order in orders.values())
    off = max(abs(relative - 1.0) for relative, _ in found.values())
    return Finding(
        verdict(all(order > 2.9 for order in orders.values()) and off < 0.05),
        f"For {', '.join(found)}: halving a small step of a softmax divides what is left beyond the"
        f" second-order term by at least {show(least)} (third order: 8, second order: 4), and that"
        f" term is the divergence to within {percent(off)}.",
        least,
        8.0,
    )


@claim(
    "k2_as_one_over_r",
    "k2 is (1/r)(log r)², as it is sometimes copied, and close to KL(q‖p) near r = 1.",
    rf"\mathbb{{E}}_q[\frac{{1}}{{r}}(\log r)^2] \approx {KL}",
    "a transcription of Schulman's k2",
)
def k2_as_one_over_r(seed: int, terms: Terms = lambda x: np.exp(-x) * x * x) -> Finding:
    """The same test as for the f-divergences, with the curvature of KL, 1."""
    relative, ratio = _second_order(terms, 1.0, 0.01)
    correct, _ = _second_order(K2, 1.0, 0.01)
    return Finding(
        verdict(abs(relative - 1.0) < 0.05),
        f"Near r = 1 its mean is {show(relative)} times the divergence, that of (log r)²/2"
        f" {show(correct)} times; halving the step divides its error by {show(abs(ratio))} only, so"
        " that it does not vanish beside the divergence.",
        relative,
        1.0,
    )


@claim(
    "k3_unbiased_nonnegative",
    "k3 is unbiased and never negative (where q covers p, as a softmax does).",
    rf"\mathbb{{E}}_q[(r - 1) - \log r] = {KL},\ \ (r - 1) - \log r \geq 0",
    SCHULMAN,
)
def k3_unbiased_nonnegative(seed: int, terms: Terms = K3) -> Finding:
    """Bias by enumeration; the sign on log-ratios of either sign and of any size."""
    pairs = list(random_pairs(seed, "k3_unbiased_nonnegative"))
    bias = _bias(terms, pairs)
    sizes = np.geomspace(1e-12, 100.0, 2000)
    least = float(np.min(terms(np.concatenate([-sizes, sizes]))))
    negative = max(float(np.mean(K1(pair.log_ratio) < 0.0)) for pair in pairs)
    return Finding(
        verdict(bias < EXACT and least >= 0.0),
        f"Over {len(pairs)} enumerated pairs, the bias is {error(bias)} nats; over log-ratios from"
        f" 10⁻¹² to 100 of both signs, the smallest value is {show(least)} (of k1, up to"
        f" {percent(negative)} of a pair's outcomes are negative).",
        bias,
        EXACT,
    )


@claim(
    "k3_less_variance",
    "k3 always has less variance than k1.",
    r"\mathrm{Var}_q[(r - 1) - \log r] < \mathrm{Var}_q[\log r]",
    "a common reading of Schulman 2020",
)
def k3_less_variance(seed: int, terms: Terms = K3) -> Finding:
    """``Var k3 - Var k1 = X - 2J``: the sign must be that of ``X - 2J`` on every pair."""
    rare = finite([0.99, 0.01], [0.8, 0.2])
    pairs = [*random_pairs(seed, "k3_less_variance"), rare]
    less = [
        pair.variance(terms(pair.log_ratio)) < pair.variance(K1(pair.log_ratio)) for pair in pairs
    ]
    below = [pair.chi2 < 2.0 * pair.jeffreys for pair in pairs]
    inside = all(ok for ok, within in zip(less, below, strict=True) if within) and any(below)
    predicted = sum(ok == within for ok, within in zip(less, below, strict=True))
    cross = crossing("k3", "k1", 0.1, 2.0)
    times = math.sqrt(rare.variance(terms(rare.log_ratio)) / rare.variance(K1(rare.log_ratio)))
    condition = "χ²(p‖q) < 2 (KL(q‖p) + KL(p‖q))" if predicted == len(pairs) else ""
    return Finding(
        verdict(inside, all(less), condition),
        f"k3 is the quieter one on {sum(less)} of {len(pairs)} enumerated pairs, and the inequality"
        f" predicts it on {predicted} of them. For Gaussians of equal variance the two cross at KL"
        f" = {show(cross)}; with a token that q takes in 1 % and p in 20 % of cases, k3 is"
        f" {show(times)} times as noisy as k1 at KL = {show(rare.kl_qp)} already.",
        times,
        1.0,
    )


@claim(
    "lambda_one_optimal",
    "λ = 1, which gives k3, is the best weight of the control variate r − 1.",
    r"\lambda^* = 1\ \ \mathrm{in}\ \ -\log r + \lambda (r - 1)",
    "a common reading of Schulman 2020",
)
def lambda_one_optimal(seed: int, control: Terms = np.expm1) -> Finding:
    """The regression coefficient of k1 on the control variate is the best lambda.

    It is J/X, found from divergences.
    """
    pairs = list(random_pairs(seed, "lambda_one_optimal"))
    best, formula = [], []
    for pair in pairs:
        c = control(pair.log_ratio)
        best.append(-pair.mean(c * (K1(pair.log_ratio) - pair.kl_qp)) / pair.variance(c))
        formula.append(pair.jeffreys / pair.chi2)
    off = max(abs(a - b) / abs(b) for a, b in zip(best, formula, strict=True))
    t = 1.0  # KL = 0.5
    wasted = math.expm1(t) - t, t - t * t / math.expm1(t)
    return Finding(
        verdict(all(abs(each - 1.0) < EXACT for each in best)),
        f"On {len(pairs)} enumerated pairs the best λ is (KL(q‖p) + KL(p‖q)) / χ²(p‖q) to"
        f" {error(off)}, and runs from {show(min(best))} to {show(max(best))}. For Gaussians of"
        f" equal variance at KL = 0.5 it is {show(t / math.expm1(t))}, and λ = 1 has"
        f" {show(wasted[0] / wasted[1])} times the least possible variance.",
        t / math.expm1(t),
        1.0,
    )


@claim(
    "r_log_r_estimates_kl_qp",
    "r log r − (r − 1), averaged over samples of q, estimates KL(q‖p).",
    rf"\mathbb{{E}}_q[r \log r - (r - 1)] = {KL}",
    "a common mix-up of the two Bregman forms in Schulman 2020",
)
def r_log_r_estimates_kl_qp(seed: int, terms: Terms = R_LOG_R) -> Finding:
    """Compare the enumerated mean with both divergences."""
    pairs = [
        finite([0.7, 0.2, 0.1], [0.3, 0.3, 0.4]),
        *random_pairs(seed, "r_log_r_estimates_kl_qp"),
    ]
    first = pairs[0]
    mean = first.mean(terms(first.log_ratio))
    off_pq = max(abs(pair.mean(terms(pair.log_ratio)) - pair.kl_pq) for pair in pairs)
    return Finding(
        verdict(_bias(terms, pairs) < EXACT),
        f"On three outcomes its mean is {show(mean)}, where KL(q‖p) is {show(first.kl_qp)} and"
        f" KL(p‖q) {show(first.kl_pq)}: over {len(pairs)} enumerated pairs it is KL(p‖q) to"
        f" {error(off_pq)} nats.",
        mean,
        first.kl_qp,
    )


def _two_steps(first: Finite, second: Sequence[Finite]) -> tuple[float, float]:
    """Variances of the sum of exact token KLs and of k1, for two tokens.

    The first decides which pair the second comes from.
    """
    joint = np.concatenate([weight * pair.q for weight, pair in zip(first.q, second, strict=True)])
    exact_kl = np.repeat([pair.kl_qp for pair in second], [len(pair.q) for pair in second])
    log_ratio = np.repeat(first.log_ratio, [len(pair.q) for pair in second]) + np.concatenate(
        [x.log_ratio for x in second]
    )
    sampled = Finite(joint, joint)
    return sampled.variance(exact_kl), sampled.variance(-log_ratio)


# What the first token's log-ratio adds on one branch, the second token's divergence adds on the
# other, without noise.
OFFSET = (
    finite([0.5, 0.5], [0.2, 0.8]),
    (finite([0.5, 0.5], [0.5, 0.5]), finite([0.99, 0.01], [0.25, 0.75])),
)


@claim(
    "rao_blackwell_never_noisier",
    "The sum of exact token KLs along a sampled sequence never has more variance than k1.",
    r"\mathrm{Var}[\sum_t \mathrm{KL}(q_t \Vert p_t)] \leq \mathrm{Var}[-\sum_t \log r_t]",
    "Amini et al. 2025, arXiv:2504.10637",
)
def rao_blackwell_never_noisier(
    seed: int, two_steps: tuple[Finite, Sequence[Finite]] = OFFSET
) -> Finding:
    """Each term is a conditional mean, the sum is none.

    Terms of k1 that offset each other can make its sum the quieter.
    """
    atoms = enumerated(task())
    sums = []
    for each in atoms:
        p = each.probability.numpy()
        pair = Finite(p, p)
        sums.append(
            (
                pair.variance(each.rollouts.kl.sum(-1).numpy()),
                pair.variance(penalty(each.rollouts)[:, 0].numpy()),
            )
        )
    made = _two_steps(*two_steps)
    ratios = [
        math.sqrt(sum(a for a, _ in sums) / sum(b for _, b in sums)),
        math.sqrt(made[0] / made[1]),
    ]
    return Finding(
        verdict(max(ratios) <= 1.0),
        f"Its standard deviation is {show(ratios[0])} times k1's in a small recurrent policy, but"
        f" {show(ratios[1])} times in an enumerated two-token policy where a first token that k1"
        " counts low is followed by a large divergence.",
        ratios[1],
        1.0,
    )
