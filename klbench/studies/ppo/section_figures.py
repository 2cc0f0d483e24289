"""Figures of the training study: learning curves, paired differences, frontier, predicted against reached."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from klbench.report.axes import kl_axis, log_ticks, tick
from klbench.report.blocks import Figure, LegendEntry, Panel
from klbench.report.figures import MARKERS, TEXT, colour, drawing
from klbench.report.numbers import number, short
from klbench.studies.ppo.section_data import OPTIMUM, REFERENCE, Row, Trained
from klbench.studies.ppo.section_recovery import figures as recovery

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MAX_LINES = 8
ROW = 17
"""Height of a combination's row, in points."""
KINDS = (("predicted", "predicted", 5, "D"), ("free", "free logits", 0, "o"), ("noise_free", "without noise", 2, "s"),
         ("sampled", "with noise", 1, "^"))  # fmt: skip


def _entries(names: Sequence[str]) -> dict[str, LegendEntry]:
    return {name: LegendEntry(name, i, MARKERS[i % len(MARKERS)]) for i, name in enumerate(names[:MAX_LINES])}


def _curve(trained: Trained, entries: dict[str, LegendEntry], column: str, label: str, title: str) -> Panel:
    lines: dict[str, list[Row]] = {name: [] for name in entries}
    for row in trained.rows("curves"):
        if row["combination"] in lines and (column == "regret" or row["step"] > 0):
            lines[row["combination"]].append(row)
    with drawing(left=0.16) as (axes, svg):
        for name, rows in lines.items():
            x = [row["step"] for row in rows]
            entry = entries[name]
            axes.fill_between(
                x, [row[f"{column}_low"] for row in rows], [row[f"{column}_high"] for row in rows],
                color=colour(entry.slot), alpha=0.13, linewidth=0,
            )  # fmt: skip
            every = max(1, len(x) // 6)
            axes.plot(
                x, [row[column] for row in rows], color=colour(entry.slot), marker=entry.marker, markevery=every, markersize=4.5
            )
        axes.set_yscale("log")
        values = [row[f"{column}_{end}"] for rows in lines.values() for row in rows for end in ("low", "high")]
        positive = [value for value in values if value > 0]
        if positive:
            axes.set_ylim(min(positive) / 1.15, max(positive) * 1.15)
            log_ticks(axes.yaxis, min(positive) / 1.15, max(positive) * 1.15)
        axes.set_xlabel("update")
        axes.set_ylabel(label)
    said = "; ".join(f"{name} {number(rows[-1][column], 2)}" for name, rows in lines.items() if rows)
    return Panel(title, svg[0], f"{title}, at the last update: {said}.")


def curves(trained: Trained, stem: str) -> list[Figure]:
    """One line for each kind of fixed point, and all that head for the optimum."""
    if not trained.rows("curves"):
        return []
    leaders, ideal = _entries(trained.leaders()), _entries([row["combination"] for row in trained.toward(OPTIMUM)])
    caption = (
        "Means over seeds; a band holds the middle 80 % of them. The scales are logarithmic. One line for each fixed point "
        "that a mean gradient can have, by {}."
    ).format("its best combination" if not trained.reference else f"{REFERENCE} for the optimum and the best one elsewhere")
    result = [
        Figure(
            f"training-curves{stem}", "While training", caption,
            [
                _curve(trained, leaders, "regret", "regret J* − J", "Regret"),
                _curve(trained, leaders, "kl", "exact KL(q‖p), nats", "KL"),
            ],
            list(leaders.values()),
        )
    ]  # fmt: skip
    if len(ideal) > 1:
        result.append(
            Figure(
                f"training-optimum{stem}", "Those that head for the optimum",
                "They follow the same mean gradient; what sets them apart is noise. Means over seeds, with the middle 80 %.",
                [_curve(trained, ideal, "regret", "regret J* − J", "Regret")], list(ideal.values()),
            )
        )  # fmt: skip
    return result


def _names_down(axes: Axes, names: Sequence[str]) -> None:
    axes.set_yticks(range(len(names)), list(names))
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.grid(visible=False, axis="y")
    axes.tick_params(axis="y", labelsize=8.5)


def _symlog(axes: Axes, values: Sequence[float], threshold: float) -> None:
    """A scale that is even near 0 and logarithmic beyond, with ticks at a few decades."""
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

    axes.set_xscale("symlog", linthresh=threshold, linscale=0.5)
    low, high = min([0.0, *values]), max([threshold, *values])
    axes.set_xlim(1.3 * low if low < 0 else -0.2 * threshold, 1.35 * high)
    decades = [threshold * 10**k for k in range(1 + max(0, math.ceil(math.log10(max(high, -low) / threshold))))]
    axes.xaxis.set_major_locator(FixedLocator([0.0, *decades, *(-each for each in decades if -each >= low)]))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(tick))


def forest(trained: Trained, stem: str) -> list[Figure]:
    """Paired differences of regret from k1 in the reward."""
    rows = [row for row in trained.final if row["combination"] != REFERENCE and math.isfinite(row["difference"])]
    if not rows:
        return []
    names = [row["combination"] for row in rows]
    height = 62 + ROW * len(names)
    with drawing(left=0.43, bottom=48 / height, height=height) as (axes, svg):
        for y, row in enumerate(rows):
            slot = 1 if row["difference_low"] > 0 else 2 if row["difference_high"] < 0 else 5
            if math.isfinite(row["difference_low"]):
                axes.plot([row["difference_low"], row["difference_high"]], [y, y], color=colour(slot), linewidth=1.8)
            axes.plot([row["difference"]], [y], marker="o", color=colour(slot), markersize=5)
        ends = [row[f"difference{end}"] for row in rows for end in ("", "_low", "_high")]
        _symlog(axes, [value for value in ends if math.isfinite(value)], 0.01)
        axes.axvline(0.0, color=TEXT, linewidth=0.9, zorder=1)
        _names_down(axes, names)
        axes.set_xlabel(f"regret − that of {REFERENCE}")
    said = "; ".join(f"{row['combination']} {number(row['difference'], 2)}" for row in rows)
    panel = Panel("Difference in final regret", svg[0], f"Paired difference in regret from {REFERENCE}: {said}.")
    legend = [LegendEntry("behind", 1, "o"), LegendEntry("cannot be told", 5, "o"), LegendEntry("ahead", 2, "o")]
    caption = (
        f"Further left is better. Each seed's regret less that of {REFERENCE} on the same seed; the line is the 95 % "
        "interval of the mean. The scale is logarithmic beyond 0.01."
    )
    return [Figure(f"training-forest{stem}", f"Against {REFERENCE}", caption, [panel], legend)]


def frontier(trained: Trained, stem: str) -> list[Figure]:
    """Reward over KL, a point for each beta, and the best there is."""
    found: dict[str, list[dict[str, Any]]] = {}
    for row in (each for each in trained.rows("frontier") if math.isfinite(each["kl"])):
        found.setdefault(row["combination"], []).append(row)
    if not found:
        return []
    entries = _entries([name for name in trained.leaders() if name in found] + [n for n in found if n not in trained.leaders()])
    best = LegendEntry("the best policy of that KL", 5, "_", dashed=True)
    every = [row for name in entries for row in found[name]]
    with drawing(left=0.16) as (axes, svg):
        points = sorted((row["kl"], row["frontier_reward"]) for row in every)
        axes.plot(*zip(*points, strict=True), color=colour(best.slot), linestyle="--", linewidth=1.2)
        for name, entry in entries.items():
            rows = sorted(found[name], key=lambda row: row["kl"])
            axes.plot(
                [row["kl"] for row in rows], [row["reward"] for row in rows], color=colour(entry.slot), marker=entry.marker
            )
            for row in rows:
                if math.isfinite(row["reward_low"]):
                    axes.plot([row["kl"]] * 2, [row["reward_low"], row["reward_high"]], color=colour(entry.slot), linewidth=0.9)
        kl_axis(axes, [row["kl"] for row in every])
        axes.set_ylabel("expected reward")
    said = "; ".join(
        f"{name}: " + ", ".join(f"{number(row['reward'], 2)} at {number(row['kl'], 2)}" for row in found[name])
        for name in entries
    )
    panels = [Panel("Reward over KL", svg[0], f"Reward at exact KL, a point for each beta. {said}.")]
    matched = _matched(trained, entries)
    caption = (
        "Higher is better. Each point is a β; vertical lines are 95 % intervals of the reward over seeds. Dashed: "
        "the most reward that any policy of that KL can have. The second panel: the reward less that of k1_reward at the KL "
        "to which that came, interpolated between each seed's points."
    )
    title = "Reward at equal KL"
    return [Figure(f"training-frontier{stem}", title, caption, panels + matched, [*entries.values(), best])]


def _matched(trained: Trained, entries: dict[str, LegendEntry]) -> list[Panel]:
    rows = [row for row in trained.rows("matched") if row["combination"] in entries]
    if not rows:
        return []
    with drawing(left=0.19) as (axes, svg):
        for name, entry in entries.items():
            mine = sorted((row for row in rows if row["combination"] == name), key=lambda row: row["kl"])
            if not mine:
                continue
            axes.plot(
                [row["kl"] for row in mine], [row["difference"] for row in mine], color=colour(entry.slot), marker=entry.marker
            )
            for row in mine:
                if math.isfinite(row["difference_low"]):
                    ends = [row["difference_low"], row["difference_high"]]
                    axes.plot([row["kl"]] * 2, ends, color=colour(entry.slot), linewidth=0.9)
        axes.axhline(0.0, color=TEXT, linewidth=0.9, zorder=1)
        kl_axis(axes, [row["kl"] for row in rows])
        axes.set_ylabel(f"reward − {REFERENCE}'s")
    said = "; ".join(f"{row['combination']} {number(row['difference'], 2)} at KL {number(row['kl'], 2)}" for row in rows)
    return [Panel(f"Against {REFERENCE}", svg[0], f"Reward less that of {REFERENCE} at equal KL: {said}.")]


def predicted(trained: Trained, stem: str) -> list[Figure]:
    """Predicted regret beside what three kinds of training reached."""
    rows = [row for row in trained.points.values() if row["fixed_point"]]
    if not rows:
        return []
    rows.sort(key=lambda row: (row["predicted_regret"] if row["predicted_regret"] > 1e-9 else 0.0, row["sampled_regret"]))
    names = [row["combination"] for row in rows]
    height = 62 + ROW * len(names)
    legend = [LegendEntry(label, slot, marker) for _, label, slot, marker in KINDS]
    with drawing(left=0.43, bottom=48 / height, height=height) as (axes, svg):
        values = []
        for kind, _, slot, marker in KINDS:
            for y, row in enumerate(rows):
                value = row.get(f"{kind}_regret", math.nan)
                if not math.isfinite(value):
                    continue
                values.append(max(value, 0.0))
                size = 7.5 if kind == "predicted" else 4.4
                axes.plot([max(value, 0.0)], [y], marker=marker, color=colour(slot), linestyle="none", markersize=size)
        _symlog(axes, values, 0.01)
        _names_down(axes, names)
        axes.set_xlabel("regret J* − J")
    said = "; ".join(
        f"{row['combination']} {number(abs(row['predicted_regret']), 2)} predicted, {number(row['sampled_regret'], 2)} reached"
        for row in rows
    )
    panel = Panel("Regret", svg[0], f"Regret predicted and reached: {said}.")
    caption = (
        "The diamond is the regret of the policy at which the combination's mean gradient vanishes, computed from reference, "
        f"reward and β = {short(trained.beta)} alone. Free logits: a logit for every token after every prefix, each moved by "
        "the sign of its exact gradient. Without noise: the small policy itself on exact gradients; it cannot be every "
        "policy, and the steps are few. With noise: as it was trained. The scale is logarithmic beyond 0.01."
    )
    return [Figure(f"training-fixed-points{stem}", "Predicted, and reached", caption, [panel], legend)]


def figures(trained: Trained) -> list[Figure]:
    """All of a run's figures."""
    stem = "-" + re.sub(r"[^a-z0-9]+", "-", trained.label.lower()).strip("-") if trained.label else ""
    return [figure for part in (curves, forest, predicted, frontier, recovery) for figure in part(trained, stem)]
