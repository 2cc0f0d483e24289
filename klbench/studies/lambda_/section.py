"""The section of the lambda study: the lambda that makes k_lambda least noisy, for the value and for the gradient."""

from __future__ import annotations

import math
from collections.abc import Sequence

from markupsafe import Markup

from klbench.report import cells, terms
from klbench.report.axes import kl_axis, log_ticks
from klbench.report.blocks import Block, Bullets, Cell, Figure, LegendEntry, Panel, Paragraph, Section, Tables
from klbench.report.figures import TEXT, colour, drawing
from klbench.report.numbers import MISSING, number, short
from klbench.report.tables import Row, Shown, table
from klbench.studies.lambda_.columns import LAMBDA

MEASURES = (
    "lambda_value", "lambda_gradient", "value_std_k1", "value_std_k3", "value_std_best", "gradient_rel_std_0",
    "gradient_rel_std_1", "gradient_rel_std_value_best", "gradient_rel_std_gradient_best",
)  # fmt: skip
LAMBDAS = (
    ("lambda_value", LegendEntry("best for the value", 0, "o")),
    ("lambda_gradient", LegendEntry("best for the gradient", 1, "s")),
)
VALUE = (
    ("value_std_k1", LegendEntry("λ = 0 (k1)", 2, "^")),
    ("value_std_k3", LegendEntry("λ = 1 (k3)", 3, "D")),
    ("value_std_best", LegendEntry("best for the value", 0, "o")),
)
GRADIENT = (
    ("gradient_rel_std_0", LegendEntry("λ = 0 (k1)", 2, "^")),
    ("gradient_rel_std_1", LegendEntry("λ = 1 (k3)", 3, "D")),
    ("gradient_rel_std_value_best", LegendEntry("best for the value", 0, "o")),
    ("gradient_rel_std_gradient_best", LegendEntry("best for the gradient", 1, "s")),
)
CLOSE = 0.03
"""Lambdas that are no further apart count as one."""
WHY = (
    "Between k1 and k3 lies a whole family, −log r + λ(r − 1): the mean is KL(q‖p) for every λ, the noise is not. One λ makes "
    "the value least noisy. But training follows the gradient: put in the loss and weighted with the sequence's ratio, which "
    "is differentiated too, its mean gradient is exact for every λ as well, and λ is then a baseline. Is it the same λ?"
)


def _series(tables: Tables) -> dict[str, list[Row]]:
    """Rows by series, each by rising KL; without KL there is no place for a row."""
    found: dict[str, list[Row]] = {}
    for row in LAMBDA.rows(tables[LAMBDA.table]):
        if math.isfinite(row["kl_qp"]):
            row["series"] = row["series"] or "all pairs"
            found.setdefault(row["series"], []).append(row)
    return {name: sorted(rows, key=lambda row: float(row["kl_qp"])) for name, rows in found.items()}


def _from_to(rows: Sequence[Row], key: str, digits: int = 2) -> str:
    low, high = _shown(rows[0][key], digits), _shown(rows[-1][key], digits)
    return low if low == high else f"{low} → {high}"


def _card(series: str, rows: Sequence[Row]) -> Markup:
    kls = " → ".join(dict.fromkeys(short(row["kl_qp"], 2) for row in (rows[0], rows[-1])))
    head = Markup("<p><b>{}</b>, KL {}</p>").format(series[:1].upper() + series[1:], kls)
    both = Markup("<p>Best λ for the value: {}. Best λ for the gradient: {}.</p>").format(
        _from_to(rows, "lambda_value"), _from_to(rows, "lambda_gradient")
    )
    worst = max(rows, key=_loss)
    other, own = worst["gradient_rel_std_value_best"], worst["gradient_rel_std_gradient_best"]
    if not math.isfinite(other) or not math.isfinite(own):
        return head + both
    said = (
        "Whoever takes the value's λ for the gradient loses most at KL {}: noise of {} instead of {} times the exact gradient."
    )
    if other - own < 0.03 * own:
        said = (
            "For the gradient's noise the value's λ is as good: at worst, at KL {}, {} instead of {} times the exact gradient."
        )
    return head + both + Markup("<p>{}</p>").format(said.format(short(worst["kl_qp"], 2), number(other, 3), number(own, 3)))


def _loss(row: Row) -> float:
    lost = float(row["gradient_rel_std_value_best"]) - float(row["gradient_rel_std_gradient_best"])
    return lost if math.isfinite(lost) else -math.inf


def answer(tables: Tables) -> Sequence[Block]:
    """Both lambdas of each series, and what it costs to mistake one for the other."""
    found = _series(tables)
    if not found:
        return [Paragraph("Nothing was measured: the run has no row with numbers.", "warning")]
    rows = [row for each in found.values() for row in each]
    apart = max(rows, key=lambda row: _gap(row))
    series = next(name for name, each in found.items() if any(row is apart for row in each))
    value, gradient = (f"λ = {_shown(apart[key], 2)}" for key in ("lambda_value", "lambda_gradient"))
    lead = f"The best λ is not one number. On {series}, at KL {short(apart['kl_qp'], 2)}, "
    lead += f"{value} makes the value least noisy and {gradient} the gradient."
    if 0 <= _gap(apart) < CLOSE:
        lead = f"The same λ, {value} or near it, is best for the value and for the gradient."
    return [Paragraph(lead, "lead"), Paragraph(WHY), Bullets([_card(name, each) for name, each in found.items()], cards=True)]


def _gap(row: Row) -> float:
    gap = abs(float(row["lambda_value"]) - float(row["lambda_gradient"]))
    return gap if math.isfinite(gap) else -1.0


def _panel(series: str, rows: Sequence[Row], lines: Sequence[tuple[str, LegendEntry]], label: str, *, log: bool) -> Panel:
    kls = [float(row["kl_qp"]) for row in rows]
    said = []
    with drawing(left=0.17) as (axes, svg):
        for key, entry in lines:
            kept = [(kl, float(row[key])) for kl, row in zip(kls, rows, strict=True) if math.isfinite(row[key])]
            kept = [(kl, y) for kl, y in kept if y > 0 or not log]
            if kept:
                axes.plot(*zip(*kept, strict=True), color=colour(entry.slot), marker=entry.marker)
                said.append(f"{entry.label} from {number(kept[0][1], 2)} to {number(kept[-1][1], 2)}")
        kl_axis(axes, kls)
        axes.set_ylabel(label)
        if log:
            axes.set_yscale("log")
            low, high = axes.get_ylim()
            axes.set_ylim(low / 1.25, high)
            log_ticks(axes.yaxis, low / 1.25, high)
        else:
            for level in (0.0, 1.0):
                axes.axhline(level, color=TEXT, linewidth=0.9, linestyle="--" if level else "-", zorder=1)
    return Panel(series, svg[0], f"{label} against KL, {series}: {'; '.join(said)}.")


def build(tables: Tables) -> Sequence[Block]:
    """Both lambdas and the noise against KL, and the table."""
    found = _series(tables)
    if not found:
        return []
    drawn = {name: rows for name, rows in list(found.items())[:4] if rows[0]["kl_qp"] > 0}
    blocks: list[Block] = []
    if drawn:
        panels = [_panel(name, rows, LAMBDAS, "best λ", log=False) for name, rows in drawn.items()]
        caption = (
            "The λ of −log r + λ(r − 1) with the least noise. At the dashed line, 1, it is k3; at 0 it is k1. For the value, λ "
            "weighs a control variate, r − 1, which helps as long as r has a light tail; for the gradient it is a baseline, "
            "which is another matter."
        )
        blocks.append(Figure("lambda", "Which λ is best?", caption, panels, [entry for _, entry in LAMBDAS]))
        panels = []
        for name, rows in drawn.items():
            panels.append(_panel(f"Value, {name}", rows, VALUE, "sd of one sample, nats", log=True))
            panels.append(_panel(f"Gradient, {name}", rows, GRADIENT, "sd / exact gradient", log=True))
        caption = (
            "Lower is better. Left, the noise of the value; right, that of the gradient, for k1 (λ = 0), k3 (λ = 1) and the "
            "best λ of each. Where the value's best λ lies above the gradient's, it is the wrong one to train with."
        )
        blocks.append(Figure("lambda-noise", "What the best λ gains", caption, panels, [entry for _, entry in GRADIENT]))
    rows = [row for each in found.values() for row in each]
    return [*blocks, table("The best λ, pair by pair", LAMBDA, rows, SHOWN)]


def _lambda(row: Row, name: str) -> Cell:
    return Cell(_shown(row[name]), float(row[name]))


SHOWN = (Shown("series", cells.text), Shown("kl_qp", cells.short()), *(Shown(name, _lambda) for name in MEASURES))


def _shown(x: float, digits: int = 3) -> str:
    return MISSING if math.isnan(x) else "0" if 0 <= x < 5e-4 else number(x, digits)


TERMS = ("q_p", "r", "schulman", "lambda", *terms.GRADIENTS)

SECTION = Section("The best λ", LAMBDA, build, answer, order=25, terms=TERMS)
