"""The section of the distillation study: what each objective is off by, and by which support."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from klbench.report import cells
from klbench.report.blocks import Block, Cell, Details, Heading, Lead, Paragraph, Section, Tables
from klbench.report.combinations import amount, share
from klbench.report.numbers import number
from klbench.report.prose import prose
from klbench.report.tables import Row, Shown, select, table
from klbench.studies.distill import section_figures
from klbench.studies.distill.columns import AT, DISTILL, FINAL
from klbench.studies.distill.section_data import OWNERS, Distilled, known, load, truncated

SAY = prose(__package__)


def lead(tables: Tables) -> Lead:
    """Return the nearest and the farthest objective at one k of the first pair, and the curves
    of all.
    """
    runs = load(tables)
    if not runs:
        return Lead(SAY.question(), SAY.nothing(), None)
    pair, rows = next(iter(runs[0].pairs.items()))
    figure = next(section_figures.figures(runs[0]), None)
    exact = [
        name
        for name in dict.fromkeys(row["objective"] for row in rows if truncated(row))
        if all(row["unbiased"] for row in rows if row["objective"] == name)
    ]
    more = [SAY.exact(exact)] if exact else []
    return Lead(SAY.question(), _verdict(pair, rows), figure, more + _trained(runs[0]))


def _trained(run: Distilled) -> list[str]:
    """Return which students come nearest, which rest beside the teacher, and which lose the most
    mass at rest.
    """
    said = []
    if run.final and math.isfinite(run.final[0]["kl"]):
        said.append(SAY.nearest(run.final[0], run.final[-1]))
    lost = [row for row in run.final if row["rest_mass_lost_low"] > 0.0]
    if lost:
        said.append(SAY.lost(max(lost, key=lambda row: float(row["rest_mass_lost"]))))
    return said


def _verdict(pair: str, rows: Sequence[Row]) -> str:
    measured = [row for row in rows if known(row)]
    if not measured:
        return str(SAY.nothing())
    kept = [row for row in measured if truncated(row)]
    owner, k = "", 0
    if kept:
        owner = next(owner for owner in OWNERS if any(row["support"] == owner for row in kept))
        ks = sorted({int(row["k"]) for row in kept})
        k = ks[len(ks) // 2]
        measured = [row for row in kept if row["support"] == owner and row["k"] == k]
    ordered = sorted(measured, key=lambda row: float(row["rel_bias"]))
    first, last = ordered[0], ordered[-1]
    said: str = SAY.verdict(
        pair,
        owner,
        k,
        first["objective"],
        share(first["rel_bias"]),
        last["objective"] if last is not first else "",
        share(last["rel_bias"]),
        number(last["value"], 2) if last["value"] < 0 else "",
    )
    return said


def build(tables: Tables) -> Sequence[Block]:
    """Return the figures of each run but the one that leads, and the table of each pair."""
    return [block for i, run in enumerate(load(tables)) for block in _run(run, int(i == 0))]


def _run(run: Distilled, shown: int) -> Iterator[Block]:
    if run.label:
        yield Heading(run.label)
    yield Paragraph(SAY.why())
    yield from list(section_figures.figures(run))[shown:]
    for pair, rows in run.pairs.items():
        yield Details(SAY.numbers(pair), [table(SAY.numbers(pair), DISTILL, rows, SHOWN)])
    if run.final:
        yield table(SAY.final_title(), FINAL, run.final, TRAINED)


def _bias(row: Row, name: str) -> Cell:
    return Cell("0" if row["unbiased"] else share(row[name]), float(row[name]))


def _rest(row: Row, name: str) -> Cell:
    return Cell("0" if row["rests"] == AT else number(row[name]), float(row[name]))


def _status(row: Row, name: str) -> Cell:
    return Cell("" if row[name] == "ok" else row[name])


SHOWN = select(
    "objective:name support:text k:whole mass:percent teacher_mass:percent "
    "truth:number value:number negative:percent rel_bias rel_std "
    "bytes_per_token:whole status",
    rel_bias=_bias,
    rel_std=lambda row, name: Cell(amount(row[name]), float(row[name])),
    status=_status,
)

TRAINED = (
    *select(
        "arm:name prefixes:text kl:interval difference:interval kl_pq:interval "
        "mass_lost:percent_interval outcome:text rest_kl",
        rest_kl=_rest,
    ),
    Shown("rest_mass_lost", cells.percent_interval, SAY.lost_at_rest()),
    *select("rests:text"),
)

TERMS = ("q_p", "distillation", "score", "semi_gradient", "gradient_bias", "gradient_noise")

SECTION = Section("What distillation learns", DISTILL, build, lead=lead, order=30, terms=TERMS)
