"""The section of the value study: how biased and how noisy each estimator is."""

from __future__ import annotations

from collections.abc import Sequence

from klbench.report.blocks import Block, Heading, Section, Tables
from klbench.studies.value import section_answer, section_by_pair, section_claims, section_over_kl, section_tables
from klbench.studies.value.columns import VALUES
from klbench.studies.value.section_data import Data

FIGURES = (
    section_over_kl.noise,
    section_over_kl.bias,
    section_by_pair.error_by_batch,
    section_by_pair.distributions,
    section_by_pair.coverage,
    section_over_kl.tails,
    section_by_pair.third_sampler,
)


def answer(tables: Tables) -> Sequence[Block]:
    """What the top of the page says."""
    return section_answer.answer(Data("", tables))


def build(tables: Tables) -> Sequence[Block]:
    """Figures, tables, claims."""
    data = Data("", tables)
    if data.measured.empty:
        return []
    return [
        *(figure for make in FIGURES if (figure := make(data)) is not None),
        Heading("Tables", 2, "tables"),
        *section_tables.all_tables(data),
        Heading("Claimed and measured", 2, "claims"),
        *section_claims.claims(data),
    ]


TERMS = (
    "q_p",
    "kl_qp",
    "r",
    "nat",
    "w",
    "schulman",
    "control_variates",
    "clamped",
    "bregman",
    "bias",
    "std",
    "rmse",
    "batch",
    "interval_value",
    "paired",
    "coverage",
    "z",
    "tail_index",
    "exact",
)

SECTION = Section("How wrong, how noisy", VALUES, build, answer, order=0, terms=TERMS)
