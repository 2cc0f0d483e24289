"""Figures of the value study on single pairs: error against batch size, spread, coverage, a third sampler."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

from klbench.report.axes import batch_axis, curve, log_ticks, points, rows_of_bars
from klbench.report.blocks import Figure, LegendEntry, Panel
from klbench.report.figures import FAINT, TEXT, colour, drawing
from klbench.report.numbers import Z95, number, percent, short
from klbench.studies.value.section_data import MAX_PANELS, Data

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def typical_pairs(data: Data) -> list[tuple[str, str]]:
    """For each series the pair whose KL is closest to half a nat on a logarithmic scale."""
    result = []
    for series, pairs in data.series.items():
        known = [pair for pair in pairs if data.kl[pair] > 0]
        if known:
            result.append((series, min(known, key=lambda pair: abs(math.log(data.kl[pair] / 0.5)))))
    return result[:MAX_PANELS]


def _by_pair(
    data: Data,
    name: str,
    title: str,
    caption: str,
    draw: Callable[[Axes, str, list[str], list[LegendEntry]], list[str]],
    left: float = 0.17,
    height: int = 250,
    only_main: bool = False,
) -> Figure | None:
    """Small multiples, one typical pair a series."""
    panels: list[Panel] = []
    shown: dict[str, LegendEntry] = {}
    for series, pair in typical_pairs(data):
        rows = data.measured[data.measured["pair"] == pair]
        rows = rows[rows["target"] == data.target] if only_main else rows
        chosen = data.headlines(off_policy=pair in data.off_policy, present=set(rows["estimator"])) if len(rows) else []
        entries = data.legend(chosen)
        with drawing(left=left, height=height) as (axes, svg):
            said = draw(axes, pair, chosen, entries)
        if said:
            shown |= dict(zip(chosen, entries, strict=True))
            where = f"{pair}, KL {short(data.kl[pair])} nats"
            panels.append(Panel(series, svg[0], f"{title}, {where}: {'; '.join(said)}.", where))
    return Figure(name, title, caption + data.cut, panels, list(shown.values())) if panels else None


def error_by_batch(data: Data) -> Figure | None:
    """Root-mean-square error against batch size."""

    def draw(axes: Axes, pair: str, chosen: list[str], entries: list[LegendEntry]) -> list[str]:
        said = []
        for name, entry in zip(chosen, entries, strict=True):
            rows = data.measured[(data.measured["pair"] == pair) & (data.measured["estimator"] == name)].sort_values("batch")
            rows = rows[rows["rmse"] > 0]
            if len(rows):
                curve(axes, list(rows["batch"]), list(rows["rmse"]), entry)
                points(axes, rows, list(rows["batch"]), "rmse", "rmse_se", entry)
                said.append(f"{name} from {number(rows['rmse'].iloc[0], 2)} to {number(rows['rmse'].iloc[-1], 2)}")
        if said:
            batch_axis(axes, data.batches)
            axes.set_yscale("log")
            axes.set_ylabel("rmse, nats")
            log_ticks(axes.yaxis, *axes.get_ylim())
            axes.axhline(data.kl[pair], color=FAINT, linewidth=1.4, zorder=0)
        return said

    caption = (
        "Lower is better. The root-mean-square error joins bias and noise. Noise falls with the square root of the "
        "batch, bias does not: "
        "a line that goes flat has run into its bias. The thick faint line is the true KL: above it, an estimate says "
        "nothing of its size. "
        "One pair of each series, the one whose KL is closest to half a nat; hollow points are not to be trusted."
    )
    return _by_pair(data, "error-by-batch", "Error against batch size", caption, draw, only_main=True)


def coverage(data: Data) -> Figure | None:
    """Coverage of the nominal 95 % interval against batch size."""

    def draw(axes: Axes, pair: str, chosen: list[str], entries: list[LegendEntry]) -> list[str]:
        said: list[str] = []
        for i, (name, entry) in enumerate(zip(chosen, entries, strict=True)):
            rows = data.measured[(data.measured["pair"] == pair) & (data.measured["estimator"] == name)].sort_values("batch")
            rows = rows[rows["coverage"].notna()]
            if len(rows):
                x = [batch * (1 + 0.05 * (i - len(chosen) / 2)) for batch in rows["batch"]]
                curve(axes, x, list(rows["coverage"]), entry)
                points(axes, rows, x, "coverage", "coverage_se", entry)
                said.append(f"{name} {percent(rows['coverage'].iloc[-1])} at {int(rows['batch'].iloc[-1]):,}")
        if said:
            from matplotlib.ticker import FuncFormatter

            batch_axis(axes, [batch for batch in data.batches if batch > 1] or data.batches)
            axes.set_ylim(-0.03, 1.03)
            axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: percent(y) if y else "0 %"))
            axes.axhline(0.95, color=TEXT, linewidth=0.9, linestyle="--", zorder=1)
            axes.set_ylabel("intervals that hold the truth")
        return said

    caption = (
        "Should be on the dashed line. From each batch of n an interval was made as usual, mean ± t standard deviations "
        "/ √n with Student's t at n - 1 degrees of freedom, which promises to "
        "hold the true value 95 % of the time. Small batches miss because the values are skewed; biased estimators "
        "miss more the larger "
        "the batch, since the interval closes around the wrong value; heavy tails miss at every size, without any sign of it."
    )
    return _by_pair(data, "coverage", "Does a 95 % interval hold the truth?", caption, draw)


def distributions(data: Data) -> Figure | None:
    """Quantiles of the errors of batches of a middling size."""
    sizes = sorted(int(batch) for batch in data.errors["batch"].unique())
    if not sizes:
        return None
    batch = min(sizes, key=lambda size: abs(math.log(size / 64)))

    def draw(axes: Axes, pair: str, chosen: list[str], entries: list[LegendEntry]) -> list[str]:
        table = data.errors
        said: list[str] = []
        labels: list[str] = []
        for name, entry in zip(chosen, entries, strict=True):
            found = table[(table["pair"] == pair) & (table["batch"] == batch) & (table["estimator"] == name)]
            if len(found):
                row, y = found.iloc[0], len(labels)
                axes.plot([row["q2.5"], row["q97.5"]], [y, y], color=colour(entry.slot), linewidth=2.0, solid_capstyle="butt")
                axes.plot([row["q25"], row["q75"]], [y, y], color=colour(entry.slot), linewidth=8.0, solid_capstyle="butt")
                axes.plot([row["q50"]], [y], marker="|", color=TEXT, markersize=12, markeredgewidth=1.8)
                labels.append(name)
                said.append(f"{name} half within {number(row['q25'], 2)} and {number(row['q75'], 2)}")
        if said:
            rows_of_bars(axes, labels, "estimate − truth, nats")
        return said

    caption = (
        f"Short bars around zero are better. Errors of batches of {batch:,} samples: half of all batches fall on the "
        f"thick bar, 95 % on the thin "
        "one, and the tick is the median. A median left of zero beside an unbiased mean is the mark of a heavy tail: "
        "most batches say too "
        "little, and a few rare ones say far too much."
    )
    return _by_pair(data, "errors", "How the errors are spread", caption, draw, left=0.34, only_main=True)


def third_sampler(data: Data) -> Figure | None:
    """Relative bias with and without weights, on samples of a third distribution."""
    from matplotlib.ticker import FuncFormatter

    panels: list[Panel] = []
    for series, pairs in data.series.items():
        there = [pair for pair in pairs if pair in data.off_policy and data.kl[pair] > 0][: MAX_PANELS - len(panels)]
        for pair in there:
            rows = {name: row for name, row in data.at(pair, data.batches[-1]).items() if row["target"] == data.target}
            chosen = data.headlines(off_policy=True, present=rows)
            if not chosen:
                continue
            entries = data.legend(chosen)
            with drawing(left=0.36) as (axes, svg):
                for y, (name, entry) in enumerate(zip(chosen, entries, strict=True)):
                    x, se = rows[name]["rel_bias"], rows[name]["rel_bias_se"]
                    axes.errorbar(
                        [x], [y], xerr=[Z95 * se], fmt=entry.marker, color=colour(entry.slot), elinewidth=1.4, markersize=7
                    )
                rows_of_bars(axes, chosen, "bias / true value")
                axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: percent(x) if x else "0 %"))
            said = [f"{name} {percent(rows[name]['rel_bias'])}" for name in chosen]
            panels.append(
                Panel(series, svg[0], f"Relative bias on samples of a third distribution, {pair}: {'; '.join(said)}.", pair)
            )
    caption = (
        "Closer to zero is better. Here the samples come neither from q nor from p but from a third distribution, as "
        "when a policy has "
        "moved on since its samples were drawn. Without importance weights an estimator is off by as much as the "
        "sampler differs from q; "
        "weighted by q over the sampler, the unbiased ones are unbiased again. At the largest batch size; bars are 95 "
        "% intervals."
    )
    return Figure("third-sampler", "Samples of a third distribution", caption, panels) if panels else None
