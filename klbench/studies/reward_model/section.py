"""The section of the reward-model study.

What making a learned reward large does to the true one.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from klbench.report import cells
from klbench.report.blocks import Block, Cell, Heading, Lead, Paragraph, Section, Tables
from klbench.report.cells import computed
from klbench.report.prose import prose
from klbench.report.tables import folded, select, tables
from klbench.rows import grouped
from klbench.studies.reward_model import section_figures
from klbench.studies.reward_model.columns import (
    EQUAL_KL,
    GOLD,
    OVEROPTIMISATION,
    PEAKS,
    REWARD_MODELS,
    REWARD_MODELS_BY_SEED,
    TRAINING,
)
from klbench.studies.reward_model.section_data import OPTIMUM, Learned, load, named, way_of

SAY = prose(__package__)
MOST_NAMED = 3
"""So many reward models, and so many policies, that diverged are named."""


def lead(found: Tables) -> Lead:
    """Return the question, the verdict and the figure that the page opens with."""
    runs = load(found)
    question, figure = str(SAY.question()), section_figures.opening(runs)
    peaks = [
        (learned, row) for learned in runs if (row := learned.peak(OPTIMUM, learned.proxies[0]))
    ]
    first = runs[0]
    seeds = max(int(row["seeds"]) for row in first.points)
    if not peaks or math.isnan(peaks[0][1]["peak_gold"]):
        return Lead(question, SAY.nothing(), figure)
    if len(runs) > 1:
        return Lead(
            question,
            SAY.several([(learned.label, row) for learned, row in peaks]),
            figure,
            [SAY.setting(seeds)],
        )
    more = [SAY.setting(seeds)]
    if len(first.proxies) > 1 and (most := first.peak(OPTIMUM, first.proxies[-1])):
        more.append(SAY.most(most, first.peak(OPTIMUM, GOLD)))
    if idle := [row for row in first.rows(REWARD_MODELS) if row["untrained"]]:
        more.append(SAY.untrained(idle))
    return Lead(question, SAY.verdict(peaks[0][1]), figure, more)


def build(found: Tables) -> Sequence[Block]:
    """Return warnings, figures and tables of each run."""
    blocks: list[Block] = []
    for learned in load(found):
        blocks += [Heading(learned.label)] if learned.label else []
        blocks += _diverged(learned)
        blocks += section_figures.figures(learned)
        blocks += _tables(learned)
    return blocks


def _diverged(learned: Learned) -> list[Block]:
    models, stopped = (
        [row for row in learned.rows(schema) if row["status"] not in ("ok", "")]
        for schema in (REWARD_MODELS_BY_SEED, TRAINING)
    )
    policies = [rows[-1] for rows in grouped(stopped, "combination", "proxy", "seed").values()]
    named_ones = (models[:MOST_NAMED], policies[:MOST_NAMED])
    if total := len(models) + len(policies):
        more = total - sum(map(len, named_ones))
        return [Paragraph(SAY.diverged(total, *named_ones, more), "warning")]
    return []


FROM_ZERO = cells.interval(least=0.0)
BY = select(
    "method proxy",
    method=computed(lambda row: Cell(named(way_of(row)))),
    proxy=computed(lambda row: Cell("the true reward" if row["proxy"] == GOLD else row["proxy"])),
)
SHOWN_MODELS = select(
    "pairs accuracy best_accuracy:number order loss:number best_loss:number "
    "correlation:number calibration_error:percent kept_step:number",
    pairs=computed(lambda row: Cell(row["proxy"], row["pairs"])),
)
SHOWN_PEAKS = (
    *BY,
    *select(
        "peak_gold peak_kl:number peak_proxy:number end_gold:number end_kl:number "
        "end_proxy:number lost missed",
        lost=FROM_ZERO,
    ),
)
SHOWN_EQUAL = (
    *BY,
    *select("kl:number gold_gain difference seeds"),
)


def _tables(learned: Learned) -> list[Block]:
    models, peaks, equal = (learned.rows(schema) for schema in (REWARD_MODELS, PEAKS, EQUAL_KL))
    return [
        *tables("The reward models", REWARD_MODELS, models, SHOWN_MODELS),
        *tables("Where the true reward peaks", PEAKS, peaks, SHOWN_PEAKS),
        *folded("True reward at equal KL, in numbers", EQUAL_KL, equal, SHOWN_EQUAL),
    ]


TERMS = (
    "q_p",
    "r",
    "schulman",
    "proxy",
    "gain",
    "pair",
    "bradley_terry",
    "best_of_n",
    "beta_reward_model",
    "seed_reward_model",
    "interval_seeds",
)

SECTION = Section(
    "When the reward is learned", OVEROPTIMISATION, build, lead=lead, order=12, terms=TERMS
)
