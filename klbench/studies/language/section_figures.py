"""Figures of training on language models: curves over updates, and reward over exact KL."""

from __future__ import annotations

import math

from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, FuncFormatter

from klbench.report.axes import log_ticks, tick
from klbench.report.blocks import Figure, LegendEntry, Panel
from klbench.report.figures import MARKERS, colour, drawing
from klbench.report.numbers import number
from klbench.report.tables import Row
from klbench.studies.language.section_data import UNTRAINED, LmTrained

MAX_LINES = 8
SOME_NATS = (0.0, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1000.0)
FLOOR = 1e-2
"""Nats below which a logarithmic scale has no room."""


def _entries(trained: LmTrained) -> dict[str, LegendEntry]:
    names = [row["combination"] for row in trained.compared if row["combination"] != UNTRAINED][:MAX_LINES]
    return {name: LegendEntry(name, i, MARKERS[i % len(MARKERS)]) for i, name in enumerate(names)}


def _by_seed(trained: LmTrained, name: str) -> list[list[Row]]:
    found: dict[int, list[Row]] = {}
    for row in trained.training:
        if row["combination"] == name:
            found.setdefault(row["seed"], []).append(row)
    return list(found.values())


def _lines(
    axes: Axes, trained: LmTrained, entries: dict[str, LegendEntry], column: str, over: str = "step", least: float = -math.inf
) -> None:
    for name, entry in entries.items():
        for k, rows in enumerate(_by_seed(trained, name)):
            values = [row[column] if row[column] > least else math.nan for row in rows]
            axes.plot(
                [row[over] for row in rows], values, color=colour(entry.slot), marker=entry.marker,
                markevery=max(1, len(rows) // 5), markersize=4.5, alpha=1.0 if k == 0 else 0.55,
            )  # fmt: skip


def _log(axes: Axes, trained: LmTrained, column: str) -> None:
    values = [row[column] for row in trained.training if row[column] > FLOOR]
    if values:
        axes.set_yscale("log")
        axes.set_ylim(min(values) / 1.2, max(values) * 1.2)
        log_ticks(axes.yaxis, min(values) / 1.2, max(values) * 1.2)


def _said(trained: LmTrained, entries: dict[str, LegendEntry], column: str) -> str:
    rows = (trained.of(name) for name in entries)
    return "; ".join(f"{row['combination']} {number(row[column], 2)}" for row in rows if row is not None)


def _panel(trained: LmTrained, entries: dict[str, LegendEntry], column: str, label: str, title: str, *, log: bool) -> Panel:
    with drawing(left=0.16) as (axes, svg):
        _lines(axes, trained, entries, column, least=FLOOR if log else -math.inf)
        if log:
            _log(axes, trained, column)
        axes.set_xlabel("update")
        axes.set_ylabel(label)
    return Panel(title, svg[0], f"{title} while training; in the end: {_said(trained, entries, column)}.")


def _paths(trained: LmTrained, entries: dict[str, LegendEntry]) -> Panel:
    with drawing(left=0.16) as (axes, svg):
        _lines(axes, trained, entries, "reward", over="kl")
        axes.set_xscale("symlog", linthresh=1.0)
        axes.set_xlim(left=0.0)
        most = axes.get_xlim()[1]
        axes.xaxis.set_major_locator(FixedLocator([each for each in SOME_NATS if each <= most]))
        axes.xaxis.set_major_formatter(FuncFormatter(tick))
        axes.set_xlabel("exact KL(q‖p), nats")
        axes.set_ylabel("reward")
    return Panel("Reward over KL", svg[0], f"Reward over KL; rewards in the end: {_said(trained, entries, 'reward')}.")


def figures(trained: LmTrained) -> list[Figure]:
    """All of a run's figures."""
    entries = _entries(trained)
    legend = list(entries.values())
    panels = [
        _panel(trained, entries, "reward", "reward", "Reward", log=False),
        *([_panel(trained, entries, "proxy", "score", "What the reward model says", log=False)] if trained.paid else []),
        _panel(trained, entries, "kl", "KL(q‖p), nats", "KL, exact", log=True),
        _panel(trained, entries, "kl_estimate", "estimate, nats", "KL, as estimated", log=True),
        _paths(trained, entries),
    ]
    caption = (
        "A line a seed, from each update's own completions. The exact KL is the sum of the KL of every next-token distribution "
        "along a completion (the Rao-Blackwell estimate); beside it what the estimator in use says of the same completions. "
        f"Both scales are logarithmic, from {FLOOR:g} nats on: before the first update the KL is 0."
    )
    return [Figure(f"lm-training{trained.stem}", "While training", caption, panels, legend)]
