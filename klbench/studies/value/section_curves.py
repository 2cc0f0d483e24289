"""The parts that the figures of the value study share: curves, axes, the end of a caption."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial

from klbench.report.axes import kl_axis
from klbench.report.blocks import Figure, LegendEntry, Panel, Text
from klbench.report.plots import Axis, Line
from klbench.report.prose import prose
from klbench.report.tables import Row
from klbench.rows import Rows, column_of, finite
from klbench.studies.value.section_data import MOST_PANELS, Data

SAY = prose(__package__)
KL_LABEL = "exact KL(q‖p), nats"
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


def curve(
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
    kept: Rows = []
    for row in rows:
        value, half = y(row)
        bad = row["status"] != "ok" if hollow == "status" else math.isnan(row[hollow])
        ends = (math.nan, math.nan) if bad else (value - half, value + half)
        kept.append({"x": row[x], "y": value, "y_low": ends[0], "y_high": ends[1], "bad": bad})
    kept = finite(kept, "y")
    if not kept:
        return []
    known = finite(({"x": row[x], "y": exact(row)} for row in rows) if exact else (), "y")
    line = [Line.of(entry, known, "x", "y", marked=False)] if joined and known else []
    points = {"bars": True, "joined": joined and not known, "hollow": column_of(kept, "bad")}
    return [*line, Line.of(entry, kept, "x", "y", ends=True, scale=shift, **points)]


def rows_of(data: Data, pairs: Sequence[str], batch: int, name: str) -> Rows:
    """Return the rows of an estimator on pairs that have a KL above 0."""
    found = (data.at(pair, batch).get(name) for pair in pairs)
    return [row for row in found if row and row["kl"] > 0]


def over_kl(kls: Sequence[float]) -> Axis:
    """Return the axis of exact KL."""
    return Axis(KL_LABEL, place=partial(kl_axis, kls=kls))
