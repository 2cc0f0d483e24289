import itertools
import math

import mpmath
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from klbench import estimators
from klbench.types import Draws

Q, P, MU = np.array([0.3, 0.7]), np.array([0.6, 0.4]), np.array([0.5, 0.5])
KL = float(Q @ np.log(Q / P))

log_ratios = st.lists(
    st.tuples(st.floats(-20.0, 20.0), st.floats(-20.0, 20.0)), min_size=1, max_size=8
).map(np.array)


@given(columns=log_ratios)
def test_weighted_terms_are_the_weight_times_the_term(columns) -> None:
    log_ratio, log_weight = columns.T
    for name in ("k1", "k2", "k3"):
        got = estimators.get(f"{name}_weighted").terms(Draws(log_ratio, log_weight))
        np.testing.assert_allclose(
            got, np.exp(log_weight) * estimators.get(name).terms(log_ratio), rtol=1e-15
        )


@given(columns=log_ratios)
def test_weights_of_one_change_nothing(columns) -> None:
    log_ratio = columns[:, 0]
    for name in ("k1", "k2", "k3"):
        got = estimators.get(f"{name}_weighted").terms(Draws(log_ratio, np.zeros_like(log_ratio)))
        np.testing.assert_array_equal(got, estimators.get(name).terms(log_ratio))
    got = estimators.get("k1_self_normalized").terms(Draws(log_ratio, np.zeros_like(log_ratio)))
    np.testing.assert_allclose(got, -log_ratio, rtol=1e-15)


@given(columns=log_ratios, shift=st.sampled_from([-900.0, -3.0, 0.7, 900.0]))
def test_self_normalization_forgets_the_scale_of_the_weights(columns, shift) -> None:
    log_ratio, log_weight = columns.T
    terms = estimators.get("k1_self_normalized").terms
    # The sum rounds the log-weight to the spacing of the shift.
    shifted = terms(Draws(log_ratio, log_weight + shift))
    np.testing.assert_allclose(shifted, terms(Draws(log_ratio, log_weight)), rtol=1e-12, atol=1e-12)


@given(columns=log_ratios)
def test_the_self_normalized_mean_is_a_weighted_average(columns) -> None:
    log_ratio, log_weight = columns.T
    estimate = estimators.get("k1_self_normalized").terms(Draws(log_ratio, log_weight)).mean()
    weight = np.exp(log_weight)
    assert estimate == pytest.approx(weight @ -log_ratio / weight.sum(), rel=1e-12, abs=1e-12)
    assert (-log_ratio).min() - 1e-12 <= estimate <= (-log_ratio).max() + 1e-12


def bias(n: int) -> float:
    batches = np.array(list(itertools.product(range(2), repeat=n)))
    draws = Draws(np.log(P / Q)[batches], np.log(Q / MU)[batches])
    return (
        float(
            np.prod(MU[batches], axis=-1)
            @ estimators.get("k1_self_normalized").terms(draws).mean(axis=-1)
        )
        - KL
    )


def test_the_bias_of_self_normalization_falls_as_one_over_n() -> None:
    """Over all batches; its leading term is ``-E_mu[w^2 (-log r - KL)] / n``."""
    r, w = P / Q, Q / MU
    leading = -float(MU @ (w**2 * (-np.log(r) - KL)))
    scaled = {n: n * bias(n) for n in (2, 4, 8, 16)}
    assert leading != pytest.approx(0.0, abs=0.01)
    errors = [abs(scaled[n] / leading - 1.0) for n in (2, 4, 8, 16)]
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 0.04
    assert errors[1] / errors[3] == pytest.approx(
        4.0, rel=0.35
    )  # what is left falls as 1/n in turn


def test_a_weight_that_would_overflow_does_not_where_only_its_share_counts() -> None:
    got = estimators.get("k1_self_normalized").terms(
        Draws(np.array([-1.0, -2.0]), np.array([2000.0, 2000.0 + math.log(3.0)]))
    )
    np.testing.assert_allclose(got, [0.5, 3.0], rtol=1e-12)


@pytest.mark.parametrize("make", [np.asarray, torch.asarray])
def test_a_ratio_beyond_a_float_times_a_weight_below_one_is_a_number(make) -> None:
    """w (r - 1 - log r), at 50 digits: 0 times infinity in float64."""
    log_ratio = np.array([800.0, 1e4, 712.0, -800.0, 3.0, 720.0])
    log_weight = np.array([-800.0, -9990.0, -3.0, 2.0, -1.0, 5.0])
    with np.errstate(over="ignore"):  # of the last
        got = np.asarray(
            estimators.get("k3_weighted").terms(Draws(make(log_ratio), make(log_weight)))
        )
    with mpmath.workdps(50):
        x, w = (list(map(mpmath.mpf, each)) for each in (log_ratio, log_weight))
        exact = [float(mpmath.exp(b) * (mpmath.expm1(a) - a)) for a, b in zip(x, w, strict=True)]
    np.testing.assert_allclose(got, exact, rtol=1e-12)
    assert got[0] == 1.0
    assert got[-1] == np.inf


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_no_weight_makes_a_term_that_is_not_a_number(dtype) -> None:
    """``w k(r)`` beside mpmath.

    0 where k is 0, inf only where the product is too large for the dtype.
    """
    x, w = (
        each.ravel().astype(dtype)
        for each in np.meshgrid([0.0, 1e-3, -3.0, 40.0], [-1e4, -700.0, 0.0, 80.0, 700.0, 1e4])
    )
    largest = float(np.finfo(dtype).max)
    for name, formula in (("k1_weighted", lambda t: -t), ("k2_weighted", lambda t: t * t / 2)):
        with np.errstate(all="ignore"):
            terms = estimators.get(name).terms(Draws(x, w))
        for found, t, log_weight in zip(
            terms, map(mpmath.mpf, x.tolist()), map(mpmath.mpf, w.tolist()), strict=True
        ):
            exact = formula(t) * mpmath.exp(log_weight)
            assert not np.isnan(found)
            if abs(exact) > 2 * largest:
                assert found == math.copysign(math.inf, exact)
            elif abs(exact) < largest / 2:
                assert float(found) == pytest.approx(
                    float(exact), rel=4e-3 if dtype == np.float16 else 1e-4, abs=1e-7
                )
