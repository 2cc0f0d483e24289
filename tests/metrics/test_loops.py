"""The ways of short arrays against the compiled ones."""

import math

import numpy as np
import pytest

from klbench import compiled
from klbench.metrics import loops
from klbench.metrics.folds import Folds


@pytest.mark.parametrize("size", [0, 1, 7, 4095])
@pytest.mark.parametrize("center", [0.0, 0.75])
def test_sums_are_those_of_exact_arithmetic(size: int, center: float) -> None:
    x = np.random.default_rng(size).normal(1.0, 1.0, size)
    total, squares = loops.sums(x, center)
    spread = 1e-15 * max(1.0, float(np.abs(x - center).sum()))
    assert total == pytest.approx(math.fsum(x - center), abs=spread)
    assert squares == pytest.approx(math.fsum((x - center) ** 2), rel=1e-14)


@pytest.mark.parametrize("folds", [1, 2])
@pytest.mark.parametrize("samples", [31, 768, 4001])
@pytest.mark.parametrize("sizes", [(2, 4, 16), (2, 3, 4, 12), (3, 5, 15, 30), (31,), (2, 7, 28)])
def test_folds_have_the_bits_of_compiled_ones(sizes, samples: int, folds: int) -> None:
    layout = Folds(samples, sizes, folds)
    x = np.random.default_rng(samples).normal(size=samples)
    expected = np.empty((folds, layout.size.size))
    compiled.fold(x, layout._steps, expected.ravel())
    np.testing.assert_array_equal(layout.sums([x])[0], expected)


def test_counts_are_those_of_compiled_loops() -> None:
    stream = np.random.default_rng(0)
    estimates, variances = stream.normal(0.3, 1.0, 4000), stream.exponential(size=4000)
    variances[::7] = np.nan
    for truth, limit in ((0.5, 1.0), (np.nan, 1.0), (0.5, np.nan)):
        expected = compiled.tally(estimates, variances, truth, limit)
        assert loops.tally(estimates, variances, truth, limit) == expected


def test_long_arrays_take_the_compiled_way(monkeypatch) -> None:
    monkeypatch.setattr(compiled, "sums", lambda x, center: (x.size, center))
    assert loops.sums(np.zeros(loops.WORTH_COMPILING), 0.5) == (loops.WORTH_COMPILING, 0.5)
    assert loops.sums(np.zeros(loops.WORTH_COMPILING - 1), 0.5)[0] != loops.WORTH_COMPILING - 1
