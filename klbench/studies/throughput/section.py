"""The section of the throughput study: how many terms a second each estimator computes."""

from __future__ import annotations

from collections.abc import Sequence

from klbench.report import terms
from klbench.report.blocks import Block, Section, Tables
from klbench.schema import Schema
from klbench.studies.throughput import section_answer, section_figures
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
    ("term", "An estimator's value for one log-ratio; the estimate is the mean of a batch of them."),
    terms.DISTRIBUTIONS,
    terms.RATIO,
    terms.SCHULMAN,
    *terms.FAMILIES,
    terms.BREGMAN,
    ("NumPy, torch", "Two libraries that compute on arrays. An estimator is the same line of code on both."),
    ("forward", "Computing the terms."),
    ("forward and backward", "Computing the terms and then, by automatic differentiation, the gradient of their sum."),
    terms.DTYPES,
    (
        "median, quartiles",
        "Of the repeats of one timing, half are below the median, a quarter below the first, above the third.",
    ),
)

SECTION = Section("How fast", Schema("throughput", "", ()), build, answer, order=60, terms=TERMS)
