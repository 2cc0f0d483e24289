"""The section of the staleness study: what a sampler that lags behind does to each gradient, and what corrections cost."""

from __future__ import annotations

from collections.abc import Sequence

from klbench.report import terms
from klbench.report.blocks import Block, Section, Tables
from klbench.report.combinations import load
from klbench.studies.staleness import section_answer, section_figures
from klbench.studies.staleness.columns import COMBINATIONS, STALENESS

read = load(STALENESS, COMBINATIONS)


def answer(tables: Tables) -> Sequence[Block]:
    """What the top of the page says."""
    return section_answer.answer(read(tables))


def build(tables: Tables) -> Sequence[Block]:
    """Curves over the lag and the tables behind them."""
    data = read(tables)
    return [*section_figures.figures(data), *section_answer.tables(data)] if data.rows else []


TERMS = ("q_p", "r", "schulman", *terms.GRADIENTS, "lag", "effective_sample_size")

SECTION = Section("When the sampler lags behind", STALENESS, build, answer, order=20, terms=TERMS)
