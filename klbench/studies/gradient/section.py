"""The section of the gradient study: what each combination's gradient really is, and how noisy."""

from __future__ import annotations

from collections.abc import Sequence

from klbench.report import terms
from klbench.report.blocks import Block, Details, Section, Tables
from klbench.report.combinations import load
from klbench.studies.gradient import section_answer, section_figures, section_tables
from klbench.studies.gradient.columns import ARROWS, COMBINATIONS, GRADIENTS

read = load(GRADIENTS, COMBINATIONS, ARROWS)


def answer(tables: Tables) -> Sequence[Block]:
    """What the top of the page says."""
    return section_answer.answer(read(tables))


def build(tables: Tables) -> Sequence[Block]:
    """Bias and noise over all pairs, arrows, names, claims."""
    data = read(tables)
    if not data.rows:
        return []
    figures = (section_figures.arrows(data), section_figures.whole_objective(data))
    return [
        *section_tables.heat_maps(data),
        *(figure for figure in figures if figure is not None),
        *section_tables.in_the_wild(data),
        Details("What each one claims, beside what was measured", [section_tables.claims(data)]),
    ]


TERMS = ("q_p", "r", "schulman", *terms.GRADIENTS)

SECTION = Section("What the gradient really is", GRADIENTS, build, answer, order=10, terms=TERMS)
