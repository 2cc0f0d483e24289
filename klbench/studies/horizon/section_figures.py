"""Figures of the study over length."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from klbench.report.blocks import Figure, LegendEntry
from klbench.report.plots import Axis, Line, legend, lines
from klbench.report.prose import prose
from klbench.report.tables import Row
from klbench.rows import column_of, distinct, finite, where
from klbench.studies.horizon.columns import Z95
from klbench.studies.horizon.section_data import TOKEN_LOSS, Horizon, biased

SAY = prose(__package__)
SEQUENCE = "k1/reward_to_go/token/sequence_ratio"


def _line(entry: LegendEntry, rows: Sequence[Row], x: str, y: str, scale: float = 1.0) -> Line:
    kept = [row for row in finite(rows, y) if row[y] > 0.0]
    return Line(entry, column_of(kept, x), [scale * row[y] for row in kept])


def against_length(run: Horizon) -> Figure:
    """Return bias and noise of what trainers do against length."""
    series, kl, lag = run.leading
    entries = legend(list(run.drawn))
    biases = [
        _line(entries[label], [row for row in rows if biased(row)], "tokens", "rel_bias", 100.0)
        for label, rows in run.drawn.items()
    ]
    noises = [_line(entries[label], rows, "tokens", "rel_std") for label, rows in run.drawn.items()]
    room = [row["tokens"] for rows in run.drawn.values() for row in rows]
    x = Axis(SAY.tokens_axis(), "log", room=room)
    panels = [
        lines(title, [each for each in drawn if len(each.x)], x, Axis(label, "log"))
        for title, drawn, label in (
            (SAY.bias(), biases, SAY.bias_axis()),
            (SAY.noise(), noises, SAY.noise_axis()),
        )
    ]
    caption = SAY.lead_caption(series, kl, lag, 256)
    return run.figure("horizon", SAY.lead_title(lag), caption, panels, entries)


def levelling(run: Horizon) -> Iterator[Figure]:
    """Yield the bias of token losses of each series against length."""
    found = {}
    for series in run.series:
        kl, _ = run.settings(series)
        rows = [row for row in run.curve(series, TOKEN_LOSS, kl, 0.0) if biased(row)]
        if rows:
            found[series] = rows
    if not found:
        return
    entries = legend(list(found))
    drawn = []
    sampled = where(run.sampled, combination=TOKEN_LOSS, lag_token=0.0)
    errors = {row["tokens"]: row["rel_bias_se"] for row in sampled}
    for series, rows in found.items():
        line = _line(entries[series], rows, "tokens", "rel_bias", 100.0)
        if series == "lm":
            half = [100.0 * Z95 * errors.get(row["tokens"], 0.0) for row in rows]
            low = [max(y - each, 0.1) for y, each in zip(line.y, half, strict=True)]
            high = [y + each for y, each in zip(line.y, half, strict=True)]
            line = replace(line, low=low, high=high, bars=True)
        drawn.append(line)
    panel = lines(SAY.bias(), drawn, Axis(SAY.tokens_axis(), "log"), Axis(SAY.bias_axis(), "log"))
    caption = SAY.families_caption(TOKEN_LOSS)
    yield run.figure("horizon-levels", SAY.families_title(), caption, [panel], entries)


def within(run: Horizon) -> Iterator[Figure]:
    """Yield how much of what token losses leave out lies within so many later tokens."""
    names = distinct(run.gaps, "series")
    if not names:
        return
    entries = legend(names)
    drawn = []
    for name in names:
        rows = where(run.gaps, series=name)
        line = _line(entries[name], rows, "gap", "left_out", 100.0)
        if name == "lm":
            low, high = (
                [100.0 * row[f"left_out_{end}"] for row in rows if row["left_out"] > 0.0]
                for end in ("low", "high")
            )
            line = replace(line, low=low, high=high, bars=True)
        drawn.append(line)
    panel = lines(SAY.gaps_title(), drawn, Axis(SAY.gap_axis(), "log"), Axis(SAY.left_out_axis()))
    caption = SAY.gaps_caption(TOKEN_LOSS, run.gaps[0]["tokens"])
    yield run.figure("horizon-gaps", SAY.gaps_title(), caption, [panel], entries)


def worth(run: Horizon) -> Iterator[Figure]:
    """Yield the effective share of the samples against the lag of whole sequences."""
    found = {}
    for series in run.series:
        kl, lags = run.settings(series)
        if lags[-1] > 0.0:
            rows = run.curve(series, SEQUENCE, kl, lags[-1])
            points = [(row["tokens"] * row["lag_token"], row["ess"]) for row in rows]
            if kept := [(x, y) for x, y in points if y > 1e-4]:
                found[series] = kept
    if not found:
        return
    names = [*found, *([SAY.kept()] if run.marks else [])]
    entries = legend([str(name) for name in names])
    drawn = [
        Line(entries[series], [x for x, _ in at], [y for _, y in at])
        for series, at in found.items()
    ]
    if run.marks:
        rows = [row for row in run.marks if row["kept"] > 1e-4]
        drawn.append(_line(entries[str(SAY.kept())], rows, "nats", "kept"))
    panel = lines(SAY.weights_title(), drawn, Axis(SAY.nats_axis(), "log"), Axis(SAY.share_axis()))
    title, caption = SAY.weights_title(), SAY.weights_caption()
    yield run.figure("horizon-weights", title, caption, [panel], entries)


def bounds(run: Horizon) -> Iterator[Figure]:
    """Yield the error of the surrogate and its bounds against length."""
    if not run.bounds:
        return
    first = run.bounds[len(run.bounds) // 3]
    series = run.series[0] if where(run.bounds, series=run.series[0]) else first["series"]
    kls = sorted(distinct(where(run.bounds, series=series), "kl_token"))
    kl, lag = kls[len(kls) // 2], max(column_of(run.bounds, "lag_token"))
    rows = where(run.bounds, series=series, kl_token=kl, lag_token=lag)
    columns = {"error": str(SAY.error()), "bound_2": "T²", "bound_15": "T^1.5", "bound_1": "T"}
    entries = legend(list(columns), labels=list(columns.values()))
    drawn = [_line(entries[column], rows, "tokens", column) for column in columns]
    panel = lines(
        SAY.bounds_title(),
        drawn,
        Axis(SAY.tokens_axis(), "log"),
        Axis(SAY.error_axis(), "log", levels=(1.0,)),
        left=0.21,
    )
    title, caption = SAY.bounds_title(), SAY.bounds_caption(series, lag)
    yield run.figure("horizon-bounds", title, caption, [panel], entries)
