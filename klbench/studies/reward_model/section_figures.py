"""Figures of the reward-model study: gold and proxy over sqrt(KL), calibration, KL as it is said to be."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from klbench.report.blocks import Figure, LegendEntry, Panel
from klbench.report.numbers import count
from klbench.report.plots import MOST_ENTRIES, Axis, Line, legend, lines
from klbench.report.tables import Row
from klbench.studies.reward_model.columns import CALIBRATION, GOLD
from klbench.studies.reward_model.section_data import BEST, PPO, Learned, named

if TYPE_CHECKING:
    from matplotlib.axes import Axes

TRUE = LegendEntry("the true reward", 5, "_", dashed=True)
SAID = {"k1_estimate": LegendEntry("k1's estimate", 0, "o"), "k3_estimate": LegendEntry("k3's estimate", 1, "s")}
EXACT, BOUND = LegendEntry("exact", 2, "^"), LegendEntry("log n − (n − 1)/n", 3, "_", dashed=True)
RIGHT = LegendEntry("as it should be", 5, "_", dashed=True)
ROOT = "√KL(q‖p), exact, √nats"


def _entries(learned: Learned) -> dict[str, LegendEntry]:
    """Return entries of all proxies, or of some of them that are spread evenly, with the first and the last."""
    names, most = learned.proxies, MOST_ENTRIES
    return legend(names if len(names) <= most else [names[round(i * (len(names) - 1) / (most - 1))] for i in range(most)])


def _column(rows: Sequence[Row], name: str) -> list[float]:
    return [row[name] for row in rows]


def _limits(axes: Axes, top: float) -> None:
    axes.set_ylim(-0.05 * top, 1.05 * top)
    axes.set_xlim(left=0.0)


def _panel(learned: Learned, way: tuple[str, str], entries: dict[str, LegendEntry], top: float) -> Panel:
    def line(entry: LegendEntry, proxy: str, name: str, band: bool = False) -> Line:
        rows = learned.path(way, proxy)
        low, high = (_column(rows, f"{name}_{end}") if band else () for end in ("low", "high"))
        return Line(entry, [math.sqrt(max(row["kl"], 0.0)) for row in rows], _column(rows, name), low, high, marked=band)

    drawn = [line(TRUE, GOLD, "gold_gain")]
    for name, entry in entries.items():
        drawn.append(line(replace(entry, label=f"{name} by its own score", dashed=True), name, "proxy_gain"))
        drawn.append(line(entry, name, "gold_gain", band=True))
    y = Axis("gain over the reference", place=partial(_limits, top=top))
    return lines(named(way) if way[0] == PPO else named(way).capitalize(), drawn, Axis(ROOT), y)


def over_kl(learned: Learned, stem: str) -> list[Figure]:
    """Return the main figure: a panel for each way."""
    entries = _entries(learned)
    drawn = [row for row in learned.points if row["proxy"] in entries or row["proxy"] == GOLD]
    top = max((max(row["proxy_gain"], row["gold_gain"]) for row in drawn if math.isfinite(row["gold_gain"])), default=1.0)
    panels = [_panel(learned, way, entries, top) for way in learned.ways]
    caption = (
        "Solid: true reward, with 95 % bands of the mean over seeds. Dashed, same colour: what the proxy says of the same "
        "policies. Dashed grey: the same way with the true reward for a proxy. Each point is a β, an n, or an evaluation in "
        "training."
    )
    title = "True reward and proxy, by pairs"
    return [Figure(f"overoptimisation{stem}", title, caption, panels, [*entries.values(), TRUE])]


def calibration(learned: Learned, stem: str) -> list[Figure]:
    """Return the figure of the true probability over the predicted one."""
    found, entries = learned.rows(CALIBRATION), _entries(learned)
    if not found:
        return []
    drawn = [Line(RIGHT, [0.5, 1.0], [0.5, 1.0], marked=False)]
    for name, entry in entries.items():
        mine = sorted((row for row in found if row["proxy"] == name), key=lambda row: float(row["predicted"]))
        drawn.append(Line(entry, _column(mine, "predicted"), _column(mine, "true")))
    x = Axis("probability that the model gives to what it prefers")
    panel = lines("On new pairs", drawn, x, Axis("true probability"))
    caption = "On the dashed line a model is as sure as it should be; below it, too sure. Bins hold all seeds' pairs."
    return [Figure(f"overoptimisation-calibration{stem}", "Calibration", caption, [panel], [*entries.values(), RIGHT])]


def _best_of(learned: Learned) -> list[Panel]:
    rows = [row for row in learned.path((BEST, ""), learned.proxies[-1]) if row["n"] > 1]
    if not rows:
        return []
    n = _column(rows, "n")
    drawn = [Line(EXACT, n, _column(rows, "kl")), Line(BOUND, n, _column(rows, "kl_bound"), marked=False)]
    return [lines("Best of n", drawn, Axis("n", "log"), Axis("KL of the best of n, nats"))]


def _estimated(learned: Learned) -> list[Panel]:
    ways = [way for way in learned.ways if way[0] == PPO]
    rows = [row for way in ways for name in _entries(learned) for row in learned.path(way, name) if row["step"] > 0]
    rows = [row for row in rows if row["kl"] > 0 and all(math.isfinite(row[name]) for name in SAID)]
    if not rows:
        return []
    rows.sort(key=lambda row: float(row["kl"]))
    top = rows[-1]["kl"]
    drawn = [Line(RIGHT, [0.0, top], [0.0, top], marked=False)]
    drawn += [Line(entry, _column(rows, "kl"), _column(rows, name), joined=False) for name, entry in SAID.items()]
    y = Axis("estimated in training, nats", place=lambda axes: axes.set_ylim(0.0, 2.0 * top))
    beyond = sum(row["k3_estimate"] > 2.0 * top for row in rows)
    detail = f"{count(beyond, 'point')} of k3 above" if beyond else ""
    return [lines("PPO", drawn, Axis("exact KL(q‖p), nats"), y, detail=detail)]


def kl(learned: Learned, stem: str) -> list[Figure]:
    """Return the figure of the exact KL beside what is usually reported for it."""
    panels = [*_best_of(learned), *_estimated(learned)]
    if not panels:
        return []
    caption = (
        "Best of n: the exact KL, which ties and few answers keep below the usual formula. PPO: estimates from the batches, "
        "each a mean over seeds, for all combinations and proxies; on the grey line they are right."
    )
    entries = [EXACT, BOUND, *SAID.values(), RIGHT]
    return [Figure(f"overoptimisation-kl{stem}", "The KL, and what is said of it", caption, panels, entries)]


PARTS: Sequence[Callable[[Learned, str], list[Figure]]] = (over_kl, calibration, kl)


def figures(learned: Learned) -> list[Figure]:
    """Return all figures of a run."""
    return [figure for part in PARTS for figure in part(learned, learned.stem)]
