"""The figures of the value study."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial

from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, MaxNLocator

from klbench.report import plots
from klbench.report.axes import batch_axis, kl_axis, tick
from klbench.report.blocks import Figure, LegendEntry, Panel, Text
from klbench.report.numbers import Z95, percent, short
from klbench.report.panels import Tile, heat
from klbench.report.plots import Axis, Line, Mark
from klbench.report.prose import prose
from klbench.report.tables import Row
from klbench.rows import Rows, column_of
from klbench.studies.value.columns import ALL, TWO, UNBIASED
from klbench.studies.value.section_data import MOST_PANELS, Data

SAY = prose(__package__)
LEAD_PANELS = 3
HEAVY, LOST = 0.5, 0.7
"""Tail indices from which there is no finite variance, and from which no affordable number of
samples settles the mean.
"""
MIDDLING = 64
"""The errors of batches of about this size are drawn."""
KL_LABEL = "exact KL(q‖p), nats"
MEASURED, EXACT = LegendEntry("measured k-hat", 6, "o"), LegendEntry("known tail index", 5, "s")

Value = Callable[[Row], tuple[float, float]]
"""A row's value, and half the width of its 95 % interval."""


def size(batch: int) -> str:
    """Return a batch size in words."""
    return "one sample" if batch == 1 else f"batches of {batch:,}"


def figure(
    data: Data,
    name: str,
    title: str,
    panels: Sequence[Panel],
    legend: Sequence[LegendEntry],
    caption: Text,
    *,
    most: int = MOST_PANELS,
    off_policy: bool = False,
) -> Figure | None:
    """Return the first panels as a figure whose caption says what is left out; None without any."""
    if not panels:
        return None
    entries = data.off_policy_entries if off_policy else data.entries
    rest = SAY.left_out(
        data.left_out(entries, off_policy=off_policy), max(0, len(panels) - most), name == "error"
    )
    return Figure(name, title, caption + rest, panels[:most], legend)


def used(entries: Mapping[str, LegendEntry], panels: Sequence[Sequence[Line]]) -> list[LegendEntry]:
    """Return the entries that lines were drawn with."""
    drawn = {id(line.entry) for lines in panels for line in lines}
    return [entry for entry in entries.values() if id(entry) in drawn]


def _curve(
    entry: LegendEntry,
    rows: Sequence[Row],
    x: str,
    y: Value,
    *,
    exact: Callable[[Row], float] | None = None,
    joined: bool = True,
    shift: float = 1.0,
    hollow: str = "status",
) -> list[Line]:
    """Return measured points with their intervals, and a line through exact values, or through
    the points without these.
    """
    kept = [
        (row[x], *y(row), row["status"] != "ok" if hollow == "status" else math.isnan(row[hollow]))
        for row in rows
    ]
    kept = [each for each in kept if math.isfinite(each[1])]
    known = [(row[x], exact(row)) for row in rows if exact and math.isfinite(exact(row))]
    if not kept:
        return []
    low, high = (
        [math.nan if bad else value + sign * half for _, value, half, bad in kept]
        for sign in (-1, 1)
    )
    points = Line(
        entry,
        [at * shift for at, *_ in kept],
        [value for _, value, *_ in kept],
        low,
        high,
        bars=True,
        joined=joined and not known,
        hollow=[bad for *_, bad in kept],
    )
    if not (joined and known):
        return [points]
    return [
        Line(entry, [at for at, _ in known], [value for _, value in known], marked=False),
        points,
    ]


def _rows(data: Data, pairs: Sequence[str], batch: int, name: str) -> Rows:
    found = (data.at(pair, batch).get(name) for pair in pairs)
    return [row for row in found if row and row["kl"] > 0]


def _relative_error(row: Row) -> tuple[float, float]:
    """Return a row's rmse over the truth: the one that ranks it, else the measured one."""
    error = row["rmse"] if math.isnan(row["error"]) else row["error"]
    return error / row["truth"] if row["truth"] else math.nan, 0.0 if row[
        "error_exact"
    ] else Z95 * row["rmse_se"] / row["truth"]


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
        plots.lines(
            name, curves[name], Axis(KL_LABEL, place=partial(kl_axis, kls=data.kls(pairs))), y
        )
        for name, pairs in series.items()
    ]
    legend = used(data.entries, list(curves.values()))
    title = f"Error over KL, {size(data.batch)}"
    return figure(
        data,
        "error",
        title,
        panels,
        legend,
        SAY.lead_caption(any(entry.dashed for entry in legend)),
        most=LEAD_PANELS,
    )


def _error_over_kl(data: Data, pairs: Sequence[str]) -> list[Line]:
    joined = data.is_one_family(pairs)
    return [
        line
        for name, entry in data.entries.items()
        for line in _curve(
            entry,
            _rows(data, pairs, data.batch, name),
            "kl",
            _relative_error,
            joined=joined,
            hollow="error",
        )
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
                    marks.append(
                        Mark(
                            name, value, entry, value - half, value + half, math.isnan(row["error"])
                        )
                    )
            if marks:
                title = size(batch).capitalize()
                detail = series if len(data.main_series) > 1 else ""
                x = Axis("rmse / true value", "log", levels=(1.0,))
                panels.append(
                    plots.down(title, marks, x, names=list(data.drawn(pairs[0])), detail=detail)
                )
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
        panels.append(
            plots.down(title, marks, Axis(KL_LABEL, place=partial(kl_axis, kls=kls)), names=names)
        )
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
            rows = _rows(data, pairs, data.batches[0], each)
            drawn += _curve(entry, rows, "kl", value, exact=exact, joined=joined, shift=shift)
        curves.append(drawn)
        panels.append(
            plots.lines(series, drawn, Axis(KL_LABEL, place=partial(kl_axis, kls=kls)), y)
        )
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


def _percents(axes: Axes, which: str = "y") -> None:
    """Write an axis in per cent."""

    def show(x: float, _: object) -> str:
        return "0 %" if not x else percent(x) if abs(x) < 10 else tick(100 * x) + " %"

    getattr(axes, f"{which}axis").set_major_formatter(FuncFormatter(show))


def bias(data: Data) -> Figure | None:
    """Draw the relative bias over KL."""
    label = Axis("bias / true value", "symlog", levels=(0.0,), place=_percents)
    return _against_kl(
        data,
        "bias",
        "Bias",
        SAY.bias_caption(),
        label,
        lambda row: (row["rel_bias"], Z95 * row["rel_bias_se"]),
        lambda row: _over_truth(row, "exact_bias"),
    )


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
            drawn += _curve(entry, rows, "batch", lambda row: (row["rmse"], Z95 * row["rmse_se"]))
        x = Axis("samples in a batch", place=partial(batch_axis, batches=data.batches))
        y = Axis("rmse, nats", "log", levels=(data.kl(pair),))
        curves.append(drawn)
        panels.append(plots.lines(series, drawn, x, y, detail=_place(data, series, pair)))
    stuck: dict[str, int] = {}
    for row in data.measured:
        if (
            row["batch"] == data.batches[-1]
            and row["bias_dominates"]
            and row["pair"] not in data.off_policy
        ):
            stuck[row["estimator"]] = stuck.get(row["estimator"], 0) + 1
    caption = SAY.batch_caption(stuck, data.batches[-1], sum(map(len, data.main_series.values())))
    return figure(
        data, "error-by-batch", "What more samples buy", panels, used(entries, curves), caption
    )


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
        rows = {
            name: [data.at(pair, batch).get(name) for batch in batches] for name in data.drawn(pair)
        }
        tiles = {
            name: [_tile(row) for row in found]
            for name, found in rows.items()
            if any(map(_tested, found))
        }
        if tiles:
            columns = [f"{batch:,}" for batch in batches]
            panels.append(
                heat(
                    series, tiles, columns, "samples in a batch", detail=_place(data, series, pair)
                )
            )
    return figure(
        data, "coverage", "Does a 95 % interval hold the truth?", panels, (), SAY.coverage_caption()
    )


def _tested(row: Row | None) -> bool:
    return row is not None and math.isfinite(row["coverage"])


def _tile(row: Row | None) -> Tile:
    if row is None or not _tested(row):
        return Tile("–")
    away = row["coverage"] - 0.95
    return Tile(f"{100 * row['coverage']:.0f}", 1 if away < 0 else 0, min(0.85, 4 * abs(away)))


def tails(data: Data) -> Figure | None:
    """Draw the measured tail index of the ratio beside the known one."""
    panels = []
    for series, pairs in data.main_series.items():
        rows = [
            data.pairs[pair]
            for pair in pairs
            if data.kl(pair) > 0 and math.isfinite(data.pairs[pair]["khat"])
        ]
        x = column_of(rows, "kl_qp")
        if len(set(x)) < 2:
            continue
        low, high = (
            [row["khat"] + sign * Z95 * row["khat_se"] for row in rows] for sign in (-1, 1)
        )
        drawn = [
            Line(
                EXACT,
                x,
                column_of(rows, "tail_index"),
                joined=data.is_one_family(pairs),
                hollow=[False] * len(x),
            ),
            Line(
                MEASURED,
                x,
                column_of(rows, "khat"),
                low,
                high,
                bars=True,
                joined=False,
                hollow=[False] * len(x),
            ),
        ]
        kls = Axis(KL_LABEL, place=partial(kl_axis, kls=x))
        panels.append(
            plots.lines(series, drawn, kls, Axis("tail index k of r", levels=(HEAVY, LOST)))
        )
    caption = SAY.tails_caption()
    return (
        Figure(
            "tails", "How heavy is the tail of r?", caption, panels[:MOST_PANELS], [MEASURED, EXACT]
        )
        if panels
        else None
    )


def not_covered(data: Data) -> Figure | None:
    """Draw the relative bias where the ratio's mean is not 1.

    Samples of a third distribution, or p beyond the reach of q.
    """
    panels = []
    for pair, found in data.pairs.items():
        rows = {
            name: row
            for name, row in data.at(pair, data.batches[-1]).items()
            if row["target"] == data.target
        }
        if (pair in data.off_policy or found["unreached"] > 0) and data.kl(pair) > 0:
            marks = []
            for name, entry in data.drawn(pair).items():
                if name in rows and math.isfinite(rows[name]["rel_bias"]):
                    value, half = rows[name]["rel_bias"], Z95 * rows[name]["rel_bias_se"]
                    marks.append(Mark(name, value, entry, value - half, value + half))
            if marks:
                x = Axis("bias / true value", levels=(0.0,), place=_percents_across)
                panels.append(
                    plots.down(
                        pair,
                        marks,
                        x,
                        detail=str(SAY.reach(pair in data.off_policy, found["unreached"])),
                    )
                )
    off_policy = bool(data.off_policy)
    return figure(
        data,
        "third-sampler",
        "Where no claim applies",
        panels,
        (),
        SAY.not_covered_caption(),
        off_policy=off_policy,
    )


def _percents_across(axes: Axes) -> None:
    _few_ticks(axes)
    _percents(axes, "x")


FIGURES = (winners, noise, bias, error_by_batch, distributions, coverage, tails, not_covered)
