"""Figures of the study of completions."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from statistics import median
from typing import Any

from matplotlib.axes import Axes

from klbench.report.blocks import Figure, LegendEntry, Panel
from klbench.report.numbers import Z95, exact, short
from klbench.report.plots import MOST_ENTRIES, Axis, Line, Mark, down, legend, lines
from klbench.report.prose import prose
from klbench.report.tables import Row
from klbench.rows import distinct, where
from klbench.studies.lm.columns import (
    COST,
    DTYPE,
    SAMPLING,
    TOKEN_MEANS,
    TOKENS,
    TOP_TOKENS,
    TRUNCATION,
)
from klbench.studies.lm.section_data import EXACT, MOST_PAIRS, TARGET, Completions, finite, visible

SAY = prose(__package__)
TOKEN, WHOLE = LegendEntry("sum over tokens", 0, "o"), LegendEntry("whole log-ratio", 1, "s")
EXACT_SUM = LegendEntry("exact KL of each token", 2, "^")
OVER_ALL = LegendEntry("mean over all tokens (masked mean)", 3, "D")
ONE_BY_ONE = LegendEntry("mean over each completion, then over completions", 4, "v")
AGREES, DIFFERS, UNKNOWN = (
    LegendEntry("agree", 2, "o"),
    LegendEntry("differ", 1, "s"),
    LegendEntry("cannot tell", 5, "D"),
)
MOST_TOKENS = 10
SCHULMAN = ("k1", "k2", "k3")
FAR = 4.0
"""A value so many times the median of all is not drawn beside them."""
NAMES = 0.44
"""The part of a panel that names of estimators take."""


def _entry(row: Row) -> LegendEntry:
    return EXACT_SUM if row["estimator"] in EXACT else TOKEN if row["level"] == "token" else WHOLE


def _offset(row: Row) -> float:
    return 0.0 if row["estimator"] in EXACT else -0.17 if row["level"] == "token" else 0.17


def _named(row: Row) -> str:
    return (
        str(row["estimator"]) if row["target"] == TARGET else f"{row['estimator']}, {row['target']}"
    )


def _used(panels: Sequence[Sequence[Mark]], entries: Sequence[LegendEntry]) -> list[LegendEntry]:
    """Return the entries that marks have, in their order."""
    used = [mark.entry for marks in panels for mark in marks]
    return [entry for entry in entries if entry in used]


def _figure(
    data: Completions,
    name: str,
    title: str,
    panels: Sequence[Panel],
    legend: Sequence[LegendEntry],
    caption: str,
) -> Figure | None:
    """Return a figure whose caption says what it leaves out; None without panels."""
    if not panels:
        return None
    return Figure(
        name,
        title,
        caption + SAY.left_out(data.names[len(data.drawn) :], len(data.pairs), MOST_PAIRS),
        panels,
        legend,
    )


def _percent_ticks(axes: Axes) -> None:
    low, high = axes.get_xlim()
    axes.set_xticks(
        [tick for tick in axes.get_xticks() if low <= tick < 0.8 * high]
    )  # a label at the very end is cut
    axes.xaxis.set_major_formatter(lambda x, _: short(100.0 * x))


def _decades(axes: Axes) -> None:
    """Leave the ticks at whole decades alone, where there are several."""
    low, high = axes.get_xlim()
    decades = [10.0**k for k in range(math.ceil(math.log10(low)), math.floor(math.log10(high)) + 1)]
    if len(decades) > 1:
        axes.set_xticks(decades)


def _mark(name: str, value: float, error: float, entry: LegendEntry, **others: Any) -> Mark:
    """Return a mark with its 95 % interval from a standard error."""
    return Mark(name, value, entry, value - Z95 * error, value + Z95 * error, **others)


def _marks(rows: Sequence[Row], value: str, *, error: str = "") -> list[Mark]:
    """Return a mark for each row that has a value, with its interval where the row can be
    trusted.
    """
    found = []
    for row in rows:
        if finite(row[value]):
            doubted = row["status"] != "ok"
            se = row[error] if error and not doubted else math.nan
            found.append(
                _mark(_named(row), row[value], se, _entry(row), hollow=doubted, offset=_offset(row))
            )
    return found


def errors(data: Completions) -> Figure | None:
    """Return the error of each estimator over 100 completions on every pair.

    Summed over tokens, and of whole log-ratios.
    """
    key = legend(data.pairs, labels=[data.labels[pair] for pair in data.pairs])
    found = [
        row
        for name in data.drawn
        for pair in key
        for row in data.measured(pair)
        if row["estimator"] == name
    ]
    found = [row for row in found if row["rel_rmse_100"] > 0.0]
    names, ends = list(dict.fromkeys(map(_named, found))), [row["rel_rmse_100"] for row in found]

    def place(axes: Axes) -> None:
        axes.set_xlim(min(ends) / 1.2, max(ends) * 1.2)
        _percent_ticks(axes)

    panels = []
    for title, level in ((SAY.summed(), "token"), (SAY.whole(), "sequence")):
        marks = [
            Mark(_named(row), row["rel_rmse_100"], key[row["pair"]], hollow=row["status"] != "ok")
            for row in found
            if row["level"] == level
        ]
        if marks:
            axis = Axis("error over 100 completions, %", "log", place=place)
            panels.append(down(title, marks, axis, names=names, left=NAMES))
    return _figure(
        data,
        "completions-errors",
        SAY.errors_title(),
        panels,
        list(key.values()),
        SAY.errors_caption(),
    )


def ways(data: Completions) -> Figure | None:
    """Return every way of logging the KL: per completion and per token, of each estimator."""
    panels, used = [], []
    beyond: list[str] = []
    for pair in data.pairs[:MOST_PAIRS]:
        completion = _marks(data.measured(pair), "mean", error="mean_se")
        token = [mark for row in data.measured(pair, "token") for mark in _as(OVER_ALL, row, -0.17)]
        for row in data.rows(TOKEN_MEANS):
            if row["pair"] == pair and row["estimator"] in data.drawn:
                token += _as(ONE_BY_ONE, row | {"status": "ok"}, 0.17)
        apart = {mark.name for mark in completion if _apart(mark, completion)}
        beyond += apart
        names = [
            name for name in dict.fromkeys(mark.name for mark in completion) if name not in apart
        ]
        used += [completion, token]
        for unit, marks in (("completion", completion), ("token", token)):
            kept = [mark for mark in marks if mark.name in names]
            if kept:
                title = SAY.unit(unit, data.labels[pair] if len(data.pairs) > 1 else "")
                panels.append(
                    down(
                        title, kept, Axis(f"nats a {unit}", levels=(0.0,)), names=names, left=NAMES
                    )
                )
    entries = _used(used, (EXACT_SUM, TOKEN, WHOLE, OVER_ALL, ONE_BY_ONE))
    caption = SAY.ways_caption() + SAY.beyond(list(dict.fromkeys(beyond)))
    return _figure(data, "completions-ways", SAY.ways_title(), panels, entries, caption)


def _apart(mark: Mark, marks: Sequence[Mark]) -> bool:
    """Tell whether a mark is so far off that it would squeeze all others together.

    k1, k2 and k3 are always drawn.
    """
    return mark.name not in SCHULMAN and abs(mark.value) > FAR * median(
        abs(each.value) for each in marks
    )


def _as(entry: LegendEntry, row: Row, offset: float) -> list[Mark]:
    """Return the mark of a mean over tokens."""
    doubted = row["status"] != "ok"
    mark = _mark(_named(row), row["mean"], row["mean_se"], entry, hollow=doubted, offset=offset)
    return [mark] if finite(row["mean"]) else []


def agreement(data: Completions) -> Figure | None:
    """Return the difference of k1 and k3 on each pair, in standard errors."""
    entries = {entry.label: entry for entry in (AGREES, DIFFERS, UNKNOWN)}
    marks = [
        _mark(data.labels[pair], row["z"], 1.0, entries[row["verdict"]])
        for pair in data.pairs
        if (row := data.agreement[pair]) and finite(row["z"])
    ]
    if not marks:
        return None
    panel = down("k3 − k1", marks, Axis("k3 − k1, standard errors", levels=(-5.0, 0.0, 5.0)))
    caption = SAY.agreement_caption(any(row["off_policy"] for row in data.agreement.values()))
    return Figure(
        "completions-agreement",
        SAY.agreement_title(),
        caption,
        [panel],
        _used([marks], (AGREES, DIFFERS, UNKNOWN)),
    )


def bias(data: Completions) -> Figure | None:
    """Return how far each estimator's mean is from the exact value."""

    def marks(pair: str) -> list[Mark]:
        rows = [row for row in data.measured(pair) if row["bias_method"] != "is the truth"]
        return _marks(rows, "rel_bias", error="rel_bias_se")

    axis = Axis("bias / exact KL, %", "symlog", 0.1, (0.0,), _percent_ticks)
    return _by_pair(data, "completions-bias", marks, axis, SAY.bias_title(), SAY.bias_caption())


def noise(data: Completions) -> Figure | None:
    """Return the completions that a standard error of 1 % takes.

    The noise of one where no exact value is known.
    """
    needed = {
        (row["pair"], row["estimator"], row["level"]): row["completions_needed"]
        for row in data.rows(COST)
    }
    known = any(finite(value) for value in needed.values())

    def marks(pair: str) -> list[Mark]:
        rows = data.measured(pair)
        if known:
            key = [(pair, row["estimator"], row["level"]) for row in rows]
            rows = [
                row | {"std": needed.get(each, math.nan)}
                for row, each in zip(rows, key, strict=True)
            ]
        return [mark for mark in _marks(rows, "std") if mark.value > 0.0]

    axis = Axis(
        "completions for 1 %" if known else "sd of one completion, nats", "log", place=_decades
    )
    return _by_pair(
        data, "completions-noise", marks, axis, SAY.noise_title(known), SAY.noise_caption(known)
    )


def _by_pair(
    data: Completions,
    name: str,
    marks: Callable[[str], list[Mark]],
    axis: Axis,
    title: str,
    caption: str,
) -> Figure | None:
    """Return a figure with a panel for each pair, and a row for each estimator."""
    found = {pair: marks(pair) for pair in data.pairs[:MOST_PAIRS]}
    panels = [
        down(data.labels[pair], each, axis, left=NAMES, detail=_exact(data, pair))
        for pair, each in found.items()
        if each
    ]
    return _figure(
        data, name, title, panels, _used(list(found.values()), (EXACT_SUM, TOKEN, WHOLE)), caption
    )


def _exact(data: Completions, pair: str) -> str:
    about = data.about[pair]
    return f"exact KL {exact(about['kl_qp'], about['kl_qp_se'])}" if finite(about["kl_qp"]) else ""


def by_position(data: Completions) -> Figure | None:
    """Return the divergence that has arisen up to each position."""
    key = legend(("kl_qp", *SCHULMAN), labels=("exact KL", *SCHULMAN))
    panels = []
    for pair in data.pairs[:MOST_PAIRS]:
        rows = where(data.rows(TOKENS), pair=pair)
        drawn = [
            Line(entry, [row["position"] for row in rows], [row[f"{name}_total"] for row in rows])
            for name, entry in key.items()
            if all(finite(row[f"{name}_total"]) for row in rows)
        ]
        if len(rows) > 1 and drawn:
            half = data.verdicts[pair]["half_by"]
            detail = f"half of it by position {half:,.0f} of {len(rows):,}" if finite(half) else ""
            y = Axis("nats up to there", levels=(0.0,))
            panels.append(lines(data.labels[pair], drawn, Axis("position"), y, detail=detail))
    if not panels:
        return None
    caption = SAY.positions_caption() + SAY.left_out([], len(data.pairs), MOST_PAIRS)
    known = any(finite(row["kl_qp"]) for row in data.rows(TOKENS))
    return Figure(
        "completions-positions",
        SAY.positions_title(),
        caption,
        panels,
        list(key.values())[0 if known else 1 :],
    )


def top_tokens(data: Completions) -> Figure | None:
    """Return the tokens that add or take away most of the divergence."""
    panels = []
    for pair in data.pairs[:MOST_PAIRS]:
        rows = [
            row for row in data.rows(TOP_TOKENS) if row["pair"] == pair and finite(row["share"])
        ][:MOST_TOKENS]
        texts = [visible(row["text"]) or str(row["token"]) for row in rows]
        names = [
            f"{text} ({row['token']})" if texts.count(text) > 1 else text
            for text, row in zip(texts, rows, strict=True)
        ]
        marks = [
            Mark(name, row["share"], TOKEN, 0.0, row["share"])
            for name, row in zip(names, rows, strict=True)
        ]
        if marks:
            panels.append(
                down(
                    data.labels[pair],
                    marks,
                    Axis("share of the KL, %", levels=(0.0,), place=_percent_ticks),
                    left=0.28,
                )
            )
    caption = SAY.top_caption() + SAY.left_out([], len(data.pairs), MOST_PAIRS)
    return Figure("completions-tokens", SAY.top_title(), caption, panels) if panels else None


def samplers(data: Completions) -> Figure | None:
    """Return k1 and k3 on samples of another distribution, with the policy's log-probabilities
    and with the sampler's.
    """
    panels: dict[str, list[Mark]] = {}
    for row in data.rows(SAMPLING):
        marks = panels.setdefault(row["pair"], [])
        if not marks:
            marks += (
                [Mark("exact KL(q‖p)", row["kl_qp"], EXACT_SUM)] if finite(row["kl_qp"]) else []
            )
        name = (
            f"{row['estimator']} of {'log p/μ' if row['log_ratio'].endswith('mu') else 'log p/q'}"
        )
        marks.append(_mark(name, row["mean"], row["mean_se"], _entry(row), offset=_offset(row)))
    if not panels:
        return None
    axis = Axis("nats a completion", levels=(0.0,))
    drawn = [
        down(data.labels[pair], marks, axis, left=NAMES)
        for pair, marks in list(panels.items())[:MOST_PAIRS]
    ]
    entries = _used(list(panels.values()), (EXACT_SUM, TOKEN, WHOLE))
    return Figure(
        "completions-samplers", SAY.samplers_title(), SAY.samplers_caption(), drawn, entries
    )


def formats(data: Completions) -> Figure | None:
    """Return the divergence of the policy from itself that another number format invents."""
    key = legend(SCHULMAN)
    panels = []
    rows = where(data.rows(DTYPE), what="policy against itself", level="token")
    for dtype in distinct(rows, "dtype"):
        marks = [
            _mark(
                data.labels[row["pair"]],
                row["change"],
                row["change_se"],
                entry,
                offset=0.2 * (entry.slot - 1),
            )
            for row in rows
            if row["dtype"] == dtype and (entry := key.get(row["estimator"]))
        ]
        panels.append(down(dtype, marks, Axis("nats a completion", levels=(0.0,))))
    return (
        Figure(
            "completions-formats",
            SAY.formats_title(),
            SAY.formats_caption() + _scored_again(rows),
            panels,
            list(key.values()),
        )
        if panels
        else None
    )


def _scored_again(rows: Sequence[Row]) -> str:
    """Return a sentence on how many completions a table is about."""
    found: str = SAY.scored_again(sorted({row["completions"] for row in rows}))
    return found


def truncation(data: Completions) -> Figure | None:
    """Return the share of the exact KL that is missing when only the k most probable tokens are
    distinguished.
    """
    key = legend(data.pairs, labels=[data.labels[pair] for pair in data.pairs])
    drawn = []
    for pair in data.pairs[:MOST_ENTRIES]:
        rows = [
            row for row in data.rows(TRUNCATION) if row["pair"] == pair and finite(row["share"])
        ]
        if len(rows) > 1:
            drawn.append(
                Line(key[pair], [row["k"] for row in rows], [100.0 * row["share"] for row in rows])
            )
    if not drawn:
        return None
    panel = lines(
        "Missing", drawn, Axis("tokens told apart", "log"), Axis("% of the exact KL", levels=(0.0,))
    )
    caption = SAY.truncation_caption() + _scored_again(data.rows(TRUNCATION))
    caption += SAY.left_out([], len(data.pairs), MOST_PAIRS)
    return Figure(
        "completions-truncation",
        SAY.truncation_title(),
        caption,
        [panel],
        [line.entry for line in drawn],
    )
