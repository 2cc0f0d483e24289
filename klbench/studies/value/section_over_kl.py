"""The figures of the value study over KL: error, winners, noise, bias and tails."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter

from klbench.report import plots
from klbench.report.axes import tick
from klbench.report.blocks import Figure, LegendEntry, Text
from klbench.report.numbers import Z95, percent
from klbench.report.plots import Axis, Line, Mark
from klbench.report.tables import Row
from klbench.rows import column_of, finite
from klbench.studies.value.columns import ALL, TWO, UNBIASED
from klbench.studies.value.section_curves import (
    SAY,
    Value,
    curve,
    figure,
    over_kl,
    rows_of,
    size,
    used,
)
from klbench.studies.value.section_data import MOST_PANELS, Data

LEAD_PANELS = 3
HEAVY, LOST = 0.5, 0.7
"""Tail indices from which there is no finite variance, and from which no affordable number of
samples settles the mean.
"""
MEASURED, EXACT = LegendEntry("measured k-hat", 6, "o"), LegendEntry("known tail index", 5, "s")
ENDS = (("low", -1), ("high", 1))


def _relative_error(row: Row) -> tuple[float, float]:
    """Return a row's rmse over the truth: the one that ranks it, else the measured one."""
    error, half = (
        row["rmse"] if math.isnan(row["error"]) else row["error"],
        0.0 if row["error_exact"] else Z95 * row["rmse_se"],
    )
    return (error / row["truth"], half / row["truth"]) if row["truth"] else (math.nan, 0.0)


def lead(data: Data) -> Figure | None:
    """Draw the error of each estimator over KL, or down a list of names where there is a single
    pair.
    """
    series = {name: pairs for name, pairs in data.main_series.items() if len(data.kls(pairs)) > 1}
    if not series:
        return _error_by_name(data)
    curves = {name: _error_over_kl(data, pairs) for name, pairs in series.items()}
    y = Axis("rmse / true value", "log", levels=(1.0,))
    panels = [
        plots.lines(name, curves[name], over_kl(data.kls(pairs)), y)
        for name, pairs in series.items()
    ]
    legend = used(data.entries, list(curves.values()))
    title = f"Error over KL, {size(data.batch)}"
    caption = SAY.lead_caption(any(entry.dashed for entry in legend))
    return figure(data, "error", title, panels, legend, caption, most=LEAD_PANELS)


def _error_over_kl(data: Data, pairs: Sequence[str]) -> list[Line]:
    joined = data.is_one_family(pairs)
    return [
        line
        for name, entry in data.entries.items()
        for rows in [rows_of(data, pairs, data.batch, name)]
        for line in curve(entry, rows, "kl", _relative_error, joined=joined, hollow="error")
    ]


def _error_by_name(data: Data) -> Figure | None:
    """Draw the errors on the first pair of each series at up to three batch sizes."""
    panels = []
    for series, pairs in data.main_series.items():
        for batch in data.shown_batches if len(data.main_series) == 1 else [data.batch]:
            marks = []
            for name, entry in data.drawn(pairs[0]).items():
                row = data.at(pairs[0], batch).get(name)
                value, half = _relative_error(row) if row else (math.nan, 0.0)
                if row and math.isfinite(value):
                    hollow = math.isnan(row["error"])
                    marks.append(Mark(name, value, entry, value - half, value + half, hollow))
            if marks:
                title, names = size(batch).capitalize(), list(data.drawn(pairs[0]))
                detail = series if len(data.main_series) > 1 else ""
                x = Axis("rmse / true value", "log", levels=(1.0,))
                panels.append(plots.down(title, marks, x, names=names, detail=detail))
    caption = SAY.lead_caption(dashed=False, names=True)
    return figure(data, "error", "Error of each estimator", panels, (), caption, most=LEAD_PANELS)


def winners(data: Data) -> Figure | None:
    """Draw who has the least error where: a strip along KL for each series."""
    small, large = data.batches[0], data.batches[-1]
    panels, drawn, seen = [], set(), []
    names = [name for name, pairs in data.main_series.items() if data.kls(pairs)]
    for among, batch in dict.fromkeys(
        [(ALL, small), (UNBIASED, small), (ALL, large), (TWO, small)]
    ):
        rows = [
            row
            for row in data.ranges(among, batch)
            if row["estimator"] in data.entries and row["kl_low"] > 0
        ]
        strips = [(row["series"], row["estimator"], row["kl_low"], row["kl_high"]) for row in rows]
        if not strips or strips in seen:
            continue
        seen.append(strips)
        drawn |= {row["estimator"] for row in rows}
        marks = [
            Mark(series, math.sqrt(low * high), data.entries[name], low, high, size=7.0, width=9.0)
            for series, name, low, high in strips
        ]
        kls = [kl for _, _, low, high in strips for kl in (low, high)]
        title = str(SAY.group(among, size(batch)))
        panels.append(plots.down(title, marks, over_kl(kls), names=names))
    legend = [entry for name, entry in data.entries.items() if name in drawn]
    if len(legend) < 2 or len({row["pair"] for row in data.measured}) == 1:
        return None
    return figure(data, "winners", "The least error, by KL", panels, legend, SAY.winners_caption())


def _against_kl(
    data: Data,
    name: str,
    title: str,
    caption: Text,
    y: Axis,
    value: Value,
    exact: Callable[[Row], float],
) -> Figure | None:
    """Draw small multiples over KL at the smallest batch size."""
    panels, curves = [], []
    for series, pairs in data.main_series.items():
        if len(kls := data.kls(pairs)) < 2:
            continue
        joined = data.is_one_family(pairs)
        drawn = []
        for i, (each, entry) in enumerate(data.entries.items()):
            shift = 1.0 + 0.035 * (i - (len(data.entries) - 1) / 2)
            rows = rows_of(data, pairs, data.batches[0], each)
            drawn += curve(entry, rows, "kl", value, exact=exact, joined=joined, shift=shift)
        curves.append(drawn)
        panels.append(plots.lines(series, drawn, over_kl(kls), y))
    return figure(data, name, title, panels, used(data.entries, curves), caption)


def _over_truth(row: Row, name: str) -> float:
    return float(row[name]) / float(row["truth"]) if row["truth"] else math.nan


def noise(data: Data) -> Figure | None:
    """Draw the relative standard deviation over KL."""
    label = Axis("std / true value", "log")
    caption, title = SAY.noise_caption(), f"Noise of {size(data.batches[0])}"
    return _against_kl(
        data,
        "noise",
        title,
        caption,
        label,
        lambda row: (_over_truth(row, "std"), Z95 * _over_truth(row, "std_se")),
        lambda row: _over_truth(row, "exact_std"),
    )


def percents(axes: Axes, which: str = "y") -> None:
    """Write an axis in per cent."""

    def show(x: float, _: object) -> str:
        return "0 %" if not x else percent(x) if abs(x) < 10 else tick(100 * x) + " %"

    getattr(axes, f"{which}axis").set_major_formatter(FuncFormatter(show))


def bias(data: Data) -> Figure | None:
    """Draw the relative bias over KL."""
    label = Axis("bias / true value", "symlog", levels=(0.0,), place=percents)
    return _against_kl(
        data,
        "bias",
        "Bias",
        SAY.bias_caption(),
        label,
        lambda row: (row["rel_bias"], Z95 * row["rel_bias_se"]),
        lambda row: _over_truth(row, "exact_bias"),
    )


def tails(data: Data) -> Figure | None:
    """Draw the measured tail index of the ratio beside the known one."""
    panels = []
    for series, pairs in data.main_series.items():
        known = finite((data.pairs[pair] for pair in pairs if data.kl(pair) > 0), "khat")
        rows = [
            row | {f"khat_{end}": row["khat"] + sign * Z95 * row["khat_se"] for end, sign in ENDS}
            for row in known
        ]
        x = column_of(rows, "kl_qp")
        if len(set(x)) < 2:
            continue
        every: dict[str, Any] = {"hollow": [False] * len(x)}  # a marker at each point
        family = data.is_one_family(pairs)
        drawn = [
            Line.of(EXACT, rows, "kl_qp", "tail_index", joined=family, **every),
            Line.of(MEASURED, rows, "kl_qp", "khat", ends=True, bars=True, joined=False, **every),
        ]
        y = Axis("tail index k of r", levels=(HEAVY, LOST))
        panels.append(plots.lines(series, drawn, over_kl(x), y))
    if not panels:
        return None
    title, legend = "How heavy is the tail of r?", [MEASURED, EXACT]
    return Figure("tails", title, SAY.tails_caption(), panels[:MOST_PANELS], legend)
