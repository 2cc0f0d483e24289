"""The section of the study of completions: estimators per token and per sequence, positions, tokens, formats, cost."""

from __future__ import annotations

from collections.abc import Sequence

from klbench.report import terms
from klbench.report.blocks import Block, Section, Tables
from klbench.schema import Schema
from klbench.studies.lm import section_answer, section_figures, section_tables
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
    terms.DISTRIBUTIONS,
    terms.RATIO,
    terms.SCHULMAN,
    *terms.FAMILIES,
    (
        "completion",
        "What the policy says after a prompt, token by token; its end-of-sequence token counts, the prompt does not.",
    ),
    (
        "each token, whole sequence",
        (
            "A completion's log-ratio is the sum of its tokens'. An estimator is applied to each token's and summed, or to the "
            "sum. For k1 that is the same; for others the first aims at the sum of the tokens' divergences, the second at the "
            "divergence of whole sequences. In KL(q‖p) both are one number."
        ),
    ),
    (
        "Rao-Blackwell, rao_blackwell",
        (
            "The exact KL between the two distributions over the next token, from the full vocabulary, summed along the "
            "completion. Its mean is the KL of whole completions, and it has less noise than an estimate from the tokens "
            "drawn, as a rule."
        ),
    ),
    (
        "μ, w",
        (
            "The distribution that the tokens were drawn from, where that is not the policy's own: another temperature, top-p, "
            "an older policy. w is q/μ."
        ),
    ),
    ("95 % interval, ±", "What follows ± is 1.96 standard errors, over completions."),
    ("k-hat", "How slowly large values of the ratio die out, measured on the largest ones. From 0.5: no finite variance."),
    ("nat", "The unit of KL with natural logarithms; 1 nat is 1.44 bits."),
    terms.DTYPES,
)

SECTION = Section(
    "Token by token",
    Schema("tokens", "", ()),
    build,
    answer,
    order=5,
    terms=TERMS,
)  # fmt: skip
