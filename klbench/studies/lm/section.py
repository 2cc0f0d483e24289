"""The section of the study of completions: estimators per token and per sequence, positions, tokens, formats, cost."""

from __future__ import annotations

from collections.abc import Sequence

from klbench.report.blocks import Block, Section, Tables
from klbench.studies.lm import section_answer, section_figures, section_tables
from klbench.studies.lm.columns import TOKENS
from klbench.studies.lm.section_data import load

FIGURES = (section_figures.bias, section_figures.noise, section_figures.by_position)


def answer(tables: Tables) -> Sequence[Block]:
    """What the top of the page says."""
    return section_answer.answer(load(tables))


def build(tables: Tables) -> Sequence[Block]:
    """Figures and tables."""
    data = load(tables)
    if not data.pairs or not data.values:
        return []
    return [*(figure for make in FIGURES if (figure := make(data)) is not None), *section_tables.all_tables(data)]


TERMS = (
    "q_p",
    "r",
    "schulman",
    "control_variates",
    "clamped",
    "completion",
    "levels_lm",
    "rao_blackwell",
    "sampler",
    "interval_lm",
    "k_hat",
    "nat",
    "dtypes",
)

SECTION = Section(
    "Token by token",
    TOKENS,
    build,
    answer,
    order=5,
    terms=TERMS,
)  # fmt: skip
