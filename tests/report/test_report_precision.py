"""The page on rounding.

Sentences that follow from the table, errors that leave the scale, both signs as one.
"""

import html
import math
import re

import pandas as pd
import pytest
from opening import said

from klbench.report import render
from klbench.studies.precision.columns import PRECISION, judged
from klbench.studies.precision.section import build, lead
from klbench.studies.precision.section_data import load

EPS = 2.0**-23


def row(decade: int, error: float, *, variant: str = "as written", **others) -> pd.DataFrame:
    known = {
        "estimator": "k3",
        "variant": variant,
        "dtype": "float32",
        "decade": decade,
        "eps": EPS,
        "max_rel_error": error,
        "max_gradient_rel_error": error / 10,
        "frac_negative": 0.0,
    }
    return PRECISION.example(**known | others)


def content(*extra: pd.DataFrame) -> dict[str, pd.DataFrame]:
    rows = [
        row(decade, min(1e-6 * 10.0 ** (-2 * decade), 1e6), sign=sign)
        for decade in range(-6, 2)
        for sign in (-1, 1)
    ]
    rows += [row(decade, 2 * EPS, variant="here") for decade in range(-6, 2)]
    return {"precision": judged(pd.concat([*rows, *extra], ignore_index=True))}


def table(tables):
    return build(tables)[-1]


def test_where_a_formula_loses_its_value_is_said() -> None:
    text = said(lead(content()))
    assert "can be off by 1 % or more for |log r| below 0.1" in text
    assert "by 2.0 units in the last place at most" in text
    assert "up to 100 times the value in float32" in text
    assert "negative" not in text


def test_the_worse_sign_counts() -> None:
    text = said(lead(content(row(-1, 0.5, sign=-1, frac_negative=0.25))))
    assert "for |log r| below 1;" in text
    assert "Up to 25 % of its values are negative" in text


def test_a_careless_formula_of_klbench_is_marked() -> None:
    def tones(tables):
        return {str(cells[1].text): cells[3].tone for cells in table(tables).rows}

    assert tones(content())["here"] == "good"
    assert tones(content(row(-2, 100 * EPS, variant="here")))["here"] == "bad"


def test_a_formula_that_is_never_off_is_praised_only_for_that() -> None:
    fine = content()
    fine["precision"] = judged(fine["precision"].assign(max_rel_error=1e-7))
    assert "is off by 1.0×10⁻⁷ of the value at most" in said(lead(fine))


@pytest.mark.parametrize("odd", [math.inf, math.nan])
def test_errors_without_bound_are_errors(odd: float) -> None:
    cells = {str(row[1].text): row for row in table(content(row(-3, odd, variant="here"))).rows}
    assert cells["here"][3].text == "∞"
    assert cells["here"][3].tone == "bad"
    assert cells["here"][5].text == "0.001 to 0.01"


def test_lost_stretches_apart_are_told_apart() -> None:
    rows = [row(decade, 0.5 if decade in (-3, 0) else 0.0) for decade in range(-3, 3)]
    (curve,) = load({"precision": judged(pd.concat(rows))}).curves
    assert curve.where_lost() == "below 0.01 and from 1 to 10"
    assert curve.where_lost(gradient=True) == curve.where_lost()
    for error, where in ((0.01, "everywhere"), (0.0099, "")):
        (curve,) = load({"precision": judged(pd.concat(rows).assign(max_rel_error=error))}).curves
        assert curve.where_lost() == where


def test_the_page_shows_what_leaves_the_scale(make_run) -> None:
    odd = content(
        row(-3, math.inf, variant="here", max_gradient_rel_error=0.0),
        row(-6, 1.0, estimator="bregman_js"),
    )
    page = render(make_run(content=odd, experiment="precision", study="precision")).read_text(
        encoding="utf-8"
    )
    assert "The same for <code>bregman_<wbr>js</code>" in page
    assert "here at most ∞, for |log r| from 10⁻³ on" in html.unescape(page)
    assert "nan" not in re.findall(r'<path d="[^"]*"', page)
    assert page.count("What rounding does</h2>") == 1


def test_nothing_measured(make_run) -> None:
    page = render(
        make_run(content={"precision": content()["precision"].head(0)}, study="precision")
    ).read_text(encoding="utf-8")
    assert "Nothing was measured" in page
    assert "What rounding does</h2>" not in page
