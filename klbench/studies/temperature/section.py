"""The section of the temperature study: what is called the KL, side by side."""

from __future__ import annotations

from collections.abc import Sequence

from klbench.report import numbers
from klbench.report.blocks import Block, Cell, Figure, Heading, Lead, Paragraph, Section, Tables
from klbench.report.plots import Axis, Line, legend, lines
from klbench.report.prose import prose
from klbench.report.runs import RunTables, by_run
from klbench.report.tables import Row, select, table
from klbench.rows import finite, grouped, where
from klbench.studies.temperature.columns import TEMPERATURE

SAY = prose(__package__)
MAX_PAIRS = 3
DRAWN = {
    "kl_models": "KL(q‖p)",
    "kl_scored": "KL(q_T‖p_T)",
    "mean_mixed": "mean log q/p, samples of q_T",
    "kl_sampler": "KL(q_T‖p)",
}
ENTRIES = legend(list(DRAWN), labels=list(DRAWN.values()))


def lead(tables: Tables) -> Lead:
    """Return the quantities of the first pair where they are farthest apart, and all curves."""
    run = by_run(RunTables, tables, TEMPERATURE)[0]
    rows = where(run.rows(TEMPERATURE), status="ok")
    if not rows:
        return Lead(SAY.question(), SAY.nothing(), None)
    first = where(rows, pair=rows[0]["pair"])
    worst = max(first, key=lambda row: abs(float(row["mean_mixed"] - row["kl_models"])))
    below = [row for row in rows if row["mean_mixed"] + 2.0 * row["mean_mixed_se"] < 0.0]
    more = [SAY.no_kl(below[0])] if below else []
    return Lead(SAY.question(), SAY.verdict(worst), figure(run), [*more, SAY.weights(worst)])


def figure(run: RunTables) -> Figure:
    """Return each quantity against the temperature, a panel for each pair."""
    pairs = grouped(run.rows(TEMPERATURE), "pair")
    panels = [
        lines(
            pair,
            [_line(rows, name) for name in DRAWN],
            Axis(SAY.x_axis()),
            Axis(SAY.y_axis(), levels=(0.0,)),
        )
        for pair, rows in list(pairs.items())[:MAX_PAIRS]
    ]
    left_out = len(list(pairs)[MAX_PAIRS:])
    caption = SAY.figure_caption(left_out)
    return run.figure("temperature", SAY.figure_title(), caption, panels, ENTRIES)


def _line(rows: Sequence[Row], name: str) -> Line:
    known = finite(rows, name)
    value, half = ([float(row[key]) for row in known] for key in (name, f"{name}_se"))
    return Line(
        ENTRIES[name],
        [float(row["temperature"]) for row in known],
        value,
        [x - numbers.Z95 * each for x, each in zip(value, half, strict=True)],
        [x + numbers.Z95 * each for x, each in zip(value, half, strict=True)],
    )


def build(tables: Tables) -> Sequence[Block]:
    """Return the table of each run, and the figures of all but the first, which leads."""
    blocks: list[Block] = [Paragraph(SAY.why())]
    for i, run in enumerate(by_run(RunTables, tables, TEMPERATURE)):
        blocks += [Heading(run.label)] if run.label else []
        blocks += [figure(run)] if i else []
        blocks.append(table(SAY.table_title(), TEMPERATURE, run.rows(TEMPERATURE), SHOWN))
    return blocks


def _with_error(row: Row, name: str) -> Cell:
    return Cell(numbers.exact(row[name], row[f"{name}_se"]), row[name])


SHOWN = select(
    "pair:text temperature:short kl_models kl_scored mean_mixed kl_sampler mean_weight ess:percent"
    " status:text",
    **dict.fromkeys((*DRAWN, "mean_weight"), _with_error),
)

SECTION = Section(
    "Logits divided by a temperature",
    TEMPERATURE,
    build,
    lead=lead,
    order=32,
    terms=("q_p", "temperature", "w"),
)
