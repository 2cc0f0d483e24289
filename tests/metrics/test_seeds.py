"""Statistics over seeds: intervals of means, and of paired differences and shares."""

import math

import numpy as np
import pandas as pd
import pytest
from scipy.stats import ttest_rel

from klbench.metrics.seeds import differences, effect, interval, paired, share, side, told


def series(*values: float, first: int = 0) -> pd.Series:
    return pd.Series(values, index=range(first, first + len(values)), dtype=float)


def test_intervals() -> None:
    assert interval(np.array([2.0, 2.0, 2.0])) == (2.0, 2.0)
    assert all(math.isnan(end) for end in interval(np.array([1.0])))
    low, high = interval(np.random.default_rng(0).normal(1.0, 1.0, 50))
    assert 0.5 < low < 1.0 < high < 1.6


@pytest.mark.parametrize(("n", "draws"), [(2, 4000), (4, 4000), (7, 4000), (8, 700), (16, 700)])
def test_intervals_cover_what_is_said_of_them(n: int, draws: int) -> None:
    """Of the mean of normal values: 95 % by Student's t, and nearly so by the bootstrap of a raised level."""
    values = np.random.default_rng(n).normal(size=(draws, n))
    ends = np.array([interval(each) for each in values])
    covered = float(((ends[:, 0] <= 0.0) & (ends[:, 1] >= 0.0)).mean())
    expected = {8: 0.938, 16: 0.949}.get(n, 0.95)  # of the bootstrap: measured apart from this, within 0.3 %
    assert abs(covered - expected) <= 5 * math.sqrt(expected * (1 - expected) / draws)


def test_intervals_lean_to_where_values_are_skewed() -> None:
    values = np.random.default_rng(3).lognormal(size=16)
    low, high = interval(values)
    assert high - values.mean() > 1.2 * (values.mean() - low)


def test_a_paired_difference_has_the_interval_of_the_paired_t_test() -> None:
    stream = np.random.default_rng(1)
    start = series(*stream.normal(3.0, 2.0, 7))
    end = start + stream.normal(0.3, 0.1, 7)
    row = paired("difference", end.sample(frac=1.0, random_state=0), start, "x")
    low, high = ttest_rel(end, start).confidence_interval(0.95)
    assert (row["difference_low"], row["difference_high"]) == pytest.approx((low, high), rel=1e-12)
    assert row["difference_seeds"] == 7
    assert effect(end, start) == pytest.approx((end - start).mean() / (end - start).std())


@pytest.mark.parametrize(("ends", "shared"), [
    ((1.1, 2.1, 3.1, 4.1), 1),  # each a little worse: two means whose intervals overlap widely
    ((4.2, 3.1, 2.1, 1.1), 0),  # the same ends of other seeds
    ((0.9, 1.9, 2.8, 3.9), -1),
])  # fmt: skip
def test_the_verdict_is_that_of_the_pairs(ends, shared) -> None:
    row = paired("difference", series(*ends), series(1.0, 2.0, 3.0, 4.0))
    assert side(row, "difference") == shared
    assert told(row, "difference", "less", "open", "more") == {-1: "less", 0: "open", 1: "more"}[shared]


def test_only_seeds_that_both_have_are_paired() -> None:
    found = differences(series(5.0, 7.0, 9.0, first=1), series(1.0, 2.0, math.nan, 4.0))
    assert found.tolist() == [3.0, 5.0]
    assert paired("d", series(5.0, first=3), series(1.0))["d_seeds"] == 0


def test_without_an_interval_nothing_is_told() -> None:
    row = paired("d", series(2.0), series(1.0))
    assert row["d"] == 1.0
    assert side(row, "d") is None
    assert told(row, "d", "less", "open", "more") == "too few seeds to tell"
    assert side({}, "d") is None


def test_a_share_of_a_constant_is_a_mean_in_its_units() -> None:
    part = series(1.0, 2.0, 4.0)
    row = share("s", part, series(2.0, 2.0, 2.0))
    assert (row["s"], row["s_low"], row["s_high"]) == pytest.approx((7 / 6, *(end / 2 for end in interval(part.to_numpy()))))


def test_a_share_that_is_the_same_of_every_seed_is_sure_though_its_parts_vary() -> None:
    whole = series(1.0, 10.0, 100.0)
    row = share("s", 0.3 * whole, whole)
    assert (row["s"], row["s_low"], row["s_high"]) == pytest.approx((0.3, 0.3, 0.3))
    assert math.isnan(share("s", whole, 0.0 * whole)["s"])


def test_the_interval_of_a_share_covers_it() -> None:
    """Ratio of the means 2 and 4 of pairs that vary together: 95 % of the time, with 7 seeds."""
    stream, hits, draws = np.random.default_rng(5), 0, 2000
    for _ in range(draws):
        common, own = stream.normal(size=(2, 7))
        row = share("s", series(*(2.0 + 0.3 * common)), series(*(4.0 + 0.5 * common + 0.2 * own)))
        hits += row["s_low"] <= 0.5 <= row["s_high"]
    assert abs(hits / draws - 0.95) <= 5 * math.sqrt(0.95 * 0.05 / draws)
