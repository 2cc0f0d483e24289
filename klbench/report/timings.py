"""The page of a history of timings.

What became slower or faster from commit to commit, on each kind of machine.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import pandas as pd
import seaborn as sns
from markupsafe import Markup

from klbench.report.axes import tick
from klbench.report.blocks import (
    Block,
    Bullets,
    Cell,
    Column,
    Figure,
    Heading,
    LegendEntry,
    Panel,
    Paragraph,
    Table,
)
from klbench.report.figures import TEXT, colour, drawing
from klbench.report.numbers import MISSING, count, number
from klbench.report.page import Page, html
from klbench.report.prose import prose
from klbench.report.writing import check_own
from klbench.runs import write_text
from klbench.types import ConfigError

SAY = prose(__package__, "timings.html.j2")
_NEEDED = "benchmark commit committed dirty machine measured seconds seconds_q25 seconds_q75"
COLUMNS = frozenset(_NEEDED.split())
NOTABLE = 1.15
"""A ratio beyond this, or below its inverse, is worth a sentence.

Smaller ones a busy machine makes by itself.
"""
NAMED = 5
MOST_TICKS = 6
TICKS = (0.3, 0.5, 0.7, 0.8, 0.9, 1.0, 1.1, 1.2, 1.4, 1.7, 2.0, 3.0)
LEGEND = (LegendEntry("each benchmark", 5, "o"), LegendEntry("the one that changed most", 1, "s"))
WIDTHS = (0.7, 1.8)


@dataclass(frozen=True)
class Timing:
    """The time of one benchmark at one commit.

    The median of its rounds and their quartiles, seconds a call.
    """

    seconds: float
    low: float
    high: float


@dataclass(frozen=True)
class Track:
    """One benchmark on one kind of machine.

    What was timed at which of the machine's commits, by their place.
    """

    name: str
    timings: dict[int, Timing]

    @property
    def suite(self) -> str:
        """The function that it is a case of."""
        return self.name.partition("[")[0]

    @property
    def first(self) -> Timing:
        return self.timings[min(self.timings)]

    @property
    def last(self) -> Timing:
        return self.timings[max(self.timings)]

    @property
    def change(self) -> float:
        """The last time over the first."""
        return self.last.seconds / self.first.seconds

    def step(self, place: int) -> float:
        """The time at that commit over the one before it; NaN where it was not timed at both."""
        known = self.timings.get(place), self.timings.get(place - 1)
        return known[0].seconds / known[1].seconds if known[0] and known[1] else math.nan


@dataclass(frozen=True)
class Machine:
    """A kind of machine, its commits in the order in which they were made, and its benchmarks."""

    kind: str
    commits: Sequence[str]
    tracks: Sequence[Track]


def read(files: Sequence[Path]) -> list[Machine]:
    """Histories, several as one; of what was timed twice, what was timed last.

    Raises
    ------
    ConfigError
        A file is missing, no Parquet table, or lacks a column or any row.
    """
    table = pd.concat([_read(file) for file in files], ignore_index=True)
    return [_machine(str(kind), rows) for kind, rows in table.groupby("machine", sort=True)]


def _read(file: Path) -> pd.DataFrame:
    if not file.is_file():
        raise ConfigError(
            f"--history {file}: expected a Parquet file that make bench wrote, found no such file"
        )
    try:
        table = pd.read_parquet(file)
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"--history {file}: cannot be read as Parquet, {' '.join(str(error).split())[:120]}"
        ) from None
    missing = sorted(COLUMNS - set(table.columns))
    if missing:
        raise ConfigError(
            f"--history {file}: is no history of make bench, it has no column {', '.join(missing)}"
        )
    if not len(table):
        raise ConfigError(f"--history {file}: holds no row")
    if not pd.api.types.is_numeric_dtype(table["seconds"]) or not (table["seconds"] > 0).all():
        raise ConfigError(f"--history {file}: column seconds must hold positive numbers")
    return table


def _machine(kind: str, rows: pd.DataFrame) -> Machine:
    rows = rows.sort_values(["committed", "dirty", "measured"], kind="stable")
    labels = [
        f"{commit[:7] or 'no commit'}{'+' if dirty else ''}"
        for commit, dirty in zip(rows["commit"], rows["dirty"], strict=True)
    ]
    commits = list(dict.fromkeys(labels))
    tracks: dict[str, dict[int, Timing]] = {}
    for label, row in zip(labels, rows.to_dict("records"), strict=True):
        timing = Timing(float(row["seconds"]), float(row["seconds_q25"]), float(row["seconds_q75"]))
        tracks.setdefault(str(row["benchmark"]), {})[commits.index(label)] = timing
    return Machine(
        kind, commits, [Track(name, timings) for name, timings in sorted(tracks.items())]
    )


def _code(text: str) -> Markup:
    return Markup("<code>{}</code>").format(text)


def _ranked(tracks: Sequence[Track], ratios: dict[str, float], *, slower: bool) -> Markup:
    found = sorted(
        (ratios[each.name], each.name) for each in tracks if not math.isnan(ratios[each.name])
    )
    kept = (
        [pair for pair in reversed(found) if pair[0] > NOTABLE]
        if slower
        else [pair for pair in found if pair[0] < 1 / NOTABLE]
    )
    named = [(ratio, _code(name)) for ratio, name in kept[:NAMED]]
    return Markup(SAY.ranked(named, len(kept) - len(named), "slower" if slower else "faster"))


def _card(machine: Machine) -> Markup:
    head = Markup(SAY.machine(machine.kind, len(machine.tracks), len(machine.commits)))
    last = len(machine.commits) - 1
    if last == 0:
        return head + SAY.single()
    ratios = {each.name: each.step(last) for each in machine.tracks}
    known = sum(not math.isnan(ratio) for ratio in ratios.values())
    ends = (_code(machine.commits[k]) for k in (last - 1, last))
    head += SAY.latest(*ends, known, *_both(machine.tracks, ratios))
    if last > 1:
        changes = {each.name: each.change for each in machine.tracks}
        head += SAY.since(*_both(machine.tracks, changes))
    return head


def _both(tracks: Sequence[Track], ratios: dict[str, float]) -> list[Markup]:
    """Return what became slower, and what became faster."""
    return [_ranked(tracks, ratios, slower=slower) for slower in (True, False)]


def _answer(machines: Sequence[Machine]) -> list[Block]:
    benchmarks = len({t.name for m in machines for t in m.tracks})
    return [
        Paragraph(SAY.asked(benchmarks), "lead"),
        Paragraph(SAY.note(NOTABLE)),
        Bullets([_card(each) for each in machines], cards=True),
    ]


def _ticks(low: float, high: float) -> Sequence[float]:
    if high / low < 5:
        return TICKS
    return [10.0**k for k in range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)]


def _panel(machine: Machine, suite: str, tracks: Sequence[Track]) -> Panel:
    most = max(tracks, key=lambda each: abs(math.log(each.change)))
    ends = [t.seconds / each.first.seconds for each in tracks for t in each.timings.values()]
    low, high = min(*ends, 1 / 1.3) / 1.05, max(*ends, 1.3) * 1.05
    with drawing(left=0.15) as (axes, svg):
        axes.axhline(1.0, color=TEXT, linewidth=0.9, zorder=1)
        drawn = pd.DataFrame(
            {
                "commit": k,
                "time": timing.seconds / each.first.seconds,
                "benchmark": each.name,
                "shown": LEGEND[each is most].label,
            }
            for each in tracks
            for k, timing in sorted(each.timings.items())
        )
        sns.lineplot(
            drawn,
            x="commit",
            y="time",
            units="benchmark",
            estimator=None,
            hue="shown",
            palette={each.label: colour(each.slot) for each in LEGEND},
            style="shown",
            markers={each.label: each.marker for each in LEGEND},
            dashes=False,
            size="shown",
            sizes={each.label: width for each, width in zip(LEGEND, WIDTHS, strict=True)},
            legend=False,
            ax=axes,
        )
        axes.set_xlabel("")
        axes.set_yscale("log")
        axes.set_ylim(low, high)
        ticks = [each for each in _ticks(low, high) if low <= each <= high]
        axes.set_yticks(ticks, [tick(each) for each in ticks])
        axes.set_yticks([], minor=True)
        places = range(0, len(machine.commits), math.ceil(len(machine.commits) / MOST_TICKS))
        axes.set_xticks(list(places), [machine.commits[k] for k in places])
        axes.set_xlim(-0.3, len(machine.commits) - 0.7)
        axes.set_ylabel("time, first = 1")
    case = most.name.partition("[")[2].rstrip("]") or most.name.rpartition("::")[2]
    title = suite.rpartition("::")[2].removeprefix("bench_").replace("_", " ")
    said = f"{case}: {number(most.change)} times from first to last"
    alt = (
        f"Times of {count(len(tracks), 'benchmark')} of {suite} over the commits; the one that"
        f" changed most is {said}."
    )
    return Panel(title, svg[0], alt, said)


def _figure(machine: Machine, place: int) -> Figure:
    suites = groupby(
        (each for each in machine.tracks if len(each.timings) > 1), key=lambda each: each.suite
    )
    panels = [_panel(machine, suite, list(tracks)) for suite, tracks in suites]
    title = f"Over the commits, on {machine.kind}"
    return Figure(f"history-{place}", title, SAY.caption(), panels, LEGEND)


def _table(machine: Machine) -> Table:
    last = len(machine.commits) - 1
    columns = [
        Column("Benchmark", "its name in benchmarks/"),
        Column(
            "Milliseconds",
            "of a call at its last commit: median, and first and third quartile of the rounds",
            True,
        ),
        Column("Beside the commit before", "the median over that of the commit before", True),
        Column("Beside its first", "the median over that of its first commit", True),
    ]
    rows = []
    for each in sorted(
        machine.tracks, key=lambda each: -(each.step(last) if each.step(last) > 0 else 0.0)
    ):
        step, now = each.step(last), each.last
        tone = "bad" if step > NOTABLE else "good" if step < 1 / NOTABLE else ""
        spread = (
            f"{number(now.seconds * 1e3)} ({number(now.low * 1e3)} to {number(now.high * 1e3)})"
        )
        rows.append(
            [
                Cell(_code(each.name)),
                Cell(spread, now.seconds),
                Cell(MISSING if math.isnan(step) else number(step), step, tone),
                Cell(number(each.change) if len(each.timings) > 1 else MISSING, each.change),
            ]
        )
    return Table(f"On {machine.kind}", columns, rows)


def blocks(machines: Sequence[Machine]) -> list[Block]:
    """The page: the answer, a figure and a table for each kind of machine."""
    result: list[Block] = [Heading("The answer in short", 2, "answer"), *_answer(machines)]
    drawn: list[Any] = [
        _figure(each, place)
        for place, each in enumerate(machines)
        if any(len(t.timings) > 1 for t in each.tracks)
    ]
    if drawn:
        result += [Heading("Over the commits", 2, "history"), *drawn]
    return [
        *result,
        Heading("Every benchmark", 2, "benchmarks"),
        *(_table(each) for each in machines),
    ]


def write(files: Sequence[Path], out: Path) -> Path:
    """Write the page of a history of timings.

    Raises
    ------
    ConfigError
        A history cannot be read; ``out`` is a folder, or a file that klbench did not make.
    """
    machines = read(files)
    check_own(out)
    commits = len({commit for machine in machines for commit in machine.commits})
    subtitle = ", ".join(
        (count(commits, "commit"), count(len(machines), "kind of machine", "kinds of machine"))
    )
    write_text(out, html(Page("The speed of klbench", subtitle, blocks(machines))))
    return out
