"""The part on rounding: sentences that follow from the table, errors that leave the scale, both signs as one."""

from __future__ import annotations

import html
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from klbench.report import render
from klbench.studies.precision.section_answer import answer, table
from klbench.studies.precision.section_data import load

EPS = 2.0**-23


def row(decade: int, error: float, *, variant: str = "as written", sign: int = 1, **others: Any) -> dict[str, Any]:
    return {
        "estimator": "k3", "variant": variant, "dtype": "float32", "decade": decade, "sign": sign, "points": 16, "eps": EPS,
        "log_ratio": sign * 10.0 ** (decade + 0.5), "max_rel_error": error, "median_rel_error": error / 2,
        "max_ulp": error / EPS, "max_gradient_rel_error": error / 10, "frac_negative": 0.0,
    } | others  # fmt: skip


def content(*extra: dict[str, Any]) -> dict[str, pd.DataFrame]:
    rows = [row(decade, min(1e-6 * 10.0 ** (-2 * decade), 1e6), sign=sign) for decade in range(-6, 2) for sign in (-1, 1)]
    rows += [row(decade, 2 * EPS, variant="here") for decade in range(-6, 2)]
    return {"precision": pd.DataFrame([*rows, *extra])}


def said(tables: dict[str, pd.DataFrame]) -> str:
    blocks = answer(load(tables))
    texts = [str(text) for block in blocks for text in ([block.text] if hasattr(block, "text") else block.items)]
    return re.sub(r"\s+", " ", html.unescape(re.sub(r"<[^>]+>", " ", " ".join(texts))))


def test_where_a_formula_loses_its_value_is_said() -> None:
    text = said(content())
    assert "for |log r| below 0.1 it can be off by 1 % or more, below 0.01 by the value itself or more" in text
    assert "From 10⁻⁴ to 0.001, by up to 100 times the value." in text
    assert "at most 2.0 units in the last place off, anywhere" in text
    assert "Never negative" in text


def test_the_worse_sign_counts() -> None:
    assert "values are negative" not in said(content())
    text = said(content(row(-1, 0.5, sign=-1, frac_negative=0.25)))
    assert "below 1 it can be off by 1 % or more" in text
    assert "up to 25 % of its values are negative" in text


def test_a_careless_formula_of_klbench_is_named() -> None:
    assert "To be used with care" not in said(content())
    assert "To be used with care: k3" in said(content(row(-2, 100 * EPS, variant="here")))


def test_a_formula_that_is_never_off_is_praised_only_for_that() -> None:
    fine = content()
    fine["precision"]["max_rel_error"] = 1e-7
    assert "never off by more than 1.0×10⁻⁷ of the value" in said(fine)


@pytest.mark.parametrize("odd", [math.inf, math.nan])
def test_errors_without_bound_are_errors(odd: float) -> None:
    broken = content(row(-3, odd, variant="here"))
    assert "At worst" in said(broken)
    cells = {row[1].text: row for row in table(load(broken)).rows}
    assert cells["here"][3].text == "∞"
    assert cells["here"][3].tone == "bad"
    assert cells["here"][5].text == "0.001 to 0.01"


def test_lost_stretches_apart_are_told_apart() -> None:
    (curve,) = load(
        {"precision": pd.DataFrame([row(decade, 0.5 if decade in (-3, 0) else 0.0) for decade in range(-3, 3)])}
    ).curves
    assert curve.reaching(0.01) == "below 0.01 and from 1 to 10"
    assert curve.reaching(0.0) == "everywhere"
    assert curve.reaching(1.0) == ""


def test_the_page_shows_what_leaves_the_scale(make_run: Callable[..., Path]) -> None:
    odd = content(row(-3, math.inf, variant="here", max_gradient_rel_error=0.0), row(-6, 1.0, estimator="bregman_js"))
    page = render(make_run(content=odd, experiment="precision")).read_text(encoding="utf-8")
    assert "The same for bregman_js" in page
    assert "here at most ∞, for |log r| from 10⁻³ on" in html.unescape(page)
    assert "nan" not in re.findall(r'<path d="[^"]*"', page)
    assert page.count("What rounding does</h2>") == 1


def test_nothing_measured(make_run: Callable[..., Path]) -> None:
    page = render(make_run(content={"precision": content()["precision"].head(0)})).read_text(encoding="utf-8")
    assert "Nothing was measured" in page
    assert "What rounding does</h2>" not in page
