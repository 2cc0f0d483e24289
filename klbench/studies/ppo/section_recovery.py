"""A token that the policy has lost and the reference holds: sentences, figure and table."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from markupsafe import Markup

from klbench.report import cells
from klbench.report.axes import log_ticks
from klbench.report.blocks import Block, Cell, Column, Details, Figure, LegendEntry, Panel, Table
from klbench.report.cells import code
from klbench.report.figures import MARKERS, TEXT, colour, drawing
from klbench.report.numbers import MISSING, count, listing, number, percent, short
from klbench.studies.ppo.section_data import NONE, Row, Trained

MAX_LINES = 8
FLOOR = 1e-6
"""Probabilities below are drawn there."""
VIOLENT = 3.0
"""A largest gradient this many times that of the combination with the least one is worth telling."""


def _middle(trained: Trained) -> float:
    """The nats lost of which the sentences speak."""
    nats = sorted({row["lost"] for row in trained.rows("recovery")})
    return float(nats[len(nats) // 2])


def _at(trained: Trained, lost: float) -> list[Row]:
    """One row a combination, what came back most first."""
    rows = [row for row in trained.rows("recovery") if row["lost"] == lost]
    return sorted(rows, key=lambda row: -row["probability"] if math.isfinite(row["probability"]) else 0.0)


def card(trained: Trained) -> Markup | None:
    """What the tables say of it."""
    if not trained.rows("recovery"):
        return None
    lost = _middle(trained)
    rows = _at(trained, lost)
    first = rows[0]
    text = Markup("<p><b>Bringing back a lost token</b></p><p>{}</p>").format(
        f"The token that the reference holds most, with {number(first['reference_probability'], 2)} on average, is pushed down "
        f"by {short(lost)} nats, to {number(first['start_probability'], 2)}: {percent(first['start_sampled'])} of batches have "
        f"one. The optimum holds {number(first['optimum_probability'], 2)}. After {count(first['updates'], 'update')} on "
        "samples (and on exact gradients) the policy holds:"
    )
    lines = [
        Markup("{}: {} ({})").format(code(row["combination"]), *(number(row[f"{how}probability"], 2) for how in ("", "exact_")))
        for row in rows
    ]
    text += Markup("<p>{}</p>").format(Markup("<br>").join(lines))
    return text + _violence(trained)


def _violence(trained: Trained) -> Markup:
    """Which combinations have rare large gradients, each where it had the largest."""
    worst: dict[str, Row] = {}
    for row in trained.rows("recovery"):
        if math.isfinite(row["norm_max"]) and row["norm_max"] > worst.get(row["combination"], {"norm_max": 0.0})["norm_max"]:
            worst[row["combination"]] = row
    rows = sorted(worst.values(), key=lambda row: -row["norm_max"])
    violent = [row for row in rows if row["norm_max"] > VIOLENT * rows[-1]["norm_max"]]
    if not violent:
        return (
            Markup("<p>{}</p>").format(f"No gradient is larger than {number(rows[0]['norm_max'], 2)}.") if rows else Markup("")
        )
    said = [
        Markup("{} {} with {} nats lost (half are below {})").format(
            code(row["combination"]), number(row["norm_max"], 2), short(row["lost"]), number(row["norm_median"], 2)
        )
        for row in violent
    ]
    text = Markup("<p>The largest gradient, in the rare batch that has the token: {}; without {}, {}.</p>")
    rest = f"at most {number(rows[len(violent)]['norm_max'], 2)}"
    return text.format(Markup(", ").join(said), "these" if len(violent) > 1 else "it", rest)


def _entries(trained: Trained) -> dict[str, LegendEntry]:
    names = list(dict.fromkeys(str(row["combination"]) for row in trained.rows("recovery")))[:MAX_LINES]
    return {name: LegendEntry(name, i, MARKERS[i % len(MARKERS)]) for i, name in enumerate(names)}


def _decades(axes: Any, values: Sequence[float]) -> None:
    axes.set_yscale("log")
    low, high = min(values) / 1.5, max(values) * 1.5
    axes.set_ylim(low, high)
    log_ticks(axes.yaxis, low, high)


def _meanwhile(trained: Trained, entries: dict[str, LegendEntry], lost: float) -> Panel:
    rows = [row for row in trained.rows("recovery_curves") if row["lost"] == lost and row["combination"] in entries]
    optimum = _at(trained, lost)[0]["optimum_probability"]
    with drawing(left=0.17) as (axes, svg):
        values = [optimum]
        for name, entry in entries.items():
            mine = sorted((row for row in rows if row["combination"] == name), key=lambda row: row["step"])
            for column, style in (("probability", "-"), ("exact_probability", ":")):
                y = [max(row[column], FLOOR) for row in mine if math.isfinite(row[column])]
                values += y
                axes.plot(
                    [row["step"] for row in mine if math.isfinite(row[column])], y, color=colour(entry.slot), linestyle=style,
                    marker=entry.marker if style == "-" else None, markevery=max(1, len(y) // 6), markersize=4.5,
                )  # fmt: skip
        axes.axhline(optimum, color=TEXT, linewidth=0.9, linestyle="--")
        _decades(axes, values)
        axes.set_xlabel("update")
        axes.set_ylabel("probability of the lost token")
    ends = {row["combination"]: number(row["probability"], 2) for row in rows if row["step"] == max(r["step"] for r in rows)}
    said = "; ".join(f"{name} {end}" for name, end in ends.items())
    return Panel(f"{short(lost)} nats lost", svg[0], f"Probability of the lost token after the last update: {said}.")


def _over_nats(trained: Trained, entries: dict[str, LegendEntry], column: str, title: str, label: str) -> Panel:
    with drawing(left=0.17) as (axes, svg):
        values, said = [], []
        for name, entry in entries.items():
            mine = sorted((r for r in trained.rows("recovery") if r["combination"] == name), key=lambda r: r["lost"])
            kept = [(row["lost"], max(row[column], FLOOR)) for row in mine if math.isfinite(row[column])]
            if not kept:
                continue
            values += [y for _, y in kept]
            axes.plot(*zip(*kept, strict=True), color=colour(entry.slot), marker=entry.marker, markersize=4.5)
            said.append(f"{name} {listing([number(y, 2) for _, y in kept])}")
        _decades(axes, values or [1.0])
        axes.set_xlabel("nats that its logit was pushed down")
        axes.set_ylabel(label)
    return Panel(title, svg[0], f"{title}, by nats lost: {'; '.join(said)}.")


def figures(trained: Trained, stem: str) -> list[Figure]:
    """The token's probability meanwhile and at the end, and the largest gradient on the way."""
    if not trained.rows("recovery") or not trained.rows("recovery_curves"):
        return []
    entries, lost = _entries(trained), _middle(trained)
    caption = (
        "Sequences of one token; at each prompt the token that the reference holds most has its logit pushed down. Lines: "
        "trained on samples, means over seeds. Dotted: as many steps on exact gradients. Dashed: what the optimum holds. Norms "
        "are those of whole gradients before any clip, the largest over all updates and seeds."
    )
    panels = [
        _meanwhile(trained, entries, lost),
        _over_nats(trained, entries, "probability", "After training", "probability of the lost token"),
        _over_nats(trained, entries, "norm_max", "Largest gradient", "norm of the gradient"),
    ]
    return [Figure(f"training-recovery{stem}", "A lost token", caption, panels, list(entries.values()))]


def table(trained: Trained) -> list[Block]:
    """All numbers."""
    rows = trained.rows("recovery")
    if not rows:
        return []
    columns = [
        Column("Combination", f"name in klbench; {NONE}: the reward alone"),
        Column("Lost", "nats by which the token's logit was pushed down", numeric=True),
        Column("Start", "the token's probability then, mean over prompts and seeds", numeric=True),
        Column("End", "after training on samples", numeric=True),
        Column("Exact", "after as many steps on exact gradients", numeric=True),
        Column("Drawn", "share of updates whose batch had it at some prompt", numeric=True),
        Column("Never", "share of seeds that never drew it", numeric=True),
        Column("Exact norm", "of the exact gradient at the start", numeric=True),
        Column("Median norm", "of the sampled gradients, mean over seeds", numeric=True),
        Column("99 %", "quantile of the norms, mean over seeds", numeric=True),
        Column("Largest", "norm over all updates and seeds", numeric=True),
    ]
    lines = [
        [
            cells.name(row, "combination"), Cell(short(row["lost"]), row["lost"]),
            *(_number(row[each]) for each in ("start_probability", "probability", "exact_probability")),
            *(Cell(percent(row[each]), row[each]) for each in ("sampled_share", "never_sampled")),
            *(_number(row[each]) for each in ("expected_norm", "norm_median", "norm_99", "norm_max")),
        ]
        for row in rows
    ]  # fmt: skip
    return [
        Details("Bringing back a lost token, in numbers", [Table("A token pushed down, and after training", columns, lines)])
    ]


def _number(value: float) -> Cell:
    return Cell(MISSING if math.isnan(value) else number(value, 2), value)
