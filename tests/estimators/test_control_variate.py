import itertools

import mpmath
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from klbench import estimators
from klbench.types import ConfigError

Q, P = np.array([0.2, 0.5, 0.3]), np.array([0.5, 0.1, 0.4])
LOG_RATIO = np.log(P / Q)
KL = float(Q @ np.log(Q / P))

log_ratios = st.lists(st.floats(-30.0, 30.0), min_size=1, max_size=8).map(np.array)


@given(log_ratio=log_ratios)
def test_the_ends_of_the_family_are_k1_and_k3_bit_for_bit(log_ratio) -> None:
    for weight, name in ((0, "k1"), (1, "k3")):
        np.testing.assert_array_equal(
            estimators.get(f"k_lambda:{weight}").terms(log_ratio),
            estimators.get(name).terms(log_ratio),
        )


@given(log_ratio=log_ratios, weight=st.floats(-3.0, 3.0))
def test_the_family_is_k1_plus_lambda_times_the_excess(log_ratio, weight) -> None:
    expected = -log_ratio + weight * np.expm1(log_ratio)
    scale = np.abs(log_ratio) + np.abs(weight) * (np.abs(np.expm1(log_ratio)) + np.abs(log_ratio))
    got = estimators.get(f"k_lambda:{weight!r}").terms(log_ratio)
    assert np.all(np.abs(got - expected) <= 1e-14 * scale + 1e-300)


def test_the_familys_default_and_aliases() -> None:
    x = np.array([0.4, -1.0])
    np.testing.assert_array_equal(
        estimators.get("k_lambda").terms(x), estimators.get("k_lam:0.5").terms(x)
    )
    assert estimators.get("k_lam:0.3").name == "k_lambda:0.3"


@pytest.mark.parametrize("number", ["inf", "nan", "-inf"])
def test_lambda_must_be_finite(number) -> None:
    with pytest.raises(
        ConfigError, match=f"k_lambda:{number}.*lambda must be finite, got {number}"
    ):
        estimators.get(f"k_lambda:{number}")


def mean_over_all_batches(n: int, terms) -> float:
    batches = np.array(list(itertools.product(range(3), repeat=n)))
    return float(np.prod(Q[batches], axis=-1) @ terms(LOG_RATIO[batches]).mean(axis=-1))


def fitted_on_itself(log_ratio):
    """What cross-fitting is there to avoid: lambda from the very samples that it is applied to."""
    excess = np.expm1(log_ratio)
    squares = np.sum(excess**2, axis=-1, keepdims=True)
    weight = np.sum(excess * log_ratio, axis=-1, keepdims=True) / squares
    return weight * excess - log_ratio


def halves_fitted_on_themselves(log_ratio):
    half = log_ratio.shape[-1] // 2
    return np.concatenate(
        [fitted_on_itself(log_ratio[..., :half]), fitted_on_itself(log_ratio[..., half:])], axis=-1
    )


@pytest.mark.parametrize("n", [2, 3, 4, 5])
def test_cross_fitting_is_unbiased_over_all_batches(n) -> None:
    assert mean_over_all_batches(n, estimators.get("k_fitted").terms) == pytest.approx(
        KL, abs=1e-12
    )


@pytest.mark.parametrize("fit", [fitted_on_itself, halves_fitted_on_themselves])
def test_fitting_on_the_same_samples_would_be_biased(fit) -> None:
    """So the test above can tell."""
    assert abs(mean_over_all_batches(4, fit) - KL) > 0.01


def test_each_half_gets_the_others_least_squares_lambda() -> None:
    x = np.random.default_rng(0).normal(0.0, 0.8, (2, 7))
    first, second = x[:, :3], x[:, 3:]

    def best(part):
        return np.array(
            [[np.linalg.lstsq(np.expm1(row)[:, None], row, rcond=None)[0][0]] for row in part]
        )

    expected = np.concatenate(
        [best(second) * np.expm1(first) - first, best(first) * np.expm1(second) - second], axis=-1
    )
    np.testing.assert_allclose(
        estimators.get("k_fitted").terms(x), expected, rtol=1e-12, atol=1e-14
    )


def test_where_every_ratio_is_one_the_estimate_is_zero() -> None:
    np.testing.assert_array_equal(
        estimators.get("k_fitted").terms(np.zeros((2, 6))), np.zeros((2, 6))
    )
    one_half_flat = np.array([0.0, 0.0, 0.5, -0.5])
    assert np.isfinite(estimators.get("k_fitted").terms(one_half_flat)).all()


@pytest.mark.parametrize("shape", [(1,), (3, 1), (0,)])
def test_a_batch_too_small_to_halve_is_refused(shape) -> None:
    with pytest.raises(
        ValueError, match=f"k_fitted needs at least 2 samples on the last axis, got {shape[-1]}"
    ):
        estimators.get("k_fitted").terms(np.zeros(shape))


def test_fitting_comes_near_the_least_variance() -> None:
    """At n = 4,096 the spread of batch means is that of the best lambda, J/X, within sampling
    error and O(1/n).
    """
    stream = np.random.default_rng(5)
    batches = stream.choice(3, p=Q, size=(2_000, 4_096))
    means = estimators.get("k_fitted").terms(LOG_RATIO[batches]).mean(axis=-1)
    r = P / Q
    best = Q @ ((r - 1) * LOG_RATIO) / (Q @ (r - 1) ** 2)
    least = Q @ (best * (r - 1) - LOG_RATIO - KL) ** 2 / 4_096
    assert means.var(ddof=1) == pytest.approx(least, rel=5 * np.sqrt(2 / 2_000) + 0.01)
    assert abs(means.mean() - KL) <= 5 * means.std() / np.sqrt(2_000)


@pytest.mark.parametrize(
    ("dtype", "largest"),
    [(np.float32, 50.0), (np.float32, 300.0), (np.float64, 400.0), (np.float64, 1e4)],
)
def test_lambda_is_fitted_though_the_square_of_r_is_no_float(dtype, largest) -> None:
    """Each half with the other's least-squares lambda, at 60 digits."""
    x = np.array([0.5, largest, -0.3, 1.2, largest - 2.0, 0.1], dtype=dtype)
    with mpmath.workdps(60):
        halves = [list(map(mpmath.mpf, map(float, half))) for half in (x[:3], x[3:])]
        fitted = [
            sum(a * mpmath.expm1(a) for a in half) / sum(mpmath.expm1(a) ** 2 for a in half)
            for half in halves
        ]
        exact = [float(fitted[1 - k] * mpmath.expm1(a) - a) for k in (0, 1) for a in halves[k]]
    # exp(x - largest) has the rounding of its argument.
    np.testing.assert_allclose(
        estimators.get("k_fitted").terms(x), exact, rtol=8 * np.finfo(dtype).eps * largest
    )
