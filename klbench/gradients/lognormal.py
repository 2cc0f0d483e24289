"""T independent Gaussian steps: log-ratios and weights are lognormal, and everything is a closed form in T.

A step is ``x ~ N(theta_t, 1)`` with a parameter of its own. The reference has mean 0, the policy ``delta = sqrt(2 K)``, the
sampler ``delta - lam`` with ``lam = sqrt(2 L)``: ``KL(q‖p) = K`` and ``KL(q‖mu) = L`` nats a step. With ``y = x - delta``, the
score, ``log r = -delta y - K`` and ``log w = lam y + L``; under mu times ``w^d r^a``, y is Gaussian again, with the mean
``(d - 1) lam - a delta``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple

import numpy as np
from numpy.polynomial import polynomial as powers
from scipy.special import log_ndtr, ndtr, ndtri

from klbench import estimators
from klbench.gradients._combination import GROUPED, SCORED, Combination, _slope, coefficient
from klbench.types import Polynomial

ALL, BELOW, ABOVE = 0, 1, 2


class Term(NamedTuple):
    """``factor(y) r^a w^d`` where the weight is anything, up to its cap, or beyond it; ``factor`` is a polynomial in y."""

    factor: np.ndarray
    a: float = 0.0
    d: float = 0.0
    where: int = ALL


Terms = tuple[Term, ...]
Y = np.array([0.0, 1.0])
ONE: Terms = (Term(np.array([1.0])),)


def times(left: Terms, right: Terms) -> Terms:
    """Return the product of two sums of terms."""
    return tuple(
        Term(powers.polymul(x.factor, y.factor), x.a + y.a, x.d + y.d, max(x.where, y.where))
        for x in left
        for y in right
        if ALL in (x.where, y.where) or x.where == y.where
    )


def gaussian_moment(factor: np.ndarray, mean: float, variance: float, below: float) -> float:
    """Return ``E[factor(y) 1(y <= below)]`` for a Gaussian y."""
    sd = math.sqrt(variance)
    z = (below - mean) / sd
    edge = math.exp(-z * z / 2.0) / math.sqrt(2.0 * math.pi) if math.isfinite(z) else 0.0
    moments = [float(ndtr(z)), -edge]
    for n in range(2, len(factor)):
        far = z ** (n - 1) * edge if edge else 0.0
        moments.append((n - 1) * moments[n - 2] - far)
    shifted = np.zeros(1)
    for c in reversed(factor):  # factor(mean + sd z) as a polynomial in z
        shifted = powers.polyadd(powers.polymul(shifted, np.array([mean, sd])), np.array([c]))
    return float(sum(c * m for c, m in zip(shifted, moments, strict=False)))


@dataclass(frozen=True)
class Lognormal:
    """The series at so many nats a step from policy to reference, and from policy to sampler."""

    kl_token: float
    lag_token: float = 0.0

    @property
    def delta(self) -> float:
        """The mean of the policy's steps."""
        return math.sqrt(2.0 * self.kl_token)

    @property
    def lam(self) -> float:
        """The distance by which the sampler's mean is behind."""
        return math.sqrt(2.0 * self.lag_token)

    @cached_property
    def log_ratio(self) -> np.ndarray:
        """``log r`` of one step, as a polynomial in y."""
        return np.array([-self.kl_token, -self.delta])

    def border(self, cap: float, tokens: int = 1) -> float:
        """Return the sum of y over the tokens at which their weight is ``cap``."""
        if self.lam == 0.0:
            return math.copysign(math.inf, math.log(cap)) if cap != 1.0 else math.inf
        return (math.log(cap) - tokens * self.lag_token) / self.lam

    def tilt(self, a: float, d: float) -> tuple[float, float]:
        """Return the mean of y under mu times ``r^a w^d``, and the logarithm of that measure's mass, of one step."""
        mean = (d - 1.0) * self.lam - a * self.delta
        mass = (mean**2 - self.lam**2) / 2.0 + d * self.lag_token - a * self.kl_token
        return mean, mass

    def expectation(self, terms: Terms, cap: float = math.inf) -> float:
        """Return the mean of a sum of terms over one step of the sampler."""
        total = 0.0
        for term in terms:
            mean, mass = self.tilt(term.a, term.d)
            total += math.exp(mass) * self._part(term, mean, 1.0, self.border(cap))
        return total

    @staticmethod
    def _part(term: Term, mean: float, variance: float, border: float) -> float:
        whole = gaussian_moment(term.factor, mean, variance, math.inf)
        if term.where == ALL:
            return whole
        below = gaussian_moment(term.factor, mean, variance, border)
        return below if term.where == BELOW else whole - below

    def polynomial(self, polynomial: Polynomial) -> Terms:
        """Return ``sum of c r^a (log r)^b`` of one step."""
        return tuple(Term(c * powers.polypow(self.log_ratio, b), a) for c, a, b in polynomial)


class Shape(NamedTuple):
    """The gradient of a step: rewards of ``others`` times ``score``, and ``own``; all times W to the power ``tilt``."""

    reward: Terms
    score: Terms
    own: Terms
    others: Callable[[int], tuple[float, float]]
    tilt: float


class Found(NamedTuple):
    """A combination at one length: bias and noise in lengths of the exact gradient, and the log of the weights' ESS."""

    rel_bias: float
    rel_std: float
    log_ess: float


def none_of_them(tokens: int) -> tuple[float, float]:
    """Return the sums, over the steps, of the number of other steps that count and of its square: none do."""
    return 0.0, 0.0


def all_of_them(tokens: int) -> tuple[float, float]:
    """Return these sums where all other steps count."""
    return float(tokens * (tokens - 1)), float(tokens * (tokens - 1) ** 2)


def later_ones(tokens: int) -> tuple[float, float]:
    """Return these sums where the later steps count."""
    return tokens * (tokens - 1) / 2.0, (tokens - 1) * tokens * (2 * tokens - 1) / 6.0


def _weights(combination: Combination) -> Terms | None:
    """Return the weight of a token's term."""
    one = np.array([1.0])
    kinds: dict[str, Terms] = {
        "none": ONE,
        "sequence_ratio": ONE,
        "geometric_ratio": ONE,
        "token_ratio": (Term(one, d=1.0),),
        "truncated_ratio": (
            Term(one, d=1.0, where=BELOW),
            Term(combination.cap * one, where=ABOVE),
        ),
    }
    return kinds.get(combination.correction)


def _shape(combination: Combination, at: Lognormal, tokens: int) -> Shape | None:
    """Return what a combination of token level is, step by step; None where it has no closed form here."""
    weight, placement = _weights(combination), combination.placement
    if weight is None or combination.baseline in GROUPED or not _plain(combination):
        return None
    power = {"sequence_ratio": 1.0, "geometric_ratio": 1.0 / tokens}.get(
        combination.correction, 0.0
    )
    truncated = combination.correction == "truncated_ratio"
    full = placement in ("full", "full_with_score")
    kl: Terms = (Term(np.array([at.kl_token])),)
    score: Terms = times(weight, (Term(Y),))
    if full:
        value, path = kl, times(weight, (Term(np.array([at.delta])),))
    else:
        polynomial = estimators.get(combination.estimator).polynomial
        slope_of = estimators.get(combination.gradient_of or combination.estimator).polynomial
        if polynomial is None or slope_of is None:
            return None
        value = at.polynomial(polynomial)
        in_loss = placement not in ("reward", "reward_to_go")
        path = times(score, at.polynomial(_slope(slope_of))) if in_loss else ()
    if placement not in SCORED:
        if not combination.ratio_gradient:
            return Shape((), (), path, none_of_them, power)
        # Beyond its cap a weight is constant.
        moved = tuple(t for t in score if t.where != ABOVE) if truncated else score
        if not power:
            return Shape(value, score, path + times(moved, value), none_of_them, 0.0)
        share = times((Term(np.array([power])),), value)
        return Shape(share, score, path + times(score, share), all_of_them, power)
    own = path if placement == "full_with_score" else path + times(score, value)
    if combination.baseline == "token_kl":
        own += times(score, (Term(np.array([-at.kl_token])),))
    later = placement in ("reward_to_go", "full_with_score")
    return Shape(value, score, own, later_ones if later else all_of_them, power)


def _plain(combination: Combination) -> bool:
    """Return whether it has none of what has no closed form here."""
    plain = combination.gamma == 1.0 and combination.reference == "reference"
    return plain and not combination.normalised


def measure(combination: Combination, at: Lognormal, tokens: int) -> Found | None:
    """Return a combination's bias and noise over so many steps; None where it has no closed form here."""
    if combination.estimator == "k1" and combination.placement == "reward":
        combination = replace(combination, level="sequence")  # a sum over tokens either way
    if combination.level == "sequence":
        moments = _of_sequence(combination, at, tokens)
    else:
        shape = _shape(combination, at, tokens)
        moments = None if shape is None else _of_tokens(combination, shape, at, tokens)
    if moments is None:
        return None
    off, mean, square = moments
    length = math.sqrt(tokens) * at.delta
    variance = max(square - mean, 0.0)
    return Found(
        math.sqrt(max(off, 0.0)) / length,
        math.sqrt(variance) / length,
        log_ess(combination, at, tokens),
    )


def _of_tokens(
    combination: Combination, shape: Shape, at: Lognormal, tokens: int
) -> tuple[float, float, float]:
    """Return, summed over the steps: squares of the bias, of the mean, and the second moment."""
    unit = 1.0 / tokens if combination.length_mean else 1.0
    count, squares = shape.others(tokens)

    def mean(left: Terms, right: Terms, tilt: float) -> float:
        return _mean(times(left, right), at, tilt, combination.cap)

    def over_steps(own: float, other: float) -> float:
        """Return the sum of ``(own + n other)^2``, n the number of other steps that count."""
        return tokens * own**2 + 2.0 * count * own * other + squares * other**2

    tilt = shape.tilt
    own = unit * mean(ONE, shape.own, tilt)
    other = unit * mean(ONE, shape.reward, tilt) * mean(ONE, shape.score, tilt)
    square = tokens * mean(shape.own, shape.own, 2 * tilt)
    if shape.reward and count:
        r, rr = (mean(each, shape.reward, 2 * tilt) for each in (ONE, shape.reward))
        scores = mean(shape.score, shape.score, 2 * tilt)
        square += scores * (count * rr + (squares - count) * r * r)
        square += 2.0 * count * r * mean(shape.score, shape.own, 2 * tilt)
    growth = tokens * at.tilt(0.0, 2.0 * tilt)[1] if tilt else 0.0
    whole = unit**2 * square * (math.exp(growth) if growth < 700.0 else math.inf)
    return over_steps(own - at.delta, other), over_steps(own, other), whole


def _mean(terms: Terms, at: Lognormal, tilt: float, cap: float) -> float:
    """Return a mean over one step under mu times ``w^tilt``, which is made a distribution."""
    tilted = tuple(term._replace(d=term.d + tilt) for term in terms)
    return at.expectation(tilted, cap) * math.exp(-at.tilt(0.0, tilt)[1])


def _of_sequence(
    combination: Combination, at: Lognormal, tokens: int
) -> tuple[float, float, float] | None:
    """Return the same of a polynomial in the sequence's ratio times its score: all is a function of the sum of y."""
    polynomial, weight = coefficient(combination), _of_whole(combination)
    if polynomial is None or weight is None or combination.baseline != "none":
        return None
    cap = _cap(combination)
    if not _plain(combination) or (combination.ratio_gradient and math.isfinite(cap)):
        return None
    log_ratio = np.array([-tokens * at.kl_token, -at.delta])
    value = times(
        weight,
        tuple(Term(c * powers.polypow(log_ratio, b), a) for c, a, b in polynomial),
    )
    border = at.border(cap, tokens)

    def mean(terms: Iterable[Term]) -> float:
        total = 0.0
        for term in terms:
            step, mass = at.tilt(term.a, term.d)
            if tokens * mass > 700.0:
                return math.inf
            part = at._part(term, tokens * step, float(tokens), border)
            total += math.exp(tokens * mass) * part
        return total

    sums = times(value, (Term(Y),))
    # The sum of y^2 is S^2 / T and, apart from it, a chi-squared variable of T - 1 degrees of freedom.
    spread = (Term(np.array([tokens - 1.0, 0.0, 1.0 / tokens])),)
    square = mean(times(times(value, value), spread))
    step = mean(sums) / tokens
    return tokens * (step - at.delta) ** 2, tokens * step**2, square


def _of_whole(combination: Combination) -> Terms | None:
    """Return the weight of a whole sequence's term."""
    one = np.array([1.0])
    if [each.kind for each in combination.factors] == ["sequence_mask"]:
        return (Term(one, d=1.0, where=BELOW),)
    if combination.correction == "sequence_ratio":
        return (Term(one, d=1.0),)
    return _weights(combination) if combination.correction in ("none", "truncated_ratio") else None


def _cap(combination: Combination) -> float:
    """Return where the weight is cut off; inf where it is not."""
    return min((each.high for each in combination.factors), default=math.inf)


def log_ess(combination: Combination, at: Lognormal, tokens: int) -> float:
    """Return ``log (E w)^2 / E[w^2]``: ``-2 T L`` for whole sequences, ``-2 L`` for tokens; with a cap by Gaussian tails."""
    if not combination.factors or not at.lag_token:
        return 0.0
    kind, cap = combination.factors[0].kind, _cap(combination)
    whole = combination.level == "sequence" and kind != "token_ratio"
    length = tokens if whole or kind in ("sequence_ratio", "geometric_ratio") else 1
    power = 1.0 / tokens if kind == "geometric_ratio" else 1.0
    if not math.isfinite(cap):
        return 2.0 * length * at.tilt(0.0, power)[1] - length * at.tilt(0.0, 2.0 * power)[1]
    border, sd = at.border(cap, length), math.sqrt(length)
    beyond = math.exp(log_ndtr((length * at.tilt(0.0, 0.0)[0] - border) / sd))
    mean, square = (
        math.exp(length * at.tilt(0.0, d)[1])
        * math.exp(log_ndtr((border - length * at.tilt(0.0, d)[0]) / sd))
        + (0.0 if kind == "sequence_mask" else cap**d * beyond)
        for d in (1.0, 2.0)
    )
    return 2.0 * math.log(mean) - math.log(square)


def kept(tokens_lag: float, cap: float) -> float:
    """Return ``E_mu[W 1(W <= cap)]``, the share of the weight that a mask keeps, at so many nats of lag."""
    return float(ndtr((math.log(cap) - tokens_lag) / math.sqrt(2.0 * tokens_lag)))


def quantiles(nats: float, batch: int) -> np.ndarray:
    """Return log-ratios of which a batch of the sampler's is typical: ``N(-nats, 2 nats)`` at evenly spaced quantiles."""
    middle = (np.arange(batch) + 0.5) / batch
    result: np.ndarray = math.sqrt(2.0 * nats) * ndtri(middle) - nats
    return result
