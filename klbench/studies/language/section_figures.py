"""Figures of training on language models.

Where it ended, how it went, and what the estimators say.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from klbench.report import plots
from klbench.report.blocks import Figure, LegendEntry
from klbench.report.numbers import Z95
from klbench.report.plots import Axis, Line, Mark
from klbench.report.tables import Row
from klbench.rows import distinct, where
from klbench.studies.language.columns import HALF, RATERS
from klbench.studies.language.section_data import (
    FAILS,
    HOLDS,
    NONE,
    SAY,
    UNTRAINED,
    LmPreferred,
    LmTrained,
)

MOST_RUNS = 4
FLOOR = 1e-2
"""Nats below which a logarithmic scale has no room."""
OUTCOMES = {
    HOLDS: LegendEntry("stays near", 2, "o"),
    FAILS: LegendEntry("does not", 1, "s"),
    "": LegendEntry("no penalty", 0, "^"),
}
OTHERWISE = LegendEntry("cannot be told", 5, "D")
EXACT = LegendEntry("exact KL", 5, "o")
ESTIMATORS = {
    "k1": LegendEntry("k1", 0, "s"),
    "k2": LegendEntry("k2", 1, "^"),
    "k3": LegendEntry("k3", 3, "D"),
}
NOISE = {"within noise": LegendEntry("within noise", 2, "o")}
BEYOND = LegendEntry("beyond noise", 1, "s")
SCORE, REWARD = LegendEntry("score of the reward model", 1, "s"), LegendEntry("reward", 0, "o")
NATS = "KL(q‖p), nats"
UPDATE = Axis("update", place=lambda axes: axes.locator_params(axis="x", integer=True))


def _mark(row: Row, column: str, entry: LegendEntry, offset: float = 0.0) -> Mark:
    """Return a value with its 95 % interval over completions."""
    half = Z95 * row[f"{column}_se"]
    return Mark(
        row["combination"],
        row[column],
        entry,
        row[column] - half,
        row[column] + half,
        offset=offset,
    )


def _outcome(run: LmTrained, row: Row) -> LegendEntry:
    return (
        LegendEntry("", 0, "o")
        if isinstance(run, LmPreferred)
        else OUTCOMES.get(row["outcome"], OTHERWISE)
    )


def _level(run: LmTrained, column: str) -> list[float]:
    """Return the untrained policy's value, if there is one."""
    start = run.of(UNTRAINED)
    return [start[column]] if start else []


def ends(runs: Sequence[LmTrained]) -> Figure:
    """Return where training ended: the KL and the reward of one run, the KL of several."""
    panels, shown = [], runs[:MOST_RUNS]
    names = list(dict.fromkeys(row["combination"] for run in shown for row in run.trained))
    for run in shown:
        free = run.of(NONE)
        axis = Axis(NATS, "log", levels=[HALF * free["kl"]] if free else [])
        marks = [_mark(row, "kl", _outcome(run, row)) for row in run.trained]
        panels.append(
            plots.down(run.label or "KL from the reference, exact", marks, axis, names=names)
        )
    if len(runs) == 1:
        marks = [_mark(row, "reward", _outcome(runs[0], row)) for row in runs[0].trained]
        panels.append(plots.down("Reward", marks, Axis("reward", levels=_level(runs[0], "reward"))))
    dpo = isinstance(runs[0], LmPreferred)
    used = {_outcome(run, row) for run in shown for row in run.trained}
    legend = [] if dpo else [entry for entry in (*OUTCOMES.values(), OTHERWISE) if entry in used]
    border = any(run.of(NONE) for run in shown)
    return Figure(
        "lm-ends", SAY.ends_title(), SAY.ends_caption(dpo, border, len(runs) > 1), panels, legend
    )


def _lines(
    run: LmTrained,
    entries: dict[str, LegendEntry],
    column: str,
    over: str = "step",
    least: float = -math.inf,
) -> list[Line]:
    """Return a line for each combination and seed, with gaps where a value is not above the
    least.
    """
    found = []
    for name, entry in entries.items():
        own = where(run.training, combination=name)
        for k, seed in enumerate(distinct(own, "seed")):
            rows = where(own, seed=seed)
            y = [row[column] if row[column] > least else math.nan for row in rows]
            found.append(Line(entry, [row[over] for row in rows], y, marked=not k, dotted=k > 0))
    return found


def _training(run: LmTrained) -> Iterator[Figure]:
    """Yield reward and KL over the updates, and over each other."""
    names = [row["combination"] for row in run.trained]
    entries = plots.legend(names)
    room = [
        row[column]
        for row in run.training
        for column in ("kl", "kl_estimate")
        if row[column] > FLOOR
    ]
    kl = Axis(NATS, "log", room=room)
    drawn = [("reward", "Reward", Axis("reward"), -math.inf)]
    drawn += [("proxy", "What the reward model says", Axis("score"), -math.inf)] if run.paid else []
    drawn += [("kl", "KL, exact", kl, FLOOR), ("kl_estimate", "KL, as estimated", kl, FLOOR)]
    panels = [
        plots.lines(title, _lines(run, entries, column, least=least), UPDATE, axis, left=0.2)
        for column, title, axis, least in drawn
    ]
    if not run.paid and not isinstance(run, LmPreferred):
        path = Axis(f"exact {NATS}", "symlog", threshold=1.0)
        panels.append(
            plots.lines(
                "Reward over KL",
                _lines(run, entries, "reward", over="kl"),
                path,
                Axis("reward"),
                left=0.2,
            )
        )
    estimated = "k1" if isinstance(run, LmPreferred) else SAY.in_use()
    caption = SAY.training_caption(names[len(entries) :], FLOOR, estimated)
    yield Figure(
        f"lm-training{run.stem}", SAY.training_title(), caption, panels, list(entries.values())
    )


def _said(run: LmTrained) -> Iterator[Figure]:
    """Yield what each estimator says of the same completions, the error of the one in use, and
    the objective.
    """
    drawn = {"kl": EXACT, **ESTIMATORS}
    marks = [
        Mark(row["combination"], row[column], entry, offset=0.2 * (k - 1.5))
        for row in run.trained
        for k, (column, entry) in enumerate(drawn.items())
    ]
    errors = [
        _mark(row, "estimate_error", NOISE.get(row["estimate_outcome"], BEYOND))
        for row in run.trained
    ]
    objectives = [_mark(row, "objective", LegendEntry("", 0, "o")) for row in run.trained]
    panels = [
        plots.down("KL of the same completions", marks, Axis(NATS, "log")),
        plots.down("Estimate − exact KL", errors, Axis("nats", levels=(0.0,))),
        plots.down("Objective", objectives, Axis("reward − β KL", levels=_level(run, "objective"))),
    ]
    legend = [*drawn.values(), *NOISE.values(), BEYOND]
    caption = SAY.said_caption("k1" if isinstance(run, LmPreferred) else SAY.in_use())
    yield Figure(f"lm-estimates{run.stem}", SAY.said_title(), caption, panels, legend)


def _paid(run: LmTrained) -> Iterator[Figure]:
    """Yield how much the reward model's score and the reward have risen."""
    if run.paid:
        marks = [
            _mark(row, column, entry, offset)
            for row in run.trained
            for column, entry, offset in (
                ("proxy_gain", SCORE, -0.13),
                ("reward_gain", REWARD, 0.13),
            )
        ]
        panel = plots.down("Gain", marks, Axis("over the untrained policy", levels=(0.0,)))
        yield Figure(
            f"lm-paid{run.stem}", SAY.paid_title(), SAY.paid_caption(), [panel], [SCORE, REWARD]
        )


def raters(run: LmTrained) -> Iterator[Figure]:
    """Yield how the reward models learned: loss and accuracy on pairs held out."""
    rows = run.rows(RATERS)
    entries = plots.legend(sorted({row["seed"] for row in rows}))
    entries = {
        seed: LegendEntry(f"seed {seed}", entry.slot, entry.marker)
        for seed, entry in entries.items()
    }
    panels = []
    for column, label in (
        ("held_out_loss", "nats a pair"),
        ("held_out_accuracy", "share of pairs"),
    ):
        lines = []
        for seed, entry in entries.items():
            own = where(rows, seed=seed)
            lines.append(Line(entry, [row["step"] for row in own], [row[column] for row in own]))
        panels.append(plots.lines(RATERS[column].heading, lines, Axis("step"), Axis(label)))
    yield Figure(
        f"lm-raters{run.stem}",
        SAY.raters_title(),
        SAY.raters_caption(),
        panels,
        list(entries.values()),
    )


def figures(run: LmTrained) -> list[Figure]:
    """Return all figures of a run but the first of the page."""
    return [figure for part in (_training, _said, _paid) for figure in part(run)]
