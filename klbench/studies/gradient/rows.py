"""The rows of the tables ``gradients`` and ``arrows`` for one pair."""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from klbench import divergences, estimators, streams
from klbench.gradients import Combination, closed
from klbench.gradients._combination import GROUPED, NORMALISED, coefficient
from klbench.gradients.exact import GradientMoments, all_moments
from klbench.gradients.sampled import SampledGradients, sample
from klbench.pairs import Pair
from klbench.rows import Row, Rows
from klbench.studies.gradient.options import BATCHES
from klbench.types import GradientTask, Skip

TOLERANCE = 1e-8
"""Relative distance below which an enumerated gradient is the exact one, up to rounding."""
ROUNDING = 1e-13
"""The same in units of one sample's gradient, for policies so near the reference that all
gradients are rounding.
"""


def exactly(pair: Pair, target: str) -> float:
    """The exact divergence of that key; NaN where it is unknown."""
    truth = pair.truth(target)
    return math.nan if truth is None else truth.value


def described(combination: Combination) -> Row:
    """The parts of a combination, as columns."""
    to = "" if combination.reference == "reference" else f" to the {combination.reference}"
    gamma = "own_token" if not combination.gamma else f"reward_to_go:{combination.gamma:g}"
    return {
        "combination": combination.name,
        "estimator": combination.estimator + to,
        "placement": combination.placement if combination.gamma == 1.0 else gamma,
        "level": combination.level,
        "length_mean": combination.length_mean,
        "correction": combination.correction + (NORMALISED if combination.normalised else ""),
        "ratio_gradient": combination.ratio_gradient,
        "baseline": combination.baseline,
        "gradient_of": combination.gradient_of,
    }


@dataclass(frozen=True)
class Exact:
    """A task's exact gradients, computed once."""

    task: GradientTask
    candidates: dict[str, Tensor]

    @classmethod
    def of(cls, task: GradientTask) -> Exact:
        """Return the gradients that an expected one is compared with."""
        qp, pq = task.gradient("kl_qp"), task.gradient("kl_pq")
        return cls(
            task, {"KL(q‖p)": qp, "KL(p‖q)": pq, "KL(q‖p) - KL(p‖q)": qp - pq, "0": 0.0 * qp}
        )

    @property
    def scale(self) -> float:
        """The length of the gradient of KL(q‖p).

        0 where it is below the smallest float that has all its digits.
        """
        found = length(self.candidates["KL(q‖p)"])
        return found if found >= sys.float_info.min else 0.0

    def near(self, size: float) -> float:
        """Return the largest distance of gradients equal up to rounding.

        ``size`` is the length of what they average.
        """
        return TOLERANCE * self.scale + (ROUNDING * size if math.isfinite(size) else 0.0)

    def row(self, mean: Tensor, variance: float, total: float | None) -> Row:
        """Return the columns that follow from a mean and a variance, exact or sampled."""
        target, scale, norm = self.candidates["KL(q‖p)"], self.scale, length(mean)
        # The mean of what has mean zero is rounding, and has no direction.
        direction = (
            float((mean / norm) @ (target / scale))
            if TOLERANCE * scale < norm < math.inf and scale
            else math.nan
        )
        # A variance is a difference of two moments: where it is 0, rounding may leave less.
        std = math.sqrt(max(variance, 0.0))
        return {
            "cosine": direction,
            "norm_ratio": over(norm, scale),
            "variance": variance,
            "rel_std": over(std, scale),
            "total_rel_std": math.nan if total is None else over(math.sqrt(max(total, 0.0)), scale),
            "snr": norm / std if std > 0.0 else math.inf,
        }

    def known(self, moments: GradientMoments) -> Row:
        """A row for a gradient that is known up to rounding."""
        distances = {name: length(moments.mean - each) for name, each in self.candidates.items()}
        sample = math.sqrt(max(moments.variance, 0.0) + float(moments.mean @ moments.mean))
        near = self.near(sample if moments.size is None else moments.size)
        bias = distances["KL(q‖p)"]
        return self.row(moments.mean, moments.variance, moments.total_variance) | {
            "rel_bias": over(bias, self.scale),
            "rel_bias_se": 0.0,
            "rel_bias_pq": over(distances["KL(p‖q)"], self.scale),
            "variance_se": 0.0,
            "matches": _joined(name for name, distance in distances.items() if distance <= near),
            "balance_batch": _balance(moments.variance, bias) if bias > near else math.inf,
        }

    def sampled(self, found: SampledGradients) -> Row:
        """A row for sampled gradients.

        Distances without the noise's share, and what chance alone cannot tell apart.
        """
        distances = {name: found.squared_distance(each) for name, each in self.candidates.items()}
        # Without noise chance explains nothing, and what is left of a distance is rounding.
        floor = self.near(math.sqrt(max(found.variance, 0.0) + float(found.mean @ found.mean))) ** 2
        matching = [
            name
            for name, distance in distances.items()
            if distance.value <= max(distance.furthest, floor)
        ]
        square, se, _ = distances["KL(q‖p)"]
        bias = math.sqrt(max(square, 0.0))
        bias_se = se / (2 * bias) if bias**2 > 2 * se else math.sqrt(se)
        return self.row(found.mean, found.variance, None) | {
            "rel_bias": bias / self.scale,
            "rel_bias_se": bias_se / self.scale,
            "rel_bias_pq": math.sqrt(max(distances["KL(p‖q)"].value, 0.0)) / self.scale,
            "variance_se": found.variance_se,
            "matches": _joined(matching),
            "balance_batch": math.inf if "KL(q‖p)" in matching else _balance(found.variance, bias),
        }


def length(vector: Tensor) -> float:
    """Return the Euclidean length of a gradient; its square may overflow."""
    largest = float(vector.abs().max())
    return largest * float((vector / largest).norm()) if 0.0 < largest < math.inf else largest


def over(x: float, scale: float) -> float:
    """``x / scale``: infinite where a scale below the smallest float is 0, and not a number
    where x is 0 too.
    """
    return x / scale if scale else x * math.inf


def _balance(variance: float, bias: float) -> float:
    """The batch whose noise is as long as the bias."""
    root = math.sqrt(max(variance, 0.0)) / bias
    return root * root


def _joined(names: Any) -> str:
    return " = ".join(names) or "none"


def _powers(combination: Combination) -> set[float]:
    """The powers of r in what multiplies the score of a single draw; those that cancel are none."""
    if combination.placement in ("full", "full_with_score"):
        return {0.0}
    polynomial = coefficient(combination)
    # A ratio that is cut off has no slope.
    cut = combination.ratio_gradient and not all(each.unbounded for each in combination.factors)
    if polynomial is not None and not cut:
        return {power for _, power, _ in polynomial}
    of = [
        estimators.get(name)
        for name in (combination.estimator, combination.gradient_of or combination.estimator)
    ]
    divergence = divergences.get(of[0].target)
    both = (combination.placement == "loss_and_reward" or combination.ratio_gradient) and of[
        0
    ] is of[1]
    if both and not cut and of[0].formula is divergence.gap:
        far = np.log(
            np.abs(divergence.slope(np.array([-400.0, -200.0, 200.0, 400.0])))
        )  # f(r) - r f'(r)
        return {round(float(far[k + 1] - far[k]) / 200.0, 1) for k in (0, 2)}
    return {power for each in of for power in (each.growth, -each.growth_at_zero)}


def _finite(pair: Pair, combination: Combination, order: float) -> bool:
    """Return whether the coefficient's moment of that order, weight included, is finite.

    A baseline from other samples must have it too.
    """
    weighted = any(each.unbounded for each in combination.factors)
    weights = {order if weighted else 0.0} | ({0.0} if combination.baseline in GROUPED else set())
    return all(
        pair.finite_moment(order * power, weight)
        for power in _powers(combination)
        for weight in weights
    )


BEYOND = "beyond float64"
"""The status of a row whose numbers are finite, and too large or too small for a float."""
UNKNOWN = ("rel_bias", "rel_bias_se", "rel_bias_pq", "cosine", "norm_ratio", "snr", "balance_batch")


def _mended(row: Row, pair: Pair, combination: Combination) -> Row:
    """A sampled row whose mean or variance is infinite says so, in place of numbers that mean
    nothing.
    """
    if not _finite(pair, combination, 1.0):
        return (
            row
            | dict.fromkeys(UNKNOWN, math.nan)
            | {"variance": math.inf, "rel_std": math.inf, "matches": "", "status": "infinite mean"}
        )
    if not _finite(pair, combination, 2.0):
        return row | {
            "variance": math.inf,
            "rel_std": math.inf,
            "snr": 0.0,
            "matches": "",
            "status": "infinite variance",
        }
    return row


def _ended(row: Row, pair: Pair, combination: Combination) -> Row:
    """A row known exactly of which some number is not finite says whether that is so, or only so
    in float64.
    """
    if all(math.isfinite(row[key]) for key in ("rel_bias", "variance", "rel_std")):
        return row
    if not _finite(pair, combination, 2.0):
        return row | {"status": "infinite variance"}
    return row | {
        "cosine": math.nan,
        "snr": math.nan,
        "balance_batch": math.nan,
        "matches": "",
        "status": BEYOND,
    }


def measured(
    pair: Pair, exact: Exact, chosen: Sequence[Combination], group: int, samples: int, seed: int
) -> list[tuple[Tensor, Row]]:
    """Mean gradient of each combination and what is to be said of it.

    By enumeration, in closed form, or from samples.
    """
    task = exact.task
    computed = [each.computed(on_policy=task.staleness == 0.0) for each in chosen]
    distinct = list(dict.fromkeys(computed))
    known: Sequence[GradientMoments | None]
    if task.atoms() is not None:
        method, known = "enumeration", all_moments(distinct, task, group)
    else:
        method, known = "closed-form", closed.all_moments(distinct, task)
    rows = {
        each: (moments.mean, exact.known(moments) | {"method": method, "samples": 0}, _ended)
        for each, moments in zip(distinct, known, strict=True)
        if moments is not None
    }
    if unknown := [each for each in distinct if each not in rows]:
        size = group * (samples // (BATCHES * group))
        stream = streams.generator(seed, "gradient", pair.title)
        drawn = sample(unknown, task, stream, BATCHES, size, group)
        made = {"method": "sampling", "samples": BATCHES * size}
        for each, found in zip(unknown, drawn, strict=True):
            rows[each] = found.mean, exact.sampled(found) | made, _mended
    return [
        (mean, finish(row, pair, combination))
        for combination, each in zip(chosen, computed, strict=True)
        for mean, row, finish in [rows[each]]
    ]


def _status(row: Row, claim: str | None) -> str:
    if claim is None or claim == "biased":
        return "ok"
    promised = claim.removeprefix("grad ").replace(" - grad ", " - ")
    return "ok" if promised in row["matches"].split(" = ") else "claim broken"


def measure(
    pair: Pair, chosen: Sequence[Combination], group: int, samples: int, seed: int
) -> tuple[Rows, Rows]:
    """One task: rows of ``gradients`` and, for a policy of two parameters, of ``arrows``."""
    task = pair.gradient_task()
    assert not isinstance(task, Skip)
    exact = Exact.of(task)
    shared = {
        "pair": pair.title,
        "series": pair.series,
        "tokens": task.tokens,
        "staleness": task.staleness,
    }
    shared |= {target: exactly(pair, target) for target in ("kl_qp", "kl_pq")}
    rows, arrows = [], []
    for combination, (mean, row) in zip(
        chosen, measured(pair, exact, chosen, group, samples, seed), strict=True
    ):
        claim = combination.claimed(tokens=task.tokens, stale=task.staleness > 0.0)
        promise = {
            "claim": claim or "",
            "unbiased_claim": claim == "grad KL(q‖p)",
            "status": _status(row, claim),
        }
        rows.append(shared | described(combination) | promise | row)  # a row's own status stands
        arrows.append(shared | described(combination) | _components(mean))
    arrows += [
        shared | {"combination": f"exact {name}"} | _components(each)
        for name, each in exact.candidates.items()
    ]
    return rows, arrows if task.parameters == 2 else []


def _components(vector: Tensor) -> dict[str, float]:
    return {"first": float(vector[0]), "second": float(vector[-1])}
