"""Expected gradients and their variance on Markov policies of any length.

No enumeration, no Monte Carlo noise.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from klbench.gradients._combination import GROUPED, Combination, coefficient
from klbench.gradients.doubling import SUM, TO_GO, WHOLE, Monomial
from klbench.gradients.edges import Edges, Plan
from klbench.gradients.plans import Parts, split
from klbench.gradients.plans import plan as plan_of
from klbench.policies.markov import Chain
from klbench.types import Polynomial


@dataclass(frozen=True)
class Moments:
    """The exact moments of a combination's gradient at one length.

    Parameters
    ----------
    mean
        The expected gradient, ``(parameters,)``; a parameter for each state and token.
    variance
        Trace of the covariance of one sequence's gradient, or with a group's baseline that of its
        mean times its size.
    log_ess
        Logarithm of the effective sample size of the weights, as a share of the samples: 0 where
        there are none.
    """

    mean: np.ndarray
    variance: float
    log_ess: float


def moments(
    combination: Combination, chain: Chain, lengths: Sequence[int], group: int = 8
) -> dict[int, Moments] | None:
    """Return a combination's moments at each length; None where no recursion over states closes.

    A weight that is cut off for the whole sequence is no product over tokens, and neither is one
    over the group's mean.
    """
    parts = split(combination)
    if parts is not None and parts.geometric and len(lengths) > 1:
        found = [moments(combination, chain, [length], group) for length in lengths]
        return None if None in found else {k: v for each in found if each for k, v in each.items()}
    edges = Edges(chain)
    if combination.level == "sequence":
        return None if parts is None else _of_sequence(combination, parts, edges, lengths)
    plan = plan_of(combination, edges, lengths[0])
    if plan is None or (plan.tilt and combination.baseline in GROUPED):
        return None
    if combination.baseline in GROUPED:
        return _grouped(combination, plan, edges, lengths, group)
    first = edges.means(plan, ("G",), lengths, plan.tilt)
    second = edges.means(plan, ("GG",), lengths, 2.0 * plan.tilt)
    sizes = log_ess(combination, edges, lengths)
    result = {}
    for length in lengths:
        unit = 1.0 / length if combination.length_mean else 1.0
        (means, log_unit), (squares, log_square) = first[length], second[length]
        mean = unit * means["G"] * math.exp(log_unit)
        square = unit**2 * _scaled(float(squares["GG"]), log_square)
        result[length] = Moments(mean, square - float(mean @ mean), sizes[length])
    return result


def _scaled(value: float, log_scale: float) -> float:
    """Return ``value * exp(log_scale)``, inf where that is beyond a float."""
    if value == 0.0:
        return 0.0
    exponent = math.log(abs(value)) + log_scale
    return math.copysign(math.exp(exponent), value) if exponent < 709.0 else math.inf


def _of_sequence(
    combination: Combination, parts: Parts, edges: Edges, lengths: Sequence[int]
) -> dict[int, Moments] | None:
    """Return the moments of one polynomial in the sequence's ratio times its score."""
    polynomial, zero, one = coefficient(combination), edges.zero, edges.one
    if polynomial is None or combination.baseline != "none" or combination.reference != "reference":
        return None
    if parts.prefix or (combination.ratio_gradient and (parts.geometric or parts.tilt != 1)):
        return None
    power = parts.tilt / lengths[0] if parts.geometric else float(parts.tilt)
    score = edges.weight(parts.local)
    # Of the rules for G only those of R and Z are used.
    plan = Plan(WHOLE, edges.log_ratio, score, zero, zero, one, power, edges.kept(parts.kept))
    square: Polynomial = tuple(
        (c * d, a + e, b + f) for c, a, b in polynomial for d, e, f in polynomial
    )
    first = _summed(edges, plan, polynomial, "Z", lengths, plan.tilt)
    second = _summed(edges, plan, square, "ZZ", lengths, 2.0 * plan.tilt)
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
    tilt: float,
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
    """Return the moments of a group of n whose returns have the mean of the others subtracted, or
    of all of them.

    The gradient is a U-statistic with kernel ``(R_x - R_y)(Z_x - Z_y) / 2`` (Hoeffding 1948,
    section 5, for the variance).
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
            2 * e["RRZZ"]
            - 4 * e["RRZ"] @ z
            + 2 * e["RR"] * e["ZZ"]
            - 4 * r * e["RZZ"]
            + 4 * e["RZ"] @ e["RZ"]
        ) / 4
        centred = (
            e["RRZZ"]
            - 2 * e["RRZ"] @ z
            + e["RR"] * (z @ z)
            - 2 * r * (e["RZZ"] - 2 * e["RZ"] @ z + r * (z @ z))
            + r**2 * (e["ZZ"] - z @ z)
        )
        projected = (centred - square) / 4
        variance = 2 / (n - 1) * (2 * (n - 2) * projected + kernel - square)
        found[length] = Moments(shrink * gradient, shrink**2 * float(variance), sizes[length])
    return found


def log_ess(combination: Combination, edges: Edges, lengths: Sequence[int]) -> dict[int, float]:
    """Return ``log (E w)^2 / E[w^2]`` of the weights that a combination has.

    Of its tokens, or of whole sequences.
    """
    parts, zero, one = split(combination), edges.zero, edges.one
    if parts is None:
        return dict.fromkeys(lengths, math.nan)
    if parts.tilt or parts.prefix or parts.kept:
        power = parts.tilt / lengths[0] if parts.geometric else float(parts.tilt or parts.prefix)
        plan = Plan(SUM, zero, zero, zero, zero, one, power, edges.kept(parts.kept))
        first, second = (edges.means(plan, ("",), lengths, k * power) for k in (1, 2))
        return {
            length: 2.0 * _log_mean(first[length]) - _log_mean(second[length]) for length in lengths
        }
    if parts.local == "none":
        return dict.fromkeys(lengths, 0.0)
    weight = edges.weight(parts.local, combination.cap)
    totals = [
        edges.means(Plan(WHOLE, w, zero, zero, zero, one, 0.0, one), ("R",), lengths, 0.0)
        for w in (weight, weight**2)
    ]
    result = {}
    for length in lengths:
        mean, square = (float(each[length][0]["R"]) * math.exp(each[length][1]) for each in totals)
        result[length] = 2.0 * math.log(mean) - math.log(length * square)
    return result


def _log_mean(found: tuple[Mapping[Monomial, np.ndarray], float]) -> float:
    means, log_unit = found
    return math.log(float(means[""])) + log_unit


def exact_gradient(chain: Chain, lengths: Sequence[int]) -> dict[int, np.ndarray]:
    """Return the gradient of ``KL(q‖p)`` at each length, ``(parameters,)``."""
    edges = Edges(replace(chain, log_mu=chain.log_q))
    zero, one = edges.zero, edges.one
    plan = Plan(TO_GO, edges.kl, one, zero, one, one, 0.0, one)
    return {
        length: means["G"] * math.exp(log_unit)
        for length, (means, log_unit) in edges.means(plan, ("G",), lengths, 0.0).items()
    }
