"""The section of the precision study: what rounding does to each formula, near r = 1 and far from it."""

from __future__ import annotations

from collections.abc import Sequence

from klbench.report.blocks import Block, Details, Section, Tables
from klbench.studies.precision import section_answer, section_figures
from klbench.studies.precision.columns import PRECISION
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


TERMS = ("q_p", "r", "k3", "bregman", "dtypes", "relative_error", "eps", "as_written", "with_expm1", "here", "gradient")

SECTION = Section("What rounding does", PRECISION, build, answer, order=50, terms=TERMS)
