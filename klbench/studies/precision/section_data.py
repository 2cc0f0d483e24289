"""The table of the precision study, the worse of both signs of log r taken in each decade."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from klbench.report.axes import tick
from klbench.report.blocks import Tables
from klbench.studies.precision.columns import ERRORS

HERE = "here"
VARIANTS = ("as written", "with expm1", HERE)


@dataclass(frozen=True)
class Curve:
    """One formula in one dtype: its worst errors, decade by decade of ``|log r|``."""

    estimator: str
    variant: str
    dtype: str
    eps: float
    decades: Sequence[int]
    error: Sequence[float]
    gradient: Sequence[float]
    negative: Sequence[float]
    lost: Sequence[bool]
    gradient_lost: Sequence[bool]

    @property
    def ulp(self) -> float:
        """The worst error, in units of the last place."""
        return max(self.error) / self.eps

    @property
    def worst_decade(self) -> int:
        """The decade with the worst error."""
        return self.decades[list(self.error).index(max(self.error))]

    def at(self, decade: int) -> tuple[float, float] | None:
        """Error and share of negative values in a decade, if it was looked at."""
        found = [i for i, each in enumerate(self.decades) if each == decade]
        return (self.error[found[0]], self.negative[found[0]]) if found else None

    def where_lost(self, *, gradient: bool = False) -> str:
        """Return the decades where the value or the gradient is lost, in words.

        Empty if there are none.
        """
        flags = self.gradient_lost if gradient else self.lost
        stretches: list[list[int]] = []
        for decade, lost in zip(self.decades, flags, strict=True):
            if lost and stretches and stretches[-1][1] == decade:
                stretches[-1][1] = decade + 1
            elif lost:
                stretches.append([decade, decade + 1])
        low, high = self.decades[0], self.decades[-1] + 1
        said = []
        for start, stop in stretches:
            if (start, stop) == (low, high):
                return "everywhere"
            if start == low:
                said.append(f"below {tick(10.0**stop)}")
            else:
                said.append(f"above {tick(10.0**start)}" if stop == high else decades(start, stop))
        return " and ".join(said)

    @property
    def start(self) -> float:
        """The ``|log r|`` from which down the value is lost, for sorting; 0 where it never is."""
        found = [decade for decade, lost in zip(self.decades, self.lost, strict=True) if lost]
        return 10.0 ** (max(found) + 1) if found else 0.0


def decades(start: int, stop: int) -> str:
    """``from 0.001 to 0.01``."""
    return f"from {tick(10.0**start)} to {tick(10.0**stop)}"


@dataclass(frozen=True)
class Data:
    """All curves, in the table's order."""

    curves: Sequence[Curve]
    several: bool

    @property
    def estimators(self) -> list[str]:
        return list(dict.fromkeys(each.estimator for each in self.curves))

    @property
    def dtypes(self) -> list[str]:
        return list(dict.fromkeys(each.dtype for each in self.curves))

    def of(
        self, *, estimator: str | None = None, dtype: str | None = None, variant: str | None = None
    ) -> list[Curve]:
        """The curves of an estimator, a dtype, a variant."""
        return [
            each
            for each in self.curves
            if estimator in (None, each.estimator)
            and dtype in (None, each.dtype)
            and variant in (None, each.variant)
        ]


def _curve(key: tuple[str, str, str], rows: pd.DataFrame) -> Curve:
    # A NaN is an error without bound: a formula that gives none must not look exact.
    numbers = ["max_rel_error", "max_gradient_rel_error", "frac_negative"]
    known = rows[[*numbers, *ERRORS]].astype(float).fillna(math.inf)
    worst = known.groupby(rows["decade"].astype(int)).max()
    error, gradient, negative = ([float(x) for x in worst[column]] for column in numbers)
    lost, gradient_lost = ([x > 0 for x in worst[column]] for column in ERRORS)
    return Curve(
        *key,
        float(rows["eps"].iloc[0]),
        [int(decade) for decade in worst.index],
        error,
        gradient,
        negative,
        lost,
        gradient_lost,
    )


def load(tables: Tables) -> Data:
    """The curves; of several runs, the worst."""
    table = tables["precision"]
    known = {name: i for i, name in enumerate(VARIANTS)}
    groups = table.groupby(["estimator", "variant", "dtype"], sort=False)
    curves = [
        _curve((str(name), str(variant), str(dtype)), rows)
        for (name, variant, dtype), rows in groups
    ]
    order = list(dict.fromkeys(table["estimator"]))
    curves.sort(key=lambda each: (order.index(each.estimator), known.get(each.variant, len(known))))
    return Data(curves, "run" in table)
