"""The section of the value study: how biased and how noisy each estimator is."""

from __future__ import annotations

from collections.abc import Sequence

from klbench.report import terms
from klbench.report.blocks import Block, Heading, Section, Tables
from klbench.schema import Schema
from klbench.studies.value import section_answer, section_by_pair, section_claims, section_over_kl, section_tables
from klbench.studies.value.section_data import load

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
    return section_answer.answer(load(tables))


def build(tables: Tables) -> Sequence[Block]:
    """Figures, tables, claims."""
    data = load(tables)
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
    terms.DISTRIBUTIONS,
    (
        "KL(q‖p)",
        (
            "The Kullback-Leibler divergence, the mean of log(q/p) over samples of q: zero where q and p agree, never "
            "negative. KL(p‖q) is another number."
        ),
    ),
    terms.RATIO,
    ("nat", "The unit of KL with natural logarithms; 1 nat is 1.44 bits."),
    ("w", "q(x) over the density that x was really drawn from: the importance weight, for samples of a third distribution."),
    terms.SCHULMAN,
    *terms.FAMILIES,
    terms.BREGMAN,
    ("bias", "The mean of the estimate minus the truth. More samples do not make it smaller."),
    ("std, noise", "The standard deviation of the estimate. It falls with the square root of the batch."),
    ("rmse", ("Root-mean-square error, √(bias² + std²): how far an estimate typically is from the truth.")),
    ("batch", "The samples that are averaged into one estimate."),
    (
        "95 % interval, ±",
        (
            "What follows ± is 1.96 standard errors: how far the finite number of samples lets the measured number stray. "
            "Not the spread of the estimate."
        ),
    ),
    (
        "paired",
        "Of a difference: both were computed on the same samples, so what they share cancels, and small differences show.",
    ),
    ("coverage", "The share of intervals that hold the truth. Of nominal 95 % intervals it should be 95 %."),
    ("z", "A distance in standard errors."),
    (
        "k-hat, tail index",
        (
            "How slowly large values die out, measured on the largest ones (a generalised Pareto fit). Below 0: "
            "bounded. From 0.5: no finite variance. From 0.7: the mean itself cannot be had from samples."
        ),
    ),
    ("exact", "From a closed form, quadrature or enumeration, and not from samples."),
)

SECTION = Section(
    "How wrong, how noisy",
    Schema("values", "", ()),
    build,
    answer,
    order=0,
    terms=TERMS,
)
