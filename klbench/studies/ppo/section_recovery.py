"""A token that the policy has lost and the reference holds: sentences and figures."""

from __future__ import annotations

import math
from collections.abc import Sequence

from markupsafe import Markup

from klbench.report.blocks import Figure, LegendEntry, Panel
from klbench.report.cells import code
from klbench.report.numbers import count, number, percent, short
from klbench.report.plots import Axis, Line, legend, lines
from klbench.report.tables import Row
from klbench.studies.ppo.columns import RECOVERY, RECOVERY_CURVES
from klbench.studies.ppo.section_data import Trained

FLOOR = 1e-6
"""Probabilities below are drawn there."""
VIOLENT = 3.0
"""A largest gradient this many times that of the combination with the least one is worth telling."""


def _middle(trained: Trained) -> float:
    """The nats lost of which the sentences speak."""
    nats = sorted({row["lost"] for row in trained.rows(RECOVERY)})
    return float(nats[len(nats) // 2])


def _at(trained: Trained, lost: float) -> list[Row]:
    """One row a combination, what came back most first."""
    rows = [row for row in trained.rows(RECOVERY) if row["lost"] == lost]
    return sorted(rows, key=lambda row: -row["probability"] if math.isfinite(row["probability"]) else 0.0)


def card(trained: Trained) -> Markup | None:
    """What the tables say of it."""
    if not trained.rows(RECOVERY):
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
    for row in trained.rows(RECOVERY):
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


def _points(rows: Sequence[Row], x: str, column: str) -> tuple[list[float], list[float]]:
    """Return finite points by rising x, those below :data:`FLOOR` at it."""
    kept = [row for row in sorted(rows, key=lambda row: float(row[x])) if math.isfinite(row[column])]
    return [row[x] for row in kept], [max(row[column], FLOOR) for row in kept]


def _meanwhile(trained: Trained, entries: dict[str, LegendEntry], lost: float) -> Panel:
    drawn = []
    for name, entry in entries.items():
        mine = [row for row in trained.rows(RECOVERY_CURVES) if row["lost"] == lost and row["combination"] == name]
        drawn += [
            Line(entry, *_points(mine, "step", "probability")),
            Line(entry, *_points(mine, "step", "exact_probability"), marked=False, dotted=True),
        ]
    optimum = _at(trained, lost)[0]["optimum_probability"]
    y = Axis("probability of the lost token", "log", levels=[optimum])
    return lines(f"{short(lost)} nats lost", drawn, Axis("update"), y, left=0.17)


def _over_nats(trained: Trained, entries: dict[str, LegendEntry], column: str, title: str, label: str) -> Panel:
    drawn = [
        Line(entry, *points)
        for name, entry in entries.items()
        if any(points := _points([row for row in trained.rows(RECOVERY) if row["combination"] == name], "lost", column))
    ]
    return lines(title, drawn, Axis("nats that its logit was pushed down"), Axis(label, "log"), left=0.17)


def figures(trained: Trained, stem: str) -> list[Figure]:
    """The token's probability meanwhile and at the end, and the largest gradient on the way."""
    if not trained.rows(RECOVERY) or not trained.rows(RECOVERY_CURVES):
        return []
    entries = legend(list(dict.fromkeys(row["combination"] for row in trained.rows(RECOVERY))))
    lost = _middle(trained)
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
