import math

import mpmath
import numpy as np
import pytest
from scipy import stats

from klbench.oracles import EPS, closed_form, enumerate_moments, exp_series, polynomial_moments

INF = math.inf


def test_the_series_of_an_exponential_is_that_of_the_composition() -> None:
    coefficients = [0.3, -1.2, 0.7, 0.25, -0.4]
    expected = mpmath.taylor(
        lambda x: mpmath.exp(sum(c * x**k for k, c in enumerate(coefficients))), 0, 4
    )
    np.testing.assert_allclose(exp_series(coefficients), [float(c) for c in expected], rtol=1e-13)


def shifted(t: float):
    """``log M`` for Gaussians of variance 1 and a squared shift ``t``: ``t s (s - 1) / 2``."""

    def series(s: float, order: int) -> tuple[list[float], list[float]] | None:
        return [t * s * (s - 1) / 2, t * (2 * s - 1) / 2, t / 2, *[0.0] * order][: order + 1], [
            0.0
        ] * (order + 1)

    return series


@pytest.mark.parametrize(
    "polynomial",
    [
        ((-1.0, 0.0, 1),),
        ((0.5, 0.0, 2),),
        ((1.0, 1.0, 0), (-1.0, 0.0, 0), (-1.0, 0.0, 1)),
        ((2.0, 0.5, 3), (-0.3, -1.5, 1), (0.1, 0.0, 0)),
    ],
)
def test_moments_of_polynomials_agree_with_quadrature(polynomial) -> None:
    t = 0.6
    exact = polynomial_moments(polynomial, shifted(t))

    def term(z):
        log_ratio = math.sqrt(t) * z - t / 2
        return sum(c * np.exp(a * log_ratio) * log_ratio**b for c, a, b in polynomial)

    density = stats.norm.pdf
    grid = np.linspace(-25.0, 25.0, 20_001)  # the trapezoidal rule converges geometrically on these
    mean = np.trapezoid(density(grid) * term(grid), grid)
    std = math.sqrt(np.trapezoid(density(grid) * (term(grid) - mean) ** 2, grid))
    assert abs(exact.mean - mean) <= exact.mean_error + 1e-13
    assert abs(exact.std - std) <= exact.std_error + 1e-12
    assert exact.mean_error < 1e-13
    assert exact.std_error < 1e-12
    assert exact.method == "closed-form"


def finite_below(limit: float):
    return lambda s, order: None if s >= limit else shifted(0.5)(s, order)


def test_where_a_moment_diverges_so_does_what_is_made_of_it() -> None:
    k3 = ((1.0, 1.0, 0), (-1.0, 0.0, 0), (-1.0, 0.0, 1))
    assert math.isfinite(polynomial_moments(k3, finite_below(2.5)).std)
    heavy = polynomial_moments(k3, finite_below(2.0))
    assert math.isfinite(heavy.mean)
    assert (heavy.std, heavy.std_error) == (INF, 0.0)
    assert polynomial_moments(k3, finite_below(1.0)).mean == INF


def test_a_part_with_coefficient_zero_counts_nothing_even_where_its_moment_diverges() -> None:
    with_zero = polynomial_moments(
        ((-1.0, 0.0, 1), (0.0, 1.0, 0), (-0.0, 0.0, 0)), finite_below(2.0)
    )
    assert with_zero == polynomial_moments(((-1.0, 0.0, 1),), finite_below(2.0))
    assert math.isfinite(with_zero.std)


def test_a_constant_has_no_spread() -> None:
    exact = polynomial_moments(((3.0, 0.0, 0),), shifted(0.5))
    assert exact.mean == 3.0
    assert exact.std <= exact.std_error


def test_enumerated_moments_are_weighted_sums() -> None:
    stream = np.random.default_rng(0)
    probabilities = stream.dirichlet(np.ones(50))
    terms = 1e4 + stream.normal(size=50)
    exact = enumerate_moments(probabilities, terms)
    with mpmath.workdps(40):
        p, x = ([mpmath.mpf(float(v)) for v in values] for values in (probabilities, terms))
        mean = mpmath.fdot(p, x)
        std = mpmath.sqrt(mpmath.fsum(a * (b - mean) ** 2 for a, b in zip(p, x, strict=True)))
        assert abs(exact.mean - mean) <= exact.mean_error
        assert abs(exact.std - std) <= exact.std_error
    assert exact.mean_error < 1e-10
    assert exact.std_error < 1e-10


def test_a_closed_form_is_trusted_to_a_few_roundings() -> None:
    assert closed_form(2.0).error == pytest.approx(EPS * (32.0 + 4.0 * math.sqrt(2.0)))
    assert closed_form(0.0) == closed_form(-0.0)
    assert closed_form(0.0).error == 0.0
    assert (closed_form(INF).value, closed_form(INF).error) == (INF, 0.0)


def test_coefficients_beyond_what_a_float_can_multiply_make_infinite_moments() -> None:
    exact = polynomial_moments(((-1.0, 0.0, 1), (1e308, 1.0, 0), (-1e308, 0.0, 0)), shifted(3.0))
    assert exact.std == INF
    assert not math.isnan(exact.mean)
