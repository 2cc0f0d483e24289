"""The section of the gradient study: what each combination's gradient really is, and how noisy."""

from __future__ import annotations

from collections.abc import Sequence

from klbench.report.blocks import Block, Details, Section, Tables
from klbench.report.sections import _gradient_answer, _gradient_figures, _gradient_tables, _terms
from klbench.report.sections._gradient_data import COLUMNS, load

read = load("gradients")


def answer(tables: Tables) -> Sequence[Block]:
    """What the top of the page says."""
    return _gradient_answer.answer(read(tables))


def build(tables: Tables) -> Sequence[Block]:
    """Bias and noise over all pairs, arrows, names, claims."""
    data = read(tables)
    if not data.rows:
        return []
    figures = (_gradient_figures.arrows(data), _gradient_figures.whole_objective(data))
    return [
        *_gradient_tables.heat_maps(data),
        *(figure for figure in figures if figure is not None),
        *_gradient_tables.in_the_wild(data),
        Details("What each one claims, beside what was measured", [_gradient_tables.claims(data)]),
    ]


TERMS = (
    _terms.DISTRIBUTIONS,
    _terms.RATIO,
    _terms.SCHULMAN,
    *_terms.GRADIENTS,
)

SECTION = Section(
    "What the gradient really is", "gradients", build, COLUMNS, answer, covers=("combinations", "arrows"), order=10, terms=TERMS
)
