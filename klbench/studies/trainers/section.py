"""The section of trainers' options: current releases, and what changed in them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from klbench.report import cells, plots
from klbench.report.blocks import (
    Block,
    Bullets,
    Cell,
    Details,
    Figure,
    Heading,
    Lead,
    Paragraph,
    Section,
    Tables,
    Text,
)
from klbench.report.prose import prose
from klbench.report.tables import Row, Shown, folded, table
from klbench.rows import distinct, grouped, where
from klbench.studies.trainers.columns import (
    CHANGES,
    DEFAULTS,
    LAW,
    LENGTHS,
    NO,
    NOTHING,
    SHOWN,
    TRAINERS,
    YES,
    version_key,
)

SAY = prose(__package__)
MOST = 8
ALIKE = 1e-6
"""Relative difference of two curves that are one."""


def _current(rows: Sequence[Row]) -> list[Row]:
    """Return the rows of each library's newest release."""
    newest = {
        library: max(distinct(where(rows, library=library), "version"), key=version_key)
        for library in distinct(rows, "library")
    }
    return [row for row in rows if row["version"] == newest[row["library"]]]


def lead(tables: Tables) -> Lead:
    """Return whose gradient the current options have, the defaults, and what changed."""
    rows = TRAINERS.rows(tables[TRAINERS.table])
    current = _current(rows)
    gradients = [row for row in current if row["matches"]]
    qp = [row for row in gradients if row["matches"] == "KL(q‖p)"]
    own = [row for row in qp if row["gradient_level"] == "token"]
    other = [row for row in gradients if row["matches"] == "KL(p‖q)"]
    libraries = list(dict.fromkeys(f"{row['library']} {row['version']}" for row in current))
    verdict = SAY.verdict(
        len(gradients),
        libraries,
        len(qp) - len(own),
        len(own),
        len(other),
        len(gradients) - len(qp) - len(other),
    )
    return Lead(str(SAY.question()), verdict, _figure(tables, current), [*_more(tables, current)])


def _more(tables: Tables, current: Sequence[Row]) -> Iterator[Text]:
    rows = TRAINERS.rows(tables[TRAINERS.table])
    newest = {(row["library"], row["version"]) for row in current}
    found = [
        each
        for each in CHANGES.rows(tables[CHANGES.table])
        if (each["library"], each["version"]) in newest
    ]
    if found:
        changed = [each for each in found if each["what"] != NOTHING]
        yield SAY.latest(changed, [each for each in found if each["what"] == NOTHING])
    defaults = [row for row in current if row["default"] == YES]
    if defaults:
        yield SAY.defaults(defaults)
    both = [row for row in rows if row["agrees"]]
    if both:
        apart = [row for row in both if row["agrees"] == NO]
        yield SAY.checked(len(both) - len(apart), len(both), apart)


def _figure(tables: Tables, current: Sequence[Row]) -> Figure | None:
    law = LAW.rows(tables[LAW.table])
    curves: dict[str, list[float]] = {}
    for row in law:
        curves.setdefault(row["combination"], []).append(row["rel_bias"])
    same: dict[str, list[str]] = {}
    for name, values in curves.items():
        if not all(math.isfinite(each) for each in values):
            continue
        first = next((one for one in same if _alike(curves[one], values)), None)
        if first is None:
            same[name] = []
        elif "/" not in name:
            same[first].append(name)
    if not same:
        return None
    entries = plots.legend(list(same)[:MOST])
    drawn = [
        plots.Line(entry, list(LENGTHS), [max(each, ALIKE) for each in curves[name]])
        for name, entry in entries.items()
    ]
    panel = plots.lines(
        "",
        drawn,
        plots.Axis("tokens of a sequence", "log"),
        plots.Axis("relative bias of the gradient", "symlog", threshold=0.01),
    )
    return Figure(
        "trainers",
        SAY.figure_title(),
        SAY.caption(law[0]["kl_token"], same),
        [panel],
        list(entries.values()),
    )


def _alike(a: Sequence[float], b: Sequence[float]) -> bool:
    return all(math.isclose(x, y, rel_tol=1e-3, abs_tol=ALIKE) for x, y in zip(a, b, strict=True))


def _agrees(row: Row) -> Cell:
    return Cell(row["agrees"], tone={YES: "good", NO: "bad"}.get(row["agrees"], ""))


def _options(row: Row) -> Cell:
    return Cell(SAY.options(row["options"], row["default"] == YES), tone="words")


def _matches(row: Row) -> Cell:
    return Cell(SAY.matches(row["matches"], row["gradient_level"]))


FUNCTION = (Shown("function", cells.name), Shown("options", cells.computed(_options)))
COMPUTED = (
    *FUNCTION,
    Shown("identified", cells.name),
    Shown("combination", cells.name),
    Shown("agrees", cells.computed(_agrees)),
    Shown("matches", cells.computed(_matches)),
    Shown("rel_bias_near", cells.percent),
    Shown("rel_bias_far", cells.percent),
    *(Shown(f"rel_bias_{tokens}", cells.percent) for tokens in SHOWN),
)
FOUND = ("clamp", "dead", "nonfinite", "precision", "masking")
LIMITS = (*FUNCTION, *(Shown(name, cells.words) for name in FOUND))


def _matrix(rows: Sequence[Row]) -> Iterator[Block]:
    for (library, version), own in grouped(rows, "library", "version").items():
        yield table(
            SAY.release_title(library, version, len(own)), TRAINERS, own, COMPUTED, stacked=True
        )
        limited = [row for row in own if any(row[name] for name in FOUND)]
        yield from folded(
            SAY.limits_title(library, version, len(limited)), TRAINERS, limited, LIMITS
        )


def build(tables: Tables) -> Sequence[Block]:
    """Return what changed, and the matrix, release by release."""
    rows = TRAINERS.rows(tables[TRAINERS.table])
    found = CHANGES.rows(tables[CHANGES.table])
    blocks: list[Block] = []
    if found:
        found.sort(key=lambda each: (each["library"], version_key(each["version"])))
        blocks += [Heading(SAY.changed_title()), Bullets([SAY.change(each) for each in found])]
    blocks.append(Paragraph(SAY.how()))
    current = _current(rows)
    older = [row for row in rows if row not in current]
    blocks += _matrix(current)
    if older:
        blocks.append(Details(SAY.older_title(), [*_matrix(older)]))
    defaults = DEFAULTS.rows(tables[DEFAULTS.table])
    shown = tuple(Shown(column.name, cells.words) for column in DEFAULTS.columns)
    listed = table(SAY.defaults_title(len(defaults)), DEFAULTS, defaults, shown)
    return [*blocks, Details(SAY.defaults_title(len(defaults)), [listed])]


TERMS = ("q_p", "r", "schulman", "both_kl", "enumerated", "gradient_bias", "clamped")

SECTION = Section("Trainers, release by release", TRAINERS, build, lead=lead, order=21, terms=TERMS)
