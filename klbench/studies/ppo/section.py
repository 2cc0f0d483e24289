"""The section of the training study: what each estimator, in its place, makes of a policy."""

from __future__ import annotations

from collections.abc import Sequence

from klbench.report import terms
from klbench.report.blocks import Block, Section, Tables
from klbench.studies.ppo import section_answer, section_figures, section_tables
from klbench.studies.ppo.columns import FINAL
from klbench.studies.ppo.section_data import load


def answer(tables: Tables) -> Sequence[Block]:
    """Return what the top of the page says."""
    return section_answer.answer(load(tables))


def build(tables: Tables) -> Sequence[Block]:
    """Return figures and tables of each run."""
    return [
        block
        for trained in load(tables)
        for part in (section_answer.heading, section_figures.figures, section_tables.tables)
        for block in part(trained)
    ]


TERMS = (
    "q_p",
    "r",
    "schulman",
    *terms.GRADIENTS,
    "beta",
    "regret",
    "fixed_point",
    "seed",
    "interval_seeds",
    "algorithms",
    "clip",
)

SECTION = Section("What training makes of it", FINAL, build, answer, order=10, terms=TERMS)
