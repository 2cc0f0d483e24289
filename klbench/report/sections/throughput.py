"""The section of the throughput study: how many terms a second each estimator computes."""

from __future__ import annotations

from collections.abc import Sequence

from klbench.report.blocks import Block, Section, Tables
from klbench.report.sections import _terms, _throughput_answer, _throughput_figures
from klbench.report.sections._throughput_data import COLUMNS, load


def answer(tables: Tables) -> Sequence[Block]:
    """What the top of the page says."""
    return _throughput_answer.answer(load(tables))


def build(tables: Tables) -> Sequence[Block]:
    """A figure for each machine, and the table."""
    data = load(tables)
    if not data.timings:
        return []
    return [*_throughput_figures.figures(data), *_throughput_answer.tables(data)]


TERMS = (
    ("term", "An estimator's value for one log-ratio; the estimate is the mean of a batch of them."),
    _terms.DISTRIBUTIONS,
    _terms.RATIO,
    _terms.SCHULMAN,
    *_terms.FAMILIES,
    _terms.BREGMAN,
    ("NumPy, torch", "Two libraries that compute on arrays. An estimator is the same line of code on both."),
    ("forward", "Computing the terms."),
    ("forward and backward", "Computing the terms and then, by automatic differentiation, the gradient of their sum."),
    _terms.DTYPES,
    (
        "median, quartiles",
        "Of the repeats of one timing, half are below the median, a quarter below the first, above the third.",
    ),
)

SECTION = Section("How fast", "throughput", build, COLUMNS, answer, order=60, terms=TERMS)
