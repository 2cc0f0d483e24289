"""The precision study.

What rounding does to a formula as it is written, and to the one used here.
"""

import mpmath
import numpy as np
import pandas as pd
import pytest

from klbench.context import Context
from klbench.studies.precision import run as precision_run
from klbench.studies.precision.options import PrecisionOptions


@pytest.fixture(scope="module")
def table() -> pd.DataFrame:
    return precision_run.run(PrecisionOptions(points=4), Context(0))["precision"]


def of(table: pd.DataFrame, **values: object) -> pd.DataFrame:
    for column, wanted in values.items():
        table = table[table[column] == wanted]
    assert len(table)
    return table


def test_k3_as_written_is_off_by_more_than_a_percent_at_a_thousandth_in_float32(table) -> None:
    """``exp(x) - 1 - x`` takes 5e-7 from 1.001: of 24 bits, 4 are left."""
    points = 1e-3 * np.linspace(0.9, 1.1, 33)
    variants = precision_run._variants("kl_qp")
    for sign in (-1, 1):
        assert (
            precision_run._measure(variants["as written"], "kl_qp", "float32", sign * points)[
                "median_rel_error"
            ]
            > 0.01
        )
        assert (
            precision_run._measure(variants["here"], "kl_qp", "float32", sign * points)["max_ulp"]
            < 4
        )
    assert (
        of(table, estimator="k3", variant="as written", dtype="float32", decade=-5)["max_rel_error"]
        > 1.0
    ).all()


def test_expm1_alone_does_not_save_it(table) -> None:
    assert (
        of(table, estimator="k3", variant="with expm1", dtype="float32", decade=-6)["max_rel_error"]
        > 0.01
    ).all()


@pytest.mark.parametrize("dtype", ["float64", "float32", "bfloat16"])
def test_what_is_used_here_is_within_16_ulp_everywhere(table, dtype: str) -> None:
    rows = of(table, variant="here", dtype=dtype)
    assert set(rows["estimator"]) == {
        "k3",
        "bregman_kl_pq",
        "bregman_js",
        "bregman_hellinger",
        "bregman_chi2",
    }
    assert (rows["max_ulp"] <= 16).all()
    assert (rows["frac_negative"] == 0.0).all()


def test_as_written_k3_goes_negative(table) -> None:
    assert (
        of(table, estimator="k3", variant="as written", dtype="float32", decade=-6)["frac_negative"]
        > 0.0
    ).any()


def test_columns_agree_with_each_other(table) -> None:
    np.testing.assert_allclose(table["max_ulp"] * table["eps"], table["max_rel_error"], rtol=1e-12)
    assert (table["median_rel_error"] <= table["max_rel_error"]).all()
    assert table["points"].between(1, 4).all()
    assert not table.duplicated(["estimator", "variant", "dtype", "decade", "sign"]).any()


def test_the_oracle_is_the_series_where_that_is_exact() -> None:
    """``r - 1 - log r = x^2/2 + x^3/6 + ...``, and its derivative ``x + x^2/2 + ...``."""
    x = 1e-20
    with mpmath.workdps(60):
        term, slope = precision_run._exact("kl_qp", x)
        exact = mpmath.mpf(x)
        assert abs(term / (exact**2 / 2 + exact**3 / 6) - 1) < 1e-19
        assert abs(slope / (exact + exact**2 / 2) - 1) < 1e-19


def test_a_table_follows_from_its_seed_and_nothing_else(table) -> None:
    few = PrecisionOptions(points=4, estimators=("bregman_js",), dtypes=("float32",))
    same, other = (precision_run.run(few, Context(seed))["precision"] for seed in (0, 1))
    expected = of(table, estimator="bregman_js", dtype="float32").reset_index(drop=True)
    pd.testing.assert_frame_equal(same, expected, check_exact=True)
    assert (same["median_rel_error"] != other["median_rel_error"]).any()
