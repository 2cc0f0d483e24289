"""Tables of the value study, from what was measured."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations, product
from operator import itemgetter

import numpy as np
import pandas as pd

from klbench import divergences
from klbench.metrics.batches import Counts, Plan
from klbench.metrics.moments import Moments
from klbench.metrics.tails import HEAVY
from klbench.oracles import ExactMoments
from klbench.pairs import Pair
from klbench.rows import Row
from klbench.schema import Tables
from klbench.studies.value.columns import DIFFERENCES, ERRORS, PAIRS, QUANTILES, VALUES, quantile
from klbench.studies.value.ranking import SKEWED, ranked
from klbench.types import Estimator, Skip, Truth

NAN = math.nan
SURPRISE = 5.0
"""Standard errors beyond which a difference is none of chance's."""
MIN_ERRORS = 100
"""Fewer batches than this say nothing of their distribution."""


@dataclass(frozen=True)
class Exact:
    """The exact values of a pair, known without drawing.

    The lists run over its usable estimators.
    """

    truths: dict[str, Truth | None]
    moments: list[ExactMoments | None]
    finite_mean: list[bool]
    finite_variance: list[bool]
    tail_index: float


@dataclass(frozen=True)
class Measured:
    """All that was measured on one pair, and all that is exact about it.

    ``formed`` is how many whole batches of each size the panels held: what fills no batch of a
    panel is in none.
    """

    pair: Pair
    exact: Exact
    plan: Plan
    moments: Moments
    counts: Counts
    khats: dict[str, tuple[float, float, int]]
    formed: dict[int, int]


def skip_reason(estimator: Estimator, pair: Pair) -> Skip | None:
    """Return why an estimator cannot be measured on a pair; None if it can."""
    if estimator.needs_weight and not pair.off_policy:
        return Skip("needs samples of a third distribution (pair.mu)")
    return None


def tail_variable(estimator: Estimator) -> str:
    """Return the ratio whose tail decides the estimator's.

    ``r = p/q``, ``w = q/mu``, or their product ``wr``.
    """
    if not estimator.needs_weight:
        return "r"
    return "wr" if estimator.growth else "w"


def proportion_se(hits: int, n: int) -> float:
    """Standard error of a proportion, two hits and two misses added so that it is not 0 at the
    ends. (Agresti, Coull 1998.)
    """
    p = (hits + 2) / (n + 4)
    return math.sqrt(p * (1 - p) / (n + 4))


@dataclass(frozen=True)
class _Column:
    """The position of an estimator at a batch size in the panel vectors, and the scale of its
    variance there.
    """

    mean: int
    variance: int
    per: int


def _locate(measured: Measured, i: int, batch: int) -> _Column | None:
    columns = measured.plan.columns
    batchwise = measured.plan.estimators[i].batch is not None
    key = (i, batch if batchwise else 0)
    if key not in columns:
        return None
    at = columns.index(key)
    return _Column(at, len(columns) + at, 1 if batchwise else batch)


def _rmse(bias: float, variance: float) -> float:
    return math.sqrt(bias * bias + variance)


def _gradient(per: int, bias: float, variance: float) -> tuple[float, float]:
    """Return the gradient of the root-mean-square error with respect to the panel mean and
    variance.
    """
    rmse = _rmse(bias, variance)
    return (bias / rmse, 0.5 / (per * rmse)) if rmse > 0.0 else (0.0, 0.0)


def _standard_errors(
    gradients: np.ndarray, columns: np.ndarray, covariance: np.ndarray
) -> np.ndarray:
    """Return the standard error of each row of ``gradients``, by the few columns of the panel
    vectors that it is about.
    """
    used = gradients != 0.0  # a column that is not finite spoils only what depends on it
    among = covariance[columns[:, :, None], columns[:, None, :]]
    among = np.where(used[:, :, None] & used[:, None, :], among, 0.0)
    variances = (gradients[:, None, :] @ among @ gradients[:, :, None])[:, 0, 0]
    # Two estimators that are one here differ by nothing, and the last places of their covariances
    # decide the sign of that.
    rounding = 1e-12 * (gradients**2 * np.diagonal(among, axis1=1, axis2=2)).sum(axis=1)
    with np.errstate(invalid="ignore"):
        return np.where(variances >= -rounding, np.sqrt(np.maximum(variances, 0.0)), NAN)


def _status(measured: Measured, i: int, khat: float, std_z: float) -> str:
    estimator, exact = measured.plan.estimators[i], measured.exact
    if not exact.finite_mean[i]:
        return "infinite mean"
    if not exact.finite_variance[i]:
        return "infinite variance"
    if measured.counts.nonfinite[i]:
        return "non-finite values"
    # The tail looks heavy, or is known to be, or the sample has missed so much of it that its std
    # contradicts the exact one.
    if khat * max(estimator.growth, float(estimator.needs_weight)) >= HEAVY or std_z < -SURPRISE:
        return "heavy tail"
    if not measured.pair.off_policy and exact.tail_index * estimator.growth >= SKEWED:
        return "heavy tail"
    return "ok"


def _about(measured: Measured, estimator: Estimator, batch: int, samples: int) -> tuple[Truth, Row]:
    """Return the divergence that an estimator aims at, and what is known of a row before
    anything is measured.
    """
    truth = measured.exact.truths[estimator.target] or Truth(NAN, NAN, "closed-form")
    return truth, {
        "pair": measured.pair.title,
        "series": measured.pair.series,
        "estimator": estimator.name,
        "target": divergences.get(estimator.target).symbol,
        "batch": batch,
        "samples": samples,
        "truth": truth.value,
        "truth_error": truth.error,
        "truth_method": truth.method,
    }


def _row(measured: Measured, i: int, j: int, samples: int, covariance: np.ndarray) -> Row:
    estimator, counts = measured.plan.estimators[i], measured.counts
    batch = measured.plan.batches[j]
    truth, row = _about(measured, estimator, batch, samples)
    row["truth_method"] = truth.method if truth.value == truth.value else "unknown"
    at = _locate(measured, i, batch)
    mean_vector = measured.moments.mean
    if at is None or (math.isnan(mean_vector[at.variance]) and not counts.nonfinite[i]):
        need = estimator.batch.min_size if estimator.batch else 1
        reason = (
            f"needs batches of at least {need}"
            if batch < need
            else f"needs more samples: {samples} are too few for batches of {batch}"
        )
        return row | {"status": f"skipped: {reason}"}
    mean, variance = float(mean_vector[at.mean]), float(mean_vector[at.variance]) / at.per
    independent = samples if estimator.batch is None else measured.formed[batch]
    mean_se = math.sqrt(float(mean_vector[at.variance]) / independent)
    bias, std = mean - truth.value, math.sqrt(variance)
    rmse = _rmse(bias, variance)
    variance_se = math.sqrt(covariance[at.variance, at.variance]) / at.per
    bias_se = math.hypot(mean_se, truth.error)
    exact = measured.exact.moments[i]
    std_se = variance_se / (2 * std) if std > 0 else NAN
    exact_bias, exact_std = (
        (exact.mean - truth.value, exact.std / math.sqrt(batch)) if exact else (NAN, NAN)
    )
    std_z = _z(std - exact_std, std_se)
    tail = _khat(measured, tail_variable(estimator))
    batches, tested = int(counts.batches[i, j]), int(counts.tested[i, j])
    covered, negative = int(counts.covered[i, j]), int(counts.negative[i, j])
    return row | {
        "mean": mean,
        "mean_se": mean_se,
        "bias": bias,
        "bias_se": bias_se,
        "variance": variance,
        "variance_se": variance_se,
        "std": std,
        "std_se": std_se,
        "rmse": rmse,
        "rmse_se": float(
            _standard_errors(
                np.array([_gradient(at.per, bias, variance)]),
                np.array([(at.mean, at.variance)]),
                covariance,
            )[0]
        ),
        "rel_bias": bias / truth.value if truth.value else NAN,
        "rel_bias_se": bias_se / truth.value if truth.value else NAN,
        "rel_std": std / truth.value if truth.value else NAN,
        "exact_bias": exact_bias,
        "exact_std": exact_std,
        "bias_z": _z(bias - exact_bias, bias_se),
        "std_z": std_z,
        "batches": batches,
        "frac_negative": negative / batches if batches else NAN,
        "frac_negative_se": proportion_se(negative, batches) if batches else NAN,
        "coverage": covered / tested if tested else NAN,
        "coverage_se": proportion_se(covered, tested) if tested else NAN,
        "n_nonfinite": int(counts.nonfinite[i]),
        **tail,
        "status": _status(measured, i, tail["khat"], std_z),
    }


def _khat(measured: Measured, ratio: str) -> Row:
    """Return the columns of a ratio's tail; NaN where it was not looked at."""
    names = ("khat", "khat_se", "khat_samples")
    return dict(zip(names, measured.khats.get(ratio, (NAN, NAN, 0)), strict=True))


def _z(difference: float, standard_error: float) -> float:
    return difference / standard_error if standard_error > 0 and math.isfinite(difference) else NAN


def values(results: Sequence[Measured], chosen: Sequence[Estimator], samples: int) -> pd.DataFrame:
    """One row a pair, estimator and batch size.

    What could not be measured is a row with the reason.
    """
    rows = []
    for measured in results:
        covariance = measured.moments.covariance_of_mean
        usable = {e.name: i for i, e in enumerate(measured.plan.estimators)}
        for estimator in chosen:
            for j, batch in enumerate(measured.plan.batches):
                if estimator.name in usable:
                    rows.append(_row(measured, usable[estimator.name], j, samples, covariance))
                else:
                    skip = skip_reason(estimator, measured.pair)
                    _, row = _about(measured, estimator, batch, samples)
                    rows.append(row | {"status": f"skipped: {skip.reason if skip else ''}"})
    return VALUES.frame(rows)


def differences(results: Sequence[Measured]) -> pd.DataFrame:
    """Compare every two estimators of one target on the same draws.

    Differences of mean and root-mean-square error come with paired standard errors.
    """
    rows: list[Row] = []
    for measured in results:
        mean_vector, covariance = measured.moments.mean, measured.moments.covariance_of_mean
        keys, columns, sides = [], [], []
        for batch in measured.plan.batches:
            known = []
            for i, estimator in enumerate(measured.plan.estimators):
                truth, at = measured.exact.truths[estimator.target], _locate(measured, i, batch)
                if truth is not None and at is not None:
                    bias = float(mean_vector[at.mean]) - truth.value
                    variance = float(mean_vector[at.variance]) / at.per
                    side = bias, _rmse(bias, variance), *_gradient(at.per, bias, variance)
                    known.append((estimator, at, side))
            for (first, at, side), (second, to, other) in combinations(known, 2):
                if first.target == second.target:
                    symbol = divergences.get(first.target).symbol
                    keys.append((measured.pair.title, symbol, batch, first.name, second.name))
                    columns.append((at.mean, to.mean, at.variance, to.variance))
                    sides.append((side, other))
        if keys:
            where = np.array(columns)
            biases, rmses, by_mean, by_variance = np.array(sides).transpose(2, 0, 1)
            contrast = np.array([1.0, -1.0])
            gradients = np.hstack([by_mean * contrast, by_variance * contrast])
            found = (
                biases @ contrast,
                _standard_errors(np.tile(contrast, (len(keys), 1)), where[:, :2], covariance),
                rmses @ contrast,
                _standard_errors(gradients, where, covariance),
            )
            rows += [
                dict(zip(DIFFERENCES.names, (*key, *each), strict=True))
                for key, each in zip(keys, np.transpose(found).tolist(), strict=True)
            ]
    return DIFFERENCES.frame(rows)


def errors(results: Sequence[Measured]) -> pd.DataFrame:
    """Quantiles of the batch errors (estimate minus truth), one row a pair, estimator and batch
    size.
    """
    rows: list[Row] = []
    for measured in results:
        plan, kept = measured.plan, measured.counts.errors
        by_size = defaultdict(list)
        for i, j in product(range(len(plan.estimators)), range(len(plan.batches))):
            if kept[i][j].size >= MIN_ERRORS and np.isfinite(kept[i][j]).all():
                by_size[kept[i][j].size].append((i, j))
        found: dict[tuple[int, int], np.ndarray] = {}
        for places in by_size.values():
            several = np.quantile([kept[i][j] for i, j in places], QUANTILES, axis=1)
            found |= zip(places, several.T, strict=True)
        for (i, j), quantiles in sorted(found.items(), key=itemgetter(0)):
            row = {
                "pair": measured.pair.title,
                "estimator": plan.estimators[i].name,
                "batch": plan.batches[j],
                "batches": kept[i][j].size,
            }
            rows.append(row | dict(zip(map(quantile, QUANTILES), quantiles.tolist(), strict=True)))
    return ERRORS.frame(rows)


def pairs(results: Sequence[Measured]) -> pd.DataFrame:
    """One row a pair: its divergences, its tail and its parameters."""
    rows = []
    for measured in results:
        truths = measured.exact.truths
        pair, found = measured.pair, ("kl_qp", "kl_pq", "chi2")
        row = {key: truth.value if (truth := truths[key]) else NAN for key in found}
        row |= {name: getattr(pair, name) for name in ("series", "kind", "off_policy", "unreached")}
        row |= _khat(measured, "r") | {
            "pair": pair.title,
            "tail_index": measured.exact.tail_index,
            "parameters": pair.parameters_text(exclude_none=True),
        }
        rows.append(row)
    return PAIRS.frame(rows)


def described(chosen: Sequence[Estimator]) -> pd.DataFrame:
    """One row an estimator: formula, target, claims, names elsewhere, source."""
    return pd.DataFrame(
        [
            {
                "estimator": e.name,
                "target": divergences.get(e.target).symbol,
                "tex": e.tex,
                "summary": e.summary,
                "unbiased_claim": e.claims.unbiased,
                "nonnegative_claim": e.claims.nonnegative,
                "gradient_claim": e.claims.gradient or "",
                "needs_weight": e.needs_weight,
                "aliases": ", ".join(e.aliases),
                "source": e.source,
            }
            for e in chosen
        ]
    )


def tables(results: Sequence[Measured], chosen: Sequence[Estimator], samples: int) -> Tables:
    """All tables of the study, by name."""
    return ranked(
        {
            "values": values(results, chosen, samples),
            "differences": differences(results),
            "errors": errors(results),
            "pairs": pairs(results),
            "estimators": described(chosen),
        }
    )
