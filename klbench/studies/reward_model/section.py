"""The section of the reward-model study: what making a learned reward large does to the true one."""

from __future__ import annotations

from collections.abc import Sequence

from klbench.report import cells
from klbench.report.blocks import Block, Cell, Details, Section, Tables
from klbench.report.cells import computed
from klbench.report.tables import Row, Shown, table
from klbench.studies.reward_model import section_answer, section_figures
from klbench.studies.reward_model.columns import EQUAL_KL, GOLD, OVEROPTIMISATION, PEAKS, REWARD_MODELS
from klbench.studies.reward_model.section_data import Learned, load, named, way_of

NUMBER, RANGED = cells.number(), cells.interval()


def answer(tables: Tables) -> Sequence[Block]:
    """Return what the top of the page says."""
    return section_answer.answer(load(tables))


def build(tables: Tables) -> Sequence[Block]:
    """Return figures and tables of each run."""
    return [
        block
        for learned in load(tables)
        for part in (section_answer.heading, section_figures.figures, _tables)
        for block in part(learned)
    ]


def _way(row: Row) -> Cell:
    return Cell(named(way_of(row)))


def _proxy(row: Row) -> Cell:
    return Cell("the true reward" if row["proxy"] == GOLD else row["proxy"])


BY = (Shown("method", computed(_way)), Shown("proxy", computed(_proxy)))
SHOWN_MODELS = (
    Shown("pairs", computed(lambda row: Cell(row["proxy"], row["pairs"]))), Shown("accuracy", RANGED),
    Shown("best_accuracy", NUMBER), Shown("order", RANGED), *(Shown(name, NUMBER) for name in ("loss", "best_loss")),
    Shown("correlation", NUMBER), Shown("calibration_error", cells.percent), Shown("kept_step", NUMBER),
)  # fmt: skip
SHOWN_PEAKS = (
    *BY, Shown("peak_gold", RANGED),
    *(Shown(name, NUMBER) for name in ("peak_kl", "peak_proxy", "end_gold", "end_kl", "end_proxy")),
    Shown("lost", RANGED), Shown("missed", RANGED),
)  # fmt: skip
SHOWN_EQUAL = (
    *BY, Shown("kl", NUMBER), Shown("gold_gain", RANGED), Shown("difference", RANGED), Shown("seeds", cells.whole),
)  # fmt: skip


def _tables(learned: Learned) -> list[Block]:
    models, peaks, equal = (learned.rows(schema) for schema in (REWARD_MODELS, PEAKS, EQUAL_KL))
    blocks: list[Block] = [table("The reward models", REWARD_MODELS, models, SHOWN_MODELS)] if models else []
    blocks += [table("Where the true reward peaks", PEAKS, peaks, SHOWN_PEAKS)] if peaks else []
    title = "True reward at equal KL"
    return [*blocks, *([Details(title, [table(title, EQUAL_KL, equal, SHOWN_EQUAL)])] if equal else [])]


TERMS = (
    "q_p",
    "r",
    "schulman",
    "proxy",
    "gain",
    "bradley_terry",
    "best_of_n",
    "beta_reward_model",
    "seed_reward_model",
    "interval_seeds",
)

SECTION = Section("When the reward is learned", OVEROPTIMISATION, build, answer, order=12, terms=TERMS)
