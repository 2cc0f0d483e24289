"""The section of the throughput study: how many terms a second each estimator computes."""

from __future__ import annotations

from collections.abc import Sequence

from klbench.report.blocks import Block, Section, Tables
from klbench.studies.throughput import section_answer, section_figures
from klbench.studies.throughput.columns import THROUGHPUT
from klbench.studies.throughput.section_data import load


def answer(tables: Tables) -> Sequence[Block]:
    """What the top of the page says."""
    return section_answer.answer(load(tables))


def build(tables: Tables) -> Sequence[Block]:
    """A figure for each machine, and the table."""
    data = load(tables)
    if not data.timings:
        return []
    return [*section_figures.figures(data), *section_answer.tables(data)]


TERMS = (
    "term",
    "q_p",
    "r",
    "schulman",
    "control_variates",
    "clamped",
    "bregman",
    "libraries",
    "forward",
    "forward_and_backward",
    "dtypes",
    "median",
)

SECTION = Section("How fast", THROUGHPUT, build, answer, order=60, terms=TERMS)
