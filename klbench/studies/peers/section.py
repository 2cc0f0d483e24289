"""The section of the comparison with other libraries.

Errors, gradients and time of the same functions.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from markupsafe import Markup
from matplotlib.axes import Axes

from klbench.report import cells, plots
from klbench.report.axes import log_ticks
from klbench.report.blocks import (
    Block,
    Cell,
    Column,
    Figure,
    Lead,
    Paragraph,
    Section,
    Table,
    Tables,
    Text,
)
from klbench.report.numbers import MISSING, number, percent
from klbench.report.prose import prose
from klbench.report.runs import RunTables
from klbench.report.tables import Row, head
from klbench.rows import Rows, column_of, distinct, where
from klbench.studies.peers.columns import HERE, LOST, PEERS, SPEED, VERDICTS

SAY = prose(__package__)
REGIMES = ("near", "usual", "far")
FLOOR = 1e-9
"""Errors below this, 0 among them, are drawn there."""


def _measured(tables: Tables) -> Rows:
    return where(RunTables("", tables).rows(PEERS), status="ok")


def lead(tables: Tables) -> Lead:
    """Return what is furthest off near the reference, in the first dtype, and what breaks at the
    far end.
    """
    rows = _measured(tables)
    if not rows:
        return Lead(SAY.question(), SAY.nothing(), None)
    dtype = rows[0]["dtype"]
    rows = where(rows, dtype=dtype)
    judged = where(RunTables("", tables).rows(VERDICTS), dtype=dtype)
    first = next(iter(where(judged, place=1)), None)
    if first and first["lost"]:
        verdict = SAY.verdict(first, first["lost_by"].split(", "))
    else:
        verdict = SAY.all_right(dtype, max(column_of(judged, "worst_error"), default=math.nan))
    return Lead(SAY.question(), verdict, _figure(rows, dtype), list(_more(rows)))


def _more(rows: Sequence[Row]) -> Iterator[Text]:
    for regime in ("extreme", "masked"):
        found = [row for row in where(rows, regime=regime) if row["library"] != HERE]
        for column, what in (("frac_wrong", SAY.wrong()), ("n_nan_gradient", SAY.lost())):
            hit = [row for row in found if row[column] > 0]
            if hit:
                yield SAY.last(regime, what, hit)
                break
    yield SAY.how(
        [
            f"{library} {version}"
            for library, version in dict.fromkeys((r["library"], r["version"]) for r in rows)
        ]
    )


def _figure(rows: Sequence[Row], dtype: str) -> Figure | None:
    """Return a panel for each subject that not all libraries compute alike."""
    drawn = [row for row in rows if row["regime"] in REGIMES]
    worst = {row["subject"]: 0.0 for row in drawn}
    for row in drawn:
        worst[row["subject"]] = max(worst[row["subject"]], row["median_rel_error"])
    drawn = [row for row in drawn if worst[row["subject"]] > 1e-3]
    if not drawn:
        return None
    legend = plots.legend(distinct(drawn, "library"))
    top = max(10.0, 3.0 * max(column_of(drawn, "median_rel_error")))

    def error_axis(axes: Axes) -> None:
        axes.set_yscale("log")
        axes.set_ylim(FLOOR / 2, top)
        log_ticks(axes.yaxis, FLOOR / 2, top)

    def regime_axis(axes: Axes) -> None:
        axes.set_xticks(range(len(REGIMES)), REGIMES)
        axes.set_xlim(-0.2, len(REGIMES) - 0.8)

    x = plots.Axis("distance of policy and reference", place=regime_axis)
    y = plots.Axis("median relative error", levels=(1.0,), place=error_axis)
    panels = []
    for subject in distinct(drawn, "subject"):
        lines = []
        for library, entry in legend.items():
            of = {
                row["regime"]: row["median_rel_error"]
                for row in drawn
                if (row["subject"], row["library"]) == (subject, library)
            }
            if of:
                known = [(k, max(of[each], FLOOR)) for k, each in enumerate(REGIMES) if each in of]
                lines.append(
                    plots.Line(entry, [k for k, _ in known], [error for _, error in known])
                )
        panels.append(plots.lines(subject, lines, x, y, left=0.17))
    return Figure("peers", SAY.figure_title(dtype), SAY.caption(), panels, list(legend.values()))


def build(tables: Tables) -> Sequence[Block]:
    """Return what was not compared, and a table for each thing that is computed.

    Accuracy and time side by side.
    """
    rows, speed = _measured(tables), RunTables("", tables).rows(SPEED)
    subjects = distinct(rows, "subject")
    return [
        *_skipped(tables),
        *(_table(name, where(rows, subject=name), speed) for name in subjects),
    ]


def _skipped(tables: Tables) -> list[Block]:
    reasons: dict[str, list[str]] = {}
    for row in RunTables("", tables).rows(PEERS):
        if row["status"] != "ok":
            reasons.setdefault(row["status"].removeprefix("skipped: "), []).append(row["name"])
    if not reasons:
        return []
    return [
        Paragraph(
            SAY.skipped(reasons, any("not installed" in reason for reason in reasons)), "warning"
        )
    ]


def _table(subject: str, rows: Sequence[Row], speed: Sequence[Row]) -> Table:
    regimes = distinct(rows, "regime")
    last = regimes[-1]
    columns = [
        Column("Whose", "library and function"),
        head(PEERS, "dtype"),
    ]
    columns += [
        Column(f"Value, {each}", f"worst relative error of the value; {SAY.regime(each)}", True)
        for each in regimes
    ]
    columns += [
        Column("Gradient, near", PEERS["max_gradient_rel_error"].meaning, True),
        Column(f"Zero, {last}", PEERS["frac_flat"].meaning, True),
        Column("NaN", f"{PEERS['n_nan_gradient'].meaning}, {last}", True),
        Column("Forward", "time over klbench's: median of the rounds, and quartiles", True),
        Column("Both", "the same, forward and backward", True),
        Column(
            "Same as",
            "klbench's estimator of these numbers; in float64 they differ by at most this, over 1 +"
            " |value|",
        ),
    ]
    timed = {
        tuple(row[key] for key in ("subject", "library", "name", "dtype", "pass")): row
        for row in speed
    }
    lines = []
    for key in dict.fromkeys((row["library"], row["name"], row["dtype"]) for row in rows):
        by = {
            row["regime"]: row for row in rows if (row["library"], row["name"], row["dtype"]) == key
        }
        twin = next(iter(by.values()))
        same = f"{twin['twin']} ({number(twin['twin_difference'], 2)})" if twin["twin"] else ""
        lines.append(
            [
                Cell(Markup("{} {}").format(key[0], cells.code(key[1]))),
                Cell(key[2]),
                *(
                    _error(by[each]["max_rel_error"] if each in by else math.nan)
                    for each in regimes
                ),
                _error(by["near"]["max_gradient_rel_error"] if "near" in by else math.nan),
                _share(by[last]["frac_flat"] if last in by else math.nan),
                _elements(by[last]["n_nan_gradient"] if last in by else math.nan),
                *(
                    _time(timed.get((subject, *key, each)))
                    for each in ("forward", "forward and backward")
                ),
                Cell(cells.code(same) if same else ""),
            ]
        )
    return Table(SAY.table_title(subject, len(lines)), columns, lines)


def _error(value: float) -> Cell:
    return Cell(number(value, 2), value, "bad" if value >= LOST else "good" if value < 1e-5 else "")


def _share(value: float) -> Cell:
    return Cell("0 %" if value == 0 else percent(value), value, "bad" if value > LOST else "")


def _elements(value: float) -> Cell:
    """Show a number of elements; one below 0 stands for a function without a gradient."""
    return (
        Cell(f"{value:,.0f}", value, "bad" if value > 0 else "")
        if value >= 0
        else Cell(MISSING, math.nan)
    )


def _time(row: Row | None) -> Cell:
    if row is None:
        return Cell(MISSING, math.nan)
    low, high = number(row["ratio_q25"], 2), number(row["ratio_q75"], 2)
    return Cell(f"{number(row['ratio'], 2)} ({low} to {high})", row["ratio"])


TERMS = ("r", "schulman", "regimes", "jensen_shannon", "dtypes")

SECTION = Section("Beside other libraries", PEERS, build, lead=lead, order=55, terms=TERMS)
