"""The section of audits: a function beside what it is meant to be, or those of libraries."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from typing import Any

from klbench.report import cells, plots
from klbench.report.blocks import (
    Block,
    Cell,
    Figure,
    Heading,
    Lead,
    LegendEntry,
    Paragraph,
    Section,
    Tables,
    Text,
)
from klbench.report.prose import prose
from klbench.report.tables import Row, Shown, select, table
from klbench.rows import distinct, where
from klbench.studies.audit.columns import (
    AUDIT,
    FINDINGS,
    FROM_FILE,
    REFUSED,
    RIGHT,
    VALUES,
    WARNED,
    WRONG,
)

SAY = prose(__package__)
MOST_ENTRIES = 6
"""Entries of a list of evidence that are shown; the table has all."""
TONES = {RIGHT: "good", WARNED: "mixed", WRONG: "bad", REFUSED: ""}
LEGEND = {
    RIGHT: LegendEntry(RIGHT, 2, "s"),
    WARNED: LegendEntry(WARNED, 4, "s"),
    WRONG: LegendEntry(WRONG, 1, "s"),
    REFUSED: LegendEntry(REFUSED, 7, "s"),
}
MINE, RIGHT_ONE = LegendEntry("the function", 1, "o"), LegendEntry("the right one", 0, "s")


def _of(rows: Sequence[Row], target: str) -> list[Row]:
    return where(rows, target=target)


def lead(tables: Tables) -> Lead:
    """Return whether the function is right, with its curve, or how many of several are."""
    rows, findings = AUDIT.rows(tables[AUDIT.table]), FINDINGS.rows(tables[FINDINGS.table])
    if len(rows) == 1:
        (row,) = rows
        worst = _of(findings, row["target"])[:1]
        verdict = SAY.verdict(row, worst[0] if worst else None)
        return Lead(str(SAY.question(row)), verdict, _curve(row, tables), [*_more(row)])
    counts = {each: sum(row["verdict"] == each for row in rows) for each in TONES}
    errors = where(findings, severity="error")
    kinds = {
        each["kind"]: len({one["target"] for one in errors if one["kind"] == each["kind"]})
        for each in errors
    }
    most = sorted(kinds.items(), key=lambda each: -each[1])[:3]
    libraries = list(dict.fromkeys(row["library"] for row in rows if row["library"]))
    verdict = SAY.verdicts(len(rows), len(libraries), counts, most)
    return Lead(str(SAY.questions()), verdict, _shares(rows), [SAY.taken(_count(rows, FROM_FILE))])


def _count(rows: Sequence[Row], taken: str) -> int:
    return sum(row["taken"] == taken for row in rows)


def _more(row: Row) -> Iterator[Text]:
    if row["taken"] == FROM_FILE:
        yield SAY.taken(1)
    if row["matches"]:
        yield SAY.gradient(row)


def _curve(row: Row, tables: Tables) -> Figure | None:
    points = [each for each in VALUES.rows(tables[VALUES.table]) if math.isfinite(each["value"])]
    if not points:
        return None
    x = [each["log_ratio"] for each in points]
    drawn = [
        plots.Line(
            LegendEntry(points[0]["right_name"], 0, "s"), x, [each["right"] for each in points]
        ),
        plots.Line(MINE, x, [each["value"] for each in points]),
    ]
    panel = plots.lines(
        "",
        drawn,
        plots.Axis("log-ratio log p − log q, in nats"),
        plots.Axis("value of a token", "symlog", threshold=0.1),
    )
    return Figure(
        "audit",
        SAY.figure_title(),
        SAY.caption(row, points[0]),
        [panel],
        [each.entry for each in drawn],
    )


def _shares(rows: Sequence[Row]) -> Figure:
    counts = {
        library: [
            (entry, sum((row["library"], row["verdict"]) == (library, verdict) for row in rows))
            for verdict, entry in LEGEND.items()
        ]
        for library in distinct(rows, "library")
    }
    used = [
        entry
        for k, entry in enumerate(LEGEND.values())
        if any(parts[k][1] for parts in counts.values())
    ]
    panel = plots.shares("", counts, plots.Axis("functions and their options"), left=0.3)
    return Figure("audit", SAY.shares_title(), SAY.shares_caption(), [panel], used)


def _verdict(row: Row) -> Cell:
    return Cell(row["verdict"], tone=TONES[row["verdict"]])


def _times(row: Row) -> Cell:
    one = not row["identified"] or row["scale"] == 1.0
    return Cell("", math.nan) if one else cells.short(4)(row, "scale")


def _identified(row: Row) -> Cell:
    return cells.name(row, "identified") if row["identified"] else Cell("")


def _evidence(row: Row) -> Cell:
    return Cell(_in_words(json.loads(row["evidence"])), tone="words")


def _in_words(value: Any) -> str:
    """Return evidence with four digits a number, and the first of many entries."""
    if isinstance(value, dict):
        return "; ".join(
            f"{key.replace('_', ' ')}: {_in_words(each)}" for key, each in value.items()
        )
    if isinstance(value, list):
        more = ", …" if len(value) > MOST_ENTRIES else ""
        return f"[{', '.join(map(_in_words, value[:MOST_ENTRIES]))}{more}]"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _told(shown: Sequence[Shown], rows: Sequence[Row]) -> tuple[Shown, ...]:
    """Return the columns that say something in some row."""
    return tuple(
        each
        for each in shown
        if each.show is None or any(each.show(row, each.name).text for row in rows)
    )


FUNCTIONS = (
    *select(
        "function:name options:words verdict identified scale divergence:text matches:text",
        verdict=cells.computed(_verdict),
        identified=cells.computed(_identified),
        scale=cells.computed(_times),
    ),
    Shown("rel_bias_near", cells.percent, "Bias at 0.05"),
    Shown("rel_bias_far", cells.percent, "Bias at 2"),
    *select("reduction:words errors:whole warnings:whole taken"),
)
SEEN = select("severity:text kind:text message:words line:whole")


def build(tables: Tables) -> Sequence[Block]:
    """Return what each function is and what was found; of several, library by library."""
    rows, findings = AUDIT.rows(tables[AUDIT.table]), FINDINGS.rows(tables[FINDINGS.table])
    if len(rows) == 1:
        (row,) = rows
        found = table(
            SAY.findings_title(len(findings)),
            FINDINGS,
            findings,
            _told((*SEEN, *select("evidence", evidence=cells.computed(_evidence))), findings),
            stacked=True,
        )
        it = table(SAY.is_title(), AUDIT, rows, _told(FUNCTIONS, rows), stacked=True)
        return [Paragraph(SAY.arguments(row)), it, found]
    blocks: list[Block] = []
    for library in distinct(rows, "library"):
        own = where(rows, library=library)
        version = f" {own[0]['version']}" if own[0]["version"] else ""
        blocks += [
            Heading(f"{library}{version}"),
            table(
                SAY.library_title(library, len(own)),
                AUDIT,
                own,
                _told(FUNCTIONS, own),
                stacked=True,
            ),
        ]
        targets = {row["target"]: f"{row['function']} {row['options']}" for row in own}
        said = [
            each | {"target": targets[each["target"]]}
            for each in findings
            if each["target"] in targets and each["severity"] != "note"
        ]
        if said:
            shown = (*select("target:words"), *SEEN)
            blocks.append(
                table(SAY.findings_of(library, len(said)), FINDINGS, said, shown, stacked=True)
            )
        refused = where(own, verdict=REFUSED)
        if refused:
            blocks.append(Paragraph(SAY.refused(refused), "note"))
    return blocks


TERMS = ("q_p", "r", "schulman", "both_kl", "enumerated", "levels")

SECTION = Section("What was found", AUDIT, build, lead=lead, order=20, terms=TERMS)
