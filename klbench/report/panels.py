"""The plots of the pages that are no lines or marks: bars, arrows and heat maps.

Each returns a panel, as those of :mod:`klbench.report.plots` do.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from matplotlib.patches import Rectangle

from klbench.report.blocks import LegendEntry, Panel
from klbench.report.figures import TEXT, colour, drawing
from klbench.report.numbers import short
from klbench.report.plots import Axis, set_axis


@dataclass(frozen=True)
class Bar:
    """A bar from 0 in the row of a name, what is written at its end, and a tick where another value
    of it lies.

    Without an entry it is a heading over the rows that follow.
    """

    name: str
    value: float = 0.0
    entry: LegendEntry | None = None
    text: str = ""
    tick: float = math.nan


ROOM_FOR_AXIS = 62
"""Points below and above the rows of bars."""


def _bar_height(bar: Bar) -> int:
    return 6 + 13 * (1 + bar.name.count("\n"))


def bars_height(drawn: Sequence[Bar]) -> int:
    """Return the height in points of a panel with these bars."""
    return ROOM_FOR_AXIS + sum(map(_bar_height, drawn))


def bars(
    title: str,
    drawn: Sequence[Bar],
    x: Axis,
    *,
    most: float = math.inf,
    detail: str = "",
    left: float = 0.52,
    height: int = 0,
) -> Panel:
    """Return a panel with a bar for each name, the first on top.

    Names may have several lines, bars end at ``most``, and the panel is at least ``height``
    points high, as one beside it may be.
    """
    limit = (
        min(
            most,
            max(
                [each for bar in drawn for each in (bar.value, bar.tick) if math.isfinite(each)]
                or [1.0]
            ),
        )
        or 1.0
    )
    tall = [_bar_height(bar) for bar in drawn]
    ys = [sum(tall[:i]) + own / 2 for i, own in enumerate(tall)]
    rows = [(y, bar, bar.entry) for y, bar in zip(ys, drawn, strict=True) if bar.entry]
    height = max(height, bars_height(drawn))
    with drawing(left=left, bottom=48 / height, height=height) as (axes, svg):
        for y, bar, entry in rows:
            end, own = min(bar.value, limit) if bar.value == bar.value else 0.0, colour(entry.slot)
            axes.plot([0.0, end], [y, y], color=own, linewidth=9, solid_capstyle="butt")
            axes.plot([bar.tick], [y], marker="|", markersize=11, color=TEXT)
            axes.plot(
                [0.0],
                [y],
                marker="o" if not end else "",
                markersize=6,
                color=own,
                clip_on=False,
                zorder=3,
            )
            axes.text(
                max(end, bar.tick if bar.tick <= limit else 0.0) + 0.04 * limit,
                y,
                bar.text,
                va="center",
            )
        for y, bar in zip(ys, drawn, strict=True):
            if not bar.entry:
                edge, across = 0.02 - left / (0.97 - left), axes.get_yaxis_transform()
                axes.text(edge, y, bar.name, transform=across, va="center", fontweight="bold")
        axes.set_xlim(0.0, 1.28 * limit)
        set_axis(axes, "x", x, [bar.value for bar in drawn])
        axes.set_yticks([y for y, _, _ in rows], [bar.name for _, bar, _ in rows])
        axes.set_ylim(height - ROOM_FOR_AXIS, 0.0)
        axes.grid(visible=False, axis="y")
        axes.tick_params(axis="y", length=0)
    said = "; ".join(f"{bar.name} {bar.text}".replace("\n", " ") for _, bar, _ in rows)
    return Panel(title, svg[0], f"{title}, {x.label}: {said}.", detail)


@dataclass(frozen=True)
class Arrow:
    """An arrow from the origin, with the names that share its end.

    Thick, and in a colour, where it has an entry.
    """

    x: float
    y: float
    names: Sequence[str]
    entry: LegendEntry | None = None


def _apart(places: Sequence[float], heights: Sequence[float]) -> list[float]:
    """Return places along a line, moved no further than it takes for labels of these heights not
    to overlap.
    """
    moved = list(places)
    for below, above in pairwise(sorted(range(len(places)), key=places.__getitem__)):
        moved[above] = max(moved[above], moved[below] + (heights[below] + heights[above]) / 2)
    drift = (sum(moved) - sum(places)) / max(1, len(places))
    return [place - drift for place in moved]


def _place(value: float, side: float) -> str:
    """Return a coordinate in words; what is rounding of 0 on a plane of that side is 0."""
    return short(value if abs(value) > 1e-6 * side else 0.0, 2)


def arrows(title: str, drawn: Sequence[Arrow], x: str, y: str) -> Panel:
    """Return a panel of arrows from the origin, a point where one has no length, with their
    names beside their ends.
    """
    xs, ys = [0.0, *(each.x for each in drawn)], [0.0, *(each.y for each in drawn)]
    side = 1.6 * max(max(xs) - min(xs), max(ys) - min(ys), 1e-9)
    step = side / 290  # a point of the drawing
    with drawing(left=0.15, bottom=0.14, height=330) as (axes, svg):
        for set_limits, values in ((axes.set_xlim, xs), (axes.set_ylim, ys)):
            set_limits(
                (max(values) + min(values) - side) / 2, (max(values) + min(values) + side) / 2
            )
        axes.locator_params(nbins=5)
        for right in (True, False):
            own = [each for each in drawn if (each.x > -4 * step) == right]
            places = _apart([each.y for each in own], [14 * step * len(each.names) for each in own])
            for arrow, at in zip(own, places, strict=True):
                tint = colour(arrow.entry.slot) if arrow.entry else TEXT
                if math.hypot(arrow.x, arrow.y) < 4 * step:
                    axes.plot(0.0, 0.0, "o", color=TEXT, markersize=6, zorder=4)
                else:
                    wide = (
                        {"linewidth": 3.2, "mutation_scale": 15}
                        if arrow.entry
                        else {"linewidth": 1.0, "mutation_scale": 9}
                    )
                    style = {"arrowstyle": "-|>", "color": tint, "shrinkA": 0, "shrinkB": 0, **wide}
                    axes.annotate(
                        "",
                        (arrow.x, arrow.y),
                        (0.0, 0.0),
                        arrowprops=style,
                        zorder=2 if arrow.entry else 3,
                    )
                aside = arrow.x + (9 if right else -9) * step
                axes.plot([arrow.x, aside], [arrow.y, at], color=TEXT, linewidth=0.6, linestyle=":")
                axes.text(
                    aside,
                    at,
                    "\n".join(arrow.names),
                    color=tint,
                    ha="left" if right else "right",
                    va="center",
                )
        axes.set_xlabel(x)
        axes.set_ylabel(y)
    said = "; ".join(
        f"{', '.join([*([each.entry.label] if each.entry else []), *each.names])} at "
        f"({_place(each.x, side)}, {_place(each.y, side)})"
        for each in drawn
    )
    return Panel(title, svg[0], f"{title}: {said}.")


@dataclass(frozen=True)
class Tile:
    """A number of a heat map: what is written, and the slot of its colour with its opacity."""

    text: str
    slot: int = 0
    opacity: float = 0.0


def heat(
    title: str,
    rows: Mapping[str, Sequence[Tile]],
    columns: Sequence[str],
    x: str,
    *,
    detail: str = "",
) -> Panel:
    """Return a panel with a row of tiles for each name, one tile in each column."""
    height = 62 + 22 * max(2, len(rows))
    with drawing(left=0.34, bottom=48 / height, height=height) as (axes, svg):
        for i, tiles in enumerate(rows.values()):
            for j, tile in enumerate(tiles):
                own = colour(tile.slot)
                axes.add_patch(
                    Rectangle(
                        (j - 0.5, i - 0.5), 1, 1, facecolor=own, alpha=tile.opacity, linewidth=0
                    )
                )
                axes.text(j, i, tile.text, ha="center", va="center", color=TEXT)
        axes.set_xticks(range(len(columns)), columns)
        axes.set_yticks(range(len(rows)), list(rows))
        axes.set_xlim(-0.5, len(columns) - 0.5)
        axes.set_ylim(len(rows) - 0.5, -0.5)
        axes.grid(visible=False)
        axes.tick_params(length=0)
        axes.set_xlabel(x)
    said = "; ".join(
        f"{name} {', '.join(tile.text for tile in tiles)}" for name, tiles in rows.items()
    )
    return Panel(title, svg[0], f"{title}, {x} {', '.join(columns)}: {said}.", detail)
