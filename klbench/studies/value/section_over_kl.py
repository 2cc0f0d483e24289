"""Figures of the value study over the exact KL: noise, bias, tails."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from klbench.report.axes import curve, dashes, kl_axis, log_ticks, points, tick
from klbench.report.blocks import Figure, LegendEntry, Panel
from klbench.report.figures import TEXT, colour, drawing
from klbench.report.numbers import Z95, number, percent, short
from klbench.studies.value.section_data import MAX_PANELS, Data

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

HEAVY, LOST = 0.5, 0.7
"""Tail indices from which there is no finite variance, and from which no affordable number of samples settles the mean."""


def _rows(data: Data, name: str, pairs: Sequence[str], batch: int) -> pd.DataFrame:
    table = data.measured
    rows = table[(table["estimator"] == name) & (table["batch"] == batch) & table["pair"].isin(pairs)]
    return rows[rows["kl"] > 0].sort_values("kl", kind="stable")


def _against_kl(
    data: Data,
    name: str,
    title: str,
    caption: str,
    label: str,
    draw: Callable[[Axes, pd.DataFrame, LegendEntry, float, bool], list[float]],
    finish: Callable[[Axes], None],
) -> Figure | None:
    """Small multiples over KL, at the smallest batch size; ``draw``, told whether to join, gives back what it drew."""
    batch = data.batches[0]
    panels: list[Panel] = []
    shown: dict[str, LegendEntry] = {}
    for series, pairs in data.series.items():
        kls = sorted({data.kl[pair] for pair in pairs if data.kl[pair] > 0})
        if data.is_off_policy(series) or not kls or len(panels) == MAX_PANELS:
            continue
        there = data.measured[data.measured["pair"].isin(pairs) & (data.measured["batch"] == batch)]["estimator"]
        chosen = data.headlines(present=there)
        joined = data.is_one_family(series)
        with drawing(left=0.17) as (axes, svg):
            said = []
            for i, (each, entry) in enumerate(zip(chosen, data.legend(chosen), strict=True)):
                shown[each] = entry
                rows = _rows(data, each, pairs, batch)
                shift = 1.0 + 0.035 * (i - (len(chosen) - 1) / 2)
                drawn = draw(axes, rows, entry, shift, joined) if len(rows) else []
                if drawn:
                    said.append(f"{each} from {number(drawn[0], 2)} to {number(drawn[-1], 2)}")
            kl_axis(axes, kls)
            axes.set_ylabel(label)
            finish(axes)
        panels.append(
            Panel(
                series,
                svg[0],
                f"{title}, series {series}, KL from {short(kls[0])} to {short(kls[-1])} nats: {'; '.join(said)}.",
            )
        )
    mixed = any(not data.is_one_family(panel.title) for panel in panels)
    caption += " Where the pairs of a series are of several kinds, no line joins them, and dashes are the exact values." * mixed
    return Figure(name, title, caption + data.cut, panels, list(shown.values())) if panels else None


def _exact_or_joined(
    axes: Axes, kl: list[float], exact: list[float], measured: list[float], entry: LegendEntry, joined: bool, shift: float
) -> None:
    """A line through exact values, or measured ones where none is known; dashes where the pairs are of several kinds."""
    known = any(map(math.isfinite, exact))
    if joined:
        curve(axes, kl, exact if known else measured, entry, exact=known)
    elif known:
        dashes(axes, [shift * x for x in kl], exact, entry)


def noise(data: Data) -> Figure | None:
    """Relative standard deviation of one sample against KL."""

    def draw(axes: Axes, rows: pd.DataFrame, entry: LegendEntry, shift: float, joined: bool) -> list[float]:
        truth, kl = rows["truth"].astype(float), list(rows["kl"])
        measured = rows.assign(relative=rows["std"] / truth, relative_se=rows["std_se"] / truth)
        exact = list(rows["exact_std"] / truth)
        _exact_or_joined(axes, kl, exact, list(measured["relative"]), entry, joined, shift)
        points(axes, measured, [shift * x for x in kl], "relative", "relative_se", entry)
        return [float(y) for y in measured["relative"]]

    def finish(axes: Axes) -> None:
        axes.set_yscale("log")
        log_ticks(axes.yaxis, *axes.get_ylim())

    caption = (
        "Lower is better. The standard deviation of a single estimate, divided by the true value: 10 means that one "
        "sample is off by ten times what it measures. Lines join exact values, where a closed form has them (dotted ones join "
        "measured values); points were measured, with 95 % intervals; hollow points are not "
        "to be trusted (a heavy tail, or no finite variance), and where a line stops the exact value is infinite."
    )
    return _against_kl(data, "noise", "Noise of a single sample", caption, "std / true value", draw, finish)


def bias(data: Data) -> Figure | None:
    """Relative bias against KL."""

    def draw(axes: Axes, rows: pd.DataFrame, entry: LegendEntry, shift: float, joined: bool) -> list[float]:
        truth, kl = rows["truth"].astype(float), list(rows["kl"])
        exact = list(rows["exact_bias"] / truth)
        _exact_or_joined(axes, kl, exact, list(rows["rel_bias"]), entry, joined, shift)
        points(axes, rows, [shift * x for x in kl], "rel_bias", "rel_bias_se", entry)
        return [float(y) for y in rows["rel_bias"]]

    def finish(axes: Axes) -> None:
        from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

        low, high = axes.get_ylim()
        axes.set_yscale("symlog", linthresh=0.01, linscale=0.6)
        ticks = [-100, -10, -1, -0.1, -0.01, 0, 0.01, 0.1, 1, 10, 100]
        low, high = min(1.4 * low, -0.015), max(1.4 * high, 0.015)
        axes.set_ylim(low, high)
        axes.yaxis.set_major_locator(FixedLocator([t for t in ticks if low - 1e-9 <= t <= high or abs(t) <= 0.01]))
        axes.yaxis.set_minor_locator(NullLocator())
        axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: percent(y) if abs(y) < 10 else tick(100 * y) + " %"))
        axes.axhline(0.0, color=TEXT, linewidth=0.9, zorder=1)

    caption = (
        "Closer to the line at zero is better. The mean error, divided by the true value; more samples do not make it smaller. "
        "The scale is logarithmic on both sides and linear within 1 %. Points carry 95 % intervals and are set "
        "slightly apart sideways; "
        "an unbiased estimator's should reach the zero line, and hollow ones are not to be trusted."
    )
    return _against_kl(data, "bias", "Bias", caption, "bias / true value", draw, finish)


def tails(data: Data) -> Figure | None:
    """Measured tail index of the ratio against the known one."""
    table = data.pairs[data.pairs["khat"].notna()].copy()
    table["series"] = table["pair"].map({pair: series for series, pairs in data.series.items() for pair in pairs})
    legend = [LegendEntry("measured k-hat", 6, "o"), LegendEntry("known tail index", 5, "s")]
    panels: list[Panel] = []
    for series in [name for name in data.series if not data.is_off_policy(name)][:MAX_PANELS]:
        rows = table[(table["series"] == series) & (table["kl_qp"] > 0)].sort_values("kl_qp", kind="stable")
        if rows.empty:
            continue
        with drawing(left=0.17) as (axes, svg):
            x, known = list(rows["kl_qp"]), list(rows["tail_index"])
            if data.is_one_family(series):
                curve(axes, x, known, legend[1])
            axes.plot(x, known, linestyle="none", marker="s", color=colour(5))
            axes.errorbar(x, rows["khat"], yerr=Z95 * rows["khat_se"], fmt="o", color=colour(6), elinewidth=1.0, zorder=3)
            for level, style in ((HEAVY, "--"), (LOST, ":")):
                axes.axhline(level, color=TEXT, linewidth=0.9, linestyle=style, zorder=1)
            kl_axis(axes, x)
            axes.set_ylabel("tail index k of r")
            axes.set_ylim(min(-0.25, float(rows["khat"].min()) - 0.2), max(1.05, float(rows["khat"].max()) + 0.2))
        said = [
            f"KL {short(kl)}: measured {number(k, 2)}, known {number(t, 2)}"
            for kl, k, t in zip(x, rows["khat"], known, strict=True)
        ]
        panels.append(Panel(series, svg[0], f"Tail index of r, series {series}: {'; '.join(said)}."))
    caption = (
        "Circles were measured on the samples (with 95 % intervals), squares are known exactly. k says how slowly "
        "large ratios r die out: from "
        "0.5 on (dashed) r has no finite variance, from 0.7 on (dotted) no number of samples that one can pay for "
        "settles its mean. "
        "A known k of 0 means a tail lighter than any power; a measured k below 0 means that r looks bounded. A "
        "circle far above its square is a "
        "tail that is harmless in theory and behaves like a heavy one at this number of samples."
    )
    return Figure("tails", "How heavy is the tail of r?", caption + data.cut, panels, legend) if panels else None
