"""Axes and marks that the figures share.

Logarithmic scales with plain ticks, exact curves, measured points.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, MaxNLocator, NullLocator

from klbench.report.blocks import LegendEntry
from klbench.report.figures import colour
from klbench.report.numbers import Z95, power_of_ten, short


def tick(x: float, _: Any = None) -> str:
    """A tick's label: plain, or a power of ten where that is shorter."""
    if (
        x
        and not 1e-3 <= abs(x) < 1e5
        and math.isclose(exponent := math.log10(abs(x)), round(exponent))
    ):
        return ("−" if x < 0 else "") + power_of_ten(round(exponent))
    return short(x)


def log_ticks(axis: Any, low: float, high: float) -> None:
    """A few plainly written ticks for a logarithmic axis, even where it spans less than a
    decade.
    """
    decades = math.log10(high / low) if low > 0 else 1.0
    steps = (1.0,) if decades > 3.3 else (1.0, 3.0) if decades > 1.2 else (1.0, 2.0, 5.0)
    axis.set_major_locator(
        LogLocator(10, subs=steps, numticks=9) if decades > 0.7 else MaxNLocator(4)
    )
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(tick))


def kl_axis(axes: Axes, kls: Sequence[float]) -> None:
    """Exact KL along x."""
    axes.set_xscale("log")
    low, high = min(kls), max(kls)
    low, high = (low / 3, high * 3) if high < 1.5 * low else (low / 1.4, high * 1.4)
    axes.set_xlim(low, high)
    log_ticks(axes.xaxis, low, high)
    axes.set_xlabel("exact KL(q‖p), nats")


def batch_axis(axes: Axes, batches: Sequence[int]) -> None:
    """Batch size along x, a tick at each of a few."""
    axes.set_xscale("log")
    axes.set_xlim(min(batches) / 1.5, max(batches) * 1.5)
    axes.xaxis.set_major_locator(FixedLocator(list(batches[:: math.ceil(len(batches) / 7)])))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{round(x):,}"))
    axes.set_xlabel("samples in a batch")


def curve(
    axes: Axes, x: Sequence[float], y: Sequence[float], entry: LegendEntry, *, exact: bool = True
) -> None:
    """A line below the points.

    Dotted where it only joins what was measured although others have a closed form.
    """
    kept = [(a, b) for a, b in zip(x, y, strict=True) if math.isfinite(a) and math.isfinite(b)]
    if len(kept) > 1:
        style = ":" if not exact else "--" if entry.dashed else "-"
        axes.plot(
            [a for a, _ in kept],
            [b for _, b in kept],
            color=colour(entry.slot),
            linestyle=style,
            linewidth=1.3,
        )


def points(
    axes: Axes, rows: pd.DataFrame, x: Sequence[float], y: str, se: str, entry: LegendEntry
) -> None:
    """Measured values with 95 % intervals.

    Hollow, and without one, where the row is not to be trusted.
    """
    trusted = (rows["status"] == "ok").to_numpy()
    values, half = rows[y].astype(float).to_numpy(), Z95 * rows[se].astype(float).to_numpy()
    for mask, face in ((trusted, colour(entry.slot)), (~trusted, "none")):
        if mask.any():
            axes.errorbar(
                [a for a, keep in zip(x, mask, strict=True) if keep],
                values[mask],
                yerr=None if face == "none" else half[mask],
                fmt=entry.marker,
                color=colour(entry.slot),
                markerfacecolor=face,
                markeredgecolor=colour(entry.slot),
                elinewidth=1.0,
                zorder=3,
            )
