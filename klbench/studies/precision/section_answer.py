"""What the precision study found, in sentences and a table."""

from __future__ import annotations

import math
from collections.abc import Sequence

from markupsafe import Markup

from klbench.report.blocks import Block, Bullets, Cell, Column, Paragraph, Table
from klbench.report.numbers import count, number, percent
from klbench.studies.precision.section_data import HERE, LOST, Curve, Data, decades

CARE = 16.0
"""Units in the last place beyond which a formula of klbench is named as one to be careful with."""
TYPICAL = -4
"""The decade that the sentences look at, of log-ratios just below a thousandth: of a policy that has hardly moved."""


def code(name: str) -> Markup:
    """A name as the page writes it."""
    return Markup("<code>{}</code>").format(name)


def _off(error: float) -> str:
    """A relative error in words."""
    if math.isinf(error):
        return "without bound"
    if error > 1:
        return f"{number(float(f'{error:.1e}'), 2)} times the value"
    return f"{percent(error) if error >= 1e-4 else number(error, 2)} of the value"


def _formula(curve: Curve) -> Markup:
    """Where a formula loses its value, how much near a thousandth, and at worst."""
    head = Markup("<b>{} {}</b>").format(curve.estimator, curve.variant)
    lost = curve.reaching(LOST)
    if not lost:
        return head + f": never off by more than {_off(max(curve.error))}."
    text = head + f": for |log r| {lost} it can be off by {percent(LOST)} or more"
    gone = curve.reaching(1.0)
    text += f", {'and there' if gone == lost else gone} by the value itself or more." if gone else "."
    found = curve.at(TYPICAL)
    if found is not None:
        error, negative = found
        text += f" {decades(TYPICAL, TYPICAL + 1).capitalize()}, by up to {_off(error)}"
        text += f", and up to {percent(negative)} of the values are negative." if negative > 0 else "."
    if max(curve.error) > 1:
        text += f" At worst, {decades(curve.worst_decade, curve.worst_decade + 1)}, by {_off(max(curve.error))}."
    if max(curve.negative) > 0:
        text += f" Of one decade and one sign of log r, up to {percent(max(curve.negative))} of its values are negative."
    return text


def _here(curves: Sequence[Curve]) -> Markup:
    if not curves:
        return Markup("")
    worst = max(curves, key=lambda each: each.ulp)
    slope = max(curves, key=lambda each: max(each.gradient))
    negative = [each for each in curves if max(each.negative) > 0]
    text = Markup("<b>Computed here:</b> at most {} units in the last place off, anywhere ({}); the gradient at most {} ({}).")
    text = text.format(
        number(worst.ulp, 2), code(worst.estimator), number(max(slope.gradient) / slope.eps, 2), code(slope.estimator)
    )
    careful = [each for each in curves if each.ulp > CARE]
    if careful:
        text += Markup(" To be used with care: {}.").format(Markup(", ").join(code(each.estimator) for each in careful))
    if negative:
        return text + Markup(" Negative somewhere: {}.").format(Markup(", ").join(code(each.estimator) for each in negative))
    return text + (" Never negative." if len(curves) > 1 or worst.estimator == "k3" else "")


def _others(curves: Sequence[Curve]) -> Markup:
    """From where down the other formulas lose their value, the most delicate first."""
    lost = sorted((each for each in curves if each.start), key=lambda each: -each.start)
    parts = [Markup("{} {}").format(code(each.estimator), each.reaching(LOST)) for each in lost]
    safe = [code(each.estimator) for each in curves if not each.start]
    text = Markup("<b>The others as written</b>")
    if parts:
        text += Markup(" can be off by {} or more for |log r|: {}.").format(percent(LOST), Markup(", ").join(parts))
    if safe:
        joined = Markup(", ").join(safe)
        text += Markup(" {}: never off by {}.").format(joined, percent(LOST)) if parts else f": never off by {percent(LOST)}."
    return text


def _card(data: Data, dtype: str) -> Markup:
    curves = data.of(dtype=dtype)
    first = curves[0].estimator
    said = [Markup("<b>{}</b> (unit in the last place, eps: {})").format(dtype, number(curves[0].eps))]
    said += [_formula(each) for each in curves if each.estimator == first and each.variant != HERE]
    others = [each for each in curves if each.estimator != first and each.variant != HERE]
    said += [_others(others)] if others else []
    said += [_here([each for each in curves if each.variant == HERE])]
    return Markup("").join(Markup("<p>{}</p>").format(each) for each in said if each)


def answer(data: Data) -> list[Block]:
    """The question and what the table answers."""
    if not data.curves:
        return [Paragraph("Nothing was measured: the run has no row with numbers.", "warning")]
    spans = [each.decades for each in data.curves]
    low, high = min(each[0] for each in spans), max(each[-1] for each in spans) + 1
    asked = (
        f"{'These runs' if data.several else 'This run'} computed {count(len(data.estimators), 'estimator')} in "
        f"{count(len(data.dtypes), 'floating-point format')}, for |log r| {decades(low, high)} and both signs, and compared "
        "each value and its gradient with the exact ones."
    )
    why = (
        "Where policy and reference are close, log r is small, and a formula such as (r − 1) − log r subtracts numbers that "
        "agree in almost all their digits: what is left is rounding. How far off are the formulas as they are written, and "
        "how far as klbench computes them?"
    )
    return [Paragraph(asked, "lead"), Paragraph(why), Bullets([_card(data, dtype) for dtype in data.dtypes], cards=True)]


def table(data: Data) -> Table:
    """One row a formula and dtype."""
    columns = [
        Column("Estimator", "name in klbench"),
        Column("Formula", "as written in papers, with the usual repair, or as computed here"),
        Column("Dtype", "format of the numbers"),
        Column("Worst, units", "worst error of the value, in units of the last place (relative error / eps)", numeric=True),
        Column("Worst relative", "the same, as a fraction of the exact value; 1: nothing of it is left", numeric=True),
        Column("At |log r|", "decade in which it is worst"),
        Column(f"Off by {percent(LOST)}", "|log r| for which the worst error of the value is this large or larger"),
        Column("Gradient relative", "worst error of the gradient, as a fraction of the exact one", numeric=True),
        Column(f"Gradient off by {percent(LOST)}", "the same of the gradient"),
        Column("Negative", "largest share of negative values in a decade and sign; the exact ones are positive", True),
    ]
    rows = []
    for each in data.curves:
        lost, slope, negative = each.reaching(LOST), each.reaching(LOST, gradient=True), max(each.negative)
        worst = decades(each.worst_decade, each.worst_decade + 1).removeprefix("from ")
        rows.append(
            [
                Cell(code(each.estimator)),
                Cell(each.variant),
                Cell(each.dtype),
                Cell(number(each.ulp), each.ulp, "good" if each.ulp <= CARE else "bad"),
                Cell(number(max(each.error)), max(each.error)),
                Cell(worst, float(each.worst_decade)),
                Cell(lost or "nowhere", each.start),
                Cell(number(max(each.gradient)), max(each.gradient)),
                Cell(slope or "nowhere"),
                Cell("0 %" if negative == 0 else percent(negative), negative, "bad" if negative else ""),
            ]
        )
    return Table("Worst errors of each formula", columns, rows)
