"""Figures of the DPO study.

Distance from the optimum over pairs, while training, against the standard, what samples said.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.ticker import NullLocator

from klbench.report import plots
from klbench.report.blocks import Figure, LegendEntry, Panel
from klbench.report.cells import ROUNDING
from klbench.report.numbers import number
from klbench.report.panels import Tile, heat
from klbench.report.plots import Axis, Line, Mark
from klbench.rows import Rows, column_of, distinct, finite, keyed, where
from klbench.studies.dpo.columns import DPO_CURVES, DPO_ESTIMATES, DPO_SEEN
from klbench.studies.dpo.section_data import SAY, STANDARD, Preferred

MOST_PANELS = 4
MOST_SIZES = 6
"""Columns of a heat map that have room for their numbers."""
PLACES = {"nearest": (2, 0.65), "not told from it": (2, 0.25), "further": (1, 0.25)}
"""The colour of a loss's place, and its opacity."""
OWN, REACHED = (
    LegendEntry("its own optimum", 0, "o"),
    LegendEntry("after training on all pairs", 1, "s"),
)
IMPLICIT = {
    "reward_correlation": LegendEntry("over the reference's answers", 0, "o"),
    "policy_correlation": LegendEntry("over its own answers", 1, "s"),
    "accuracy": LegendEntry("the pairs it was trained on", 2, "^"),
    "population_accuracy": LegendEntry("all pairs", 3, "D"),
}
DISTANCE, STEP = Axis("KL(q‖q*), nats", "log"), Axis("step")


def _pairs_axis(sizes: Sequence[float]) -> tuple[dict[float, float], Axis]:
    """Return a place along x for each number of pairs, that of all of them at the end, and the
    axis.
    """
    finite = [size for size in sizes if math.isfinite(size)]
    places = {size: size for size in finite} | {math.inf: 4.0 * max(finite, default=1.0)}

    def place(axes: Axes) -> None:
        used = [places[size] for size in sizes]
        axes.set_xscale("log")
        axes.set_xlim(min(used) / 1.5, max(used) * 1.5)
        axes.xaxis.set_minor_locator(NullLocator())
        axes.set_xticks(used, [SAY.size(size) for size in sizes])

    return places, Axis("ranked pairs", place=place)


def _distance(
    run: Preferred, entries: dict[str, LegendEntry], kind: str, title: str, room: Sequence[float]
) -> Panel:
    """Return KL(q‖q*) of each loss over the number of pairs.

    With one number of them, a mark for each loss.
    """
    y = Axis(
        DISTANCE.label, "log", levels=[run.start] if math.isfinite(run.start) else [], room=room
    )
    if len(run.sizes) < 2:
        marks = [
            Mark.of(row["arm"], row, kind, entries[row["arm"]])
            for row in run.final
            if row["arm"] in entries
        ]
        return plots.down(title, marks, y)
    places, x = _pairs_axis(run.sizes)
    lines = [
        Line.of(entry, _placed(run.of(name), places), "place", kind, ends=name == STANDARD)
        for name, entry in entries.items()
    ]
    return plots.lines(title, lines, x, y)


def _placed(rows: Rows, places: Mapping[float, float]) -> Rows:
    """Return rows with their place along the axis of pairs."""
    return [row | {"place": places[row["pairs"]]} for row in rows]


def distance(runs: Sequence[Preferred]) -> Figure:
    """Return the distance from the optimum.

    Of one run at the last and the best checkpoint, of several at the last.
    """
    names = list(dict.fromkeys(name for run in runs for name in run.losses))
    entries = plots.legend(names)
    drawn = [(run, "last", run.label) for run in runs[:MOST_PANELS]]
    if len(runs) == 1:
        drawn = [(runs[0], "last", "After training"), (runs[0], "best", "At the best checkpoint")]
    room = [run.start for run, _, _ in drawn]
    for run, kind, _ in drawn:
        room += [row[kind] for row in run.final]
        room += [row[f"{kind}_{end}"] for row in run.of(STANDARD) for end in ("low", "high")]
    panels = [_distance(run, entries, kind, title, room) for run, kind, title in drawn]
    caption = SAY.distance_caption(
        names[len(entries) :], len(panels) if len(panels) < len(runs) else 0
    )
    return Figure("dpo-pairs", SAY.distance_title(), caption, panels, list(entries.values()))


def _places(run: Preferred) -> Iterator[Figure]:
    """Yield KL(q‖q*) of each loss and number of pairs, coloured by its place among the losses."""
    if len(run.losses) < 2:
        return
    names, sizes = run.losses[: plots.MOST_ENTRIES], run.sizes[-MOST_SIZES:]
    tiles = {}
    for name in names:
        by_size = keyed(run.of(name), "pairs")
        rows = (by_size.get(size) for size in sizes)
        tiles[name] = [
            Tile(number(row["last"], 2), *PLACES.get(row["place"], (5, 0.0))) if row else Tile("")
            for row in rows
        ]
    # No room for separators of thousands.
    heads = [SAY.size(size).replace(",", "") for size in sizes]
    panel = heat("KL(q‖q*), nats", tiles, heads, "ranked pairs")
    caption = SAY.place_caption(run.losses[len(names) :], len(run.sizes) > len(sizes))
    yield run.figure("dpo-places", SAY.place_title(), caption, [panel])


def _curves(run: Preferred) -> Iterator[Figure]:
    """Yield standard DPO while it trains, a line for each number of pairs."""
    rows = where(run.rows(DPO_CURVES), arm=STANDARD)
    if not rows:
        return
    sizes = sorted(distinct(rows, "pairs"))
    drawn = sizes[-plots.MOST_ENTRIES :]
    entries = plots.legend(drawn, labels=[SAY.pairs(size) for size in drawn])
    panels = []
    for column, title, y in (
        ("kl_to_optimum", "From the optimum", DISTANCE),
        ("population_loss", "Loss on all pairs", Axis("nats a pair", "log")),
    ):
        lines = [
            Line.of(entry, where(rows, pairs=size), "step", column, ends=True)
            for size, entry in entries.items()
        ]
        panels.append(plots.lines(title, lines, STEP, y))
    caption = SAY.curves_caption([SAY.pairs(size) for size in sizes if size not in entries])
    yield run.figure("dpo-curves", SAY.curves_title(), caption, panels, entries)


def _forest(run: Preferred) -> Iterator[Figure]:
    """Yield paired differences from standard DPO with a middling number of pairs, and with all."""
    panels = []
    for size in dict.fromkeys((run.middle, run.sizes[-1])):
        rows = [row for row in finite(run.at(size), "last_difference") if row["arm"] != STANDARD]
        marks = []
        for row in rows:
            verdict = plots.verdict(row["last_difference_low"], row["last_difference_high"])
            marks.append(Mark.of(row["arm"], row, "last_difference", verdict))
        x = Axis("KL(q‖q*) − standard DPO's, nats", levels=(0.0,))
        panels += [plots.down(SAY.pairs(size).capitalize(), marks, x)] if marks else []
    if panels:
        legend = [plots.AHEAD, plots.OPEN, plots.BEHIND]
        yield run.figure("dpo-forest", SAY.forest_title(), SAY.forest_caption(), panels, legend)


def _optima(run: Preferred) -> Iterator[Figure]:
    """Yield the optimum that each loss has of its own, and where training on all pairs ended."""
    if len(run.optima) < 2:
        return
    panels = []
    for column, title, label in (
        ("kl_to_optimum", "From q*", DISTANCE.label),
        ("kl", "From the reference", "KL(q‖p), nats"),
    ):
        marks = [
            Mark(name, value if abs(value) >= ROUNDING else 0.0, entry)
            for name, row in run.optima.items()
            for which, entry in (("own", OWN), ("reached", REACHED))
            for value in [row[f"{which}_{column}"]]
        ]
        panels.append(plots.down(title, marks, Axis(label)))
    yield run.figure("dpo-optima", SAY.optima_title(), SAY.optima_caption(), panels, [OWN, REACHED])


def _implicit(run: Preferred) -> Iterator[Figure]:
    """Yield how well the implicit reward of standard DPO follows the true one, and ranks pairs,
    over their number.
    """
    if len(run.sizes) < 2:
        return
    places, x = _pairs_axis(run.sizes)
    rows = _placed(run.of(STANDARD), places)
    panels = []
    for title, label, columns in (
        (
            "Correlation with the reward",
            "correlation",
            ("reward_correlation", "policy_correlation"),
        ),
        ("Ranked as they are labelled", "share of pairs", ("accuracy", "population_accuracy")),
    ):
        lines = [Line.of(IMPLICIT[column], rows, "place", column) for column in columns]
        panels.append(plots.lines(title, lines, x, Axis(label)))
    yield run.figure("dpo-implicit", SAY.implicit_title(), SAY.implicit_caption(), panels, IMPLICIT)


def _estimates(run: Preferred) -> Iterator[Figure]:
    """Yield what each estimate said of the KL over the steps, and its error over all of them."""
    seen = where(run.rows(DPO_SEEN), pairs=run.middle)
    if not seen:
        return
    names = {SAY.estimate(row): row for row in seen}
    entries = plots.legend(list(names))
    error = Axis("error / exact KL", levels=(0.0,))
    marks = [Mark.of(name, row, "rel_error", entries[name]) for name, row in names.items()]
    panels, legend = [plots.down("Error on average", marks, error)], list(entries.values())
    rows = where(run.rows(DPO_ESTIMATES), pairs=run.middle)
    steps = sorted(distinct(rows, "step"))
    if len(steps) > 1:
        exact = LegendEntry("exact", 5, "_", dashed=True)
        by_name = {name: [row for row in rows if SAY.estimate(row) == name] for name in entries}
        lines = [
            Line(entries[name], steps, column_of(own, "estimate")) for name, own in by_name.items()
        ]
        kl = column_of(next(iter(by_name.values())), "kl")
        lines.append(Line(exact, steps, kl, marked=False))
        panels.insert(0, plots.lines("While training", lines, STEP, Axis("KL(q‖p), nats", "log")))
        legend.append(exact)
    caption = SAY.estimates_caption(run.middle, seen[0]["kl"])
    yield run.figure("dpo-estimates", SAY.estimates_title(), caption, panels, legend)


def figures(run: Preferred) -> list[Figure]:
    """Return all figures of a run but the first of the page."""
    parts = (_places, _curves, _forest, _optima, _implicit, _estimates)
    return [figure for part in parts for figure in part(run)]
