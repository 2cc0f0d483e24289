"""Axes that the figures share: logarithmic scales with plain ticks."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, MaxNLocator, NullLocator

from klbench.report.numbers import power_of_ten, short


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
