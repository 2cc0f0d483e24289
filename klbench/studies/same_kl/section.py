"""The section of the study of shapes: pairs of one KL that differ in everything else."""

from __future__ import annotations

import math
from collections.abc import Sequence

from markupsafe import Markup

from klbench.report import cells, terms
from klbench.report.blocks import (
    Block,
    Cell,
    Figure,
    Lead,
    LegendEntry,
    Panel,
    Paragraph,
    Section,
    Table,
    Tables,
)
from klbench.report.combinations import share
from klbench.report.numbers import number, short
from klbench.report.plots import Axis, Line, legend, lines
from klbench.report.prose import prose
from klbench.report.tables import Row, Shown, select, table
from klbench.rows import Rows, distinct, finite, rising, where
from klbench.studies.same_kl.columns import GRADIENTS, SHAPES

SAY = prose(__package__)
EVEN = LegendEntry("χ² = 2J", 5, "", dashed=True)
BIAS, NOISE = "gradient_rel_bias_", "gradient_rel_std_"
ROUNDING = 1e-8
"""Bias below which a gradient is the exact one."""


def _rows(tables: Tables) -> Rows:
    """Return rows whose place is known; over several runs the shapes of each by themselves."""
    frame = tables[SHAPES.table]
    runs = frame["run"].astype(str) if "run" in frame and frame["run"].nunique() > 1 else None
    rows = SHAPES.rows(
        frame if runs is None else frame.assign(shape=frame["shape"].astype(str) + ", " + runs)
    )
    return [
        row for row in rows if all(math.isfinite(row[key]) for key in ("kl_qp", "chi2", "two_j"))
    ]


def _won(rows: Sequence[Row], winner: str) -> Rows:
    return where(rows, value_winner=winner)


def _split(rows: Sequence[Row]) -> tuple[Row, Row] | None:
    """Return two pairs of one KL with different winners, that of k1 first, those that are
    furthest apart.
    """
    found = [
        (one, other)
        for one in _won(rows, "k1")
        for other in _won(rows, "k3")
        if math.isclose(one["kl_qp"], other["kl_qp"], rel_tol=1e-3)
    ]
    if not found:
        return None

    def gain(pair: tuple[Row, Row]) -> float:
        ratios = (
            pair[0]["value_std_k3"] / pair[0]["value_std_k1"],
            pair[1]["value_std_k1"] / pair[1]["value_std_k3"],
        )
        return min(ratios) if all(map(math.isfinite, ratios)) else 0.0

    return max(found, key=gain)


def _gradient(rows: Sequence[Row], name: str) -> Markup | None:
    """Return how far off a combination's gradient is over all pairs; None where it is exact."""
    known = rising(finite(rows, BIAS + name), BIAS + name)
    if not known or known[-1][BIAS + name] < ROUNDING:
        return None
    return Markup(
        SAY.gradient(
            name,
            *(
                (share(row[BIAS + name]), row["shape"], short(row["kl_qp"], 2))
                for row in (known[0], known[-1])
            ),
        )
    )


def lead(tables: Tables) -> Lead:
    """Return who is less noisy where, and what decides it."""
    rows = _rows(tables)
    if not rows:
        return Lead(SAY.question(), SAY.nothing(), None)
    as_predicted = sum(row["value_winner"] == row["predicted"] for row in rows)
    numbers = [
        (row["shape"], *(number(row[f"value_std_{name}"], 2) for name in ("k1", "k3")))
        for row in _split(rows) or ()
    ]
    kls = [short(row["kl_qp"], 2) for row in (_split(rows) or ())[:1]]
    more = [SAY.rule(), *filter(None, (_gradient(rows, name) for name in GRADIENTS))]
    return Lead(
        SAY.question(), SAY.verdict(kls, numbers, as_predicted, len(rows)), _diagram(rows), more
    )


def _panel(rows: Sequence[Row], entries: dict[str, LegendEntry], x: str, y: str) -> Panel:
    """Return points of each shape, filled where k3 won, and the line on which both are equal."""
    low, high = min(row[x] for row in rows) / 1.5, max(row[x] for row in rows) * 1.5
    over_kl = y != "chi2"
    drawn = [Line(EVEN, [low, high], [1.0, 1.0] if over_kl else [low, high], marked=False)]
    for i, (shape, entry) in enumerate(entries.items()):
        aside = 1.0 + 0.06 * (i - (len(entries) - 1) / 2) if over_kl else 1.0
        own = where(rows, shape=shape)
        hollow = [row["value_winner"] == "k1" for row in own]
        drawn.append(
            Line(
                entry,
                [aside * row[x] for row in own],
                [row[y] for row in own],
                joined=False,
                hollow=hollow,
            )
        )
    axes = (Axis(SAY.axis(name), scale="log") for name in (x, y))
    return lines(SAY.panel(y), drawn, *axes, detail=SAY.detail(y), left=0.19)


def _diagram(rows: Sequence[Row]) -> Figure | None:
    drawn = [row for row in rows if row["chi2"] > 0 and row["two_j"] > 0 and row["kl_qp"] > 0]
    if not drawn:
        return None
    shapes = distinct(drawn, "shape")
    entries = legend(shapes)
    panels = [_panel(drawn, entries, x, y) for x, y in (("two_j", "chi2"), ("kl_qp", "x_over_2j"))]
    left_out = len(shapes) - len(entries)
    return Figure("shapes", SAY.title(), SAY.caption(left_out), panels, [EVEN, *entries.values()])


def _off(row: Row, name: str) -> Cell:
    return Cell(share(row[name]), row[name])


def _table(rows: Sequence[Row]) -> Table:
    shown = (
        *select("shape:text"),
        *(
            Shown(name, cells.short())
            for name in ("kl_qp", "kl_pq", "x_over_2j", "value_std_k1", "value_std_k3")
        ),
        *select("value_winner:name"),
        *(
            Shown(BIAS + name, _off, SAY.off(name))
            for name in GRADIENTS
            if any(row[BIAS + name] >= ROUNDING for row in rows)
        ),
        *(Shown(NOISE + name, cells.number(2), SAY.noise(name)) for name in GRADIENTS),
    )
    return table(SAY.table_title(), SHAPES, rows, shown)


def build(tables: Tables) -> Sequence[Block]:
    """Return the shapes in words, and the table."""
    rows = _rows(tables)
    plain = list(dict.fromkeys(row["shape"].partition(", ")[0] for row in rows))
    return [Paragraph(SAY.shapes(plain)), _table(rows)] if rows else []


TERMS = ("q_p", "r", "schulman", "chi2_same_kl", "jeffreys", *terms.GRADIENTS)

SECTION = Section("One KL, other shapes", SHAPES, build, lead=lead, order=30, terms=TERMS)
