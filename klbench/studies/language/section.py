"""The sections of training on language models: what each combination, or each loss of DPO, makes of a policy."""

from __future__ import annotations

from collections.abc import Sequence

from klbench.report import cells, terms
from klbench.report.blocks import Block, Cell, Details, Heading, Section, Table, Tables
from klbench.report.numbers import MISSING, percent_interval
from klbench.report.runs import by_run
from klbench.report.tables import Row, Shown, table
from klbench.studies.language import section_answer, section_figures
from klbench.studies.language.columns import RATERS, TEXTS
from klbench.studies.language.section_data import LmPreferred, LmTrained


def _share(row: Row, name: str) -> Cell:
    return Cell(percent_interval(row, name), row[name])


def _outcome(row: Row, name: str) -> Cell:
    return Cell(row[name] or MISSING)


PAID = Shown("proxy", cells.with_error)
COMPARED = (
    Shown("combination", cells.name),
    Shown("reward", cells.with_error),
    Shown("reward_gain", cells.with_error),
    Shown("kl", cells.with_error),
    Shown("kl_share", _share),
    *(Shown(name, cells.with_error) for name in ("k1", "k2", "k3", "objective")),
    Shown("tokens", cells.number()),
    Shown("outcome", _outcome),
)
SHOWN_RATERS = (
    Shown("seed", cells.whole),
    Shown("step", cells.whole),
    *(Shown(name, cells.number()) for name in ("loss", "accuracy", "held_out_loss", "held_out_accuracy")),
    Shown("kept", cells.whole),
)
SHOWN_TEXTS = (
    Shown("combination", cells.name),
    Shown("prompt", cells.words),
    Shown("completion", cells.words),
    Shown("reward", cells.number(2)),
    Shown("kl", cells.number(2)),
)


def _compared(trained: LmTrained) -> Table:
    shown = (*COMPARED[:3], *((PAID,) if trained.paid else ()), *COMPARED[3:])
    return table("After training", trained.compared_schema, trained.compared, shown)


def _built(trained: LmTrained) -> list[Block]:
    blocks: list[Block] = [Heading(trained.label)] if trained.label else []
    blocks += [*section_figures.figures(trained), _compared(trained)]
    if raters := trained.rows(RATERS):
        blocks.append(Details("How the reward models learned", [table("Reward models", RATERS, raters, SHOWN_RATERS)]))
    if texts := [row for row in trained.rows(TEXTS) if row["seed"] == 0]:
        blocks.append(Details("Some completions", [table("Some completions", TEXTS, texts, SHOWN_TEXTS)]))
    return blocks


def _section(kind: type[LmTrained]) -> Section:
    """Return the section of one algorithm's runs."""

    def load(tables: Tables) -> Sequence[LmTrained]:
        return by_run(kind, tables, kind.compared_schema)

    def answer(tables: Tables) -> Sequence[Block]:
        return section_answer.answer(load(tables))

    def build(tables: Tables) -> Sequence[Block]:
        return [block for trained in load(tables) for block in _built(trained)]

    return Section("Language models in training", kind.compared_schema, build, answer, order=11, terms=TERMS)


TERMS = ("q_p", "r", "schulman", *terms.GRADIENTS, "algorithms", "beta", "completion_kl")

PPO, DPO = _section(LmTrained), _section(LmPreferred)
