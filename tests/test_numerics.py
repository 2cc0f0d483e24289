import warnings
from functools import cache

import mpmath
import numpy as np
import pytest
import torch

from klbench import numerics
from klbench.numerics import expm1_and_gap

DTYPES = {np.float64: torch.float64, np.float32: torch.float32}
BOUND = 8.0  # units in the last place, as expm1_and_gap's docstring has it


def straddling(switch: float) -> list[float]:
    steps = [switch * (1.0 + k * 1e-3) for k in range(-30, 31)]
    return [*steps, np.nextafter(switch, 0.0), switch, np.nextafter(switch, 9.0)]


@cache
def points(dtype: type) -> np.ndarray:
    sizes = np.array(
        [
            *np.geomspace(1e-12, 80.0, 160),
            *straddling(numerics.SWITCH[64]),
            *straddling(0.5),
            *straddling(numerics.SWITCH[32]),
        ]
    )
    return np.concatenate([-sizes, sizes]).astype(dtype)


@cache
def exact(dtype: type) -> tuple[list[mpmath.mpf], list[mpmath.mpf]]:
    """``exp(x) - 1`` and ``exp(x) - 1 - x`` at 100 digits."""
    with mpmath.workdps(100):
        excess = [mpmath.exp(mpmath.mpf(float(x))) - 1 for x in points(dtype)]
        return excess, [
            e - mpmath.mpf(float(x)) for e, x in zip(excess, points(dtype), strict=True)
        ]


LAYOUTS = {
    "vector": lambda x: x,
    "matrix": lambda x: x.reshape(2, -1),
    "three axes": lambda x: x.reshape(2, 1, -1),
    "strided": lambda x: np.repeat(x, 3)[::3],
    "reversed twice": lambda x: x[::-1].copy()[::-1],
    "fortran": lambda x: np.asfortranarray(x.reshape(2, -1)),
}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_both_are_accurate_to_the_last_places(dtype, layout, worst_ulps) -> None:
    x = LAYOUTS[layout](points(dtype))
    for got, truth in zip(expm1_and_gap(x), exact(dtype), strict=True):
        assert got.dtype == dtype
        assert got.shape == x.shape
        assert worst_ulps(got, truth, dtype) <= BOUND


@pytest.mark.parametrize("dtype", DTYPES)
def test_both_and_their_gradients_are_accurate_in_torch(dtype, worst_ulps) -> None:
    excess_truth, gap_truth = exact(dtype)
    with mpmath.workdps(100):
        ratio_truth = [e + 1 for e in excess_truth]
    for i, (truth, slope) in enumerate(((excess_truth, ratio_truth), (gap_truth, excess_truth))):
        x = torch.tensor(points(dtype), requires_grad=True)
        got = expm1_and_gap(x)[i]
        got.sum().backward()
        assert got.dtype == DTYPES[dtype]
        assert worst_ulps(got.detach(), truth, dtype) <= BOUND
        assert worst_ulps(x.grad, slope, dtype) <= BOUND


@pytest.mark.parametrize("far", [0, 1, 3, 40, 79, 80])
def test_a_value_does_not_depend_on_the_company_it_keeps(far) -> None:
    """The fast path does first what most elements need.

    Near and far ones must come out the same either way.
    """
    stream = np.random.default_rng(3)
    x = np.concatenate(
        [
            stream.uniform(-0.3, 0.3, 80 - far),
            stream.choice([-1.0, 1.0], far) * stream.uniform(0.6, 9.0, far),
        ]
    )
    stream.shuffle(x)
    together = expm1_and_gap(x)
    for got, alone in zip(
        together,
        zip(*(expm1_and_gap(x[i : i + 1]) for i in range(x.size)), strict=True),
        strict=True,
    ):
        np.testing.assert_allclose(got, np.concatenate(alone), rtol=4 * np.finfo(float).eps)


def test_many_elements_come_out_right() -> None:
    x = np.linspace(-1.5, 1.5, 2 * numerics.WORTH_COMPILING + 7)
    excess, gap = expm1_and_gap(x)
    np.testing.assert_allclose(excess, np.expm1(x), rtol=1e-14)
    far = np.abs(x) > 0.1
    np.testing.assert_allclose(gap[far], (np.expm1(x) - x)[far], rtol=1e-13)
    near = x[~far]
    np.testing.assert_allclose(
        gap[~far], near**2 / 2 + near**3 / 6 + near**4 / 24 + near**5 / 120, rtol=1e-6
    )


def test_extended_precision_is_no_worse_than_double() -> None:
    x = np.array([0.3, -0.2, 0.01], dtype=np.longdouble)
    with mpmath.workdps(100):
        for value, each in zip(expm1_and_gap(x)[1], x, strict=True):
            point = mpmath.mpf(np.format_float_positional(each, precision=30))
            truth = mpmath.exp(point) - 1 - point
            error = abs(mpmath.mpf(np.format_float_positional(value, precision=40)) / truth - 1)
            assert error < 8 * np.finfo(np.float64).eps


@pytest.mark.parametrize("make", [np.asarray, torch.asarray])
@pytest.mark.parametrize("shape", [(), (0,), (0, 3), (1,), (2, 0)])
def test_shape_is_kept_even_where_there_is_nothing(make, shape) -> None:
    for got in expm1_and_gap(make(np.full(shape, 0.25))):
        assert tuple(got.shape) == shape


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("make", [np.asarray, torch.asarray])
def test_zero_nan_and_overflow(dtype, make) -> None:
    x = make(np.array([0.0, -0.0, np.nan, 1000.0, -1000.0], dtype=dtype))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "overflow", RuntimeWarning)
        excess, gap = expm1_and_gap(x)
    np.testing.assert_array_equal(excess, [0.0, 0.0, np.nan, np.inf, -1.0])
    np.testing.assert_array_equal(gap, [0.0, 0.0, np.nan, np.inf, 999.0])


def test_input_is_not_modified() -> None:
    x = points(np.float64).copy()
    before = x.copy()
    expm1_and_gap(x)
    np.testing.assert_array_equal(x, before)


@pytest.mark.parametrize(
    "naive",
    [lambda x: np.exp(x) - 1 - x, lambda x: np.expm1(x) - x],
    ids=["exp(x)-1-x", "expm1(x)-x"],
)
def test_the_formulas_as_written_lose_most_places_on_these_points(naive, worst_ulps) -> None:
    """Why the module exists, and that these points can tell."""
    assert worst_ulps(naive(points(np.float32)), exact(np.float32)[1], np.float32) > 1e5
    tiny = np.float32(1e-4) * np.linspace(0.5, 2.0, 1001, dtype=np.float32)
    assert (
        np.mean(np.exp(tiny) - 1 - tiny < 0) > 0.2
    )  # a term that is never negative comes out negative
    assert (expm1_and_gap(tiny)[1] > 0).all()


@pytest.mark.parametrize("shape", [(2 * numerics.WORTH_COMPILING + 3,), (70, 70)])
def test_polynomials_of_long_arrays_have_the_bits_of_short_ones(shape: tuple[int, ...]) -> None:
    x = np.random.default_rng(0).normal(size=shape)
    coefficients = [0.3, -1.7, 1.0 / 3.0, 0.1]
    pieces = np.array_split(x.ravel(), 9)
    expected = np.concatenate([numerics.polynomial(coefficients, piece) for piece in pieces])
    np.testing.assert_array_equal(numerics.polynomial(coefficients, x).ravel(), expected)
    np.testing.assert_allclose(expected, np.polyval(coefficients, x.ravel()), rtol=1e-12)
