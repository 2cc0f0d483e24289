"""The figure of the throughput study: a dot and its quartiles for each estimator, library, direction and format."""

from __future__ import annotations

import re

from klbench.report.axes import log_ticks
from klbench.report.blocks import Figure, LegendEntry, Panel
from klbench.report.figures import colour, drawing
from klbench.studies.throughput.section_answer import KNOWN
from klbench.studies.throughput.section_data import LIBRARIES, MILLION, Data, Setting

STYLES = {"float64": (0, "o"), "float32": (1, "s"), "bfloat16": (2, "^")}
ROW = 17
"""Height of an estimator's row, in points."""


def _panel(
    data: Data,
    setting: Setting,
    kind: tuple[str, str],
    names: list[str],
    legend: dict[str, LegendEntry],
    ends: tuple[float, float],
) -> Panel:
    timed = {dtype: data.of(setting, kind, dtype) for dtype in data.dtypes(setting, kind)}
    height = 60 + ROW * len(names)
    with drawing(left=0.37, bottom=48 / height, height=height) as (axes, svg):
        for i, (dtype, found) in enumerate(timed.items()):
            for y, name in enumerate(names):
                if name in found:
                    each, entry = found[name], legend[dtype]
                    at = y + 0.24 * (i - (len(timed) - 1) / 2)
                    axes.plot([each.low / MILLION, each.high / MILLION], [at, at], color=colour(entry.slot), linewidth=1.6)
                    axes.plot([each.rate / MILLION], [at], marker=entry.marker, markersize=4.2, color=colour(entry.slot))
        axes.set_xscale("log")
        axes.set_xlim(*ends)
        log_ticks(axes.xaxis, *ends)
        axes.set_yticks(range(len(names)), names)
        axes.set_ylim(len(names) - 0.4, -0.6)
        axes.set_xlabel("million terms a second")
    library = LIBRARIES.get(kind[0], kind[0])
    shown = [name for name in KNOWN if name in names] or names[:3]
    said = [
        f"{name} {', '.join(f'{found[name].rate / MILLION:.3g} in {dtype}' for dtype, found in timed.items() if name in found)}"
        for name in shown
    ]
    title = f"{library}, {kind[1]}"
    return Panel(title, svg[0], f"Million terms a second, {title}, on {setting.where}: {'; '.join(said)}.")


def figures(data: Data) -> list[Figure]:
    """One figure for each machine or setting, all panels on one scale and with one order."""
    result = []
    for setting in data.settings:
        kinds = data.kinds(setting)
        names = list(data.of(setting, kinds[0], data.dtypes(setting, kinds[0])[0]))
        names += [name for name in data.of(setting) if name not in names]
        dtypes = data.dtypes(setting)
        legend = {dtype: LegendEntry(dtype, *STYLES.get(dtype, (3 + i, "D"))) for i, dtype in enumerate(dtypes)}
        timings = [each for each in data.timings if each.setting == setting]
        ends = min(each.low for each in timings) / MILLION / 1.3, max(each.high for each in timings) / MILLION * 1.3
        panels = [_panel(data, setting, kind, names, legend, ends) for kind in kinds]
        caption = (
            "Further right is better; the scale is logarithmic. The dot is the median of the repeats, the line runs from the "
            "first to the third quartile (it is often shorter than the dot is wide). All panels have the order of the first, "
            "its fastest on top."
        )
        where = f" on {setting.where}" + (f", {setting.run}" if setting.run else "")
        where += f", {setting.samples:,} terms a call" if len({each.samples for each in data.settings}) > 1 else ""
        stem = re.sub(r"[^a-z0-9]+", "-", f"throughput {where}".lower()).strip("-") if len(data.settings) > 1 else "throughput"
        result.append(Figure(stem, f"Terms a second{where}", caption, panels, list(legend.values())))
    return result
