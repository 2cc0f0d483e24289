"""The section of training on language models: what each combination makes of a policy."""

from __future__ import annotations

import math
from collections.abc import Sequence

from klbench.report import cells, terms
from klbench.report.blocks import Block, Cell, Column, Details, Heading, Section, Table, Tables
from klbench.report.numbers import MISSING, number, percent_interval, with_interval
from klbench.schema import Schema
from klbench.studies.language import section_answer, section_figures
from klbench.studies.language.section_data import LmTrained, Row, load


def answer(tables: Tables) -> Sequence[Block]:
    """What the top of the page says."""
    return section_answer.answer(load(tables))


def _interval(row: Row, name: str) -> Cell:
    return Cell(with_interval(row[name], row[f"{name}_se"]), row[name]) if name in row else Cell(MISSING, math.nan)


PAID = Column("Paid", "score of the reward model, in the reward's units, 0 on the pairs it learned from, ± 95 %", numeric=True)


def _compared(trained: LmTrained) -> Table:
    columns = [
        Column("Combination", "name in klbench; none: no penalty at all; untrained: the policy before training"),
        Column("Reward", "mean over completions of the trained policies, ± 95 %", numeric=True),
        Column("Gain", "paired difference from the untrained policy, ± 95 %", numeric=True),
        *([PAID] if trained.paid else []),
        Column("KL", "KL(q‖p) of whole completions, sum of the tokens' exact KLs, nats, ± 95 %", numeric=True),
        Column("Of none's", "KL over that of training without a penalty, 95 % over seeds (one: completions)", numeric=True),
        Column("k1", "the usual estimators on the same completions, nats, ± 95 %", numeric=True),
        Column("k2", "as k1", numeric=True),
        Column("k3", "as k1", numeric=True),
        Column("Objective", "reward − β KL, ± 95 %", numeric=True),
        Column("Tokens", "mean length of a completion", numeric=True),
        Column("Outcome", "holds: less than half of the KL without a penalty, by the whole interval"),
    ]
    rows = [
        [
            cells.name(row, "combination"), _interval(row, "reward"), _interval(row, "reward_gain"),
            *([_interval(row, "proxy")] if trained.paid else []), _interval(row, "kl"),
            Cell(MISSING if math.isnan(row["kl_share"]) else percent_interval(row, "kl_share"), row["kl_share"]),
            *(_interval(row, name) for name in ("k1", "k2", "k3")), _interval(row, "objective"),
            Cell(number(row["tokens"], 3), row["tokens"]), Cell(row["outcome"] or MISSING),
        ]
        for row in trained.compared
    ]  # fmt: skip
    return Table("After training", columns, rows)


def _raters(trained: LmTrained) -> Table | None:
    rows = trained.rows("raters")
    if not rows:
        return None
    columns = [
        Column("Seed", "of the runs that it pays", numeric=True),
        Column("Step", "of its training", numeric=True),
        Column("Loss", "Bradley and Terry's on the step's pairs, nats a pair", numeric=True),
        Column("Accuracy", "share of them that it ranks as they are labelled", numeric=True),
        Column("Loss, held out", "on the fifth of the pairs that it never learns from", numeric=True),
        Column("Accuracy, held out", "share of those", numeric=True),
        Column("Kept", "of all steps so far the one with the least loss on held-out pairs; the last one pays", numeric=True),
    ]
    names = ("loss", "accuracy", "held_out_loss", "held_out_accuracy")
    lines = [
        [
            Cell(f"{row['seed']}", row["seed"]), Cell(f"{row['step']:.0f}", row["step"]),
            *(Cell(number(row[name], 3), row[name]) for name in names), Cell(f"{row['kept']:.0f}", row["kept"]),
        ]
        for row in rows
    ]  # fmt: skip
    return Table("Reward models", columns, lines)


def _texts(trained: LmTrained) -> Table | None:
    rows = [row for row in trained.rows("texts") if row["seed"] == 0]
    if not rows:
        return None
    columns = [
        Column("Combination", "name in klbench"),
        Column("Prompt", "its end, where it is long"),
        Column("Completion", "as sampled, with the same random numbers for all"),
        Column("Reward", "of this completion", numeric=True),
        Column("KL", "sum of the exact KLs of its tokens, nats", numeric=True),
    ]
    return Table(
        "Some completions",
        columns,
        [
            [
                cells.name(row, "combination"), Cell(row["prompt"], tone="words"), Cell(row["completion"], tone="words"),
                Cell(number(row["reward"], 2), row["reward"]), Cell(number(row["kl"], 2), row["kl"]),
            ]
            for row in rows
        ],
    )  # fmt: skip


def build(tables: Tables) -> Sequence[Block]:
    """Figures and tables of each run."""
    blocks: list[Block] = []
    for trained in load(tables):
        blocks += [Heading(trained.label)] if trained.label else []
        texts = _texts(trained)
        blocks += [*section_figures.figures(trained), _compared(trained)]
        raters = _raters(trained)
        blocks += [Details("How the reward models learned", [raters])] if raters else []
        blocks += [Details("Some completions", [texts])] if texts else []
    return blocks


TERMS = ("q_p", "r", "schulman", *terms.GRADIENTS, "algorithms", "beta", "completion_kl")

SECTION = Section("Language models in training", Schema("compared", "", ()), build, answer, order=11, terms=TERMS)
