"""The table of values of the study of completions.

Each estimator against the exact divergence, with paired differences.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd

from klbench import divergences
from klbench.metrics.tails import HEAVY, pareto_khat
from klbench.oracles import ExactMoments
from klbench.pairs import Pair
from klbench.rows import Rows
from klbench.studies.lm.columns import VALUES, with_relative_errors
from klbench.studies.lm.found import Found
from klbench.studies.lm.measure import LEVELS, measured, skip_reason
from klbench.studies.value.tables import tail_variable
from klbench.types import Estimator, Truth

NAN = math.nan
RAO_BLACKWELL, WEIGHTED = "rao_blackwell", "rao_blackwell_weighted"
TAIL_SAMPLES = 2**17


def ratio_of(a: float, b: float) -> float:
    """Return ``a / b``, NaN where b is 0."""
    return a / b if b else NAN


def tail_shape(log_ratio: np.ndarray) -> tuple[float, float, int]:
    """Return Pareto k, its standard error and the number of values.

    NaN where the largest values repeat, as in small policies.

    A tail of a few values that come again and again has no shape, and none is needed: it ends.
    """
    x = log_ratio[:TAIL_SAMPLES]
    largest = np.sort(x)[-max(5, 3 * math.isqrt(x.size)) :]
    if np.unique(largest).size < 0.8 * largest.size:
        return NAN, NAN, x.size
    return (*pareto_khat(x), x.size)


def root(x: float) -> float:
    """Return the root; NaN of what is negative."""
    return math.sqrt(x) if x >= 0.0 else NAN


@dataclass(frozen=True)
class Measured:
    """The summary of a pair's completions, and what is exact about the pair.

    Parameters
    ----------
    truths, moments
        Of whole sequences: divergences by name, and moments of the estimators' terms.
    own
        What was found on further completions, which the policy itself has sampled.
    """

    pair: Pair
    chosen: tuple[Estimator, ...]
    found: Found
    truths: dict[str, Truth | None]
    moments: dict[str, ExactMoments | None] = field(default_factory=dict)
    own: Measured | None = None

    @cached_property
    def place(self) -> dict[str, int]:
        """The place of each column in the vectors."""
        return {name: i for i, name in enumerate(self.found.columns)}

    @property
    def n(self) -> int:
        """Completions."""
        return int(self.found.sums.count)

    @cached_property
    def tokens(self) -> int:
        """Tokens that count."""
        return int(self.found.places.count.sum())

    @property
    def off_policy(self) -> bool:
        """True where another distribution than the policy sampled the completions."""
        return "weighted tokens" in self.place

    @cached_property
    def covariance(self) -> np.ndarray:
        """The covariance of the columns."""
        return self.found.sums.covariance

    @cached_property
    def usable(self) -> list[Estimator]:
        """The estimators that were measured."""
        return measured(self.chosen, off_policy=self.off_policy)

    def reference(self, key: str) -> str | None:
        """Return the column whose mean is the exact divergence along the policy's own prefixes.

        None where it is not known.
        """
        if self.own is not None:
            return None  # weights do not reach what the sampler never samples
        name = f"{'weighted' if self.off_policy else 'exact'} {key}"
        return name if name in self.place else None

    def mean(self, column: str) -> float:
        """Return the mean of a column."""
        return float(self.found.sums.mean[self.place[column]])

    def linear(self, *parts: tuple[str, float]) -> float:
        """Return the variance of a sum of columns times numbers."""
        used = [self.place[name] for name, _ in parts]
        slopes = np.array([slope for _, slope in parts])
        with np.errstate(invalid="ignore"):
            return float(slopes @ self.covariance[np.ix_(used, used)] @ slopes)

    def difference(self, column: str, other: str) -> tuple[float, float]:
        """Return the difference of two columns' means, and its standard error."""
        return self.mean(column) - self.mean(other), root(
            self.linear((column, 1.0), (other, -1.0)) / self.n
        )

    @cached_property
    def khats(self) -> dict[tuple[str, str], tuple[float, float, int]]:
        """Pareto k of the ratio, of the weight and of their product, by level."""
        kept, result = self.found.kept, {}
        for level in LEVELS:
            ratio, weight = getattr(kept, f"{level}_ratio"), getattr(kept, f"{level}_weight")
            variables = {"r": ratio} | ({"w": weight, "wr": weight + ratio} if weight.size else {})
            for name, x in variables.items():
                result[level, name] = tail_shape(x)
        return result


@dataclass(frozen=True)
class Kind:
    """A row of ``values``: what is estimated, at which level, per sequence or per token."""

    name: str
    target: str
    level: str
    per: str
    column: str


def truth_of(m: Measured, kind: Kind) -> tuple[Truth | None, str | None]:
    """Return the truth of a row, and the column it is measured against.

    Per token it is that per completion over the mean length of the completions that were measured,
    whoever sampled them.
    """
    comparable = kind.target == "kl_qp" or (kind.target == "kl_pq" and kind.level == "token")
    column = m.reference(kind.target) if comparable else None
    if kind.per == "token":
        whole, length = _own_truth(m, kind), m.mean("tokens")
        parts: list[tuple[str, float]] = []
        if column is not None:
            parts, value, error = [(column, 1.0)], m.mean(column), 0.0
        elif whole is not None:
            value, error = whole.value, whole.error / length
        else:
            return None, None
        variance = m.linear(*parts, ("tokens", -value / length)) / length**2
        return Truth(value / length, math.hypot(root(variance / m.n), error), "monte-carlo"), column
    if m.own is not None:
        return _own_truth(m, kind), None
    # Along a sequence only KL(q‖p) is the sum of what the tokens have.
    exact = (
        m.truths.get(kind.target) if kind.level == "sequence" or kind.target == "kl_qp" else None
    )
    if exact is None and column is not None:
        exact = Truth(m.mean(column), root(m.linear((column, 1.0)) / m.n), "monte-carlo")
    return exact, column


def _own_truth(m: Measured, kind: Kind) -> Truth | None:
    """Return the truth that further completions of the policy itself give.

    None where there are none, or they cannot say.
    """
    comparable = kind.target == "kl_qp" or (kind.target == "kl_pq" and kind.level == "token")
    return (
        truth_of(m.own, replace(kind, per="sequence"))[0]
        if m.own is not None and comparable
        else None
    )


def bias_of(m: Measured, kind: Kind, mean: float, mean_se: float) -> tuple[float, float, str]:
    """Return mean minus truth, its standard error, and how they were computed."""
    truth, column = truth_of(m, kind)
    if truth is None:
        return NAN, NAN, "unknown"
    if column == kind.column and truth.method == "monte-carlo":
        return 0.0, truth.error, "is the truth"
    if kind.per == "token":  # both sides are over the same length
        length, whole = m.mean("tokens"), _own_truth(m, kind)
        parts = () if column is None else ((column, -1.0 / length),)
        variance = m.linear(
            (kind.column, 1.0 / length), *parts, ("tokens", -mean / length + truth.value / length)
        )
        error = math.hypot(root(variance / m.n), whole.error / length if whole is not None else 0.0)
        return mean - truth.value, error, "plain" if column is None else "paired"
    if column is None or column == kind.column:
        return mean - truth.value, math.hypot(mean_se, truth.error), "plain"
    return (*m.difference(kind.column, column), "paired")


def _row(
    m: Measured, kind: Kind, tallied: int | None, khat: tuple[float, float, int], growth: float
) -> dict[str, Any]:
    truth = truth_of(m, kind)[0] or Truth(NAN, NAN, "closed-form")
    length = m.mean("tokens")
    if kind.per == "token":
        mean = m.mean(kind.column) / length
        variance, variance_se = (
            m.linear((kind.column, 1.0 / length), ("tokens", -mean / length)),
            NAN,
        )
    else:
        mean, at = m.mean(kind.column), m.place[kind.column]
        variance, variance_se = float(m.covariance[at, at]), float(m.found.sums.variance_se[at])
    mean_se, std = root(variance / m.n), root(variance)
    bias, bias_se, method = bias_of(m, kind, mean, mean_se)
    exact = (
        m.moments.get(kind.name) if kind.level == "sequence" and kind.per == "sequence" else None
    )
    exact_bias, exact_std = (exact.mean - truth.value, exact.std) if exact else (NAN, NAN)
    tallies = m.found.tallies
    nonfinite = 0 if tallied is None else int(tallies.nonfinite[tallied])
    heavy = khat[0] * growth >= HEAVY
    status = (
        "non-finite values"
        if nonfinite
        else "too few completions"
        if m.n < 2
        else "heavy tail"
        if heavy
        else "ok"
    )
    return _head(m, kind, truth) | {
        "mean": mean,
        "mean_se": mean_se,
        "bias": bias,
        "bias_se": bias_se,
        "bias_method": method,
        "variance": variance,
        "variance_se": variance_se,
        "std": std,
        "std_se": ratio_of(variance_se, 2 * std),
        "rmse": math.hypot(bias, std),
        "rmse_100": math.hypot(bias, std / 10.0),
        "rel_bias": ratio_of(bias, truth.value),
        "rel_bias_se": ratio_of(bias_se, truth.value),
        "rel_std": ratio_of(std, truth.value),
        "exact_bias": exact_bias,
        "exact_std": exact_std,
        "bias_z": ratio_of(bias - exact_bias, bias_se),
        "frac_negative": 0.0
        if tallied is None
        else ratio_of(int(tallies.negative[tallied]), int(tallies.terms[tallied])),
        "n_nonfinite": nonfinite,
        "khat": khat[0],
        "khat_se": khat[1],
        "khat_samples": khat[2],
        "status": status,
    }


def _head(m: Measured, kind: Kind, truth: Truth) -> dict[str, Any]:
    target = divergences.get(kind.target).symbol
    return {
        "pair": m.pair.title,
        "series": m.pair.series,
        "estimator": kind.name,
        "level": kind.level,
        "per": kind.per,
        "target": target,
        "batch": 1,
        "samples": m.n,
        "tokens": m.tokens,
        "truth": truth.value,
        "truth_error": truth.error,
        "truth_method": truth.method if truth.value == truth.value else "unknown",
    }


# ``rmse`` is of one completion's estimate, ``rmse_100`` of the mean over a hundred.
SHAPES = (("sequence", "sequence"), ("token", "sequence"), ("token", "token"))
"""Level and what it is per: k of the whole log-ratio; the sum of the tokens' k.

Their mean over all tokens.
"""


def _tally(i: int, level: str, per: str) -> int:
    return 4 * i + (2 if level == "sequence" else 1 if per == "sequence" else 0)


def _exact_rows(m: Measured) -> Rows:
    """Return the rows of the Rao-Blackwell sums, which are estimators of their own."""
    kinds = [(RAO_BLACKWELL, "exact kl_qp", 0.0, "r")]
    kinds += [(WEIGHTED, "weighted kl_qp", 1.0, "w")] if m.off_policy else []
    rows = []
    for name, column, growth, variable in kinds:
        for per in ("sequence", "token"):
            kind = Kind(name, "kl_qp", "token", per, column)
            if column not in m.place:
                row = _head(m, kind, m.truths.get("kl_qp") or Truth(NAN, NAN, "closed-form"))
                rows.append(row | {"status": "skipped: the rollouts have no exact divergence (kl)"})
            elif per == "sequence" or growth == 0.0:
                khat = (
                    m.khats.get(("sequence", variable), (NAN, NAN, 0)) if growth else (NAN, NAN, 0)
                )
                rows.append(_row(m, kind, None, khat, growth))
    return rows


def values(results: Sequence[Measured]) -> pd.DataFrame:
    """Return a row for each pair, estimator, level and ``per``.

    What could not be measured is a row with the reason.
    """
    rows = []
    for m in results:
        rows += _exact_rows(m)
        names = [each.name for each in m.usable]
        for estimator in m.chosen:
            for level, per in SHAPES:
                kind = Kind(
                    estimator.name, estimator.target, level, per, f"{level} {estimator.name}"
                )
                if estimator.name in names:
                    khat = m.khats.get((level, tail_variable(estimator)), (NAN, NAN, 0))
                    growth = max(estimator.growth, float(estimator.needs_weight))
                    rows.append(
                        _row(m, kind, _tally(names.index(estimator.name), level, per), khat, growth)
                    )
                else:
                    truth = truth_of(m, kind)[0] or Truth(NAN, NAN, "closed-form")
                    reason = skip_reason(estimator, off_policy=m.off_policy)
                    rows.append(_head(m, kind, truth) | {"status": f"skipped: {reason}"})
    names = [column.name for column in VALUES.columns if not column.since]
    return with_relative_errors(pd.DataFrame(rows, columns=names))
