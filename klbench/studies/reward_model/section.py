"""The section of the reward-model study: what making a learned reward large does to the true one."""

from __future__ import annotations

import math
from collections.abc import Sequence

from klbench.report.blocks import Block, Cell, Column, Details, Section, Table, Tables
from klbench.report.numbers import MISSING, number, percent
from klbench.schema import Schema
from klbench.studies.ppo.section_data import interval
from klbench.studies.reward_model import section_answer, section_figures
from klbench.studies.reward_model.section_data import GOLD, Learned, Row, load, named


def answer(tables: Tables) -> Sequence[Block]:
    """What the top of the page says."""
    return section_answer.answer([each for each in load(tables) if each.proxies])


def build(tables: Tables) -> Sequence[Block]:
    """Figures and tables of each run."""
    return [
        block
        for learned in load(tables)
        if learned.proxies
        for part in (section_answer.heading, section_figures.figures, _tables)
        for block in part(learned)
    ]


def _number(value: float) -> Cell:
    return Cell(MISSING if math.isnan(value) else number(value, 3), value)


def _ranged(row: Row, name: str) -> Cell:
    return Cell(interval(row, name), row[name])


def _proxy(name: str) -> Cell:
    return Cell("the true reward" if name == GOLD else name)


def _models(learned: Learned) -> list[Table]:
    rows = learned.rows("reward_models")
    if not rows:
        return []
    columns = [
        Column("Pairs", "that the model has, a fifth of them held out"),
        Column("Accuracy", "new pairs ranked as they are labelled, with a 95 % interval over seeds", numeric=True),
        Column("Best", "the same for the true reward", numeric=True),
        Column("True order", "new pairs ranked as the true reward ranks them", numeric=True),
        Column("Loss", "Bradley-Terry loss on new pairs", numeric=True),
        Column("Least", "that of the true probabilities", numeric=True),
        Column("Correlation", "of score and true reward over the reference's answers, exact", numeric=True),
        Column("Confidence off", "predicted less true probability, absolute, mean over bins", numeric=True),
        Column("Step kept", "of those looked at, the one with the least loss on held-out pairs", numeric=True),
    ]
    cells = [
        [
            Cell(row["proxy"], row["pairs"]), _ranged(row, "accuracy"), _number(row["best_accuracy"]), _ranged(row, "order"),
            *(_number(row[each]) for each in ("loss", "best_loss", "correlation")),
            Cell(percent(row["calibration_error"]), row["calibration_error"]), _number(row["kept_step"]),
        ]
        for row in rows
    ]  # fmt: skip
    return [Table("The reward models", columns, cells)]


def _peaks(learned: Learned) -> list[Table]:
    rows = learned.rows("peaks")
    if not rows:
        return []
    columns = [
        Column("By", "the way in which the proxy is made large"),
        Column("Proxy", "the reward model, or the true reward"),
        Column("Peak", "largest gain of true reward on the way, mean over seeds with a 95 % interval", numeric=True),
        Column("KL there", "exact, in nats", numeric=True),
        Column("Proxy there", "what the proxy says", numeric=True),
        Column("End", "gain of true reward at the end of the way", numeric=True),
        Column("KL at the end", "exact, in nats", numeric=True),
        Column("Proxy at the end", "what the proxy says", numeric=True),
        Column("Lost", "peak less end, on the same seed", numeric=True),
        Column("Missed", "what the true reward for a proxy gains, less the peak, on the same seed", numeric=True),
    ]
    cells = [
        [
            Cell(named((row["method"], row["combination"] or ""))),
            _proxy(row["proxy"]), _ranged(row, "peak_gold"),
            *(_number(row[each]) for each in ("peak_kl", "peak_proxy", "end_gold", "end_kl", "end_proxy")),
            _ranged(row, "lost"), _ranged(row, "missed"),
        ]
        for row in rows
    ]  # fmt: skip
    return [Table("Where the true reward peaks", columns, cells)]


def _equal(learned: Learned) -> list[Table]:
    rows = learned.rows("equal_kl")
    if not rows:
        return []
    columns = [
        Column("By", "the way in which the proxy is made large"),
        Column("Proxy", "the reward model, or the true reward"),
        Column("KL", "nats at which ways are compared, by interpolation in √KL", numeric=True),
        Column("True reward", "gain over the reference", numeric=True),
        Column("Less the optimum's", "that of the proxy's exact optimum at this KL, paired by seed", numeric=True),
        Column("Seeds", "whose ways come so far", numeric=True),
    ]
    cells = [
        [
            Cell(named((row["method"], row["combination"] or ""))), _proxy(row["proxy"]), _number(row["kl"]),
            _ranged(row, "gold_gain"), _ranged(row, "difference"), Cell(str(row["seeds"]), row["seeds"]),
        ]
        for row in rows
    ]  # fmt: skip
    return [Table("True reward at equal KL", columns, cells)]


def _tables(learned: Learned) -> list[Block]:
    more = _equal(learned)
    return [*_models(learned), *_peaks(learned), *([Details("True reward at equal KL", more)] if more else [])]


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

SECTION = Section("When the reward is learned", Schema("overoptimisation", "", ()), build, answer, order=12, terms=TERMS)
