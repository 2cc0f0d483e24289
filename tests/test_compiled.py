"""The compiled loops, against mpmath and exact sums.

And that nothing loads them before they are needed.
"""

import math
import subprocess
import sys
from typing import Any

import mpmath
import numba
import numpy as np
import pytest

from klbench import compiled, numerics
from klbench.metrics.folds import Folds

BOUND = 4.0  # units in the last place, as expm1_and_gap's docstring has it
SWITCHES = [
    k * math.log(2) / 2 for k in (1, 3, 5, 2001)
]  # where the power of 2 that is taken out changes


def expm1_and_gap(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    excess, gap = np.full_like(x, -7.0), np.full_like(x, -7.0)
    compiled.expm1_and_gap(x, numerics.REDUCED, excess, gap)
    return excess, gap


@pytest.mark.parametrize("sign", [-1.0, 1.0])
@pytest.mark.parametrize(
    ("low", "high"),
    [(1e-300, 1e-20), (1e-20, 1e-3), (1e-3, 0.3), (0.3, 0.5), (0.5, 5.0), (5.0, 709.7)],
)
def test_exponentials_are_accurate_at_every_magnitude(
    low: float, high: float, sign: float, worst_ulps
) -> None:
    inside = [
        y
        for s in SWITCHES
        for y in (s, np.nextafter(s, 0.0), np.nextafter(s, 1e3))
        if low <= y <= high
    ]
    x = sign * np.array([*np.geomspace(low, high, 500), *inside])
    with mpmath.workdps(700):
        excess = [mpmath.expm1(mpmath.mpf(float(v))) for v in x]
        gap = [e - mpmath.mpf(float(v)) for e, v in zip(excess, x, strict=True)]
        got_excess, got_gap = expm1_and_gap(x)
        assert worst_ulps(got_excess, excess, np.float64) <= BOUND
        normal = np.abs(x) > 1e-150  # below, the gap is no normal number
        assert (
            worst_ulps(
                got_gap[normal], [g for g, ok in zip(gap, normal, strict=True) if ok], np.float64
            )
            <= BOUND
        )
        assert (got_gap[~normal] <= 1e-300).all()
        assert (got_gap >= 0.0).all()


def test_exponentials_end_as_numpy_s_do() -> None:
    x = np.array([0.0, -0.0, np.nan, np.inf, -np.inf, 710.0, 1000.0, -745.0, -1000.0, -1e300, 0.5])
    excess, gap = expm1_and_gap(x)
    with np.errstate(all="ignore"):
        np.testing.assert_array_equal(excess[:-1], (np.exp(x) - 1.0)[:-1])
        np.testing.assert_array_equal(gap[:-1], (np.exp(x) - 1.0 - x)[:-1])
    assert excess[-1] == pytest.approx(math.expm1(0.5), rel=1e-15)


@pytest.mark.parametrize("size", [0, 1, 3, 7, 1001])
def test_an_exponential_does_not_depend_on_its_place_or_its_company(size: int) -> None:
    x = np.random.default_rng(size).normal(0.0, 2.0, size)
    x.flags.writeable = False
    excess, gap = expm1_and_gap(x)
    alone = [expm1_and_gap(np.array([v, np.nan, 800.0])) for v in x]
    np.testing.assert_allclose(excess, [e[0] for e, _ in alone], rtol=1e-15)
    np.testing.assert_allclose(gap, [g[0] for _, g in alone], rtol=1e-15)


@pytest.mark.parametrize("read_only", [False, True])
def test_large_arrays_of_any_layout_take_the_compiled_way(read_only: bool) -> None:
    x = np.random.default_rng(0).normal(size=(128, 2 * numerics.WORTH_COMPILING // 64))
    x.flags.writeable = not read_only
    for view in (x, x.T, x[:, ::2], x[::-1]):
        excess, gap = numerics.expm1_and_gap(view)
        expected = expm1_and_gap(view.ravel())
        np.testing.assert_array_equal(excess, expected[0].reshape(view.shape))
        np.testing.assert_array_equal(gap, expected[1].reshape(view.shape))


@pytest.mark.parametrize("size", [0, 1, 7, 4095, 4096, 4097, 100_003])
@pytest.mark.parametrize("center", [0.0, 0.75])
def test_sums_are_those_of_exact_arithmetic(size: int, center: float) -> None:
    x = np.random.default_rng(size).normal(1.0, 1.0, size)
    x.flags.writeable = False
    total, squares = compiled.sums(x, center)
    assert total == pytest.approx(
        math.fsum(x - center), abs=1e-15 * max(1.0, np.abs(x - center).sum())
    )
    assert squares == pytest.approx(math.fsum((x - center) ** 2), rel=1e-14)


def test_sums_keep_what_is_not_finite() -> None:
    x = np.ones(5000)
    x[4321] = np.inf
    assert compiled.sums(x, 0.0) == (np.inf, np.inf)
    x[17] = -np.inf
    assert np.isnan(compiled.sums(x, 0.0)[0])
    x[:] = 1.0
    x[3] = np.nan
    assert np.isnan(compiled.sums(x, 0.0)).all()


@pytest.mark.parametrize("folds", [1, 2])
@pytest.mark.parametrize("samples", [31, 768, 1000])
@pytest.mark.parametrize("sizes", [(2, 4, 16), (2, 3, 4, 12), (3, 5, 15, 30), (31,), (2, 7, 28)])
def test_every_sample_is_in_one_fold_of_one_batch_of_each_size(
    sizes: tuple[int, ...], samples: int, folds: int
) -> None:
    layout = Folds(samples, sizes, folds)
    # The sum of distinct powers of 2 says which they were: 50 at a time.
    marked = []
    for start in range(0, samples, 50):
        x = np.zeros(samples)
        x[start : start + 50] = 2.0 ** np.arange(len(x[start : start + 50]))
        marked.append(x)
    sums = layout.sums(marked).astype(np.int64)
    for n, part in zip(sizes, layout.parts, strict=True):
        batches = samples // n
        assert part.stop - part.start == batches
        assert (layout.size[part] == n).all()
        held = np.array(
            [[[int(v).bit_count() for v in row] for row in fold] for fold in sums[:, :, part]]
        ).sum(axis=0)
        edges = [f * n // folds for f in range(folds + 1)]
        np.testing.assert_array_equal(held, np.repeat(np.diff(edges)[:, None], batches, axis=1))
        for each in sums[:, :, part].reshape(len(marked), -1):
            assert np.bitwise_or.reduce(each) == each.sum()  # none twice


def test_a_sum_over_a_long_batch_is_accurate() -> None:
    x = np.random.default_rng(5).uniform(size=3 * 2**16)
    (sums,) = Folds(x.size, (2**16,), 1).sums((x,))[0]
    for b, got in enumerate(sums):
        assert got == pytest.approx(math.fsum(x[b::3]), rel=1e-15)


def test_the_tally_is_numpy_s() -> None:
    stream = np.random.default_rng(2)
    estimates, variances = stream.normal(0.3, 1.0, 1001), stream.uniform(0.0, 2.0, 1001)
    estimates[:3], variances[3:5] = np.nan, np.nan
    covered = np.count_nonzero((estimates - 0.3) ** 2 <= 3.8 * variances)
    negative = np.count_nonzero(estimates < 0.0)
    for truth, found in ((0.3, covered), (np.nan, 0)):
        counts, errors = np.zeros((1, 3), dtype=np.int64), np.empty((1, 7))
        for times in (1, 2):
            ends, limits = np.array([1001]), np.array([3.8])
            compiled.tally(estimates, variances, ends, truth, limits, counts, errors)
            assert counts.tolist() == [[1001 * times, negative * times, found * times]]
            np.testing.assert_array_equal(errors[0], estimates[:7] - truth)


def test_code_that_can_be_kept_nowhere_is_compiled_all_the_same() -> None:
    found: dict[str, Any] = {}
    exec(
        "def last(x):\n    return x[x.size - 1]", found
    )  # of no file, which numba refuses to cache
    with pytest.raises(RuntimeError, match="no locator"):
        numba.njit(found["last"], cache=True)
    assert compiled._compiled((compiled.FLOATS,))(found["last"])(np.array([1.0, 2.0])) == 2.0


def test_nothing_is_loaded_before_it_is_needed() -> None:
    code = (
        "import sys, numpy as np, klbench.engine.cli, klbench.studies.value.options\n"
        "from klbench import estimators\n"
        "from klbench.engine.cli import command_line\n"
        "estimators.get('k3')(np.ones(9)), command_line(['--help']), command_line(['+exp=gauss'])\n"
        "assert 'numba' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
