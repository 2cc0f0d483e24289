"""Figures of the reward-model study: gold and proxy over sqrt(KL), calibration, KL as it is said to be."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence

from klbench.report.axes import log_ticks
from klbench.report.blocks import Figure, LegendEntry, Panel
from klbench.report.figures import MARKERS, TEXT, colour, drawing
from klbench.report.numbers import count, number
from klbench.studies.reward_model.section_data import BEST, GOLD, PPO, Learned, Row, named

MAX_LINES = 6


def _chosen(learned: Learned) -> list[str]:
    """Proxies to draw: all, or some of them that are spread evenly, with the first and the last."""
    names = learned.proxies
    if len(names) <= MAX_LINES:
        return names
    return [names[round(i * (len(names) - 1) / (MAX_LINES - 1))] for i in range(MAX_LINES)]


def _entries(learned: Learned) -> dict[str, LegendEntry]:
    return {name: LegendEntry(name, i, MARKERS[i % len(MARKERS)]) for i, name in enumerate(_chosen(learned))}


def _panel(learned: Learned, way: tuple[str, str], entries: dict[str, LegendEntry], top: float) -> Panel:
    said = []
    with drawing(left=0.15) as (axes, svg):
        for name, entry in entries.items():
            rows = learned.path(way, name)
            x = [math.sqrt(max(row["kl"], 0.0)) for row in rows]
            gold, low, high = ([row.get(f"gold_gain{end}", math.nan) for row in rows] for end in ("", "_low", "_high"))
            if rows and all(map(math.isfinite, low)):
                axes.fill_between(x, low, high, color=colour(entry.slot), alpha=0.1, linewidth=0)
            every = max(1, len(x) // 6)
            axes.plot(x, gold, color=colour(entry.slot), marker=entry.marker, markevery=every, markersize=4.5)
            axes.plot(x, [row["proxy_gain"] for row in rows], color=colour(entry.slot), linestyle="--", linewidth=1.0)
            if rows:
                said.append(f"{name}: true {number(gold[-1], 2)}, proxy {number(rows[-1]['proxy_gain'], 2)}")
        ideal = learned.path(way, GOLD)
        axes.plot(
            [math.sqrt(max(row["kl"], 0.0)) for row in ideal], [row["gold_gain"] for row in ideal], color=TEXT, linestyle=":"
        )
        axes.set_ylim(-0.05 * top, 1.05 * top)
        axes.set_xlim(left=0.0)
        axes.set_xlabel("√KL(q‖p), exact, √nats")
        axes.set_ylabel("gain over the reference")
    return Panel(named(way).capitalize() if way[0] != PPO else named(way), svg[0], f"At the end, {'; '.join(said)}.")


def over_kl(learned: Learned, stem: str) -> list[Figure]:
    """The main figure: a panel for each way."""
    entries = _entries(learned)
    drawn = [row for row in learned.rows("overoptimisation") if row["proxy"] in entries or row["proxy"] == GOLD]
    top = max((max(row["proxy_gain"], row["gold_gain"]) for row in drawn if math.isfinite(row["gold_gain"])), default=1.0)
    panels = [_panel(learned, way, entries, top) for way in learned.ways]
    caption = (
        "Solid: true reward, with 95 % bands of the mean over seeds. Dashed, same colour: what the proxy says of the same "
        "policies. Dotted: the same way with the true reward for a proxy. Each point is a β, an n, or an evaluation in "
        "training."
    )
    title = "True reward and proxy, by pairs"
    return [Figure(f"overoptimisation{stem}", title, caption, panels, list(entries.values()))]


def calibration(learned: Learned, stem: str) -> list[Figure]:
    """True probability over the predicted one."""
    found = learned.rows("calibration")
    entries = _entries(learned)
    if not found:
        return []
    with drawing() as (axes, svg):
        axes.plot([0.5, 1.0], [0.5, 1.0], color=TEXT, linewidth=0.9, linestyle="--")
        for name, entry in entries.items():
            mine = sorted((row for row in found if row["proxy"] == name), key=lambda row: row["predicted"])
            axes.plot(
                [row["predicted"] for row in mine], [row["true"] for row in mine], color=colour(entry.slot), marker=entry.marker
            )
        axes.set_xlabel("probability that the model gives to what it prefers")
        axes.set_ylabel("true probability")
    said = "; ".join(
        f"{name}: {number(mine[-1]['true'], 2)} for {number(mine[-1]['predicted'], 2)}"
        for name in entries
        if (mine := [row for row in found if row["proxy"] == name])
    )
    panel = Panel("On new pairs", svg[0], f"True probability where the model is surest: {said}.")
    caption = "On the dashed line a model is as sure as it should be; below it, too sure. Bins hold all seeds' pairs."
    return [Figure(f"overoptimisation-calibration{stem}", "Calibration", caption, [panel], list(entries.values()))]


def _best_of(learned: Learned) -> list[Panel]:
    rows = [row for row in learned.path((BEST, ""), learned.proxies[-1]) if row["n"] > 1]
    if not rows:
        return []
    with drawing() as (axes, svg):
        for key, slot, style in (("kl", 0, "-"), ("kl_bound", 1, "--")):
            x, y = [row["n"] for row in rows], [row[key] for row in rows]
            axes.plot(x, y, color=colour(slot), linestyle=style, marker="o" if key == "kl" else "_")
        axes.set_xscale("log")
        log_ticks(axes.xaxis, rows[0]["n"] / 1.4, rows[-1]["n"] * 1.4)
        axes.set_xlabel("n")
        axes.set_ylabel("KL of the best of n, nats")
    last = rows[-1]
    said = f"At n = {int(last['n']):,}, {number(last['kl'], 3)} exactly, {number(last['kl_bound'], 3)} by the bound."
    return [Panel("Best of n", svg[0], said)]


def _estimated(learned: Learned) -> list[Panel]:
    ways = [way for way in learned.ways if way[0] == PPO]
    rows: list[Row] = [row for way in ways for name in _chosen(learned) for row in learned.path(way, name) if row["step"] > 0]
    rows = [row for row in rows if row["kl"] > 0 and math.isfinite(row["k1_estimate"]) and math.isfinite(row["k3_estimate"])]
    if not rows:
        return []
    with drawing() as (axes, svg):
        top = max(row["kl"] for row in rows)
        axes.plot([0.0, top], [0.0, top], color=TEXT, linewidth=0.9, linestyle="--")
        for key, slot, marker in (("k1_estimate", 0, "o"), ("k3_estimate", 1, "s")):
            axes.plot(
                [row["kl"] for row in rows], [row[key] for row in rows], color=colour(slot), marker=marker, linestyle="none",
                markersize=3.0,
            )  # fmt: skip
        axes.set_xlabel("exact KL(q‖p), nats")
        axes.set_ylabel("estimated in training, nats")
        axes.set_ylim(0.0, 2.0 * top)
    beyond = sum(row["k3_estimate"] > 2.0 * top for row in rows)
    detail = f"{count(beyond, 'point')} of k3 above" if beyond else ""
    return [Panel("PPO", svg[0], f"k1's and k3's estimates over the exact KL, up to {number(top, 2)} nats.", detail)]


def kl(learned: Learned, stem: str) -> list[Figure]:
    """Exact KL beside what is usually reported for it."""
    panels = [*_best_of(learned), *_estimated(learned)]
    if not panels:
        return []
    legend = [
        LegendEntry("exact; k1's estimate", 0, "o"), LegendEntry("log n − (n − 1)/n", 1, "_", dashed=True),
        LegendEntry("k3's estimate", 1, "s"),
    ]  # fmt: skip
    caption = (
        "Best of n: the exact KL, which ties and few answers keep below the usual formula. PPO: estimates from the batches, "
        "each a mean over seeds, for all combinations and proxies; on the dashed line they are right."
    )
    return [Figure(f"overoptimisation-kl{stem}", "The KL, and what is said of it", caption, panels, legend)]


PARTS: Sequence[Callable[[Learned, str], list[Figure]]] = (over_kl, calibration, kl)


def figures(learned: Learned) -> list[Figure]:
    """All of a run's figures."""
    stem = "-" + re.sub(r"[^a-z0-9]+", "-", learned.label.lower()).strip("-") if learned.label else ""
    return [figure for part in PARTS for figure in part(learned, stem)]
