"""The section of the study of shapes: pairs of one KL that differ in everything else."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from markupsafe import Markup

from klbench.report import cells, terms
from klbench.report.axes import log_ticks
from klbench.report.blocks import Block, Bullets, Cell, Figure, LegendEntry, Panel, Paragraph, Section, Table, Tables
from klbench.report.cells import code
from klbench.report.figures import MARKERS, TEXT, colour, drawing
from klbench.report.numbers import count, listing, number, percent_or_times, short
from klbench.report.tables import Row, Shown, table
from klbench.studies.same_kl.columns import GRADIENTS, SHAPES

MEANINGS = {
    "tilt": "the logits are tilted along a ramp",
    "noise": "random noise on all logits",
    "sharpened": "the policy is a sharpened reference",
    "flattened": "the reference is a sharpened policy",
    "hole": "the policy has all but given up half of the categories",
    "spike": "the policy favours one category that is rare in the reference",
}
BIAS, NOISE = "gradient_rel_bias_", "gradient_rel_std_"
WHY = (
    "Rules of the kind “k3 up to a KL of one half” take the KL for all there is to know. The pairs here have the same KL(q‖p) "
    "and differ in shape. Both estimators are unbiased, and their variances differ by χ²(p‖q) − 2J, where J = KL(q‖p) + "
    "KL(p‖q): k3 has less noise as long as χ²(p‖q), which weighs where the policy is rarer than the reference, is below 2J."
)


def _rows(tables: Tables) -> list[Row]:
    rows = [row for row in SHAPES.rows(tables[SHAPES.table]) if all(_known(row[key]) for key in ("kl_qp", "chi2", "two_j"))]
    several = len({row.get("run") for row in rows}) > 1
    return [row | {"shape": f"{row['shape']}, {row['run']}"} for row in rows] if several else rows


def _known(x: Any) -> bool:
    return isinstance(x, int | float) and math.isfinite(x)


def _places(rows: Sequence[Row]) -> str:
    """Shapes, each with the KL at which it was seen."""
    by_shape: dict[str, list[float]] = {}
    for row in rows:
        by_shape.setdefault(str(row["shape"]), []).append(float(row["kl_qp"]))
    return listing([f"{shape} ({', '.join(short(kl, 2) for kl in sorted(kls))})" for shape, kls in by_shape.items()])


def _nearly(kl: float) -> str:
    return f"{kl:.3g}"


def _split(rows: Sequence[Row]) -> Markup | None:
    """A KL at which both win, and by how much."""
    at: dict[str, list[Row]] = {}
    for row in rows:
        at.setdefault(_nearly(float(row["kl_qp"])), []).append(row)
    both = [each for each in at.values() if {str(row["value_winner"]) for row in each} >= {"k1", "k3"}]
    if not both:
        return None
    chosen = max(both, key=lambda each: min(sum(str(row["value_winner"]) == name for row in each) for name in ("k1", "k3")))
    first, second = ([row for row in chosen if row["value_winner"] == name] for name in ("k1", "k3"))
    worst = max(first, key=lambda row: row["value_std_k3"] / row["value_std_k1"])
    best = max(second, key=lambda row: row["value_std_k1"] / row["value_std_k3"])
    text = (
        "<p><b>The KL does not say who wins.</b></p><p>At one and the same KL of {}, {} is less noisy on {} and {} on {}. On "
        "“{}”, the standard deviation of one term is {} nats with {} and {} with {}; on “{}”, {} and {}.</p>"
    )
    return Markup(text).format(
        short(float(worst["kl_qp"]), 2), code("k1"), listing([str(row["shape"]) for row in first]), code("k3"),
        listing([str(row["shape"]) for row in second]), worst["shape"], number(worst["value_std_k1"], 2), code("k1"),
        number(worst["value_std_k3"], 2), code("k3"), best["shape"], number(best["value_std_k1"], 2),
        number(best["value_std_k3"], 2),
    )  # fmt: skip


def _against_the_rule(rows: Sequence[Row]) -> list[Row]:
    """Where the less noisy one is not on the side of χ² = 2J that it should be on."""
    return [row for row in rows if (row["value_winner"] == "k3") != (row["chi2"] < row["two_j"])]


def _rule(rows: Sequence[Row]) -> Markup:
    """Whether chi-squared against 2J says it, on every pair."""
    wrong = _against_the_rule(rows)
    threes = [row for row in rows if row["value_winner"] == "k3"]
    head = Markup("<p><b>χ² against 2J does.</b></p><p>")
    if wrong:
        head = Markup("<p><b>χ² against 2J says it on {} of {} pairs.</b></p><p>Not on: {}. ").format(
            len(rows) - len(wrong), len(rows), _places(wrong)
        )
    ones = len(rows) - len(threes)
    parts = [
        Markup("{} is less noisy on {}{}").format(code(name), count(n, "pair"), "" if wrong else f", with χ² {side} 2J")
        for name, n, side in (("k3", len(threes), "below"), ("k1", ones, "above"))
        if n
    ]
    return head + Markup("; ").join(parts) + Markup(".</p>")


def _gradients(rows: Sequence[Row]) -> Markup | None:
    """What k2 and k3 in the loss do on them."""
    lines = []
    for name in GRADIENTS:
        known = [row for row in rows if _known(row[BIAS + name])]
        if not known:
            continue
        worst = max(known, key=lambda row: row[BIAS + name])
        if worst[BIAS + name] < 1e-8:
            said = Markup("{}: exact on all of them").format(code(name))
        elif len(known) == 1:
            said = Markup("{}: off by {}").format(code(name), percent_or_times(worst[BIAS + name]))
        else:
            least = min(known, key=lambda row: row[BIAS + name])
            said = Markup("{}: off by {} ({}, KL {}) to {} ({}, KL {})").format(
                code(name), percent_or_times(least[BIAS + name]), least["shape"], short(least["kl_qp"], 2),
                percent_or_times(worst[BIAS + name]), worst["shape"], short(worst["kl_qp"], 2),
            )  # fmt: skip
        lines.append(said)
    if not lines:
        return None
    text = Markup(
        "<p><b>Their gradients</b></p><p>How far the mean is from the gradient of KL(q‖p), over its length:</p><p>{}</p>"
    )
    return text.format(Markup("<br>").join(lines))


def answer(tables: Tables) -> Sequence[Block]:
    """Who wins where, and what decides it."""
    rows = _rows(tables)
    if not rows:
        return [Paragraph("Nothing was measured: the run has no row with numbers.", "warning")]
    shapes = list(dict.fromkeys(str(row["shape"]) for row in rows))
    kls = dict.fromkeys(short(kl, 2) for kl in (min(row["kl_qp"] for row in rows), max(row["kl_qp"] for row in rows)))
    lead = (
        f"{count(len(rows), 'pair')} of {count(len(shapes), 'shape')}, at KL(q‖p) of {' to '.join(kls)} nats: who is less "
        "noisy, k1 or k3?"
    )
    cards = [_split(rows), _rule(rows), _gradients(rows)]
    plain = dict.fromkeys(shape.partition(", ")[0] for shape in shapes)
    described = "; ".join(f"{shape}: {MEANINGS[shape]}" for shape in plain if shape in MEANINGS)
    return [
        Paragraph(lead, "lead"),
        Paragraph(WHY),
        *(
            [Paragraph(f"The shapes, all over the same categories. {described[:1].upper()}{described[1:]}.", "note")]
            if described
            else []
        ),
        Bullets([each for each in cards if each], cards=True),
    ]


def _panel(rows: Sequence[Row], legend: Sequence[LegendEntry], x: str, y: str, words: tuple[str, str, str, str]) -> Panel:
    """Points of each shape, filled where k3 won, and the line on which both are equal."""
    title, detail, along, up = words
    spans = [(min(row[key] for row in rows) / 2.5, max(row[key] for row in rows) * 2.5) for key in (x, y)]
    with drawing(left=0.18, bottom=0.15, height=300) as (axes, svg):
        axes.set_xscale("log")
        axes.set_yscale("log")
        edge = ([*spans[0]], [*spans[0]]) if y == "chi2" else ([*spans[0]], [1.0, 1.0])
        axes.plot(*edge, color=TEXT, linewidth=1.0, linestyle="--", zorder=1)
        for i, entry in enumerate(legend):
            aside = 1.0 if y == "chi2" else 1.0 + 0.06 * (i - (len(legend) - 1) / 2)
            for winner, face in (("k3", colour(entry.slot)), ("k1", "none")):
                kept = [row for row in rows if row["shape"] == entry.label and row["value_winner"] == winner]
                axes.plot(
                    [aside * row[x] for row in kept], [row[y] for row in kept], linestyle="none", marker=entry.marker,
                    markersize=7, markerfacecolor=face, markeredgecolor=colour(entry.slot), zorder=3,
                )  # fmt: skip
        axes.set_xlim(spans[0])
        axes.set_ylim(min(spans[1][0] / 2, 0.2) if y != "chi2" else spans[1][0], max(spans[1][1], 1.0))
        log_ticks(axes.xaxis, *spans[0])
        log_ticks(axes.yaxis, *axes.get_ylim())
        axes.set_xlabel(along)
        axes.set_ylabel(up)
        axes.text(0.03, 0.96, "k1 less noisy", transform=axes.transAxes, va="top", fontsize=10.5)
        axes.text(0.97, 0.04, "k3 less noisy", transform=axes.transAxes, ha="right", fontsize=10.5)
    said = "; ".join(
        f"{row['shape']} at KL {short(row['kl_qp'], 2)}: {number(row[y], 2)}, {row['value_winner']} less noisy" for row in rows
    )
    return Panel(title, svg[0], f"{up} against {along}: {said}.", detail)


def _diagram(rows: Sequence[Row]) -> Figure | None:
    drawn = [row for row in rows if row["chi2"] > 0 and row["two_j"] > 0 and row["kl_qp"] > 0]
    if not drawn:
        return None
    shapes = list(dict.fromkeys(str(row["shape"]) for row in rows))
    legend = [LegendEntry(shape, i, MARKERS[(i + i // len(MARKERS)) % len(MARKERS)]) for i, shape in enumerate(shapes)]
    decides = (
        "χ² against 2J",
        "" if _against_the_rule(rows) else "one line parts the winners",
        "2J = 2 (KL(q‖p) + KL(p‖q)), nats",
        "χ²(p‖q)",
    )
    not_kl = ("χ²/2J against KL", "pairs of one KL stand above one another", "KL(q‖p), nats", "χ²(p‖q) / 2J")
    panels = [
        _panel(drawn, legend, "two_j", "chi2", decides),
        _panel(drawn, legend, "kl_qp", "x_over_2j", not_kl),
    ]
    caption = (
        "Each point is a pair; those of one shape lie at rising KL from left to right. On the dashed line χ²(p‖q) = 2J, and "
        "both estimators have the same noise. Filled points: k3 had less noise; hollow ones: k1 had. On the right, points of "
        "one KL are moved apart a little, so that none hides another."
    )
    return Figure("shapes", "Who is less noisy?", caption, panels, legend)


def _off(row: Row, name: str) -> Cell:
    return Cell(percent_or_times(row[name]), row[name])


def _table(rows: Sequence[Row]) -> Table:
    biased = [BIAS + name for name in GRADIENTS if any(row[BIAS + name] >= 1e-8 for row in rows)]
    noisy = [NOISE + name for name in GRADIENTS if any(_known(row[NOISE + name]) for row in rows)]
    numbers = ("kl_qp", "kl_pq", "x_over_2j", "value_std_k1", "value_std_k3")
    shown = [
        Shown("shape", cells.text),
        *(Shown(name, cells.short()) for name in numbers),
        Shown("value_winner", cells.name),
        *(Shown(name, _off) for name in biased),
        *(Shown(name, cells.number(2)) for name in noisy),
    ]
    return table("Shape by shape", SHAPES, rows, shown)


def build(tables: Tables) -> Sequence[Block]:
    """The phase diagram and the table."""
    rows = _rows(tables)
    if not rows:
        return []
    diagram = _diagram(rows)
    return [*([diagram] if diagram else []), _table(rows)]


TERMS = ("q_p", "r", "schulman", "chi2_same_kl", "jeffreys", *terms.GRADIENTS)

SECTION = Section("One KL, other shapes", SHAPES, build, answer, order=30, terms=TERMS)
