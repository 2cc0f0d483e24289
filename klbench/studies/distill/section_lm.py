"""The section of distillation of language models: where each objective leaves the student."""

from __future__ import annotations

import math
from collections.abc import Sequence

from klbench.report.blocks import Block, Heading, Lead, Section, Tables
from klbench.report.prose import prose
from klbench.report.runs import RunTables, by_run
from klbench.report.tables import Row, select, table
from klbench.studies.distill.columns import LM_FINAL
from klbench.studies.distill.section_figures import masses, reached

SAY = prose(__package__)


def _final(run: RunTables) -> list[Row]:
    """Return the rows of all arms, the nearest to the teacher first, with no rest that was
    looked for.
    """
    rows = [
        row | {"rest_kl": math.nan, "rest_mass": math.nan, "rests": ""}
        for row in run.rows(LM_FINAL)
    ]
    return sorted(rows, key=lambda row: (math.isnan(row["kl"]), row["kl"]))


def lead(tables: Tables) -> Lead:
    """Return the nearest and the farthest student, and where all of them are."""
    run = by_run(RunTables, tables, LM_FINAL)[0]
    rows = _final(run)
    known = [row for row in rows if math.isfinite(row["kl"])]
    if not known:
        return Lead(SAY.lm_question(), SAY.lm_nothing(), None)
    more = []
    if lost := [row for row in known if row["mass_lost_low"] > 0.0]:
        more.append(SAY.lm_lost(max(lost, key=lambda row: float(row["mass_lost"]))))
    last = known[-1] if len(known) > 1 else None
    figure = reached(rows, run.stem, SAY.lm_reached_title(), SAY.lm_reached_caption())
    return Lead(SAY.lm_question(), SAY.lm_verdict(known[0], last), figure, more)


def build(tables: Tables) -> Sequence[Block]:
    """Return the figures of each run and its table."""
    blocks: list[Block] = []
    for run in by_run(RunTables, tables, LM_FINAL):
        rows = _final(run)
        blocks += [Heading(run.label)] if run.label else []
        blocks += [masses(rows, run.stem), table(SAY.lm_final_title(), LM_FINAL, rows, SHOWN)]
    return blocks


SHOWN = select(
    "arm:name prefixes:text seeds:whole kl:interval difference:interval "
    "kl_pq:interval mass_lost:percent_interval outcome:text"
)

SECTION = Section(
    "Language models from a teacher",
    LM_FINAL,
    build,
    lead=lead,
    order=31,
    terms=("q_p", "distillation", "score", "interval_seeds"),
)
