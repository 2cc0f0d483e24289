"""The figures of the value study, over batch sizes and down lists of names."""

from __future__ import annotations

import math
from collections import Counter
from functools import partial

from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from klbench.report import plots
from klbench.report.axes import batch_axis
from klbench.report.blocks import Figure
from klbench.report.numbers import Z95, short
from klbench.report.panels import Tile, heat
from klbench.report.plots import Axis, Mark
from klbench.rows import finite, keyed, where
from klbench.studies.value.section_curves import (
    SAY,
    curve,
    figure,
    used,
)
from klbench.studies.value.section_data import Data
from klbench.studies.value.section_over_kl import bias, noise, percents, tails, winners

MIDDLING = 64
"""The errors of batches of about this size are drawn."""


def _place(data: Data, series: str, pair: str) -> str:
    return ", ".join((*([pair] if pair != series else []), f"KL {short(data.kl(pair))}"))


def error_by_batch(data: Data) -> Figure | None:
    """Draw the error over the batch size, for one pair of each series."""
    if len(data.batches) < 2:
        return None
    panels, curves, entries = [], [], data.off_policy_entries | data.entries
    for series, pair in data.typical.items():
        drawn = []
        for name, entry in data.drawn(pair).items():
            found = (data.at(pair, batch).get(name) for batch in data.batches)
            rows = [row for row in found if row and row["rmse"] > 0]
            drawn += curve(entry, rows, "batch", lambda row: (row["rmse"], Z95 * row["rmse_se"]))
        x = Axis("samples in a batch", place=partial(batch_axis, batches=data.batches))
        y = Axis("rmse, nats", "log", levels=(data.kl(pair),))
        curves.append(drawn)
        panels.append(plots.lines(series, drawn, x, y, detail=_place(data, series, pair)))
    stuck = Counter(
        row["estimator"]
        for row in where(data.measured, batch=data.batches[-1])
        if row["bias_dominates"] and row["pair"] not in data.off_policy
    )
    caption = SAY.batch_caption(stuck, data.batches[-1], sum(map(len, data.main_series.values())))
    legend = used(entries, curves)
    return figure(data, "error-by-batch", "What more samples buy", panels, legend, caption)


def distributions(data: Data) -> Figure | None:
    """Draw quantiles of the errors of batches of a middling size."""
    sizes = sorted({batch for _, batch in data.errors})
    if not sizes:
        return None
    batch = min(sizes, key=lambda size: abs(math.log(size / MIDDLING)))
    panels = []
    for series, pair in data.typical.items():
        marks = []
        found = data.errors.get((pair, batch), {})
        for name, entry in data.drawn(pair).items():
            if name in found and data.at(pair, batch)[name]["target"] == data.target:
                row = found[name]
                marks.append(Mark(name, math.nan, entry, row["q25"], row["q75"], width=8.0))
                marks.append(Mark(name, row["q50"], entry, row["q2.5"], row["q97.5"], size=3.0))
        if marks:
            x = Axis("estimate − truth, nats", levels=(0.0,), place=_few_ticks)
            panels.append(plots.down(series, marks, x, detail=_place(data, series, pair)))
    return figure(
        data, "errors", "How the errors are spread", panels, (), SAY.errors_caption(batch)
    )


def _few_ticks(axes: Axes) -> None:
    axes.xaxis.set_major_locator(MaxNLocator(4, prune="upper"))


def coverage(data: Data) -> Figure | None:
    """Draw the share of intervals that hold the truth: a heat map of estimators by batch size."""
    batches = [batch for batch in data.batches if batch > 1]
    panels = []
    for series, pair in data.typical.items():
        shares = {
            name: [data.at(pair, batch).get(name, UNTESTED)["coverage"] for batch in batches]
            for name in data.drawn(pair)
        }
        tiles = {
            name: [_tile(share) for share in found]
            for name, found in shares.items()
            if any(map(math.isfinite, found))
        }
        if tiles:
            columns, detail = [f"{batch:,}" for batch in batches], _place(data, series, pair)
            panels.append(heat(series, tiles, columns, "samples in a batch", detail=detail))
    title = "Does a 95 % interval hold the truth?"
    return figure(data, "coverage", title, panels, (), SAY.coverage_caption())


UNTESTED = {"coverage": math.nan}


def _tile(share: float) -> Tile:
    if not math.isfinite(share):
        return Tile("–")
    away = share - 0.95
    return Tile(f"{100 * share:.0f}", 1 if away < 0 else 0, min(0.85, 4 * abs(away)))


def not_covered(data: Data) -> Figure | None:
    """Draw the relative bias where the ratio's mean is not 1.

    Samples of a third distribution, or p beyond the reach of q.
    """
    panels = []
    for pair, found in data.pairs.items():
        if not (pair in data.off_policy or found["unreached"] > 0) or not data.kl(pair) > 0:
            continue
        measured = where(data.at(pair, data.batches[-1]).values(), target=data.target)
        rows = keyed(finite(measured, "rel_bias"), "estimator")
        marks = []
        for name, entry in data.drawn(pair).items():
            if name in rows:
                value, half = rows[name]["rel_bias"], Z95 * rows[name]["rel_bias_se"]
                marks.append(Mark(name, value, entry, value - half, value + half))
        if marks:
            x = Axis("bias / true value", levels=(0.0,), place=_percents_across)
            detail = str(SAY.reach(pair in data.off_policy, found["unreached"]))
            panels.append(plots.down(pair, marks, x, detail=detail))
    title, caption = "Where no claim applies", SAY.not_covered_caption()
    off_policy = bool(data.off_policy)
    return figure(data, "third-sampler", title, panels, (), caption, off_policy=off_policy)


def _percents_across(axes: Axes) -> None:
    _few_ticks(axes)
    percents(axes, "x")


FIGURES = (winners, noise, bias, error_by_batch, distributions, coverage, tails, not_covered)
