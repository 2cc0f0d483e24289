"""Figures of the training study.

Regret, learning curves, predicted against reached, reward over KL, a lost token.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from functools import partial

from klbench.report.axes import kl_axis
from klbench.report.blocks import Figure, LegendEntry, Panel
from klbench.report.numbers import short
from klbench.report.plots import Axis, Line, Mark, down, legend, lines
from klbench.report.prose import prose
from klbench.report.tables import Row
from klbench.rows import Rows, column_of, distinct, finite, grouped, rising, where
from klbench.studies.ppo.columns import (
    CURVES,
    FLOORS,
    FRONTIER,
    GREEDY,
    MATCHED,
    OPTIMUM,
    RECOVERY,
    RECOVERY_CURVES,
)
from klbench.studies.ppo.section_data import Trained

SAY = prose(__package__)
MOST_RUNS = 4
SMALLEST = 1e-6
"""Smaller probabilities are drawn there."""
APART = 0.025
"""Intervals at one KL are drawn this share of it apart."""
KL = "exact KL(q‖p), nats"
REGRET = "regret J* − J"
LOST = "probability of the lost token"
ELSEWHERE = LegendEntry("its gradient leads elsewhere", 1, "s")
PLACES = {
    OPTIMUM: LegendEntry("its gradient leads to the optimum", 2, "o"),
    **dict.fromkeys(FLOORS, ELSEWHERE),
    GREEDY: LegendEntry("it has no gradient on average", 3, "D"),
    "": LegendEntry("no fixed point known", 5, "^"),
}
KINDS = {
    "predicted": LegendEntry("predicted", 5, "D"),
    "free": LegendEntry("free logits", 0, "o"),
    "noise_free": LegendEntry("without noise", 2, "s"),
    "sampled": LegendEntry("with noise", 1, "^"),
}


def opening(runs: Sequence[Trained]) -> Figure:
    """Return the figure of the regret after training.

    Of one run beside differences from k1 in the reward, or run by run.
    """
    panels = [_regret(trained) for trained in runs[:MOST_RUNS]]
    if len(runs) == 1:
        panels += _difference(runs[0])
    shown = {
        PLACES[row["fixed_point"]]: None for trained in runs[:MOST_RUNS] for row in trained.final
    }
    entries = [entry for entry in dict.fromkeys(PLACES.values()) if entry in shown]
    return Figure(
        "training-forest",
        "Regret after training",
        SAY.opening(runs[0].reference, len(panels) != 2),
        panels,
        entries,
    )


def _regret(trained: Trained) -> Panel:
    marks = [
        replace(mark, low=max(0.0, mark.low))
        for mark in _marks(finite(trained.final, "regret"), "regret")
    ]
    return down(
        trained.label or "Regret",
        marks,
        Axis(REGRET, "symlog", levels=[trained.final[0]["start_regret"]]),
    )


def _marks(rows: Rows, column: str) -> list[Mark]:
    """Return a mark for each combination, in the colour of its fixed point."""
    return [Mark.of(row["combination"], row, column, PLACES[row["fixed_point"]]) for row in rows]


def _difference(trained: Trained) -> list[Panel]:
    """Return paired differences of regret from k1 in the reward."""
    marks = _marks(finite(trained.final, "difference"), "difference")
    axis = Axis(f"regret − that of {trained.reference}", "symlog", levels=[0.0])
    return [down(f"Against {trained.reference}", marks, axis)] if len(marks) > 1 else []


def _curve(
    trained: Trained, entries: dict[str, LegendEntry], column: str, label: str, title: str
) -> Panel:
    drawn = []
    for name, entry in entries.items():
        rows = [
            row
            for row in where(trained.rows(CURVES), combination=name)
            if (column == "regret" or row["step"] > 0)
        ]
        drawn.append(Line.of(entry, rows, "step", column, ends=True))
    return lines(title, drawn, Axis("update"), Axis(label, "log"))


def curves(trained: Trained) -> list[Figure]:
    """Return learning curves, and those of all that head for the optimum."""
    named = column_of(trained.rows(CURVES), "combination")
    if not named:
        return []
    names, rest = trained.drawn(*named)
    entries = legend(names)
    panels = [
        _curve(trained, entries, "regret", REGRET, "Regret"),
        _curve(trained, entries, "kl", KL, "KL"),
    ]
    found = [trained.figure("training-curves", "While training", SAY.curves(rest), panels, entries)]
    names, rest = trained.drawn(
        *column_of(where(trained.final, fixed_point=OPTIMUM), "combination")
    )
    if len(names) > 1:
        entries = legend(names)
        panel = _curve(trained, entries, "regret", REGRET, "Regret")
        title = "Those that lead to the optimum"
        found.append(trained.figure("training-optimum", title, SAY.ideal(rest), [panel], entries))
    return found


def predicted(trained: Trained) -> list[Figure]:
    """Return the predicted regret beside what three kinds of training reached."""
    rows = trained.points
    if not rows:
        return []
    marks = [
        Mark(
            row["combination"],
            max(row[f"{kind}_regret"], 0.0),
            entry,
            size=7.5 if kind == "predicted" else 4.4,
        )
        for row in rows
        for kind, entry in KINDS.items()
        if math.isfinite(row[f"{kind}_regret"])
    ]
    panel = down("Regret", marks, Axis(REGRET, "symlog"))
    verdicts = (
        [row for row in rows if row["arrived"] in words]
        for words in (("yes",), ("no",), ("not told",))
    )
    unsettled = [row for row in rows if row["free_unsettled"] > 0]
    caption = SAY.predicted(
        trained.beta, int(rows[0]["seeds"]), trained.seeds, *verdicts, unsettled
    )
    title = "Where it was predicted to end, and where it ended"
    return [trained.figure("training-fixed-points", title, caption, [panel], KINDS)]


def frontier(trained: Trained) -> list[Figure]:
    """Return reward over KL, a point for each beta, and the best there is."""
    known = finite(trained.rows(FRONTIER), "kl")
    found = grouped(known, "combination")
    if not found:
        return []
    names, rest = trained.drawn(*found)
    entries = legend(names)
    best = LegendEntry("the best policy of that KL", 5, "_", dashed=True)
    every = rising((row for name in names for row in found[name]), "kl")
    drawn = [Line.of(best, every, "kl", "frontier_reward", marked=False)]
    drawn += [_over_kl(entry, found[name], "reward") for name, entry in entries.items()]
    panels = [lines("Reward over KL", drawn, _kl_axis(every), Axis("expected reward"))]
    matched = [row for row in trained.rows(MATCHED) if row["combination"] in entries]
    if matched:
        drawn = [
            _over_kl(entry, mine, "difference", apart=1.0 + APART * entry.slot)
            for name, entry in entries.items()
            if (mine := where(matched, combination=name))
        ]
        y = Axis(f"reward − {trained.reference}'s", levels=[0.0])
        panels.append(lines(f"Against {trained.reference}", drawn, _kl_axis(matched), y, left=0.19))
    caption = SAY.frontier(trained.reference, bool(matched), rest)
    drawn_with = [*entries.values(), best]
    return [trained.figure("training-frontier", "Reward at equal KL", caption, panels, drawn_with)]


def _kl_axis(rows: Sequence[Row]) -> Axis:
    return Axis(KL, place=partial(kl_axis, kls=column_of(rows, "kl")))


def _over_kl(entry: LegendEntry, rows: Sequence[Row], column: str, apart: float = 1.0) -> Line:
    return Line.of(entry, rising(rows, "kl"), "kl", column, ends=True, scale=apart, bars=True)


def lost_token(trained: Trained) -> list[Figure]:
    """Return the lost token's probability meanwhile and at the end, and the largest gradient on
    the way.
    """
    ends, meanwhile = trained.rows(RECOVERY), trained.rows(RECOVERY_CURVES)
    if not ends or not meanwhile:
        return []
    names, rest = trained.drawn(*column_of(ends, "combination"))
    entries, depths = legend(names), sorted(distinct(ends, "lost"))
    at = next(iter(where(ends, lost=depths[len(depths) // 2])))
    then = where(meanwhile, lost=at["lost"])
    over = Axis("nats that its logit was pushed down")
    drawn = _of(then, entries, "step", "probability") + _of(
        then, entries, "step", "exact_probability", exact=True
    )
    y = Axis(LOST, "log", levels=[at["optimum_probability"]])
    panels = [lines(f"{short(at['lost'])} nats lost", drawn, Axis("update"), y, left=0.17)]
    if len(depths) > 1:
        panels += [
            lines(words, _of(ends, entries, "lost", y), over, Axis(label, "log"), left=0.17)
            for words, y, label in (
                ("After training", "probability", LOST),
                ("Largest gradient", "norm_max", "its norm"),
            )
        ]
    title = "Bringing back a token that was lost"
    return [trained.figure("training-recovery", title, SAY.lost(at, rest), panels, entries)]


def _of(
    rows: Sequence[Row],
    entries: dict[str, LegendEntry],
    x: str,
    column: str,
    *,
    exact: bool = False,
) -> list[Line]:
    """Return a line for each combination, by rising x.

    What is too small to draw is drawn at the least.
    """
    known = [row | {column: max(row[column], SMALLEST)} for row in finite(rows, column)]
    return [
        Line.of(entry, rising(own, x), x, column, marked=not exact, dotted=exact)
        for name, entry in entries.items()
        if (own := where(known, combination=name))
    ]


def figures(trained: Trained) -> list[Figure]:
    """Return the figures of a run but for the one that the page opens with."""
    return [
        figure for part in (curves, predicted, frontier, lost_token) for figure in part(trained)
    ]
