"""The section of the doctor's study.

The cause, how far columns differ, what must hold, and what to do.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from matplotlib.axes import Axes

from klbench.report import plots
from klbench.report.blocks import (
    Block,
    Bullets,
    Figure,
    Heading,
    Lead,
    LegendEntry,
    Panel,
    Paragraph,
    Section,
    Tables,
)
from klbench.report.prose import prose
from klbench.report.tables import Row, Schema, select, table
from klbench.report.tables import tables as tables_of
from klbench.rows import Rows, column_of, columns_of, finite, where
from klbench.studies.doctor.columns import (
    CAUSES,
    DIAGNOSIS,
    DIFFERENCES,
    LINES,
    MASKS,
    MUST_HOLD,
    SAID,
    STEPS,
)

SAY = prose(__package__)
MEDIAN = LegendEntry("median, and eight in ten", 0, "o")
LEVEL = LegendEntry("value with two standard errors", 0, "o")


def rows(tables: Tables, schema: Schema) -> Rows:
    """Return the rows of a table; none where the run has none."""
    return schema.rows(tables[schema.table]) if schema.table in tables else []


def sentences(tables: Tables, kind: str) -> list[str]:
    """Return the sentences of a kind."""
    return [str(row["sentence"]) for row in rows(tables, SAID) if row["kind"] == kind]


def _panel(title: str, found: Sequence[Row]) -> Panel:
    x, y, low, high = columns_of(found, "log_prob", "middle", "low", "high")
    line = plots.Line(MEDIAN, x, y, low, high)
    across, up = plots.Axis(SAY.x_axis()), plots.Axis(SAY.y_axis(), levels=(0.0,))
    return plots.lines(title, [line], across, up, left=0.24)


def _differences(tables: Tables) -> Figure | None:
    found = rows(tables, DIFFERENCES)
    panels = [
        _panel(str(title), chosen)
        for name, title in (
            ("sampler", SAY.sampler_title()),
            ("reference", SAY.reference_title()),
        )
        if (chosen := where(found, ratio=name))
    ]
    if not panels:
        return None
    both = any(row["ratio"] == "reference" for row in found)
    return Figure("differences", SAY.figure_title(), SAY.caption(both), panels, [MEDIAN])


def lead(tables: Tables) -> Lead:
    """Return the likeliest cause, why it is an alarm, and how far the columns differ."""
    row = rows(tables, DIAGNOSIS)[0]
    more = sentences(tables, "alarm")[:1] + sentences(tables, "advice")[:1]
    return Lead(SAY.question(), SAY.verdict(row), _differences(tables), more)


def _written_out(axes: Axes) -> None:
    """Write each number out: Matplotlib would put what values near 1 share above the panel."""
    axes.ticklabel_format(axis="y", useOffset=False)


def _steps(tables: Tables) -> Iterator[Block]:
    found = rows(tables, STEPS)
    names = list(dict.fromkeys(str(row["line"]) for row in found))
    panels = []
    for name in names:
        chosen = finite(where(found, line=name), "value")
        if len(chosen) < 2:
            continue
        line = plots.Line(
            LEVEL,
            column_of(chosen, "step"),
            column_of(chosen, "value"),
            [row["value"] - 2.0 * row["value_se"] for row in chosen],
            [row["value"] + 2.0 * row["value_se"] for row in chosen],
        )
        title = name.replace("_", " ")
        y = plots.Axis(title, place=_written_out)
        panels.append(plots.lines(title, [line], plots.Axis(SAY.step_axis()), y, left=0.24))
    if panels:
        left = [(row["line"].replace("_", " "), row["step"]) for row in found if row["leaves"]]
        yield Figure("steps", SAY.steps(), SAY.steps_caption(left), panels, [LEVEL])


def build(tables: Tables) -> Sequence[Block]:
    """Return what was read, alarms, causes, checks, statistics, and curves over steps."""
    return list(_blocks(tables))


def _blocks(tables: Tables) -> Iterator[Block]:
    yield Paragraph(SAY.read(rows(tables, DIAGNOSIS)[0]))
    for heading, kind in ((SAY.alarms(), "alarm"), (SAY.advice(), "advice")):
        if said := sentences(tables, kind):
            yield Heading(heading)
            yield Bullets(said)
    shown = select("cause:name score:number2 evidence:words")
    yield table(SAY.causes(), CAUSES, rows(tables, CAUSES), shown)
    checks = select("check:name verdict:text value:plain4 message:words")
    yield from tables_of(SAY.checks(), MUST_HOLD, rows(tables, MUST_HOLD), checks)
    yield from _steps(tables)
    yield Paragraph(SAY.direction())
    lines = select("part:text quantity:name value:interval3")
    yield from tables_of(SAY.lines(), LINES, rows(tables, LINES), lines)
    if found := rows(tables, MASKS):
        yield Paragraph(SAY.masks_why())
        yield table(
            SAY.masks(),
            MASKS,
            found,
            select("name:name by:text what:words share:percent weight:percent"),
        )
    failed = {str(row["message"]) for row in rows(tables, MUST_HOLD)}
    if others := [each for each in sentences(tables, "finding") if each not in failed]:
        yield Heading(SAY.findings())
        yield Bullets(others)


SECTION = Section(
    "What the log-probabilities say",
    DIAGNOSIS,
    build,
    lead=lead,
    order=15,
    terms=("q_p", "r", "schulman", "effective_sample_size", "k_hat", "nat"),
)
