"""The sections of training on language models.

What each combination, or each loss of DPO, makes of a policy.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from markupsafe import Markup

from klbench.report import blocks, terms
from klbench.report.numbers import MISSING, percent_interval
from klbench.report.runs import by_run
from klbench.report.tables import Row, select, table
from klbench.rows import where
from klbench.studies.language import section_figures
from klbench.studies.language.columns import RATERS, TEXTS
from klbench.studies.language.section_data import (
    FAILS,
    FEW,
    HOLDS,
    NONE,
    SAY,
    UNTOLD,
    UNTRAINED,
    LmPreferred,
    LmTrained,
)


def _load(kind: type[LmTrained], tables: blocks.Tables) -> list[LmTrained]:
    return [
        run for run in by_run(kind, tables, kind.compared_schema) if run.trained and run.training
    ]


def _lead(
    runs: Sequence[LmTrained],
    question: blocks.Text,
    verdicts: Sequence[blocks.Text],
    more: Iterator[blocks.Text],
) -> blocks.Lead:
    if not runs:
        return blocks.Lead(question, SAY.nothing(), None)
    said = [
        _labelled(run, each)
        for run, each in zip(runs[: section_figures.MOST_RUNS], verdicts, strict=False)
    ]
    return blocks.Lead(
        question,
        Markup("").join(said),
        section_figures.ends(runs),
        [_labelled(runs[0], each) for each in more],
    )


def _labelled(run: LmTrained, sentence: blocks.Text) -> blocks.Text:
    return SAY.each(run.label, sentence) if run.label else sentence


def lead_ppo(tables: blocks.Tables) -> blocks.Lead:
    """Return which penalties hold the policy, and the picture of where training ended."""
    runs = _load(LmTrained, tables)
    return _lead(
        runs, SAY.question_ppo(), [_held(run) for run in runs], _more(runs, SAY.of_estimator())
    )


def lead_dpo(tables: blocks.Tables) -> blocks.Lead:
    """Return where each loss leads, and the picture of it."""
    runs = _load(LmPreferred, tables)
    verdicts = [SAY.losses(run.trained[0], run.trained[1:], run.of(UNTRAINED)) for run in runs]
    return _lead(runs, SAY.question_dpo(), verdicts, _more(runs, SAY.of_k1()))


def _held(run: LmTrained) -> blocks.Text:
    held, fails, untold = run.toward(HOLDS), run.toward(FAILS), run.toward(UNTOLD, FEW)
    return (
        SAY.held(held, fails, untold, run.of(NONE))
        if held or fails or untold
        else SAY.ends(run.trained)
    )


def _more(runs: Sequence[LmTrained], estimator: blocks.Text) -> Iterator[blocks.Text]:
    for run in runs[:1]:
        free = run.of(NONE)
        if run.paid:
            yield SAY.paid(max(run.trained, key=lambda row: row["proxy_gain"]))
        elif free:
            texts = where(run.rows(TEXTS), combination=NONE)
            yield SAY.free(free, run.of(UNTRAINED), texts[0] if texts else None)
        yield SAY.estimates(
            [row for row in run.trained if row["estimate_outcome"].startswith("too")], estimator
        )
        yield SAY.setting(run.training[0], run.updates, len({row["seed"] for row in run.training}))


def _share(row: Row, name: str) -> blocks.Cell:
    return blocks.Cell(percent_interval(row, name), row[name])


def _outcome(row: Row, name: str) -> blocks.Cell:
    return blocks.Cell(row[name] or MISSING)


COMPARED = select(
    "combination reward reward_gain proxy kl kl_share objective tokens:number outcome",
    kl_share=_share,
    outcome=_outcome,
)
ESTIMATES = select(
    "combination kl k1 k2 k3 estimate_error estimate_outcome kl_spread:number2 "
    "reward_spread:number2"
)
SHOWN_RATERS = select("seed step loss accuracy held_out_loss held_out_accuracy kept")
SHOWN_TEXTS = select("combination prompt:words completion:words reward:number2 kl:number2")


def _compared(run: LmTrained) -> blocks.Table:
    absent = {*(() if run.paid else ("proxy",)), *(() if run.of(NONE) else ("kl_share", "outcome"))}
    shown = [each for each in COMPARED if each.name not in absent]
    return table("After training", run.compared_schema, run.compared, shown)


def _built(run: LmTrained) -> Iterator[blocks.Block]:
    if run.label:
        yield blocks.Heading(run.label)
    if run.diverged:
        yield blocks.Paragraph(SAY.diverged(run.diverged), "warning")
    if idle := where(run.kept_raters, kept=0):
        yield blocks.Paragraph(SAY.idle(idle), "warning")
    yield from section_figures.figures(run)
    yield _compared(run)
    yield table(SAY.said_title(), run.compared_schema, run.trained, ESTIMATES)
    if raters := run.rows(RATERS):
        ranked = blocks.Paragraph(SAY.ranked([row["held_out_accuracy"] for row in run.kept_raters]))
        shown = table("Reward models", RATERS, raters, SHOWN_RATERS)
        yield blocks.Details(SAY.raters_title(), [ranked, *section_figures.raters(run), shown])
    if texts := where(run.rows(TEXTS), seed=0):
        yield blocks.Details(
            SAY.texts_title(), [table("Some completions", TEXTS, texts, SHOWN_TEXTS)]
        )


def build_ppo(tables: blocks.Tables) -> Sequence[blocks.Block]:
    """Return figures and tables of each run of PPO."""
    return [block for run in _load(LmTrained, tables) for block in _built(run)]


def build_dpo(tables: blocks.Tables) -> Sequence[blocks.Block]:
    """Return figures and tables of each run of DPO."""
    return [block for run in _load(LmPreferred, tables) for block in _built(run)]


TITLE = "Language models in training"
TERMS = ("q_p", "r", "schulman", "beta", "completion_kl")

PPO = blocks.Section(
    TITLE,
    LmTrained.compared_schema,
    build_ppo,
    lead=lead_ppo,
    order=11,
    terms=(*TERMS, *terms.GRADIENTS, "algorithms"),
)
DPO = blocks.Section(
    TITLE,
    LmPreferred.compared_schema,
    build_dpo,
    lead=lead_dpo,
    order=11,
    terms=(*TERMS, "f_dpo", "label_smoothing"),
)
