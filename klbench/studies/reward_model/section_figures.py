"""Figures of the reward-model study.

True reward and proxy, what going on costs, the reward models, the KL.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial

from matplotlib.axes import Axes

from klbench.report.axes import kl_axis
from klbench.report.blocks import Figure, LegendEntry, Panel
from klbench.report.numbers import count
from klbench.report.plots import MOST_ENTRIES, Axis, Line, Mark, down, legend, lines
from klbench.report.prose import prose
from klbench.report.tables import Row
from klbench.rows import column_of, columns_of, finite, rising, where
from klbench.studies.reward_model.columns import CALIBRATION, EQUAL_KL, GOLD, PEAKS, REWARD_MODELS
from klbench.studies.reward_model.section_data import (
    BEST,
    OPTIMUM,
    Learned,
    Way,
    named,
    way_of,
)

SAY = prose(__package__)
MOST_RUNS = 4
APART = 0.03
"""Intervals at one place are drawn this share of it apart."""
TRUE = LegendEntry("the true reward", 5, "_", dashed=True)
SAID = {"k1": LegendEntry("k1's estimate", 0, "o"), "k3": LegendEntry("k3's estimate", 1, "s")}
EXACT, BOUND = LegendEntry("exact", 2, "^"), LegendEntry("log n − (n − 1)/n", 3, "_", dashed=True)
RIGHT = LegendEntry("as it should be", 5, "_", dashed=True)
LABELLED, ORDERED = LegendEntry("as labelled", 0, "o"), LegendEntry("in the true order", 2, "^")
CORRELATED = LegendEntry("correlation", 4, "v")
AT_BEST = LegendEntry("the true reward, as labelled", 5, "_", dashed=True)
PAIRS = Axis("ranked pairs", "log")


def _limits(axes: Axes, top: float) -> None:
    axes.set_ylim(-0.05 * top, 1.05 * top)
    axes.set_xlim(left=0.0)


def _path(learned: Learned, way: Way, *, title: str = "") -> Panel:
    """Return true reward and proxy over the square root of the KL."""

    def line(entry: LegendEntry, proxy: str, name: str, band: bool = False) -> Line:
        rows = learned.path(way, proxy)
        low, high = columns_of(rows, f"{name}_low", f"{name}_high") if band else ((), ())
        return Line(
            entry,
            [math.sqrt(max(row["kl"], 0.0)) for row in rows],
            columns_of(rows, name)[0],
            low,
            high,
            marked=band,
        )

    shown = [
        row for row in finite(learned.points, "gold_gain") if row["proxy"] in (*learned.drawn, GOLD)
    ]
    top = max((max(row["proxy_gain"], row["gold_gain"]) for row in shown), default=1.0)
    drawn = [line(TRUE, GOLD, "gold_gain")]
    for name, entry in legend(learned.drawn).items():
        drawn.append(
            line(replace(entry, label=f"{name} by its own score", dashed=True), name, "proxy_gain")
        )
        drawn.append(line(entry, name, "gold_gain", band=True))
    y = Axis("gain over the reference", place=partial(_limits, top=top))
    return lines(
        title or named(way)[:1].upper() + named(way)[1:], drawn, Axis("√KL(q‖p), exact, √nats"), y
    )


def _entries(learned: Learned) -> list[LegendEntry]:
    return [*legend(learned.drawn).values(), TRUE]


def _opened(learned: Learned) -> list[Way]:
    return [way for way in learned.paths if way in (OPTIMUM, *learned.trained[:1])]


def opening(runs: Sequence[Learned]) -> Figure | None:
    """Return the figure that the page opens with: the exact optimum and one PPO.

    Over several runs: the optimum of each.
    """
    first = runs[0]
    if len(runs) > 1:
        panels = [
            _path(learned, OPTIMUM, title=learned.label)
            for learned in runs[:MOST_RUNS]
            if OPTIMUM in learned.paths
        ]
    else:
        panels = [_path(first, way) for way in _opened(first)]
    caption = SAY.over_kl([name for name in first.proxies if name not in first.drawn])
    title = "True reward and proxy, by pairs"
    return Figure("overoptimisation", title, caption, panels, _entries(first)) if panels else None


def trained(learned: Learned) -> list[Figure]:
    """Return the same of the other ways; where there are several runs, of all ways."""
    ways = [way for way in learned.paths if learned.label or way not in _opened(learned)]
    panels = [_path(learned, way) for way in ways[:MOST_ENTRIES]]
    if not panels:
        return []
    title = "The other ways" if not learned.label else "All ways"
    caption = SAY.ways([named(way) for way in ways[MOST_ENTRIES:]])
    return [learned.figure("overoptimisation-ways", title, caption, panels, _entries(learned))]


def _by_way(ways: Sequence[Way]) -> tuple[dict[Way, LegendEntry], list[str]]:
    """Return a colour for each of the first ways, and the names of the others."""
    kept, rest = ways[:MOST_ENTRIES], ways[MOST_ENTRIES:]
    entries = legend([named(way) for way in kept])
    return {way: entries[named(way)] for way in kept}, [named(way) for way in rest]


def _bars(
    drawn: Sequence[tuple[LegendEntry, Sequence[Row]]],
    x: str,
    column: str,
    least: float = -math.inf,
) -> list[Line]:
    """Return lines with intervals as bars, side by side; a line for each entry that has rows."""
    found = []
    for place, (entry, rows) in enumerate((entry, rows) for entry, rows in drawn if rows):
        apart, own = 1.0 + APART * place, rising(rows, x)
        line = Line.of(entry, own, x, column, ends=True, scale=apart, bars=True)
        found.append(replace(line, low=[max(each, least) for each in line.low]))
    return found


def costs(learned: Learned) -> list[Figure]:
    """Return what is lost by going on, and what is missed even at the peak, by the number of
    pairs.
    """
    rows = [row for row in finite(learned.rows(PEAKS), "lost") if row["proxy"] != GOLD]
    if len({row["pairs"] for row in rows}) < 2:
        return []
    entries, rest = _by_way(learned.ways)
    mine = [(entry, [row for row in rows if way_of(row) == way]) for way, entry in entries.items()]
    panels = [
        lines(title, _bars(mine, "pairs", column, 0.0), PAIRS, Axis("true reward", "symlog"))
        for column, title in (("lost", "Lost by going on"), ("missed", "Missed at the peak"))
    ]
    title = "What a learned reward costs"
    return [learned.figure("overoptimisation-costs", title, SAY.costs(rest), panels, entries)]


def equal_kl(learned: Learned) -> list[Figure]:
    """Return true reward at equal KL, of the proxies with the fewest and the most pairs."""
    rows = [row for row in learned.rows(EQUAL_KL) if way_of(row) != OPTIMUM]
    entries, rest = _by_way([way for way in learned.ways if way != OPTIMUM])
    panels = []
    for proxy in dict.fromkeys((learned.proxies[0], learned.proxies[-1])):
        mine = where(rows, proxy=proxy)
        drawn = _bars(
            [
                (entry, [row for row in mine if way_of(row) == way])
                for way, entry in entries.items()
            ],
            "kl",
            "difference",
        )
        if len({row["kl"] for row in mine}) > 1:
            x = Axis("exact KL(q‖p), nats", place=partial(kl_axis, kls=column_of(mine, "kl")))
            panels.append(
                lines(proxy, drawn, x, Axis("reward − the optimum's", levels=[0.0]), left=0.19)
            )
    if not panels:
        return []
    name, title = "overoptimisation-equal-kl", "True reward at equal KL"
    return [learned.figure(name, title, SAY.equal_kl(rest), panels, entries)]


def models(learned: Learned) -> list[Figure]:
    """Return how well the reward models rank new pairs, by the number of pairs, and their
    calibration.
    """
    rows, binned, entries = (
        learned.rows(REWARD_MODELS),
        learned.rows(CALIBRATION),
        legend(learned.drawn),
    )
    found = []
    if len(rows) > 1:
        best = rising(rows, "pairs")
        drawn = [Line.of(AT_BEST, best, "pairs", "best_accuracy", marked=False)]
        drawn += _bars([(LABELLED, rows)], "pairs", "accuracy") + _bars(
            [(ORDERED, rows)], "pairs", "order"
        )
        panels = [
            lines("Ranked right", drawn, PAIRS, Axis("share of new pairs")),
            lines(
                "Correlation",
                _bars([(CORRELATED, rows)], "pairs", "correlation"),
                PAIRS,
                Axis("with the true reward"),
            ),
        ]
        shown = [LABELLED, ORDERED, AT_BEST, CORRELATED]
        title = "How good the models are"
        found.append(learned.figure("overoptimisation-models", title, SAY.models(), panels, shown))
    if binned:
        drawn = [Line(RIGHT, [0.5, 1.0], [0.5, 1.0], marked=False)]
        for name, entry in entries.items():
            mine = rising(where(binned, proxy=name), "predicted")
            drawn.append(Line.of(entry, mine, "predicted", "true"))
        x = Axis("probability that the model gives to what it prefers")
        panel = lines("On new pairs", drawn, x, Axis("true probability"))
        caption = SAY.calibration([name for name in learned.proxies if name not in entries])
        shown = [*entries.values(), RIGHT]
        name = "overoptimisation-calibration"
        found.append(learned.figure(name, "Calibration", caption, [panel], shown))
    return found


def _best_of(learned: Learned) -> list[Panel]:
    rows = [row for row in learned.path(BEST, learned.proxies[-1]) if row["n"] > 1]
    if len(rows) < 2:
        return []
    drawn = [
        Line.of(EXACT, rows, "n", "kl"),
        Line.of(BOUND, rows, "n", "kl_bound", marked=False),
    ]
    return [lines("Best of n", drawn, Axis("n", "log"), Axis("KL of the best of n, nats"))]


def _estimated(learned: Learned) -> list[Panel]:
    """Return estimates over the exact KL of all policies in training, and by how much they are
    off after it.
    """
    rows = [
        row
        for way in learned.trained
        for name in learned.drawn
        for row in learned.path(way, name)
        if row["step"] > 0
    ]
    known = finite(rows, *(f"{name}_estimate" for name in SAID))
    rows = rising((row for row in known if row["kl"] > 0), "kl")
    if not rows:
        return []
    top = rows[-1]["kl"]
    drawn = [Line(RIGHT, [0.0, top], [0.0, top], marked=False)]
    drawn += [
        Line.of(entry, rows, "kl", f"{name}_estimate", joined=False) for name, entry in SAID.items()
    ]
    y = Axis("estimated in training, nats", place=lambda axes: axes.set_ylim(0.0, 2.0 * top))
    beyond = sum(row["k3_estimate"] > 2.0 * top for row in rows)
    detail = f"{count(beyond, 'point')} of k3 above" if beyond else ""
    return [lines("PPO", drawn, Axis("exact KL(q‖p), nats"), y, detail=detail), _errors(learned)]


def _errors(learned: Learned) -> Panel:
    ends: Mapping[str, Row] = {
        way[1]: path[-1]
        for way in learned.trained
        if (path := learned.path(way, learned.proxies[-1]))
    }
    marks = [
        Mark.of(name, row, f"{which}_error", entry, offset=offset)
        for name, row in ends.items()
        for (which, entry), offset in zip(SAID.items(), (-0.15, 0.15), strict=True)
    ]
    return down("After training", marks, Axis("estimate − exact KL, nats", levels=[0.0]))


def kl(learned: Learned) -> list[Figure]:
    """Return the exact KL beside what is usually reported for it."""
    best_of, estimated = _best_of(learned), _estimated(learned)
    if not best_of and not estimated:
        return []
    caption = SAY.kl(bool(best_of), learned.proxies[-1] if estimated else "")
    entries = [
        *((EXACT, BOUND) if best_of else ()),
        *((*SAID.values(), RIGHT) if estimated else ()),
    ]
    title = "The KL, and what is said of it"
    return [learned.figure("overoptimisation-kl", title, caption, best_of + estimated, entries)]


def figures(learned: Learned) -> list[Figure]:
    """Return the figures of a run but for the one that the page opens with."""
    return [figure for part in (trained, costs, equal_kl, models, kl) for figure in part(learned)]
