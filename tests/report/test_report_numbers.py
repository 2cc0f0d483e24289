"""Numbers are shown with the digits that they deserve."""

from __future__ import annotations

import math

import pytest

from klbench.report.formulas import formula
from klbench.report.numbers import (
    exact,
    listing,
    number,
    percent,
    short,
    signed_percent,
    with_interval,
)


@pytest.mark.parametrize(
    ("x", "text"),
    [
        (0.0, "0"),
        (0.08841, "0.0884"),
        (1.0, "1.00"),
        (-2.5, "−2.50"),
        (12345.6, "12,346"),
        (0.9996, "1.00"),
        (9.996, "10.0"),
        (3.2e-7, "3.20×10⁻⁷"),
        (-1e12, "−1.00×10¹²"),
        (math.nan, "–"),
        (math.inf, "∞"),
        (-math.inf, "−∞"),
    ],
)
def test_number(x: float, text: str) -> None:
    assert number(x) == text


@pytest.mark.parametrize(
    ("x", "se", "text"),
    [
        (0.088436, 0.0002, "0.0884 ± 0.0004"),
        (0.088436, 0.0001, "0.08844 ± 0.00020"),
        (1234.5, 30.0, "1,230 ± 60"),
        (-0.00001, 0.002, "0.000 ± 0.004"),
        (3.2e-7, 1e-9, "(3.200 ± 0.020)×10⁻⁷"),
        (1.0, math.nan, "1.00"),
        (1.0, 0.0, "1.00"),
        (math.nan, 1.0, "–"),
        (1.0, math.inf, "1.00"),
    ],
)
def test_with_interval(x: float, se: float, text: str) -> None:
    assert with_interval(x, se) == text


def test_short_drops_closing_zeros() -> None:
    assert [short(x) for x in (0.5, 2.0, 0.005, 100.0, 3.92)] == [
        "0.5",
        "2",
        "0.005",
        "100",
        "3.92",
    ]


@pytest.mark.parametrize(
    ("x", "text"),
    [
        (0.5, "50 %"),
        (0.123, "12.3 %"),
        (0.004, "0.4 %"),
        (1e-6, "< 0.01 %"),
        (0.0, "0 %"),
        (1.2, "120 %"),
        (-0.05, "−5 %"),
        (math.nan, "–"),
    ],
)
def test_percent(x: float, text: str) -> None:
    assert percent(x) == text


@pytest.mark.parametrize(
    ("x", "text"), [(0.1234, "+12 %"), (-0.5, "−50 %"), (0.0, "0 %"), (math.nan, "–")]
)
def test_signed_percent(x: float, text: str) -> None:
    assert signed_percent(x) == text


@pytest.mark.parametrize(
    ("se", "text"), [(1e-15, "0.500"), (0.01, "0.500 ± 0.020"), (math.nan, "0.500")]
)
def test_an_exact_value_has_an_interval_where_it_shows(se: float, text: str) -> None:
    assert exact(0.5, se) == text


def test_listing() -> None:
    assert [listing(list(each)) for each in ("", "a", "ab", "abc")] == [
        "",
        "a",
        "a and b",
        "a, b and c",
    ]


@pytest.mark.parametrize(
    "tex",
    [
        r"-\log r",
        r"\tfrac12 (\log r)^2",
        r"f(r) = \tfrac12\left(r \log r - (1+r) \log\tfrac{1+r}{2}\right)",
        r"\tfrac12 (\sqrt r - 1)^2",
        r"\mathrm{clip}(k_3(\mathrm{clip}(\log r, \pm 20)), \pm 10)",
        r"-\log r + \hat\lambda_{-}(r - 1)",
        r"\frac{\sum w (-\log r)}{\sum w}",
    ],
)
def test_formulas_are_drawn(tex: str) -> None:
    assert formula(tex).startswith("<svg")


def test_a_formula_that_cannot_be_drawn_is_shown_as_code() -> None:
    assert formula(r"\nonsense{<b>}") == r"<code>\nonsense{&lt;b&gt;}</code>"
