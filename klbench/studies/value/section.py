"""The section of the value study: how wrong and how noisy each estimator is."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from functools import partial

from klbench.report.blocks import Block, Heading, Lead, Maker, Paragraph, Section, Tables, Text
from klbench.rows import column_of, where
from klbench.studies.value import section_figures, section_over_kl, section_tables
from klbench.studies.value.columns import ALL, FEW_SAMPLES, UNBIASED, VALUES
from klbench.studies.value.section_curves import SAY
from klbench.studies.value.section_data import Data

NAMED = 3
"""The most winners that the verdict names."""


def _wins(data: Data, among: str, batch: int) -> Text:
    wins = data.winners(among, batch)
    return SAY.wins(wins.most_common(NAMED), len(wins) - NAMED, wins.total())


def lead(tables: Tables) -> Lead:
    """Return what the page opens with.

    Who has the least error, by how much, and what not to believe.
    """
    data = Data("", tables)
    kinds = {row["kind"] for row in data.pairs.values()}
    contenders = {row["estimator"] for row in data.measured if row["target"] == data.target}
    pairs = {row["pair"] for row in data.values}
    question = SAY.question(data.target, sorted(contenders), sorted(pairs), sorted(kinds)).strip()
    ranges = data.ranges(ALL, data.batch)
    if not ranges:
        return Lead(
            question,
            SAY.nothing_ranked(bool(data.measured)),
            section_over_kl.lead(data) if data.measured else None,
        )
    best = data.winners(ALL, data.batch).most_common(1)[0][0]
    widest = max(where(ranges, estimator=best), key=lambda row: row["pairs"])
    verdict = SAY.verdict(
        _wins(data, ALL, data.batch), len(contenders), len(pairs), data.batch, widest
    )
    more = [SAY.margin(widest, data.kl(widest["pair"]))] if len(pairs) > 1 else []
    groups = [(UNBIASED, data.batch), (ALL, data.batches[-1])]
    more += [
        SAY.also(_wins(data, *group), *group)
        for group in groups
        if data.winners(*group) and data.winners(*group) != data.winners(ALL, data.batch)
    ]
    return Lead(question, verdict, section_over_kl.lead(data), more)


def _asked(data: Data) -> Text:
    samples = sorted({int(row["samples"]) for row in data.values})
    return SAY.asked(
        data.several,
        len({row["estimator"] for row in data.values}),
        len({row["pair"] for row in data.values}),
        len(data.series),
        samples,
        data.batches,
    )


def build(tables: Tables) -> Sequence[Block | Maker]:
    """Return the warnings, the figures, the tables and the claims."""
    data = Data("", tables)
    if not data.measured:
        return [*section_tables.skipped(data)]
    doubtful = Counter(row["status"] for row in data.measured if row["status"] != "ok")
    warnings = [SAY.doubtful(doubtful, len(data.measured))] if doubtful else []
    warnings += [SAY.narrow()] if min(column_of(data.measured, "samples")) < FEW_SAMPLES else []
    broken = [row for row in data.estimators if row["verdict"].startswith("broken")]
    warnings += [SAY.broken(broken)] if broken else []
    return [
        *(Paragraph(text, "warning") for text in warnings),
        Paragraph(_asked(data), "note"),
        *(partial(make, data) for make in section_figures.FIGURES),
        Heading("Tables", 2, "tables"),
        partial(section_tables.all_tables, data),
        Heading("Claimed and measured", 2, "claims"),
        partial(section_tables.claims, data),
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

SECTION = Section("How wrong, how noisy", VALUES, build, lead=lead, order=0, terms=TERMS)
