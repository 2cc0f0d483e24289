"""Figures of the precision study: relative errors of value and gradient against |log r|."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from matplotlib.axes import Axes

from klbench.report import plots
from klbench.report.axes import log_ticks
from klbench.report.blocks import Figure, LegendEntry, Panel
from klbench.report.numbers import number, power_of_ten
from klbench.report.prose import prose
from klbench.studies.precision.section_data import Curve, Data

SAY = prose(__package__)
STYLES = {"as written": (1, "s"), "with expm1": (3, "D"), "here": (2, "o")}
TOP = 100.0
"""Errors are drawn up to this many times the value; what is beyond is as worthless."""


def _legend(curves: Sequence[Curve]) -> dict[str, LegendEntry]:
    names = list(dict.fromkeys(each.variant for each in curves))
    return {
        name: LegendEntry(name, *STYLES.get(name, (4 + i, "v"))) for i, name in enumerate(names)
    }


def _words(curve: Curve, values: Sequence[float]) -> str:
    worst = max(values)
    decade = curve.decades[list(values).index(worst)]
    return f"{curve.variant} at most {number(worst, 2)}, for |log r| from {power_of_ten(decade)} on"


def _panel(data: Data, estimator: str, dtype: str, floor: float, *, gradient: bool) -> Panel:
    curves, legend = (
        data.of(estimator=estimator, dtype=dtype),
        _legend(data.of(estimator=estimator)),
    )
    decades = [decade for each in curves for decade in each.decades]

    def error_axis(axes: Axes) -> None:
        axes.set_yscale("log")
        axes.set_ylim(floor, 4 * TOP)
        log_ticks(axes.yaxis, floor, TOP)

    x = plots.Axis("|log r|", "log", room=(10.0 ** min(decades), 10.0 ** (max(decades) + 1)))
    y = plots.Axis("relative error", levels=(1.0, curves[0].eps), place=error_axis)
    drawn = []
    for each in curves:
        values = each.gradient if gradient else each.error
        drawn.append(
            plots.Line(
                legend[each.variant],
                [10.0 ** (decade + 0.5) for decade in each.decades],
                [min(max(value, floor), TOP) for value in values],
                hollow=[not floor <= value <= TOP for value in values],
            )
        )
    said = "; ".join(_words(each, each.gradient if gradient else each.error) for each in curves)
    what = "gradient" if gradient else "value"
    alt = f"Relative error of the {what} of {estimator} in {dtype}: {said}."
    return replace(plots.lines(dtype, drawn, x, y), alt=alt)


def figure(data: Data, estimator: str, *, gradient: bool = False) -> Figure:
    """Return the value or the gradient of an estimator, a panel a dtype, all on one scale."""
    curves = data.of(estimator=estimator)
    dtypes = list(dict.fromkeys(each.dtype for each in curves))
    floor = 10.0 ** math.floor(math.log10(min(each.eps for each in curves) / 20))
    panels = [_panel(data, estimator, dtype, floor, gradient=gradient) for dtype in dtypes]
    name = f"precision-{estimator}{'-gradient' if gradient else ''}"
    legend = list(_legend(curves).values())
    return Figure(
        name, SAY.figure_title(estimator, gradient), SAY.caption(gradient), panels, legend
    )
