"""Figures of the study of completions: bias and noise of every estimator, and the divergence by position."""

from __future__ import annotations

import math

from klbench.report.axes import log_ticks, rows_of_bars
from klbench.report.blocks import Figure, LegendEntry, Panel
from klbench.report.figures import FAINT, TEXT, colour, drawing
from klbench.report.numbers import Z95, number
from klbench.studies.lm.section_data import EXACT, MAX_PANELS, Data, Record, finite, known, percent_of

TOKEN, WHOLE = LegendEntry("sum over tokens", 0, "o"), LegendEntry("whole sequence", 1, "s")
SUM = LegendEntry("exact KL of each token's distribution", 2, "^")
MAX_BIAS = 0.6
"""Relative bias beyond which a mark would squeeze all others together; it is drawn at the edge."""
MAX_POINTS = 64


def _entry(row: Record) -> LegendEntry:
    return SUM if row["estimator"] in EXACT else TOKEN if row["level"] == "token" else WHOLE


def _cut(data: Data) -> str:
    return f" Drawn are the first {MAX_PANELS} of {len(data.pairs)} pairs." if len(data.pairs) > MAX_PANELS else ""


def _names(rows: list[Record]) -> list[str]:
    return list(dict.fromkeys(str(row["estimator"]) for row in rows))


def _offset(row: Record) -> float:
    return 0.0 if row["estimator"] in EXACT else -0.17 if row["level"] == "token" else 0.17


def bias(data: Data) -> Figure | None:
    """How far each estimator's mean is from the exact value."""
    panels = []
    for pair in data.pairs[:MAX_PANELS]:
        rows = [row for row in data.measured(pair) if finite(row["rel_bias"], row["rel_bias_se"])]
        rows = [row for row in rows if row["bias_method"] != "is the truth"]
        if not rows:
            continue
        names = _names(rows)
        within = [abs(row["rel_bias"]) + Z95 * row["rel_bias_se"] for row in rows if abs(row["rel_bias"]) <= MAX_BIAS]
        edge = min(MAX_BIAS, 1.25 * max(within, default=MAX_BIAS))
        height = 70 + 24 * len(names)
        with drawing(left=0.36, bottom=46 / height, height=height) as (axes, svg):
            for row in rows:
                y, entry = names.index(str(row["estimator"])) + _offset(row), _entry(row)
                x = row["rel_bias"]
                ok = row["status"] == "ok"
                face = colour(entry.slot) if ok else "none"
                if abs(x) > 0.97 * edge:  # half a mark would be cut off
                    beyond = math.copysign(0.93 * edge, x)
                    axes.annotate(
                        "", xy=(math.copysign(edge, x), y), xytext=(beyond * 0.86, y),
                        arrowprops={"arrowstyle": "-|>", "color": colour(entry.slot), "linewidth": 1.4}, zorder=3,
                    )  # fmt: skip
                    axes.text(
                        beyond * 0.84, y, percent_of(x), ha="right" if x > 0 else "left", va="center", fontsize=8.5, color=TEXT
                    )  # fmt: skip
                else:
                    axes.errorbar(
                        x, y, xerr=Z95 * row["rel_bias_se"] if ok else None, fmt=entry.marker, color=colour(entry.slot),
                        markerfacecolor=face, elinewidth=1.2, zorder=3,
                    )  # fmt: skip
            rows_of_bars(axes, names, "bias / exact KL")
            axes.set_xlim(-edge, edge)
            axes.xaxis.set_major_formatter(lambda x, _: percent_of(x))
        said = "; ".join(f"{row['estimator']} {row['level']} {percent_of(row['rel_bias'])}" for row in rows)
        kl, se = data.truth(pair)
        panels.append(Panel(data.labels[pair], svg[0], f"Relative bias on {pair}: {said}.", f"exact KL {known(kl, se)}"))
    if not panels:
        return None
    caption = (
        "At zero is right. Bars are 95 % intervals, from differences on the same completions; an arrow with a number lies "
        "outside; hollow marks are not to be trusted, since the tail of the ratio is too heavy." + _cut(data)
    )
    return Figure("completions-bias", "How far from the exact value", caption, panels, [TOKEN, WHOLE, *_exact_entry(data)])


def _exact_entry(data: Data) -> list[LegendEntry]:
    shown = [row for pair in data.pairs for row in data.measured(pair) if row["estimator"] in EXACT]
    return [SUM] if any(row["bias_method"] != "is the truth" for row in shown) else []


def noise(data: Data) -> Figure | None:
    """The noise of one completion."""
    panels = []
    for pair in data.pairs[:MAX_PANELS]:
        relative = finite(data.truth(pair)[0])
        key = "rel_std" if relative else "std"
        rows = [row for row in data.measured(pair) if finite(row[key]) and row[key] > 0.0]
        if not rows:
            continue
        names = _names(rows)
        height = 70 + 22 * len(names)
        with drawing(left=0.36, bottom=46 / height, height=height) as (axes, svg):
            axes.set_xscale("log")
            for name in names:
                ends = [row[key] for row in rows if row["estimator"] == name]
                axes.plot([min(ends), max(ends)], [names.index(name)] * 2, color=FAINT, linewidth=2.0, zorder=1)
            for row in rows:
                entry, ok = _entry(row), row["status"] == "ok"
                axes.plot(
                    row[key], names.index(str(row["estimator"])), linestyle="none", marker=entry.marker,
                    color=colour(entry.slot), markerfacecolor=colour(entry.slot) if ok else "none", zorder=3,
                )  # fmt: skip
            axes.set_yticks(range(len(names)), names)
            axes.set_ylim(len(names) - 0.4, -0.6)
            axes.grid(visible=False, axis="y")
            axes.set_xlabel("sd of one completion / exact KL" if relative else "sd of one completion, nats")
            low, high = min(row[key] for row in rows) / 1.4, max(row[key] for row in rows) * 1.4
            axes.set_xlim(low, high)
            log_ticks(axes.xaxis, low, high)
        said = "; ".join(f"{row['estimator']} {row['level']} {number(row[key], 2)}" for row in rows)
        panels.append(Panel(data.labels[pair], svg[0], f"Noise on {pair}: {said}."))
    if not panels:
        return None
    above = any(finite(row["rel_bias"]) for row in data.values)
    caption = (
        "Further left is better, on a logarithmic axis. To halve the noise of a mean takes four times the completions. Little "
        f"noise is worth nothing with a large bias{': see the figure above' if above else ''}. Hollow marks are not to be "
        "trusted." + _cut(data)
    )
    exact = [SUM] if any(row["estimator"] in EXACT for pair in data.pairs for row in data.measured(pair)) else []
    return Figure("completions-noise", "How noisy one completion is", caption, panels, [TOKEN, WHOLE, *exact])


def _thinned(rows: list[Record]) -> list[Record]:
    step = max(1, math.ceil(len(rows) / MAX_POINTS))
    return rows[::step]


def by_position(data: Data) -> Figure | None:
    """The exact divergence and the estimates at each position."""
    from matplotlib.ticker import MaxNLocator

    lines = (LegendEntry("k1", 0, "o"), LegendEntry("k3", 1, "s"))
    exact = LegendEntry("exact KL", 2, "^")
    panels, measured = [], False
    for pair in data.pairs[:MAX_PANELS]:
        rows = [row for row in _thinned(data.places(pair)) if finite(row["k1"], row["k1_se"]) and row["n"] > 1]
        if len(rows) < 2:
            continue
        x = [row["position"] for row in rows]
        here = all(finite(row["kl_qp"]) for row in rows)
        measured = measured or here
        with drawing(left=0.2) as (axes, svg):
            for k, entry in enumerate(lines):
                name = entry.label
                shifted = [place + (k - 0.5) * 0.3 for place in x]
                axes.errorbar(
                    shifted, [row[name] for row in rows], yerr=[Z95 * row[f"{name}_se"] for row in rows], fmt=entry.marker,
                    color=colour(entry.slot), markersize=3.2, elinewidth=0.8, zorder=2,
                )  # fmt: skip
            if here:
                axes.plot(x, [row["kl_qp"] for row in rows], color=colour(exact.slot), linewidth=2.0, zorder=4)
            axes.axhline(0.0, color=TEXT, linewidth=0.9, zorder=1)
            axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
            axes.set_xlabel("position in the completion")
            axes.set_ylabel("nats a token")
        ends = [rows[0], rows[-1]]
        said = " to ".join(f"{number(row['kl_qp' if here else 'k1'], 2)} at position {row['position']}" for row in ends)
        detail = f"{ends[0]['n']:,} completions reach position {x[0]}, {ends[1]['n']:,} position {x[-1]}"
        panels.append(Panel(data.labels[pair], svg[0], f"By position on {pair}: from {said}.", detail))
    if not panels:
        return None
    caption = (
        "Means over the completions that are still going at that position, with 95 % intervals. The line is the mean of the "
        "exact KL between the two distributions over the next token; its own interval is about as wide as the line."
        if measured
        else "Means over the completions that are still going at that position, with 95 % intervals."
    )
    legend = [*([exact] if measured else []), *lines]
    return Figure("completions-positions", "Where in a completion", caption + _cut(data), panels, legend)
