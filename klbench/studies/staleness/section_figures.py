"""Figures of the staleness study: bias, noise and effective sample size against the lag."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from klbench.report.axes import tick
from klbench.report.blocks import Figure, LegendEntry, Panel
from klbench.report.combinations import Data, Group, Row
from klbench.report.figures import MARKERS, colour, drawing
from klbench.report.numbers import number, short
from klbench.studies.staleness.section_data import ALWAYS, FRESH, NEVER, Lagging, by_pair

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MAX_PAIRS = 3
MAX_LINES = 8
Points = Sequence[tuple[float, float]]


def _axis(axes: Axes, lags: Sequence[float]) -> dict[float, float]:
    """The lag along x on a logarithmic scale on which 0 has a place of its own; where each lag stands."""
    positive = [lag for lag in lags if lag > 0]
    zero = positive[0] / 3 if positive else 1.0
    places = {lag: lag if lag > 0 else zero for lag in lags}
    axes.set_xscale("log")
    axes.set_xlim(min(places.values()) / 1.3, max(places.values()) * 1.3)
    axes.minorticks_off()
    axes.set_xticks(list(places.values()), [tick(lag) for lag in lags])
    axes.set_xlabel("lag KL(q‖μ), nats")
    return places


def _draw(lagging: Lagging, label: str, lines: Sequence[tuple[LegendEntry, Points]], title: str) -> Panel:
    with drawing(left=0.16) as (axes, svg):
        places = _axis(axes, lagging.lags)
        for entry, line in lines:
            kept = [(places[lag], y) for lag, y in line if math.isfinite(y)]
            if kept:
                style = "--" if entry.dashed else "-"
                axes.plot(*zip(*kept, strict=True), color=colour(entry.slot), marker=entry.marker, linestyle=style)
        axes.set_ylim(bottom=0.0)
        axes.set_ylabel(label)
    ends = [(entry.label, [y for _, y in line if math.isfinite(y)]) for entry, line in lines]
    said = "; ".join(f"{name} from {number(y[0], 2)} to {number(y[-1], 2)}" for name, y in ends if y)
    lags = f"lags {short(lagging.lags[0])} to {short(lagging.lags[-1])}"
    return Panel(title, svg[0], f"{title}, {label} over {lags}, {lagging.pair}: {said}.")


def _legend(groups: Sequence[Group]) -> list[LegendEntry]:
    return [LegendEntry(" = ".join(group.names), i, MARKERS[i % len(MARKERS)]) for i, group in enumerate(groups)]


def _panels(
    lagging: Lagging, kind: str, measures: Sequence[tuple[str, str, Callable[[Row], float]]], several: bool
) -> tuple[list[Panel], list[LegendEntry]]:
    groups = lagging.groups(kind)[:MAX_LINES]
    legend = _legend(groups)
    panels = []
    for title, label, value in measures:
        lines = [
            (entry, [(row.lag, value(row)) for row in lagging.curve(group.leader)])
            for entry, group in zip(legend, groups, strict=True)
        ]
        panels.append(_draw(lagging, label, lines, f"{title}, {lagging.data.label(lagging.pair)}" if several else title))
    return panels, legend


def _sizes(lagging: Lagging, several: bool) -> Panel | None:
    entries = (LegendEntry("whole sequences", 5, "o"), LegendEntry("single tokens", 5, "s", dashed=True))
    whole, token = ([(lag, sizes[i]) for lag, *sizes in lagging.sizes] for i in (0, 1))
    if not any(math.isfinite(size) for _, size in whole):
        return None
    title = "What a sample is worth" + (f", {lagging.data.label(lagging.pair)}" if several else "")
    panel = _draw(lagging, "effective / real samples", list(zip(entries, (whole, token), strict=True)), title)
    return Panel(panel.title, panel.svg, panel.alt, "circles: whole sequences; squares: single tokens")


BIAS = ("Bias", "bias / exact gradient", lambda row: 0.0 if row.exact else row.bias)
NOISE = ("Noise of one sample", "sd / exact gradient", lambda row: row.noise)
FIGURES = (
    (
        ALWAYS,
        "staleness-exact",
        "Exact at every lag: what it costs",
        (NOISE,),
        (
            "The noise of combinations whose mean is the gradient of KL(q‖p) at every lag, and the share of the samples that "
            "is left when they are weighted with q/μ (1 over the mean of the squared weights). The further the "
            "sampler lags behind, the fewer samples carry the weight. 0 stands for samples of the policy itself."
        ),
    ),
    (
        FRESH,
        "staleness-fresh",
        "Exact on fresh samples only",
        (BIAS, NOISE),
        (
            "Lower is better. At lag 0, on samples of the policy itself, all of these are exact. A bias of 1 is as far off as "
            "no gradient at all; noise falls with the root of the batch, bias does not."
        ),
    ),
    (
        NEVER,
        "staleness-biased",
        "Biased at any lag",
        (BIAS, NOISE),
        (
            "Lower is better. These leave something out even on fresh samples; a line that stays flat has no more to lose "
            "from a lag."
        ),
    ),
)


def figures(data: Data) -> list[Figure]:
    """One for each kind of combination, and a curve of the effective sample size beside the exact ones."""
    pairs = by_pair(data)[:MAX_PAIRS]
    several = len(pairs) > 1
    result = []
    for kind, name, title, measures, caption in FIGURES:
        panels: list[Panel] = []
        entries: dict[str, LegendEntry] = {}
        for lagging in pairs:
            if len(lagging.lags) < 2:
                continue
            drawn, legend = _panels(lagging, kind, measures, several)
            size = _sizes(lagging, several) if kind == ALWAYS else None
            panels += (drawn if legend else []) + ([size] if size else [])
            entries |= {entry.label: entry for entry in legend}
        if panels:
            result.append(Figure(name, title, caption, panels, list(entries.values())))
    return result
