"""The plots of the pages: lines with bands, intervals side by side, and marks down a list of names.

Each returns a panel: a drawing with its text alternative. Colours and markers come from legend
entries.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from klbench.report.axes import log_ticks, tick
from klbench.report.blocks import LegendEntry, Panel
from klbench.report.figures import MARKERS, TEXT, colour, drawing
from klbench.report.numbers import number
from klbench.rows import Row, columns_of

MOST_ENTRIES = 8
"""The most series of a plot, as many as the palette has colours."""
ROW = 18
"""Height of a name's row, in points."""
LONGEST, WIDEST = 21, 28
"""Characters of a name for which a row has room, and for which it makes room.

Longer names are cut.
"""
FADED = 0.13
"""Opacity of a band."""


def legend(names: Sequence[str], *, labels: Sequence[str] = ()) -> dict[str, LegendEntry]:
    """Return a colour and a marker for each of the first eight names.

    ``labels`` stand in place of the names.
    """
    shown = labels or names
    return {
        name: LegendEntry(label, i, MARKERS[i % len(MARKERS)])
        for i, (name, label) in enumerate(zip(names[:MOST_ENTRIES], shown, strict=False))
    }


@dataclass(frozen=True)
class Line:
    """Points along x, ``joined`` or not; hollow ones are not to be trusted, and never joined.

    ``dotted`` is for a second line of one entry. ``low`` and ``high`` are the ends of a band, or of
    ``bars`` at each point.
    """

    entry: LegendEntry
    x: Sequence[float]
    y: Sequence[float]
    low: Sequence[float] = ()
    high: Sequence[float] = ()
    bars: bool = False
    marked: bool = True
    dotted: bool = False
    joined: bool = True
    hollow: Sequence[bool] = ()

    @classmethod
    def of(
        cls,
        entry: LegendEntry,
        rows: Sequence[Row],
        x: str,
        y: str,
        *,
        ends: bool = False,
        scale: float = 1.0,
        **style: Any,
    ) -> Line:
        """Return the line of one column of rows over another.

        With ``ends`` it has those of its interval, ``_low`` and ``_high``. ``scale`` multiplies x.
        """
        at, value = columns_of(rows, x, y)
        low, high = columns_of(rows, f"{y}_low", f"{y}_high") if ends else ((), ())
        return cls(entry, [scale * each for each in at], value, low, high, **style)


@dataclass(frozen=True)
class Axis:
    """The label of an axis and its scale.

    Parameters
    ----------
    label
        With its unit.
    scale
        ``linear``, ``log``, or ``symlog``: even up to ``threshold`` and logarithmic beyond.
    levels
        Values at which a thin line is drawn across.
    place
        Sets the axis up in another way, after all else: ``place(axes)``.
    room
        Values that a logarithmic or ``symlog`` scale has room for too: of a panel beside this one.
    """

    label: str
    scale: str = "linear"
    threshold: float = 0.01
    levels: Sequence[float] = ()
    place: Callable[[Axes], object] | None = None
    room: Sequence[float] = ()


def lines(
    title: str, drawn: Sequence[Line], x: Axis, y: Axis, *, detail: str = "", left: float = 0.16
) -> Panel:
    """Return a panel of lines; the text alternative gives the last value of each."""
    with drawing(left=left) as (axes, svg):
        for line in drawn:
            _line(axes, line)
        values = [
            value for line in drawn for each in (line.y, line.low, line.high) for value in each
        ]
        set_axis(axes, "y", y, values)
        set_axis(axes, "x", x, [value for line in drawn for value in line.x])
    said = "; ".join(f"{line.entry.label} {number(line.y[-1], 2)}" for line in drawn if len(line.y))
    return Panel(
        title, svg[0], f"{title}, {y.label} over {x.label}, at the right end: {said}.", detail
    )


def _line(axes: Axes, line: Line) -> None:
    own = colour(line.entry.slot)
    if line.bars:
        for at, low, high in zip(line.x, line.low, line.high, strict=True):
            if math.isfinite(low) and math.isfinite(high):
                axes.plot([at, at], [low, high], color=own, linewidth=0.9)
    elif len(line.low):
        axes.fill_between(line.x, line.low, line.high, color=own, alpha=FADED, linewidth=0)
    hollow = line.hollow or [False] * len(line.y)
    trusted = [math.nan if each else y for y, each in zip(line.y, hollow, strict=True)]
    every = max(1, len(line.x) // 6) if line.joined and not line.hollow else 1
    style = (
        "none" if not line.joined else ":" if line.dotted else "--" if line.entry.dashed else "-"
    )
    marker = line.entry.marker if line.marked else None
    axes.plot(
        line.x, trusted, color=own, linestyle=style, markersize=4.5, marker=marker, markevery=every
    )
    if any(hollow):
        x, y = zip(
            *((x, y) for x, y, each in zip(line.x, line.y, hollow, strict=True) if each),
            strict=True,
        )
        axes.plot(
            x,
            y,
            color=own,
            linestyle="none",
            markersize=4.5,
            marker=line.entry.marker,
            markerfacecolor="none",
        )


def set_axis(axes: Axes, which: str, axis: Axis, values: Sequence[float]) -> None:
    """Give an axis its label, its scale, and the lines across."""
    finite = [value for value in (*values, *axis.levels, *axis.room) if math.isfinite(value)]
    for level in axis.levels:
        (axes.axhline if which == "y" else axes.axvline)(level, color=TEXT, linewidth=0.9, zorder=1)
    getattr(axes, f"set_{which}label")(axis.label)
    if axis.scale == "log" and (positive := [value for value in finite if value > 0]):
        low, high = min(positive) / 1.15, max(positive) * 1.15
        getattr(axes, f"set_{which}scale")("log")
        getattr(axes, f"set_{which}lim")(low, high)
        log_ticks(getattr(axes, f"{which}axis"), low, high)
    elif axis.scale == "symlog":
        _symlog(axes, which, finite, axis.threshold)
    if axis.place is not None:
        axis.place(axes)


def _symlog(axes: Axes, which: str, values: Sequence[float], threshold: float) -> None:
    """Set a scale that is even near 0 and logarithmic beyond, with ticks at a few decades."""
    getattr(axes, f"set_{which}scale")("symlog", linthresh=threshold, linscale=0.5)
    low, high = min([0.0, *values]), max([threshold, *values])
    getattr(axes, f"set_{which}lim")(1.3 * low if low < 0 else -0.2 * threshold, 1.35 * high)
    decades = [
        threshold * 10**k
        for k in range(1 + max(0, math.ceil(math.log10(max(high, -low) / threshold))))
    ]
    axis = getattr(axes, f"{which}axis")
    axis.set_major_locator(
        FixedLocator([0.0, *decades, *(-each for each in decades if -each >= low)])
    )
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(tick))


@dataclass(frozen=True)
class Mark:
    """A mark in the row of a name, with the ends of its interval where it has one.

    Hollow where it is not to be trusted.

    Without a value it is a bar alone, ``width`` points thick.
    """

    name: str
    value: float
    entry: LegendEntry
    low: float = math.nan
    high: float = math.nan
    hollow: bool = False
    size: float = 5.0
    offset: float = 0.0
    width: float = 1.8

    @classmethod
    def of(cls, name: str, row: Row, column: str, entry: LegendEntry, **style: Any) -> Mark:
        """Return the mark of a column of a row with the ends of its interval, ``_low`` and
        ``_high``.
        """
        return cls(name, row[column], entry, row[f"{column}_low"], row[f"{column}_high"], **style)


def down(
    title: str,
    marks: Sequence[Mark],
    x: Axis,
    *,
    names: Sequence[str] = (),
    detail: str = "",
    left: float = 0.43,
) -> Panel:
    """Return a panel with a row for each name, the first on top, and its marks along x.

    ``names`` are the rows, where panels side by side have the same ones; otherwise they are those
    of the marks.
    """
    names = list(names) or list(dict.fromkeys(mark.name for mark in marks))
    height, longest = 62 + ROW * max(3, len(names)), min(WIDEST, max(map(len, names), default=0))
    left += 0.0185 * max(0, longest - LONGEST)
    with drawing(left=left, bottom=48 / height, height=height) as (axes, svg):
        for mark in marks:
            y, own = names.index(mark.name) + mark.offset, colour(mark.entry.slot)
            if math.isfinite(mark.low) and math.isfinite(mark.high):
                axes.plot(
                    [mark.low, mark.high],
                    [y, y],
                    color=own,
                    linewidth=mark.width,
                    solid_capstyle="butt",
                )
            axes.plot(
                [mark.value],
                [y],
                marker=mark.entry.marker,
                color=own,
                linestyle="none",
                markersize=mark.size,
                markerfacecolor="none" if mark.hollow else own,
            )
        set_axis(
            axes, "x", x, [value for mark in marks for value in (mark.value, mark.low, mark.high)]
        )
        axes.set_yticks(
            range(len(names)),
            # With one character cut off, the dots would take its place.
            [name if len(name) <= WIDEST + 1 else f"{name[:WIDEST]}…" for name in names],
        )
        axes.set_ylim(len(names) - 0.4, -0.6)
        axes.grid(visible=False, axis="y")
    said = "; ".join(
        f"{mark.name} {number(mark.value, 2)}" for mark in marks if math.isfinite(mark.value)
    )
    return Panel(title, svg[0], f"{title}, {x.label}: {said}.", detail)


BEHIND, OPEN, AHEAD = (
    LegendEntry("behind", 1, "o"),
    LegendEntry("cannot be told", 5, "o"),
    LegendEntry("ahead", 2, "o"),
)
"""The verdicts on a difference, if less is better.

Its whole interval is above 0, holds 0, or is below it.
"""


def verdict(low: float, high: float) -> LegendEntry:
    """Return the entry for a difference by its interval: behind, ahead, or open."""
    return BEHIND if low > 0 else AHEAD if high < 0 else OPEN


def shares(
    title: str,
    counts: Mapping[str, Sequence[tuple[LegendEntry, int]]],
    x: Axis,
    *,
    left: float = 0.25,
) -> Panel:
    """Return a panel with a bar for each name, cut into parts with their numbers."""
    names = list(counts)
    height = 70 + 34 * len(names)
    with drawing(left=left, bottom=48 / height, height=height) as (axes, svg):
        for y, parts in enumerate(counts.values()):
            start = 0
            for entry, count in parts:
                if count:
                    axes.barh(
                        y, count, left=start, height=0.62, color=colour(entry.slot), alpha=0.85
                    )
                    axes.text(
                        start + count / 2, y, str(count), ha="center", va="center", color=TEXT
                    )
                start += count
        set_axis(axes, "x", x, [])
        axes.set_yticks(range(len(names)), names)
        axes.set_ylim(len(names) - 0.4, -0.6)
        axes.set_xlim(left=0)
        axes.grid(visible=False, axis="y")
    said = "; ".join(
        f"{name}: {', '.join(f'{n} {entry.label}' for entry, n in parts if n)}"
        for name, parts in counts.items()
    )
    return Panel(title, svg[0], f"{x.label[:1].upper()}{x.label[1:]} by name: {said}.")
