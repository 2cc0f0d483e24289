"""Expected gradients and their variance on Markov policies of any length: no enumeration, no Monte Carlo noise."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from klbench.gradients._combination import GROUPED, Combination, coefficient
from klbench.gradients.doubling import (
    PREFIX,
    PREFIX_REWARD,
    SUM,
    TO_GO,
    WHOLE,
    Monomial,
    Rules,
    Segment,
    closure,
    over_length,
)
from klbench.gradients.exact import _whole, taken_apart
from klbench.policies.markov import Chain
from klbench.types import Polynomial, Rollouts


@dataclass(frozen=True)
class Moments:
    """The exact moments of a combination's gradient at one length.

    Parameters
    ----------
    mean
        The expected gradient, ``(parameters,)``; a parameter for each state and token.
    variance
        Trace of the covariance of one sequence's gradient, or with a group's baseline that of its mean times its size.
    log_ess
        Logarithm of the effective sample size of the weights, as a share of the samples: 0 where there are none.
    """

    mean: np.ndarray
    variance: float
    log_ess: float


@dataclass(frozen=True)
class Plan:
    """What a combination makes of each token, ``(edges,)`` each, and how a sequence's gradient is made of it.

    Parameters
    ----------
    number
        What is summed over tokens: a reward, or the logarithm of a ratio.
    score, gradient, full
        What multiplies the token's score in Z and in G, and the gradient of its state's KL in G.
    weight
        W of the prefix rules.
    tilt
        The power of the weight of the whole sequence that multiplies all.
    """

    rules: Rules
    number: np.ndarray
    score: np.ndarray
    gradient: np.ndarray
    full: np.ndarray
    weight: np.ndarray
    tilt: int = 0


class Edges:
    """The tokens of a chain that can come, each with its state before and after."""

    def __init__(self, chain: Chain) -> None:
        self.chain = chain
        self.state, self.token = chain.edges
        self.after = chain.after[self.state, self.token]
        at = self.state, self.token
        self.log_q, self.log_p, self.log_mu = (
            each[at] for each in (chain.log_q, chain.log_p, chain.log_mu)
        )
        self.log_weight, self.log_ratio = self.log_q - self.log_mu, self.log_p - self.log_q
        self.kl = chain.token_kl(chain.log_p)[self.state]
        states, tokens = chain.after.shape
        q = np.exp(chain.log_q)
        rows = np.arange(len(self.state))
        self.scores = np.zeros((len(rows), states, tokens))
        self.scores[rows, self.state] = -q[self.state]
        self.scores[rows, self.state, self.token] += 1.0
        self.scores = self.scores.reshape(len(rows), -1)
        # d(s) = sum over a of q(a|s) (-log r) s_a(s), since the scores in a state average to zero
        by_state = np.zeros((states, states * tokens))
        np.add.at(
            by_state, self.state, (-np.exp(self.log_q) * self.log_ratio)[:, None] * self.scores
        )
        self.fulls = by_state[self.state]

    @property
    def rollouts(self) -> Rollouts:
        """Each as a sequence of one token."""
        q, p, mu, kl = (
            torch.from_numpy(np.ascontiguousarray(each))[:, None]
            for each in (self.log_q, self.log_p, self.log_mu, self.kl)
        )
        return Rollouts(q, p, mu, kl, torch.ones_like(q, dtype=torch.bool))

    def segment(
        self, plan: Plan, monomials: Sequence[Monomial], tilt: float, ratio: float = 0.0
    ) -> Segment:
        """Return one token's means of products, under the sampler times powers of the weight and of ``r``."""
        letters = {
            "R": plan.number,
            "W": plan.weight,
            "Z": plan.score[:, None] * self.scores,
            "G": plan.gradient[:, None] * self.scores + plan.full[:, None] * self.fulls,
        }
        log_kernel = self.log_mu + tilt * self.log_weight + ratio * self.log_ratio
        highest = float(log_kernel.max())
        kernel = np.exp(log_kernel - highest)
        means = {each: self._placed(kernel, each, letters) for each in monomials}
        return Segment(means, np.asarray(highest))

    def _placed(
        self, kernel: np.ndarray, monomial: Monomial, letters: Mapping[str, np.ndarray]
    ) -> np.ndarray:
        numbers = [letters[letter] for letter in monomial if letters[letter].ndim == 1]
        vectors = [letters[letter] for letter in monomial if letters[letter].ndim == 2]
        value = np.prod([kernel, *numbers], axis=0)
        if len(vectors) == 2:
            value = value * np.einsum("np,np->n", *vectors)
        elif vectors:
            value = value[:, None] * vectors[0]
        states = len(self.chain.start)
        result = np.zeros((states, states, *value.shape[1:]))
        np.add.at(result, (self.state, self.after), value)
        return result

    def means(
        self,
        plan: Plan,
        wanted: Sequence[Monomial],
        lengths: Sequence[int],
        tilt: float,
        ratio: float = 0.0,
    ) -> dict[int, tuple[dict[Monomial, np.ndarray], float]]:
        """Return at each length the means of products over all sequences, and the logarithm of their unit."""
        token = self.segment(plan, closure(tuple(wanted), plan.rules), tilt, ratio)
        return {
            length: (
                {each: segment.read(each, self.chain.start) for each in wanted},
                float(segment.log_scale),
            )
            for length, segment in over_length(token, lengths, plan.rules).items()
        }


def _plan(combination: Combination, edges: Edges) -> Plan | None:
    """Return what a combination of token level makes of each token; None where its weight is no product over tokens."""
    placement, correction = combination.placement, combination.correction
    outer, prefix = correction == "sequence_ratio", correction == "prefix_ratio"
    local = replace(combination, length_mean=False, baseline="none")
    if outer or prefix:
        local = replace(local, correction="none", ratio_gradient=False)
    rollouts = edges.rollouts
    zero, one = np.zeros(len(edges.state)), np.ones(len(edges.state))
    weight = np.exp(edges.log_weight) if prefix else one
    if placement in ("loss", "straight_through", "full"):
        whole, _, pieces = _whole(local, rollouts)
        token, full = whole.token[:, 0].numpy(), whole.full[:, 0].numpy()
        if not combination.ratio_gradient or not (outer or prefix):
            rules = PREFIX if prefix else SUM
            return Plan(rules, zero, one, weight * token, weight * full, weight, int(outer))
        value = pieces.direct.detach().numpy()
        rules = PREFIX if prefix else WHOLE
        return Plan(
            rules, weight * value, one, weight * (token + value), weight * full, weight, int(outer)
        )
    token, full, pieces = (
        each[:, 0].numpy() if isinstance(each, torch.Tensor) else each
        for each in taken_apart(local, rollouts)
    )
    score = pieces.weights[:, 0].numpy()
    if placement == "full_with_score":
        number, own = edges.kl, zero
    else:
        number = pieces.returns[:, 0].numpy()
        own = number
    if combination.baseline == "token_kl":
        own = own - edges.kl
    gradient = weight * (token + score * own)
    to_go = placement in ("reward_to_go", "full_with_score")
    if prefix and not to_go:
        return None
    rules = PREFIX_REWARD if prefix else TO_GO if to_go else WHOLE
    return Plan(rules, number, weight * score, gradient, weight * full, weight, int(outer))


def moments(
    combination: Combination, chain: Chain, lengths: Sequence[int], group: int = 8
) -> dict[int, Moments] | None:
    """Return a combination's moments at each length; None where no recursion over states closes.

    A weight that is cut off for the whole sequence is no product over tokens, and neither is a group's baseline with such.
    """
    edges = Edges(chain)
    if combination.level == "sequence":
        return _of_sequence(combination, edges, lengths)
    if combination.correction == "sequence_ratio" and combination.baseline in GROUPED:
        return None
    plan = _plan(combination, edges)
    if plan is None:
        return None
    if combination.baseline in GROUPED:
        return _grouped(combination, plan, edges, lengths, group)
    first = edges.means(plan, ("G",), lengths, plan.tilt)
    second = edges.means(plan, ("GG",), lengths, 2 * plan.tilt)
    sizes = log_ess(combination, edges, lengths)
    found = {}
    for length in lengths:
        unit = 1.0 / length if combination.length_mean else 1.0
        (means, log_unit), (squares, log_square) = first[length], second[length]
        mean = unit * means["G"] * math.exp(log_unit)
        square = unit**2 * _scaled(float(squares["GG"]), log_square)
        found[length] = Moments(mean, square - float(mean @ mean), sizes[length])
    return found


def _scaled(value: float, log_scale: float) -> float:
    """Return ``value * exp(log_scale)``, inf where that is beyond a float."""
    if value == 0.0:
        return 0.0
    exponent = math.log(abs(value)) + log_scale
    return math.copysign(math.exp(exponent), value) if exponent < 709.0 else math.inf


def _of_sequence(
    combination: Combination, edges: Edges, lengths: Sequence[int]
) -> dict[int, Moments] | None:
    """Return the moments of one polynomial in the sequence's ratio times its score."""
    polynomial, correction = coefficient(combination), combination.correction
    if polynomial is None or combination.baseline in GROUPED:
        return None
    if correction not in ("none", "sequence_ratio", "token_ratio"):
        return None
    zero, one = np.zeros(len(edges.state)), np.ones(len(edges.state))
    score = np.exp(edges.log_weight) if correction == "token_ratio" else one
    # Of the rules for G only those of R and Z are used.
    plan = Plan(WHOLE, edges.log_ratio, score, zero, zero, one, int(correction == "sequence_ratio"))
    square: Polynomial = tuple(
        (c * d, a + e, b + f) for c, a, b in polynomial for d, e, f in polynomial
    )
    first = _summed(edges, plan, polynomial, "Z", lengths, plan.tilt)
    second = _summed(edges, plan, square, "ZZ", lengths, 2 * plan.tilt)
    sizes = log_ess(combination, edges, lengths)
    found = {}
    for length in lengths:
        mean, squared = first[length], float(second[length])
        found[length] = Moments(mean, squared - float(mean @ mean), sizes[length])
    return found


def _summed(
    edges: Edges,
    plan: Plan,
    polynomial: Polynomial,
    vectors: Monomial,
    lengths: Sequence[int],
    tilt: int,
) -> dict[int, np.ndarray]:
    """Return the mean of a polynomial in r and its logarithm times vectors, at each length."""
    total = dict.fromkeys(lengths, np.zeros(()))
    for power in sorted({a for _, a, _ in polynomial}):
        terms = [(c, "R" * b + vectors) for c, a, b in polynomial if a == power]
        wanted = tuple(dict.fromkeys(monomial for _, monomial in terms))
        for length, (means, log_unit) in edges.means(plan, wanted, lengths, tilt, power).items():
            value = sum((c * means[each] for c, each in terms), start=np.zeros(()))
            with np.errstate(over="ignore"):
                total[length] = total[length] + value * np.exp(log_unit)
    return total


def _grouped(
    combination: Combination, plan: Plan, edges: Edges, lengths: Sequence[int], n: int
) -> dict[int, Moments] | None:
    """Return the moments of a group of n whose returns have the mean of the others subtracted, or of all of them.

    The gradient is a U-statistic with kernel ``(R_x - R_y)(Z_x - Z_y) / 2`` (Hoeffding 1948, section 5, for the variance).
    """
    if combination.placement != "reward" or plan.rules != WHOLE:
        return None
    names = ("R", "RR", "Z", "RZ", "RRZ", "ZZ", "RZZ", "RRZZ")
    sizes = log_ess(combination, edges, lengths)
    shrink = 1.0 - 1.0 / n if combination.baseline == "batch_mean" else 1.0
    found = {}
    for length, (raw, log_unit) in edges.means(plan, names, lengths, 0.0).items():
        e = {name: value * math.exp(log_unit) for name, value in raw.items()}
        r, z = e["R"], e["Z"]
        gradient = e["RZ"] - r * z
        square = float(gradient @ gradient)
        kernel = (
            2 * e["RRZZ"] - 4 * e["RRZ"] @ z + 2 * e["RR"] * e["ZZ"] - 4 * r * e["RZZ"]
            + 4 * e["RZ"] @ e["RZ"]
        ) / 4  # fmt: skip
        centred = (
            e["RRZZ"] - 2 * e["RRZ"] @ z + e["RR"] * (z @ z)
            - 2 * r * (e["RZZ"] - 2 * e["RZ"] @ z + r * (z @ z))
            + r**2 * (e["ZZ"] - z @ z)
        )  # fmt: skip
        projected = (centred - square) / 4
        variance = 2 / (n - 1) * (2 * (n - 2) * projected + kernel - square)
        found[length] = Moments(shrink * gradient, shrink**2 * float(variance), sizes[length])
    return found


def log_ess(combination: Combination, edges: Edges, lengths: Sequence[int]) -> dict[int, float]:
    """Return ``log (E w)^2 / E[w^2]`` of the weights that a combination has: of its tokens, or of whole sequences."""
    correction = combination.correction
    if correction == "none":
        return dict.fromkeys(lengths, 0.0)
    zero, one = np.zeros(len(edges.state)), np.ones(len(edges.state))
    if correction in ("sequence_ratio", "prefix_ratio"):
        plan = Plan(SUM, zero, zero, zero, zero, one)
        squares = edges.means(plan, ("",), lengths, 2.0)
        return {
            length: -(math.log(float(means[""])) + log_unit)
            for length, (means, log_unit) in squares.items()
        }
    weight = np.exp(edges.log_weight)
    if correction == "truncated_ratio":
        weight = np.minimum(weight, combination.cap)
    totals = [
        edges.means(Plan(WHOLE, w, zero, zero, zero, one), ("R",), lengths, 0.0)
        for w in (weight, weight**2)
    ]
    result = {}
    for length in lengths:
        mean, square = (float(each[length][0]["R"]) * math.exp(each[length][1]) for each in totals)
        result[length] = 2.0 * math.log(mean) - math.log(length * square)
    return result


def exact_gradient(chain: Chain, lengths: Sequence[int]) -> dict[int, np.ndarray]:
    """Return the gradient of ``KL(q‖p)`` at each length, ``(parameters,)``."""
    edges = Edges(replace(chain, log_mu=chain.log_q))
    zero, one = np.zeros(len(edges.state)), np.ones(len(edges.state))
    plan = Plan(TO_GO, edges.kl, one, zero, one, one)
    return {
        length: means["G"] * math.exp(log_unit)
        for length, (means, log_unit) in edges.means(plan, ("G",), lengths, 0.0).items()
    }
