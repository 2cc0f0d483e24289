"""The section of the staleness study: what a sampler that lags behind does to each gradient, and what corrections cost."""

from __future__ import annotations

from collections.abc import Sequence

from klbench.report.blocks import Block, Section, Tables
from klbench.report.sections import _staleness_answer, _staleness_figures, _terms
from klbench.report.sections._gradient_data import COLUMNS, load

read = load("staleness")


def answer(tables: Tables) -> Sequence[Block]:
    """What the top of the page says."""
    return _staleness_answer.answer(read(tables))


def build(tables: Tables) -> Sequence[Block]:
    """Curves over the lag and the tables behind them."""
    data = read(tables)
    return [*_staleness_figures.figures(data), *_staleness_answer.tables(data)] if data.rows else []


TERMS = (
    _terms.DISTRIBUTIONS,
    _terms.RATIO,
    _terms.SCHULMAN,
    *_terms.GRADIENTS,
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

SECTION = Section(
    "When the sampler lags behind", "staleness", build, COLUMNS, answer, covers=("combinations",), order=20, terms=TERMS
)
