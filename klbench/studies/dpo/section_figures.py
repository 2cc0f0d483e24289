"""Figures of the DPO study: distance from the optimum over pairs, while training, against the standard, what samples said."""

from __future__ import annotations

import math

from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from klbench.report.axes import log_ticks, rows_of_bars
from klbench.report.blocks import Figure, LegendEntry, Panel
from klbench.report.figures import MARKERS, TEXT, colour, drawing
from klbench.report.numbers import number
from klbench.studies.dpo.columns import DPO_CURVES, DPO_ESTIMATES
from klbench.studies.dpo.section_answer import named
from klbench.studies.dpo.section_data import STANDARD, Preferred, pairs

MAX_LINES = 8
ROW = 17
"""Height of an arm's row, in points."""


def _entries(names: list[str]) -> dict[str, LegendEntry]:
    return {name: LegendEntry(name, i, MARKERS[i % len(MARKERS)]) for i, name in enumerate(names[:MAX_LINES])}


def _pairs_axis(axes: Axes, sizes: list[float]) -> dict[float, float]:
    """Numbers of pairs along x, with a place of its own at the end for all of them."""
    finite = [size for size in sizes if math.isfinite(size)]
    places = {size: size for size in finite} | {math.inf: 4.0 * max(finite, default=1.0)}
    used = [places[size] for size in sizes]
    axes.set_xscale("log")
    axes.set_xlim(min(used) / 1.5, max(used) * 1.5)
    axes.xaxis.set_major_locator(FixedLocator(used))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: "all" if x == places[math.inf] else f"{x:,.0f}"))
    axes.set_xlabel("ranked pairs")
    return places


def _log_y(axes: Axes, values: list[float]) -> None:
    positive = [value for value in values if value > 0 and math.isfinite(value)]
    if positive:
        axes.set_yscale("log")
        axes.set_ylim(min(positive) / 1.15, max(positive) * 1.15)
        log_ticks(axes.yaxis, min(positive) / 1.15, max(positive) * 1.15)


def over_pairs(run: Preferred, stem: str) -> list[Figure]:
    """Last and best checkpoint of every arm."""
    entries = _entries(run.arms)
    start = run.start
    panels = []
    for kind, title in (("last", "After training"), ("best", "At the best checkpoint")):
        with drawing(left=0.16) as (axes, svg):
            places = _pairs_axis(axes, run.sizes)
            for name, entry in entries.items():
                rows = run.of(name)
                x = [places[row["pairs"]] for row in rows]
                axes.plot(x, [row[kind] for row in rows], color=colour(entry.slot), marker=entry.marker)
                if name == STANDARD:
                    low, high = ([row[f"{kind}_{end}"] for row in rows] for end in ("low", "high"))
                    axes.fill_between(x, low, high, color=colour(entry.slot), alpha=0.15, linewidth=0)
            if math.isfinite(start):
                axes.axhline(start, color=TEXT, linewidth=0.9, linestyle="--")
            _log_y(axes, [*(row[kind] for row in run.final), start])
            axes.set_ylabel("KL(q‖q*), nats")
        said = "; ".join(f"{name} {', '.join(number(row[kind], 2) for row in run.of(name))}" for name in entries)
        panels.append(
            Panel(title, svg[0], f"{title}, KL(q‖q*) by number of pairs ({', '.join(map(pairs, run.sizes))}): {said}.")
        )
    caption = (
        "Distance of the policy from the exact optimum, means over seeds; the band is the 95 % interval of standard "
        "DPO. Dashed: the reference. Both scales are logarithmic. The best checkpoint is the one of the run that is nearest to "
        "the optimum, which a user could not know."
    )
    return [Figure(f"dpo-pairs{stem}", "How near to the optimum", caption, panels, list(entries.values()))]


def curves(run: Preferred, stem: str) -> list[Figure]:
    """Standard DPO while it trains, a line a number of pairs."""
    rows = [row for row in run.rows(DPO_CURVES) if row["arm"] == STANDARD]
    if not rows:
        return []
    sizes = sorted({row["pairs"] for row in rows})
    entries = {size: LegendEntry(pairs(size), i, MARKERS[i % len(MARKERS)]) for i, size in enumerate(sizes[-MAX_LINES:])}
    panels = []
    for column, label, title in (
        ("kl_to_optimum", "KL(q‖q*), nats", "From the optimum"), ("population_loss", "loss on all pairs", "Loss on all pairs"),
    ):  # fmt: skip
        with drawing(left=0.16) as (axes, svg):
            for size, entry in entries.items():
                mine = [row for row in rows if row["pairs"] == size]
                x = [row["step"] for row in mine]
                low, high = ([row[f"{column}_{end}"] for row in mine] for end in ("low", "high"))
                axes.fill_between(x, low, high, color=colour(entry.slot), alpha=0.12, linewidth=0)
                every = max(1, len(x) // 6)
                line = [row[column] for row in mine]
                axes.plot(x, line, color=colour(entry.slot), marker=entry.marker, markevery=every, markersize=4.5)
            _log_y(axes, [row[f"{column}_{end}"] for row in rows for end in ("low", "high")])
            axes.set_xlabel("step")
            axes.set_ylabel(label)
        said = "; ".join(
            f"{entry.label} {number([row[column] for row in rows if row['pairs'] == size][-1], 2)}"
            for size, entry in entries.items()
        )
        panels.append(Panel(title, svg[0], f"{title}, at the last step: {said}."))
    caption = "Standard DPO. Means over seeds; a band holds the middle 80 % of them. With few pairs the best step comes early."
    return [Figure(f"dpo-curves{stem}", "While training", caption, panels, list(entries.values()))]


def forest(run: Preferred, stem: str) -> list[Figure]:
    """Paired differences from standard DPO with a middling number of pairs, and with all."""
    panels = []
    for size in dict.fromkeys((run.middle, run.sizes[-1])):
        rows = [row for row in run.at(size) if row["arm"] != STANDARD and math.isfinite(row["last_difference"])]
        if not rows:
            continue
        height = 62 + ROW * max(4, len(rows))
        with drawing(left=0.4, bottom=48 / height, height=height) as (axes, svg):
            for y, row in enumerate(rows):
                slot = 1 if row["last_difference_low"] > 0 else 2 if row["last_difference_high"] < 0 else 5
                if math.isfinite(row["last_difference_low"]):
                    ends = [row["last_difference_low"], row["last_difference_high"]]
                    axes.plot(ends, [y, y], color=colour(slot), linewidth=1.8)
                axes.plot([row["last_difference"]], [y], marker="o", color=colour(slot), markersize=5)
            rows_of_bars(axes, [row["arm"] for row in rows], "KL(q‖q*) − standard DPO's")
        said = "; ".join(f"{row['arm']} {number(row['last_difference'], 2)}" for row in rows)
        panels.append(
            Panel(pairs(size).capitalize(), svg[0], f"Difference in KL(q‖q*) from standard DPO, {pairs(size)}: {said}.")
        )
    if not panels:
        return []
    legend = [LegendEntry("further", 1, "o"), LegendEntry("cannot be told", 5, "o"), LegendEntry("nearer", 2, "o")]
    caption = (
        "After training; further left is nearer to the optimum. Each seed's KL(q‖q*) less that of standard DPO on the same "
        "seed and pairs; the line is the 95 % interval of the mean."
    )
    return [Figure(f"dpo-forest{stem}", "Against standard DPO", caption, panels, legend)]


def estimates(run: Preferred, stem: str) -> list[Figure]:
    """Error of each estimate over the steps, beside the exact KL."""
    rows = [row for row in run.rows(DPO_ESTIMATES) if row["pairs"] == run.middle]
    kinds = list(dict.fromkeys((row["samples_of"], row["estimator"], row["level"]) for row in rows))
    if not rows:
        return []
    by_kind = {
        kind: [row for row in rows if (row["samples_of"], row["estimator"], row["level"]) == kind] for kind in kinds[:MAX_LINES]
    }
    entries = {kind: LegendEntry(named(by_kind[kind][0]), i, MARKERS[i % len(MARKERS)]) for i, kind in enumerate(by_kind)}
    with drawing(left=0.16) as (axes, svg):
        for kind, entry in entries.items():
            x, y = [row["step"] for row in by_kind[kind]], [row["estimate"] for row in by_kind[kind]]
            axes.plot(x, y, color=colour(entry.slot), marker=entry.marker, markevery=max(1, len(x) // 6), markersize=4.5)
        first = by_kind[kinds[0]]
        axes.plot(
            [row["step"] for row in first], [row["kl"] for row in first], color=TEXT, linestyle="--", linewidth=1.6, zorder=5
        )
        _log_y(axes, [row["estimate"] for each in by_kind.values() for row in each])
        axes.set_xlabel("step")
        axes.set_ylabel("KL(q‖p), nats")
    said = "; ".join(f"{entry.label} {number(by_kind[kind][-1]['estimate'], 2)}" for kind, entry in entries.items())
    panel = Panel("KL from the reference", svg[0], f"Estimates at the last step: {said}; exact {number(first[-1]['kl'], 2)}.")
    caption = (
        f"Standard DPO with {pairs(run.middle)}: what samples say of KL(q‖p), means over seeds. Dashed: exact. Where no source "
        "is named, the policy's own completions."
    )
    exact = LegendEntry("exact", 5, "_", dashed=True)
    return [Figure(f"dpo-estimates{stem}", "What samples say of the KL", caption, [panel], [*entries.values(), exact])]


def figures(run: Preferred) -> list[Figure]:
    """All of a run's figures."""
    return [figure for part in (over_pairs, curves, forest, estimates) for figure in part(run, run.stem)]
