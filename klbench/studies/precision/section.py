"""The section of the precision study: what rounding does to each formula, near r = 1 and far from it."""

from __future__ import annotations

from collections.abc import Sequence

from klbench.report import terms
from klbench.report.blocks import Block, Details, Section, Tables
from klbench.schema import Schema
from klbench.studies.precision import section_answer, section_figures
from klbench.studies.precision.section_data import load


def answer(tables: Tables) -> Sequence[Block]:
    """What the top of the page says."""
    return section_answer.answer(load(tables))


def build(tables: Tables) -> Sequence[Block]:
    """The first estimator's figures, the others' folded away, and the table."""
    data = load(tables)
    if not data.estimators:
        return []
    first, *others = data.estimators
    return [
        *section_figures.figures(data, first),
        *(Details(f"The same for {name}", section_figures.figures(data, name)) for name in others),
        section_answer.table(data),
    ]


TERMS = (
    terms.DISTRIBUTIONS,
    terms.RATIO,
    ("k3", "(r − 1) − log r, Schulman's third estimator of KL(q‖p): positive unless q(x) = p(x)."),
    terms.BREGMAN,
    terms.DTYPES,
    (
        "relative error",
        (
            "The distance of the computed value from the exact one, divided by the exact one; the exact one is computed with "
            "60 digits from the rounded log-ratio, so that the input's own rounding does not count. At 1 (100 %) nothing is "
            "left of the value: a result of 0 has it."
        ),
    ),
    (
        "eps, unit in the last place",
        (
            "The step from 1 to the next number of a format. Correct rounding is off by half of it at most. Errors are "
            "counted in it: relative error / eps."
        ),
    ),
    ("as written", "The formula typed in as it stands in a paper. Near r = 1 it subtracts numbers that are almost equal."),
    ("with expm1", "expm1(log r) − log r: the usual repair of k3, which saves r − 1 but not the second subtraction."),
    ("here", "What klbench computes for the same formula."),
    ("gradient", "The derivative of a value with respect to log r, as automatic differentiation gives it."),
)

SECTION = Section("What rounding does", Schema("precision", "", ()), build, answer, order=50, terms=TERMS)
