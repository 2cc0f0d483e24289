"""Figures of the value study: bias, noise, error against batch size, distributions, coverage, tails."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from klbench.report.blocks import Figure, LegendEntry, Panel
from klbench.report.figures import FAINT, TEXT, colour, drawing
from klbench.report.numbers import Z95, number, percent, power_of_ten, short
from klbench.report.sections._values_data import Data

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

MAX_PANELS = 8
HEAVY, LOST = 0.5, 0.7


def _tick(x: float, _: Any = None) -> str:
    if x and not 1e-3 <= abs(x) < 1e5 and math.isclose(exponent := math.log10(abs(x)), round(exponent)):
        return ("−" if x < 0 else "") + power_of_ten(round(exponent))
    return short(x)


def _log(axis: Any, low: float, high: float) -> None:
    """A logarithmic axis with a few plainly written ticks, even where it spans less than a decade."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    decades = math.log10(high / low) if low > 0 else 1.0
    steps = (1.0,) if decades > 3 else (1.0, 3.0) if decades > 1.2 else (1.0, 2.0, 5.0)
    axis.set_major_locator(LogLocator(10, subs=steps, numticks=7))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(_tick))


def _kl_axis(axes: Axes, kls: Sequence[float]) -> None:
    axes.set_xscale("log")
    low, high = min(kls), max(kls)
    low, high = (low / 3, high * 3) if high < 1.5 * low else (low / 1.4, high * 1.4)
    axes.set_xlim(low, high)
    _log(axes.xaxis, low, high)
    axes.set_xlabel("exact KL(q‖p), nats")


def _batch_axis(axes: Axes, batches: Sequence[int]) -> None:
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

    axes.set_xscale("log")
    axes.set_xlim(min(batches) / 1.5, max(batches) * 1.5)
    axes.xaxis.set_major_locator(FixedLocator(batches if len(batches) < 8 else batches[:: math.ceil(len(batches) / 7)]))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{int(round(x)):,}"))
    axes.set_xlabel("samples in a batch")


def _curve(axes: Axes, x: Sequence[float], y: Sequence[float], slot: int, *, exact: bool) -> None:
    """A line below the points: solid for a closed form, dotted where it only joins what was measured."""
    import seaborn as sns

    kept = [(a, b) for a, b in zip(x, y, strict=True) if math.isfinite(a) and math.isfinite(b)]
    if len(kept) > 1:
        sns.lineplot(
            x=[a for a, _ in kept], y=[b for _, b in kept], ax=axes, color=colour(slot), errorbar=None, legend=False,
            linestyle="-" if exact else ":", linewidth=1.3 if exact else 1.0, sort=False, estimator=None,
        )  # fmt: skip


def _points(axes: Axes, rows: pd.DataFrame, x: Sequence[float], y: str, se: str, entry: LegendEntry) -> None:
    """Measured values with 95 % intervals; hollow, and without one, where the row is not to be trusted."""
    trusted = (rows["status"] == "ok").to_numpy()
    values, errors = rows[y].astype(float).to_numpy(), rows[se].astype(float).to_numpy() if se else None
    for mask, face in ((trusted, colour(entry.slot)), (~trusted, "none")):
        if mask.any():
            error = Z95 * errors[mask] if errors is not None and face != "none" else None
            axes.errorbar(
                [a for a, keep in zip(x, mask, strict=True) if keep], values[mask], yerr=error, fmt=entry.marker, color=colour(entry.slot),
                markerfacecolor=face, markeredgecolor=colour(entry.slot), elinewidth=1.0, zorder=3,
            )  # fmt: skip


def _rows(data: Data, name: str, pairs: Sequence[str], batch: int) -> pd.DataFrame:
    table = data.measured
    rows = table[(table["estimator"] == name) & (table["batch"] == batch) & table["pair"].isin(pairs)]
    return rows[rows["kl"] > 0].sort_values("kl", kind="stable")


def _against_kl(
    data: Data, name: str, title: str, caption: Any, label: str, draw: Callable[[Axes, pd.DataFrame, LegendEntry, float], list[float]],
    finish: Callable[[Axes], None],
) -> Figure | None:  # fmt: skip
    """Small multiples by series over the exact KL, at the smallest batch size; ``draw`` gives back what it drew."""
    batch, panels, shown = data.batches[0], [], {}
    for series, pairs in list(data.series.items())[: 2 * MAX_PANELS]:
        kls = sorted({data.kl[pair] for pair in pairs if data.kl[pair] > 0})
        if data.is_off_policy(series) or not kls or len(panels) == MAX_PANELS:
            continue
        there = data.measured[data.measured["pair"].isin(pairs) & (data.measured["batch"] == batch)]["estimator"]
        chosen = data.headlines(present=there)
        with drawing(left=0.17) as (axes, svg):
            said = []
            for i, (each, entry) in enumerate(zip(chosen, data.legend(chosen), strict=True)):
                shown[each] = entry
                rows = _rows(data, each, pairs, batch)
                drawn = draw(axes, rows, entry, 1.0 + 0.035 * (i - (len(chosen) - 1) / 2)) if len(rows) else []
                if drawn:
                    said.append(f"{each} from {number(drawn[0], 2)} to {number(drawn[-1], 2)}")
            _kl_axis(axes, kls)
            axes.set_ylabel(label)
            finish(axes)
        panels.append(Panel(series, svg[0], f"{title}, series {series}, KL from {short(kls[0])} to {short(kls[-1])} nats: {'; '.join(said)}."))
    return Figure(name, title, caption, panels, list(shown.values())) if panels else None


def noise(data: Data) -> Figure | None:
    """Relative standard deviation of one sample against KL."""

    def draw(axes: Axes, rows: pd.DataFrame, entry: LegendEntry, shift: float) -> list[float]:
        truth, kl = rows["truth"].astype(float), list(rows["kl"])
        measured = rows.assign(relative=rows["std"] / truth, relative_se=rows["std_se"] / truth)
        exact = list(rows["exact_std"] / truth)
        known = any(map(math.isfinite, exact))
        _curve(axes, kl, exact if known else list(measured["relative"]), entry.slot, exact=known)
        _points(axes, measured, [shift * x for x in kl], "relative", "relative_se", entry)
        return [float(y) for y in measured["relative"]]

    def finish(axes: Axes) -> None:
        axes.set_yscale("log")
        _log(axes.yaxis, *axes.get_ylim())

    caption = (
        "Lower is better. The standard deviation of a single estimate, divided by the true value: 10 means that one sample is off by ten "
        "times what it measures. Near q = p (left) the log-ratio itself, k1, is by far the noisiest; further off the ones that hold r "
        "grow with r's tail. Solid lines are exact, from closed forms; points were measured, with 95 % intervals; hollow points are not "
        "to be trusted (a heavy tail, or no finite variance), and where a line stops the exact value is infinite."
    )
    return _against_kl(data, "noise", "Noise of a single sample", caption, "std / true value", draw, finish)


def bias(data: Data) -> Figure | None:
    """Relative bias against KL."""

    def draw(axes: Axes, rows: pd.DataFrame, entry: LegendEntry, shift: float) -> list[float]:
        truth, kl = rows["truth"].astype(float), list(rows["kl"])
        exact = list(rows["exact_bias"] / truth)
        known = any(map(math.isfinite, exact))
        _curve(axes, kl, exact if known else list(rows["rel_bias"]), entry.slot, exact=known)
        _points(axes, rows, [shift * x for x in kl], "rel_bias", "rel_bias_se", entry)
        return [float(y) for y in rows["rel_bias"]]

    def finish(axes: Axes) -> None:
        from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

        low, high = axes.get_ylim()
        axes.set_yscale("symlog", linthresh=0.01, linscale=0.6)
        ticks = [-100, -10, -1, -0.1, -0.01, 0, 0.01, 0.1, 1, 10, 100]
        axes.set_ylim(min(low, -0.015), max(high, 0.015))
        axes.yaxis.set_major_locator(FixedLocator([t for t in ticks if low - 1e-9 <= t <= high or abs(t) <= 0.01]))
        axes.yaxis.set_minor_locator(NullLocator())
        axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: percent(y) if abs(y) < 10 else _tick(100 * y) + " %"))
        axes.axhline(0.0, color=TEXT, linewidth=0.9, zorder=1)

    caption = (
        "Closer to the line at zero is better. The mean error, divided by the true value; more samples do not make it smaller. "
        "The scale is logarithmic on both sides and linear within 1 %. Points carry 95 % intervals and are set slightly apart sideways; "
        "an unbiased estimator's should reach the zero line, and hollow ones are not to be trusted."
    )
    return _against_kl(data, "bias", "Bias", caption, "bias / true value", draw, finish)


def typical_pairs(data: Data) -> list[tuple[str, str]]:
    """For each series the pair whose KL is closest to half a nat on a logarithmic scale."""
    result = []
    for series, pairs in data.series.items():
        known = [pair for pair in pairs if data.kl[pair] > 0]
        if known:
            result.append((series, min(known, key=lambda pair: abs(math.log(data.kl[pair] / 0.5)))))
    return result[:MAX_PANELS]


def _by_pair(
    data: Data, name: str, title: str, caption: Any, draw: Callable[[Axes, str, list[str], list[LegendEntry]], list[str]], left: float = 0.17,
    height: int = 250, only_main: bool = False,
) -> Figure | None:  # fmt: skip
    """Small multiples, one typical pair a series."""
    panels, shown = [], {}
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
            panels.append(Panel(f"{series}: {where}", svg[0], f"{title}, {where}: {'; '.join(said)}."))
    return Figure(name, title, caption, panels, list(shown.values())) if panels else None


def error_by_batch(data: Data) -> Figure | None:
    """Root-mean-square error against batch size."""

    def draw(axes: Axes, pair: str, chosen: list[str], entries: list[LegendEntry]) -> list[str]:
        said = []
        for name, entry in zip(chosen, entries, strict=True):
            rows = data.measured[(data.measured["pair"] == pair) & (data.measured["estimator"] == name)].sort_values("batch")
            rows = rows[rows["rmse"] > 0]
            if len(rows):
                _curve(axes, list(rows["batch"]), list(rows["rmse"]), entry.slot, exact=True)
                _points(axes, rows, list(rows["batch"]), "rmse", "rmse_se", entry)
                said.append(f"{name} from {number(rows['rmse'].iloc[0], 2)} to {number(rows['rmse'].iloc[-1], 2)}")
        if said:
            _batch_axis(axes, data.batches)
            axes.set_yscale("log")
            axes.set_ylabel("rmse, nats")
            _log(axes.yaxis, *axes.get_ylim())
            axes.axhline(data.kl[pair], color=FAINT, linewidth=1.4, zorder=0)
        return said

    caption = (
        "Lower is better. The root-mean-square error joins bias and noise. Noise falls with the square root of the batch, bias does not: "
        "a line that goes flat has run into its bias. The thick faint line is the true KL: above it, an estimate says nothing of its size. "
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
                _curve(axes, x, list(rows["coverage"]), entry.slot, exact=True)
                _points(axes, rows, x, "coverage", "coverage_se", entry)
                said.append(f"{name} {percent(rows['coverage'].iloc[-1])} at {int(rows['batch'].iloc[-1]):,}")
        if said:
            from matplotlib.ticker import FuncFormatter

            _batch_axis(axes, [batch for batch in data.batches if batch > 1] or data.batches)
            axes.set_ylim(-0.03, 1.03)
            axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: percent(y) if y else "0 %"))
            axes.axhline(0.95, color=TEXT, linewidth=0.9, linestyle="--", zorder=1)
            axes.set_ylabel("intervals that hold the truth")
        return said

    caption = (
        "Should be on the dashed line. From each batch an interval was made as usual, mean ± 1.96 standard deviations / √n, which promises to "
        "hold the true value 95 % of the time. Small batches miss because the values are skewed; biased estimators miss more the larger "
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
        table, said, labels = data.errors, [], []
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
            axes.axvline(0.0, color=TEXT, linewidth=0.9, zorder=1)
            axes.set_yticks(range(len(labels)), labels)
            axes.set_ylim(len(labels) - 0.4, -0.6)
            axes.grid(visible=False, axis="y")
            axes.set_xlabel("estimate − truth, nats")
            axes.locator_params(axis="x", nbins=6)
        return said

    caption = (
        f"Short bars around zero are better. Errors of batches of {batch:,} samples: half of all batches fall on the thick bar, 95 % on the thin "
        "one, and the tick is the median. A median left of zero beside an unbiased mean is the mark of a heavy tail: most batches say too "
        "little, and a few rare ones say far too much."
    )
    return _by_pair(data, "errors", "How the errors are spread", caption, draw, left=0.34, only_main=True)


def tails(data: Data) -> Figure | None:
    """Measured tail index of the ratio against the known one."""
    table = data.pairs[data.pairs["khat"].notna()].copy()
    table["series"] = table["pair"].map({pair: series for series, pairs in data.series.items() for pair in pairs})
    panels = []
    for series in list(data.series)[:MAX_PANELS]:
        rows = table[(table["series"] == series) & (table["kl_qp"] > 0)].sort_values("kl_qp", kind="stable")
        if rows.empty:
            continue
        with drawing(left=0.17) as (axes, svg):
            x, known = list(rows["kl_qp"]), list(rows["tail_index"])
            _curve(axes, x, known, 1, exact=True)
            axes.plot(x, known, linestyle="none", marker="s", markerfacecolor="none", markeredgecolor=colour(1))
            axes.errorbar(x, rows["khat"], yerr=Z95 * rows["khat_se"], fmt="o", color=colour(0), elinewidth=1.0, zorder=3)
            for level, style in ((HEAVY, "--"), (LOST, ":")):
                axes.axhline(level, color=TEXT, linewidth=0.9, linestyle=style, zorder=1)
            _kl_axis(axes, x)
            axes.set_ylabel("tail index k of r")
            axes.set_ylim(min(-0.25, float(rows["khat"].min()) - 0.2), max(1.05, float(rows["khat"].max()) + 0.2))
        said = [f"KL {short(kl)}: measured {number(k, 2)}, known {number(t, 2)}" for kl, k, t in zip(x, rows["khat"], known, strict=True)]
        panels.append(Panel(series, svg[0], f"Tail index of r, series {series}: {'; '.join(said)}."))
    caption = (
        "Circles were measured on the samples (with 95 % intervals), squares are known exactly. k says how slowly large ratios r die out: from "
        "0.5 on (dashed) r has no finite variance, from 0.7 on (dotted) no number of samples that one can pay for settles its mean. "
        "A circle far above its square is a tail that is harmless in theory and looks heavy at every sample size that one can draw; "
        "below zero, r is bounded."
    )
    legend = [LegendEntry("measured k-hat", 0, "o"), LegendEntry("known tail index", 1, "s")]
    return Figure("tails", "How heavy is the tail of r?", caption, panels, legend) if panels else None


def third_sampler(data: Data) -> Figure | None:
    """Relative bias with and without weights, on samples of a third distribution."""
    panels, shown = [], {}
    for series, pairs in data.series.items():
        there = [pair for pair in pairs if pair in data.off_policy and data.kl[pair] > 0][: MAX_PANELS - len(panels)]
        for pair in there:
            table = data.measured[(data.measured["pair"] == pair) & (data.measured["target"] == data.target)]
            batch = int(table["batch"].max()) if len(table) else 0
            rows = table[table["batch"] == batch].set_index("estimator")
            chosen = data.headlines(off_policy=True, present=set(rows.index)) if len(rows) else []
            if not chosen:
                continue
            entries = data.legend(chosen)
            with drawing(left=0.36) as (axes, svg):
                for y, (name, entry) in enumerate(zip(chosen, entries, strict=True)):
                    x, se = float(rows.loc[name, "rel_bias"]), float(rows.loc[name, "rel_bias_se"])
                    axes.errorbar([x], [y], xerr=[Z95 * se], fmt=entry.marker, color=colour(entry.slot), elinewidth=1.4, markersize=7)
                axes.axvline(0.0, color=TEXT, linewidth=0.9, zorder=1)
                axes.set_yticks(range(len(chosen)), chosen)
                axes.set_ylim(len(chosen) - 0.4, -0.6)
                axes.grid(visible=False, axis="y")
                axes.set_xlabel("bias / true value")
                axes.locator_params(axis="x", nbins=6)
                from matplotlib.ticker import PercentFormatter

                axes.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
            said = [f"{name} {percent(float(rows.loc[name, 'rel_bias']))}" for name in chosen]
            shown |= dict(zip(chosen, entries, strict=True))
            panels.append(Panel(f"{series}: {pair}", svg[0], f"Relative bias on samples of a third distribution, {pair}: {'; '.join(said)}."))
    caption = (
        "Closer to zero is better. Here the samples come neither from q nor from p but from a third distribution, as when a policy has "
        "moved on since its samples were drawn. Without importance weights an estimator is off by as much as the sampler differs from q; "
        "weighted by q over the sampler, the unbiased ones are unbiased again. At the largest batch size; bars are 95 % intervals."
    )
    return Figure("third-sampler", "Samples of a third distribution", caption, panels) if panels else None


def all_figures(data: Data) -> list[Figure]:
    """In the page's order; those that the tables have nothing for are left out."""
    makers = (noise, bias, error_by_batch, distributions, coverage, tails, third_sampler)
    return [figure for make in makers if (figure := make(data)) is not None]
