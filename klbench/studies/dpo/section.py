"""The section of the DPO study: how near to the exact optimum ranked pairs lead."""

from __future__ import annotations

import math
from collections.abc import Sequence

from klbench.report import cells
from klbench.report.blocks import Block, Cell, Details, Heading, Section, Tables
from klbench.report.tables import Row, Shown, table
from klbench.studies.dpo import section_answer, section_figures
from klbench.studies.dpo.columns import DPO_FINAL, DPO_OPTIMA, DPO_SEEN
from klbench.studies.dpo.section_data import load, symbol


def answer(tables: Tables) -> Sequence[Block]:
    """Return what the top of the page says."""
    return section_answer.answer(load(tables))


def _pairs(row: Row, name: str) -> Cell:
    return Cell("all" if math.isinf(row[name]) else f"{row[name]:,.0f}", row[name])


def _divergence(row: Row, name: str) -> Cell:
    return Cell(symbol(row[name]))


FINAL = (
    Shown("arm", cells.text),
    Shown("pairs", _pairs),
    *(Shown(name, cells.interval()) for name in ("last", "last_difference")),
    Shown("last_effect_size", cells.number(2)),
    Shown("best", cells.interval()),
    *(Shown(name, cells.number()) for name in ("best_step", "kl_to_own", "reward", "kl", "reward_slope")),
    Shown("population_accuracy", cells.percent),
)
OPTIMA = (
    Shown("arm", cells.text),
    Shown("divergence", _divergence),
    Shown("residual", cells.number(1)),
    *(Shown(name, cells.interval()) for name in ("own_kl_to_optimum", "own_kl", "own_reward")),
    Shown("own_slope", cells.number()),
    Shown("reached_kl_to_own", cells.interval()),
)
SEEN = (
    Shown("pairs", _pairs),
    Shown("estimator", cells.computed(lambda row: Cell(section_answer.named(row))), "", "estimator, level, and whose answers"),
    Shown("rel_error", cells.interval()),
    Shown("rel_rmse", cells.number(2)),
    Shown("rel_bias", cells.number(2)),
    Shown("below", cells.percent),
)


def build(tables: Tables) -> Sequence[Block]:
    """Return figures and tables of each run."""
    blocks: list[Block] = []
    for run in load(tables):
        blocks += [Heading(run.label)] if run.label else []
        blocks += [*section_figures.figures(run), table("After training", DPO_FINAL, run.final, FINAL)]
        if run.optima:
            blocks.append(table("Each loss's own optimum, exact", DPO_OPTIMA, [*run.optima.values()], OPTIMA))
        if seen := run.rows(DPO_SEEN):
            said = table("Estimates of standard DPO's KL(q‖p)", DPO_SEEN, seen, SEEN)
            blocks.append(Details("What samples said of the KL", [said]))
    return blocks


TERMS = ("q_p", "r", "schulman", "own_optimum", "pair", "implicit_reward", "f_dpo", "label_smoothing", "weighted_k1")

SECTION = Section("From ranked pairs", DPO_FINAL, build, answer, order=12, terms=TERMS)
