"""Figures of the precision study: relative errors of value and gradient against |log r|."""

from __future__ import annotations

import math
from collections.abc import Sequence

from matplotlib.axes import Axes

from klbench.report.axes import log_ticks
from klbench.report.blocks import Figure, LegendEntry, Panel
from klbench.report.figures import FAINT, TEXT, colour, drawing
from klbench.report.numbers import number, power_of_ten
from klbench.report.prose import prose
from klbench.studies.precision.section_data import Curve, Data

SAY = prose(__package__)
STYLES = {"as written": (1, "s"), "with expm1": (3, "D"), "here": (2, "o")}
TOP = 100.0
"""Errors are drawn up to this many times the value; what is beyond is as worthless."""


def _legend(curves: Sequence[Curve]) -> dict[str, LegendEntry]:
    names = list(dict.fromkeys(each.variant for each in curves))
    return {name: LegendEntry(name, *STYLES.get(name, (4 + i, "v"))) for i, name in enumerate(names)}


def _draw(axes: Axes, curve: Curve, values: Sequence[float], entry: LegendEntry, floor: float) -> None:
    x = [10.0 ** (decade + 0.5) for decade in curve.decades]
    y = [min(max(value, floor), TOP) for value in values]
    axes.plot(x, y, color=colour(entry.slot), zorder=3)
    for marker, chosen in (
        (entry.marker, [floor <= value <= TOP for value in values]),
        ("^", [value > TOP for value in values]),
        ("v", [value < floor for value in values]),
    ):
        kept = [(a, b) for a, b, keep in zip(x, y, chosen, strict=True) if keep]
        if kept:
            axes.plot(
                *zip(*kept, strict=True),
                linestyle="none",
                marker=marker,
                color=colour(entry.slot),
                clip_on=False,
                zorder=4,
                markerfacecolor=colour(entry.slot) if marker == entry.marker else "none",
            )


def _words(curve: Curve, values: Sequence[float]) -> str:
    worst = max(values)
    decade = curve.decades[list(values).index(worst)]
    return f"{curve.variant} at most {number(worst, 2)}, for |log r| from {power_of_ten(decade)} on"


def _panel(data: Data, estimator: str, dtype: str, floor: float, *, gradient: bool) -> Panel:
    curves = data.of(estimator=estimator, dtype=dtype)
    legend = _legend(data.of(estimator=estimator))
    with drawing(left=0.16) as (axes, svg):
        axes.set_xscale("log")
        axes.set_yscale("log")
        decades = [decade for each in curves for decade in each.decades]
        for each in curves:
            _draw(axes, each, each.gradient if gradient else each.error, legend[each.variant], floor)
        axes.axhline(1.0, color=TEXT, linewidth=0.9, linestyle="--", zorder=1)
        axes.axhline(curves[0].eps, color=FAINT, linewidth=2.4, zorder=0)
        low, high = 10.0 ** min(decades), 10.0 ** (max(decades) + 1)
        axes.set_xlim(low, high)
        axes.set_ylim(floor, TOP)
        log_ticks(axes.xaxis, low, high)
        log_ticks(axes.yaxis, floor, TOP)
        axes.set_xlabel("|log r|")
        axes.set_ylabel("relative error")
    said = "; ".join(_words(each, each.gradient if gradient else each.error) for each in curves)
    what = "gradient" if gradient else "value"
    return Panel(dtype, svg[0], f"Relative error of the {what} of {estimator} in {dtype}: {said}.")


def figure(data: Data, estimator: str, *, gradient: bool = False) -> Figure:
    """Return the value or the gradient of an estimator, a panel a dtype, all on one scale."""
    curves = data.of(estimator=estimator)
    dtypes = list(dict.fromkeys(each.dtype for each in curves))
    floor = 10.0 ** math.floor(math.log10(min(each.eps for each in curves) / 20))
    panels = [_panel(data, estimator, dtype, floor, gradient=gradient) for dtype in dtypes]
    name = f"precision-{estimator}{'-gradient' if gradient else ''}"
    legend = list(_legend(curves).values())
    return Figure(name, SAY.figure_title(estimator, gradient), SAY.caption(gradient), panels, legend)
