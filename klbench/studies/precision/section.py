"""The section of the precision study.

What rounding does to each formula, near r = 1 and far from it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from klbench.report import cells
from klbench.report.blocks import Block, Cell, Column, Details, Lead, Section, Table, Tables, Text
from klbench.report.numbers import number, percent
from klbench.report.prose import prose
from klbench.report.tables import head
from klbench.studies.precision.columns import LOST, PRECISION
from klbench.studies.precision.section_data import HERE, Curve, Data, decades, load
from klbench.studies.precision.section_figures import figure

SAY = prose(__package__)
CARE = 16.0
"""Units in the last place beyond which a formula of klbench is marked as one to be careful with."""
TYPICAL = -4
"""The decade of log-ratios just below a thousandth: of a policy that has hardly moved."""


def lead(tables: Tables) -> Lead:
    """Return how far down the first estimator can be trusted, as written and as computed here,
    in the coarsest dtype.
    """
    data = load(tables)
    if not data.curves:
        return Lead(SAY.question(), SAY.nothing(), None)
    first = data.estimators[0]
    written = max(_written(data, first), key=lambda each: each.eps)
    here = data.of(estimator=first, dtype=written.dtype, variant=HERE)
    verdict = SAY.verdict(written, here[0] if here else None, LOST)
    return Lead(SAY.question(), verdict, figure(data, first), list(_more(data, first)))


def _written(data: Data, estimator: str) -> list[Curve]:
    return [each for each in data.of(estimator=estimator) if each.variant != HERE] or data.of(
        estimator=estimator
    )


def _more(data: Data, first: str) -> Iterator[Text]:
    written = [
        each for each in _written(data, first) if each.variant == _written(data, first)[0].variant
    ]
    found = [(each.dtype, each.at(TYPICAL)) for each in written]
    known = [(dtype, at[0]) for dtype, at in found if at is not None]
    if known:
        yield SAY.typical(known)
    below = max(written, key=lambda each: max(each.negative))
    if max(below.negative) > 0:
        yield SAY.negative(below, max(below.negative))
    if computed := data.of(variant=HERE):
        slope = max(computed, key=lambda each: max(each.gradient) / each.eps)
        yield SAY.worst_here(max(computed, key=lambda each: each.ulp), slope)


def build(tables: Tables) -> Sequence[Block]:
    """Return the first estimator's gradient, the other estimators folded away, and the table."""
    data = load(tables)
    if not data.estimators:
        return []
    first, *others = data.estimators
    folded = [
        Details(SAY.same_for(name), [figure(data, name), figure(data, name, gradient=True)])
        for name in others
    ]
    return [figure(data, first, gradient=True), *folded, _table(data)]


def _table(data: Data) -> Table:
    """Return a row for each formula and dtype, with the worst of its decades."""
    columns = [
        *(head(PRECISION, name) for name in ("estimator", "variant", "dtype")),
        Column(
            "Worst, units",
            "worst error of the value, in units of the last place (relative error / eps)",
            numeric=True,
        ),
        Column(
            "Worst relative",
            "the same, as a fraction of the exact value; 1: nothing of it is left",
            numeric=True,
        ),
        Column("At |log r|", "decade in which it is worst"),
        Column(
            f"Off by {percent(LOST)}",
            "|log r| for which the worst error of the value is this large or larger",
        ),
        Column(
            "Gradient relative",
            "worst error of the gradient, as a fraction of the exact one",
            numeric=True,
        ),
        Column(f"Gradient off by {percent(LOST)}", "the same of the gradient"),
        Column(
            "Negative",
            "largest share of negative values in a decade and sign; the exact ones are positive",
            True,
        ),
    ]
    return Table(SAY.table_title(), columns, [_cells(each) for each in data.curves])


def _cells(curve: Curve) -> list[Cell]:
    worst = decades(curve.worst_decade, curve.worst_decade + 1).removeprefix("from ")
    negative = max(curve.negative)
    return [
        Cell(cells.code(curve.estimator)),
        Cell(curve.variant),
        Cell(curve.dtype),
        Cell(number(curve.ulp), curve.ulp, "good" if curve.ulp <= CARE else "bad"),
        Cell(number(max(curve.error)), max(curve.error)),
        Cell(worst, float(curve.worst_decade)),
        Cell(curve.where_lost() or "nowhere", curve.start),
        Cell(number(max(curve.gradient)), max(curve.gradient)),
        Cell(curve.where_lost(gradient=True) or "nowhere"),
        Cell("0 %" if negative == 0 else percent(negative), negative, "bad" if negative else ""),
    ]


TERMS = (
    "q_p",
    "r",
    "k3",
    "bregman",
    "dtypes",
    "relative_error",
    "eps",
    "as_written",
    "with_expm1",
    "here",
    "gradient",
)

SECTION = Section("What rounding does", PRECISION, build, lead=lead, order=50, terms=TERMS)
