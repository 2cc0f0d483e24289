"""The section of the staleness study: what a sampler that lags behind does to each gradient, and what corrections cost."""

from __future__ import annotations

from collections.abc import Sequence

from klbench.report import terms
from klbench.report.blocks import Block, Section, Tables
from klbench.schema import Schema
from klbench.studies.gradient.section_data import load
from klbench.studies.staleness import section_answer, section_figures

read = load("staleness")


def answer(tables: Tables) -> Sequence[Block]:
    """What the top of the page says."""
    return section_answer.answer(read(tables))


def build(tables: Tables) -> Sequence[Block]:
    """Curves over the lag and the tables behind them."""
    data = read(tables)
    return [*section_figures.figures(data), *section_answer.tables(data)] if data.rows else []


TERMS = (
    terms.DISTRIBUTIONS,
    terms.RATIO,
    terms.SCHULMAN,
    *terms.GRADIENTS,
    (
        "lag, stale",
        "KL(q‖μ), in nats: how far the policy has moved from the one that drew the samples. Fresh samples have lag 0.",
    ),
    (
        "effective sample size",
        (
            "1 over the mean of the squared weights q/μ: as many unweighted samples would give a mean of the same precision. "
            "At 50 %, half of the samples are paid for in vain."
        ),
    ),
)

SECTION = Section("When the sampler lags behind", Schema("staleness", "", ()), build, answer, order=20, terms=TERMS)
