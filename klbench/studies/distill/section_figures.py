"""Figures of the distillation study.

The bias of each objective against k, and of those that know no k.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from klbench.report.blocks import Figure, LegendEntry, Panel, Text
from klbench.report.combinations import share
from klbench.report.panels import Bar, bars
from klbench.report.plots import Axis, Line, Mark, down, legend, lines
from klbench.report.prose import prose
from klbench.report.tables import Row
from klbench.studies.distill.columns import NOWHERE
from klbench.studies.distill.section_data import OWNERS, Distilled, known, truncated

SAY = prose(__package__)
MAX_PAIRS = 3
MOST = 8


def figures(run: Distilled) -> Iterator[Figure]:
    """Yield the figures of a run.

    Of the teacher's support, of the student's, and of objectives without any.
    """
    yield from _curves(run)
    yield from _without_support(run)
    if run.final:
        yield reached(run.final, run.stem)
        yield masses(run.final, run.stem)


def _curves(run: Distilled) -> Iterator[Figure]:
    for owner in OWNERS:
        rows = {
            pair: [row for row in rows if truncated(row) and row["support"] == owner and known(row)]
            for pair, rows in run.pairs.items()
        }
        names = list(dict.fromkeys(row["objective"] for own in rows.values() for row in own))
        entries = legend(names[:MOST])
        panels = []
        for pair, own in list(rows.items())[:MAX_PAIRS]:
            drawn = []
            for name, entry in entries.items():
                points = sorted(
                    (row["k"], 100 * row["rel_bias"]) for row in own if row["objective"] == name
                )
                if points:
                    drawn.append(Line(entry, [x for x, _ in points], [y for _, y in points]))
            if drawn:
                panels.append(
                    lines(
                        pair,
                        drawn,
                        Axis(SAY.k_axis(), scale="log"),
                        Axis(SAY.bias_axis(), levels=(0.0,)),
                    )
                )
        if panels:
            yield Figure(
                f"distill-{owner}{run.stem}",
                SAY.curve_title(owner),
                SAY.curve_caption(len(names[MOST:]), len(list(rows)[MAX_PAIRS:])),
                panels,
                list(entries.values()),
            )


ENTRY = LegendEntry("off by", 0, "s")


def _without_support(run: Distilled) -> Iterator[Figure]:
    panels: list[Panel] = []
    for pair, rows in list(run.pairs.items())[:MAX_PAIRS]:
        drawn = [
            Bar(row["objective"], 100 * row["rel_bias"], ENTRY, share(row["rel_bias"]))
            for row in rows
            if not truncated(row) and known(row)
        ]
        if drawn:
            panels.append(bars(pair, drawn, Axis(SAY.bias_axis()), most=200.0))
    if panels:
        yield Figure(
            f"distill-whole{run.stem}", SAY.bars_title(), SAY.bars_caption(), panels, [ENTRY]
        )


AFTER = LegendEntry("after training", 0, "o")
AT_REST = LegendEntry("a free student at rest", 1, "D")
THEIRS = LegendEntry("the teacher", 2, "s")
SHIFT = 0.17
LEAST = 1e-3
"""KLs below this, in nats, are drawn there: a logarithmic axis has no 0."""


def reached(final: Sequence[Row], stem: str, title: Text = "", caption: Text = "") -> Figure:
    """Return where each arm ends, with intervals, and where a free student rests."""
    marks = []
    for row in final:
        low, high = max(row["kl_low"], LEAST), row["kl_high"]
        marks.append(Mark(row["arm"], max(row["kl"], LEAST), AFTER, low, high, offset=-SHIFT))
        if math.isfinite(row["rest_kl"]):
            at, wanders = max(row["rest_kl"], LEAST), row["rests"] == NOWHERE
            marks.append(Mark(row["arm"], at, AT_REST, hollow=wanders, offset=SHIFT))
    panel = down(SAY.kl_axis(), marks, Axis(SAY.kl_axis(), scale="log"))
    return Figure(
        f"distill-reached{stem}",
        title or SAY.reached_title(),
        caption or SAY.reached_caption(),
        [panel],
        [AFTER, AT_REST] if any(mark.entry is AT_REST for mark in marks) else [AFTER],
    )


def masses(final: Sequence[Row], stem: str) -> Figure:
    """Return the student's mass on its support after training and at rest, beside the teacher's."""
    marks = []
    for row in final:
        marks += [
            Mark(row["arm"], 100 * row["teacher_mass"], THEIRS, offset=-SHIFT),
            Mark(row["arm"], 100 * row["mass"], AFTER),
        ]
        if math.isfinite(row["rest_mass"]):
            wanders = row["rests"] == NOWHERE
            at = 100 * row["rest_mass"]
            marks.append(Mark(row["arm"], at, AT_REST, hollow=wanders, offset=SHIFT))
    panel = down(SAY.mass_axis(), marks, Axis(SAY.mass_axis()))
    return Figure(
        f"distill-mass{stem}",
        SAY.mass_title(),
        SAY.mass_caption(),
        [panel],
        [THEIRS, AFTER, AT_REST]
        if any(mark.entry is AT_REST for mark in marks)
        else [THEIRS, AFTER],
    )
