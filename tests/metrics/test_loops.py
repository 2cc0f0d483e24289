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


@pytest.mark.parametrize("truth", [0.5, np.nan])
@pytest.mark.parametrize("keep", [0, 50, 5000])
def test_counts_and_kept_errors_are_those_of_compiled_loops(truth: float, keep: int) -> None:
    stream = np.random.default_rng(0)
    layout = Folds(4000, (2, 8, 100, 1000), 1)
    limits = np.array([1.0, np.nan, 0.3, 4.0])
    ways = [
        (np.zeros((4, 3), dtype=np.int64), np.full((4, keep), -7.0), module)
        for module in (loops, compiled)
    ]
    for _ in range(3):
        terms = stream.normal(0.3, 1.0, 4000)
        estimates, variances = stream.normal(size=(2, layout.size.size))
        for counts, errors, module in ways:
            kept = truth, limits, counts, errors
            module.tally_means(terms, 0.2, layout._steps, layout.size, layout.ends, *kept)
            module.tally(estimates, variances, layout.ends, *kept)
    (counts, errors, _), (expected, expected_errors, _) = ways
    np.testing.assert_array_equal(counts, expected)
    np.testing.assert_array_equal(errors, expected_errors)


def test_long_arrays_take_the_compiled_way(monkeypatch) -> None:
    monkeypatch.setattr(compiled, "sums", lambda x, center: (x.size, center))
    assert loops.sums(np.zeros(loops.WORTH_COMPILING), 0.5) == (loops.WORTH_COMPILING, 0.5)
    assert loops.sums(np.zeros(loops.WORTH_COMPILING - 1), 0.5)[0] != loops.WORTH_COMPILING - 1
