"""The section of the throughput study: how many terms a second each estimator computes."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence

from klbench.report import cells, plots
from klbench.report.blocks import (
    Block,
    Cell,
    Column,
    Figure,
    Lead,
    LegendEntry,
    Section,
    Table,
    Tables,
    Text,
)
from klbench.report.prose import prose
from klbench.report.tables import head
from klbench.studies.throughput.columns import THROUGHPUT
from klbench.studies.throughput.section_data import FORWARD, MILLION, Data, Setting, load

SAY = prose(__package__)
STYLES = {"float64": (0, "o"), "float32": (1, "s"), "bfloat16": (2, "^")}


def lead(tables: Tables) -> Lead:
    """Return the fastest and the slowest, what dtypes and a backward pass change, and the
    timings of the first machine.
    """
    data = load(tables)
    if not data.timings:
        return Lead(SAY.question(), SAY.nothing(), None)
    setting = data.settings[0]
    kind = data.kinds(setting)[0]
    found = data.of(setting, kind, data.dtypes(setting, kind)[0]).values()
    fastest, slowest = (end(found, key=lambda each: each.rank) for end in (min, max))
    return Lead(
        SAY.question(),
        SAY.verdict(fastest, slowest, MILLION),
        _figure(data, setting),
        list(_more(data, setting)),
    )


def _more(data: Data, setting: Setting) -> Iterator[Text]:
    kinds = data.kinds(setting)
    forward = [kind for kind in kinds if kind[1] == FORWARD]
    for kind in forward[-1:]:
        base, *shorter = data.dtypes(setting, kind)
        for dtype in shorter[-1:]:
            timings = data.of(setting, kind, dtype)
            ratios = list(data.ratios(timings, data.of(setting, kind, base)).values())
            if ratios:
                yield SAY.shorter(dtype, base, next(iter(timings.values())).library, ratios)
    ratios = [
        ratio
        for backend, direction in kinds
        if direction != FORWARD
        for dtype in data.dtypes(setting, (backend, direction))
        for ratio in data.ratios(
            data.of(setting, (backend, FORWARD), dtype),
            data.of(setting, (backend, direction), dtype),
        ).values()
    ]
    if ratios:
        yield SAY.backward(sorted(ratios))
    spread = sorted(each.spread for each in data.timings if each.setting == setting)
    yield SAY.caution(spread[(len(spread) - 1) // 2])


def _figure(data: Data, setting: Setting) -> Figure:
    """Return a panel for each library and direction, all on one scale and with one order of
    names.
    """
    kinds, several = data.kinds(setting), len(data.settings) > 1
    names = list(data.of(setting, kinds[0], data.dtypes(setting, kinds[0])[0]))
    names += [name for name in data.of(setting) if name not in names]
    dtypes = data.dtypes(setting)
    legend = {
        dtype: LegendEntry(dtype, *STYLES.get(dtype, (3 + i, "D")))
        for i, dtype in enumerate(dtypes)
    }
    timings = [each for each in data.timings if each.setting == setting]
    ends = min(each.low for each in timings) / MILLION, max(each.high for each in timings) / MILLION
    axis = plots.Axis(
        "million terms a second",
        "log",
        place=lambda axes: axes.set_xlim(ends[0] / 1.3, ends[1] * 1.3),
    )
    panels = []
    for kind in kinds:
        found = {dtype: data.of(setting, kind, dtype) for dtype in dtypes}
        marks = [
            plots.Mark(
                name,
                each.rate / MILLION if each else math.nan,
                legend[dtype],
                each.low / MILLION if each else math.nan,
                each.high / MILLION if each else math.nan,
                offset=0.24 * (i - (len(dtypes) - 1) / 2),
                size=4.2,
            )
            for name in names
            for i, dtype in enumerate(dtypes)
            for each in [found[dtype].get(name)]
        ]
        library = next(each.library for each in timings if each.kind == kind)
        panels.append(plots.down(f"{library}, {kind[1]}", marks, axis, left=0.37))
    where = SAY.on(setting) if several else ""
    stem = (
        re.sub(r"[^a-z0-9]+", "-", f"throughput{where}-{setting.samples}".lower())
        if several
        else "throughput"
    )
    return Figure(stem, SAY.figure_title(where), SAY.caption(), panels, list(legend.values()))


def build(tables: Tables) -> Sequence[Block]:
    """Return the timings of the other machines and settings, and a table for each."""
    data = load(tables)
    return [
        *(_figure(data, each) for each in data.settings[1:]),
        *(_table(data, each) for each in data.settings),
    ]


def _table(data: Data, setting: Setting) -> Table:
    """Return a row for each estimator, and a column for each library, direction and dtype."""
    timed = [(kind, dtype) for kind in data.kinds(setting) for dtype in data.dtypes(setting, kind)]
    found = {each: data.of(setting, *each) for each in timed}
    columns = [head(THROUGHPUT, "estimator")]
    for (backend, direction), dtype in timed:
        library = next(each.library for each in data.timings if each.backend == backend)
        columns.append(
            Column(
                SAY.table_heading(library, direction, dtype),
                SAY.table_meaning(library, direction, dtype, setting.repeats),
                numeric=True,
            )
        )
    rows = []
    for name in dict.fromkeys(each.estimator for each in data.timings if each.setting == setting):
        timings = [found[each].get(name) for each in timed]
        shown = [
            Cell(SAY.quartiles(each, MILLION), each.rate) if each else Cell("–", math.nan)
            for each in timings
        ]
        rows.append([Cell(cells.code(name)), *shown])
    return Table(SAY.table_title(SAY.on(setting), setting.samples), columns, rows)


TERMS = (
    "term",
    "q_p",
    "r",
    "schulman",
    "control_variates",
    "clamped",
    "bregman",
    "libraries",
    "forward",
    "forward_and_backward",
    "dtypes",
    "median",
)

SECTION = Section("How fast", THROUGHPUT, build, lead=lead, order=60, terms=TERMS)
