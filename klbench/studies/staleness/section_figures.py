"""Figures of the staleness study: bias and noise at the largest lag, and both against the lag."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import numpy as np
from matplotlib.axes import Axes

from klbench.report.axes import tick
from klbench.report.blocks import Figure, LegendEntry, Panel
from klbench.report.combinations import MOST, amount, exact, named, share
from klbench.report.figures import MARKERS
from klbench.report.numbers import short
from klbench.report.panels import Bar, bars
from klbench.report.plots import Axis, Line, legend, lines
from klbench.report.prose import prose
from klbench.report.tables import Row
from klbench.rows import column_of, finite, where
from klbench.studies.staleness.columns import error_in, to_the_sampler
from klbench.studies.staleness.section_data import VERDICTS, Lagging, Staleness

SAY = prose(__package__)
MAX_PAIRS = 3
MOST_BARS = 16
COLOURS = {
    verdict: LegendEntry(verdict, slot, "s")
    for verdict, slot in zip(VERDICTS, (2, 0, 1), strict=True)
}
OTHERS = LegendEntry(SAY.others(), 5, "d")
SIZES = {
    "ess": LegendEntry("whole sequences", 5, "o"),
    "ess_token": LegendEntry("single tokens", 5, "s", dashed=True),
}


def at_last(lagging: Lagging) -> Figure:
    """Return bias and noise of each combination at the largest lag, side by side."""
    shown = [rows[0] for rows in lagging.ordered[:MOST_BARS]]
    biases = [
        Bar(_wrapped(row), 100 * bias, COLOURS[row["verdict"]], share(bias))
        for row in shown
        for bias in [0.0 if row["verdict"] == VERDICTS[0] else row["rel_bias_last"]]
    ]
    noises = [
        Bar(
            _wrapped(row), row["rel_std_last"], COLOURS[row["verdict"]], amount(row["rel_std_last"])
        )
        for row in shown
    ]
    panels = [
        bars(SAY.bias(), biases, Axis(SAY.bias_axis()), most=200.0, left=0.55),
        bars(SAY.noise(), noises, Axis(SAY.noise_axis()), left=0.55),
    ]
    same = [[named(row) for row in rows] for rows in lagging.ordered[:MOST_BARS] if len(rows) > 1]
    caption = SAY.last_caption(
        lagging.label, lagging.pair, short(lagging.lags[-1]), same, len(lagging.ordered[MOST_BARS:])
    )
    kept = {row["verdict"] for row in shown}
    entries = [entry for verdict, entry in COLOURS.items() if verdict in kept]
    title = SAY.last_title(short(lagging.lags[-1]))
    return lagging.run.figure("staleness-last", title, caption, panels, entries)


def _wrapped(row: Row) -> str:
    """Return a combination's name in one line or two."""
    name = named(row)
    cut = name.rfind("/" if "/" in name else "_", 0, 30)
    return name if len(name) <= 30 or cut < 0 else f"{name[: cut + 1]}\n{name[cut + 1 :]}"


def _lag_axis(lags: Sequence[float]) -> tuple[dict[float, float], Axis]:
    """Return where each lag stands on a logarithmic axis on which 0 has a place of its own, and
    that axis.
    """
    positive = [lag for lag in lags if lag > 0]
    zero = positive[0] / 3 if positive else 1.0
    places = {lag: lag if lag > 0 else zero for lag in lags}

    def place(axes: Axes) -> None:
        axes.set_xscale("log")
        axes.set_xlim(min(places.values()) / 1.3, max(places.values()) * 1.3)
        axes.minorticks_off()
        axes.set_xticks(list(places.values()), [tick(lag) for lag in lags])
        axes.set_ylim(bottom=0.0)

    return places, Axis(SAY.lag_axis(), place=place)


def _over_lags(
    lagging: Lagging, drawn: Sequence[tuple[LegendEntry, Sequence[tuple[float, float]]]], label: str
) -> Panel:
    places, axis = _lag_axis(lagging.lags)
    kept = [
        (entry, [(places[lag], y) for lag, y in points if math.isfinite(y)])
        for entry, points in drawn
    ]
    joined = [Line(entry, [x for x, _ in at], [y for _, y in at]) for entry, at in kept if at]
    return lines(lagging.label, joined, axis, Axis(label))


def over_seeds(run: Staleness) -> Figure:
    """Return the noise of each combination over several seeds, with intervals."""
    kinds = {
        right: replace(COLOURS[verdict], label=SAY.right(right))
        for right, verdict in ((True, VERDICTS[0]), (False, VERDICTS[2]))
    }
    drawn = [
        Bar(
            _wrapped(row),
            row["rel_std"],
            kinds[row["right_pairs"] == row["pairs"]],
            f"{amount(row['rel_std'])} ({amount(row['rel_std_low'])} to"
            f" {amount(row['rel_std_high'])})",
        )
        for row in run.over_seeds
    ]
    first = run.over_seeds[0]
    # Room for an interval in words beyond the longest bar.
    end = 2.0 * max(bar.value for bar in drawn)
    axis = Axis(SAY.noise_axis(), place=lambda axes: axes.set_xlim(0.0, end))
    return run.figure(
        "staleness-seeds",
        SAY.seeds_title(),
        SAY.seeds_caption(first["series"], short(first["staleness"]), first["pairs"]),
        [bars(SAY.noise(), drawn, axis, left=0.55)],
        [kind for kind in kinds.values() if any(bar.entry == kind for bar in drawn)],
    )


def bias_against_noise(lagging: Lagging) -> Figure:
    """Return the bias of all combinations against their noise, a panel each lag, those that err
    least in some batch in colours of their own.
    """
    best, beaten = _best(lagging), False
    panels = []
    for lag in lagging.lags:
        rows = [
            row
            for row in where(lagging.rows, staleness=lag)
            if 0.0 < row["rel_std"] < math.inf and not to_the_sampler(row)
        ]
        others = [row for row in rows if row["combination"] not in best]
        beaten = beaten or bool(others)
        drawn = [_points(OTHERS, others)] if others else []
        drawn += [_points(best[row["combination"]], [row]) for row in rows if row not in others]
        bias = Axis(SAY.bias_axis(), scale="symlog", threshold=1.0, levels=(100.0,))
        panels.append(lines(SAY.lag(short(lag)), drawn, Axis(SAY.noise_axis(), scale="log"), bias))
    caption, legend = (
        SAY.against_caption(lagging.label),
        [*best.values(), *([OTHERS] if beaten else [])],
    )
    return lagging.run.figure("staleness-noise", SAY.against_title(), caption, panels, legend)


def _best(lagging: Lagging) -> dict[str, LegendEntry]:
    """Return the entries of all combinations that err least in some batch, however many."""
    names = {row["combination"]: named(row) for row in lagging.choices}
    slots = [slot for slot in range(len(MARKERS)) if slot != OTHERS.slot]
    return {
        name: LegendEntry(label, slots[i % len(slots)], MARKERS[i % len(MARKERS)])
        for i, (name, label) in enumerate(names.items())
    }


def _points(entry: LegendEntry, rows: Sequence[Row]) -> Line:
    biases = [_bias(row) for row in rows]
    return Line(entry, column_of(rows, "rel_std"), biases, joined=False)


def by_batch(lagging: Lagging) -> Figure:
    """Return the error of each combination that is the best somewhere against the batch, a panel
    each lag.
    """
    entries = _best(lagging)
    largest = max(column_of(lagging.choices, "batch_from"))
    batches = np.geomspace(1.0, 10.0 * largest, 60).tolist()
    panels = []
    for lag in lagging.lags:
        at = {row["combination"]: row for row in lagging.rows if row["staleness"] == lag}
        drawn = [
            Line(entry, batches, [_error(at[name], batch) for batch in batches])
            for name, entry in entries.items()
            if name in at
        ]
        y = Axis(SAY.error_axis(), scale="log", levels=(100.0,))
        panels.append(lines(SAY.lag(short(lag)), drawn, Axis(SAY.batch_axis(), scale="log"), y))
    caption = SAY.batch_caption(lagging.label)
    return lagging.run.figure("staleness-batches", SAY.batch_title(), caption, panels, entries)


def _error(row: Row, batch: float) -> float:
    return error_in(batch, _bias(row), 100 * row["rel_std"])


def _bias(row: Row) -> float:
    return 0.0 if exact(row) else 100 * row["rel_bias"]


def over_lags(run: Staleness) -> Iterator[Figure]:
    """Yield a figure for each kind of combination, a panel each pair, and one of the effective
    sample size.
    """
    pairs = [each for each in run.lagging[:MAX_PAIRS] if len(each.lags) > 1]
    for verdict in VERDICTS:
        names: dict[str, str] = {}
        for lagging in pairs:
            names |= {rows[0]["combination"]: named(rows[0]) for rows in lagging.groups(verdict)}
        if not names:
            continue
        entries = legend(list(names), labels=list(names.values()))
        right = verdict == VERDICTS[0]
        value: Callable[[Row], float] = (lambda row: row["rel_std"]) if right else _bias
        panels = []
        for lagging in pairs:
            drawn = [
                (entry, [(row["staleness"], value(row)) for row in lagging.curve(name)])
                for name, entry in entries.items()
            ]
            panels.append(
                _over_lags(lagging, drawn, SAY.noise_axis() if right else SAY.bias_axis())
            )
        caption = SAY.lag_caption(verdict, len(list(names)[MOST:]), len(run.lagging[MAX_PAIRS:]))
        name = f"staleness-{verdict.replace(' ', '-')}"
        yield run.figure(name, SAY.lag_title(verdict), caption, panels, entries)
    panels = []
    for lagging in pairs:
        if finite(lagging.rows, "ess"):
            sizes = [
                (entry, [(row["staleness"], row[size]) for row in lagging.rows])
                for size, entry in SIZES.items()
            ]
            panels.append(_over_lags(lagging, sizes, SAY.size_axis()))
    if panels:
        yield run.figure("staleness-sizes", SAY.size_title(), SAY.size_caption(), panels, SIZES)
