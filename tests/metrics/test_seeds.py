"""Statistics over seeds.

What diverged is in none, intervals of means, and of paired differences and shares.
"""

import itertools
import math

import numpy as np
import pandas as pd
import pytest
from scipy.stats import bootstrap, norm, t, ttest_1samp, ttest_rel

from klbench import streams
from klbench.metrics.seeds import (
    SeedFrame,
    at_kl,
    band,
    differences,
    effect,
    interval,
    outcome,
    paired,
    share,
    side,
    summarised,
    verdict,
)


def series(*values: float, first: int = 0) -> pd.Series:
    return pd.Series(values, index=range(first, first + len(values)), dtype=float)


def test_intervals() -> None:
    assert interval(np.array([2.0, 2.0, 2.0])) == (2.0, 2.0)
    assert all(math.isnan(end) for end in interval(np.array([1.0])))
    low, high = interval(np.random.default_rng(0).normal(1.0, 1.0, 50))
    assert 0.5 < low < 1.0 < high < 1.6


@pytest.mark.parametrize(("n", "draws"), [(2, 4000), (4, 4000), (7, 4000), (8, 700), (16, 700)])
def test_intervals_cover_what_is_said_of_them(n: int, draws: int) -> None:
    """Of the mean of normal values.

    95 % by Student's t, and nearly so by the bootstrap of a raised level.
    """
    values = np.random.default_rng(n).normal(size=(draws, n))
    ends = np.array([interval(each) for each in values])
    covered = float(((ends[:, 0] <= 0.0) & (ends[:, 1] >= 0.0)).mean())
    expected = {8: 0.938, 16: 0.949}.get(
        n, 0.95
    )  # of the bootstrap: measured apart from this, within 0.3 %
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


@pytest.mark.parametrize(
    ("ends", "shared"),
    [
        ((1.1, 2.1, 3.1, 4.1), 1),  # each a little worse: two means whose intervals overlap widely
        ((4.2, 3.1, 2.1, 1.1), 0),  # the same ends of other seeds
        ((0.9, 1.9, 2.8, 3.9), -1),
    ],
)
def test_the_verdict_is_that_of_the_pairs(ends, shared) -> None:
    row = paired("difference", series(*ends), series(1.0, 2.0, 3.0, 4.0))
    assert side(row, "difference") == shared
    assert (
        verdict(row, "difference", "less", "open", "more")
        == {-1: "less", 0: "open", 1: "more"}[shared]
    )


def test_only_seeds_that_both_have_are_paired() -> None:
    found = differences(series(5.0, 7.0, 9.0, first=1), series(1.0, 2.0, math.nan, 4.0))
    assert found.tolist() == [3.0, 5.0]
    assert paired("d", series(5.0, first=3), series(1.0))["d_seeds"] == 0


def test_without_an_interval_nothing_is_told() -> None:
    row = paired("d", series(2.0), series(1.0))
    assert row["d"] == 1.0
    assert side(row, "d") is None
    assert verdict(row, "d", "less", "open", "more") == "too few seeds to tell"
    assert side({}, "d") is None


def test_a_share_of_a_constant_is_a_mean_in_its_units() -> None:
    part = series(1.0, 2.0, 4.0)
    row = share("s", part, series(2.0, 2.0, 2.0))
    assert (row["s"], row["s_low"], row["s_high"]) == pytest.approx(
        (7 / 6, *(end / 2 for end in interval(part.to_numpy())))
    )


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


STEPS = (0, 4, 8)
ALWAYS = 99


def frame(stops: dict[tuple[str, int], int], seed: int = 0) -> tuple[SeedFrame, list[dict]]:
    """Rows of two arms; a replica's status is other than ok after the step at which it was
    stopped.
    """
    stream = np.random.default_rng(seed)
    rows = [
        {
            "arm": arm,
            "seed": k,
            "step": step,
            "x": stream.normal(),
            "status": "ok" if step <= stop else "diverged at it",
        }
        for (arm, k), stop in stops.items()
        for step in STEPS
    ]
    return SeedFrame.of(pd.DataFrame(rows), "arm"), rows


@pytest.mark.parametrize("stops", list(itertools.product((0, 5, ALWAYS), repeat=3)))
def test_what_diverged_is_in_no_mean(stops) -> None:
    """All ways in which three replicas of an arm can diverge, beside an arm that never does.

    By loops over the rows.
    """
    ends = {("a", k): stop for k, stop in enumerate(stops)} | {("b", k): ALWAYS for k in (2, 0, 1)}
    found, rows = frame(ends)
    last = found.part(found.every[found.every["step"] == STEPS[-1]])
    table = summarised(last, ["arm"], ["x"]).set_index("arm")
    for arm in "ab":
        alive = [k for k in range(3) if ends[arm, k] == ALWAYS]
        values = [
            row["x"]
            for k in alive
            for row in rows
            if (row["arm"], row["seed"], row["step"]) == (arm, k, STEPS[-1])
        ]
        assert (table.loc[arm, "seeds"], table.loc[arm, "diverged"]) == (len(alive), 3 - len(alive))
        assert found.where(arm=arm).last("x").tolist() == values
        assert table.loc[arm, "x"] == (
            pytest.approx(sum(values) / len(values))
            if values
            else pytest.approx(math.nan, nan_ok=True)
        )
        assert found.where(arm=arm).first("x").index.tolist() == [
            0,
            1,
            2,
        ]  # before training, all of them
    curves = band(found, ["arm", "step"], ["x"]).set_index(["arm", "step"])
    for arm, step in itertools.product("ab", STEPS):
        values = sorted(
            r["x"] for r in rows if (r["arm"], r["step"], r["status"]) == (arm, step, "ok")
        )
        assert ((arm, step) in curves.index) == bool(values)
        if values:
            row = curves.loc[(arm, step)]
            assert (row["seeds"], row["x"]) == (
                len(values),
                pytest.approx(sum(values) / len(values)),
            )
            for end, quantile in (("low", 0.1), ("high", 0.9)):
                below, part = divmod(quantile * (len(values) - 1), 1)
                above = min(int(below) + 1, len(values) - 1)
                assert row[f"x_{end}"] == pytest.approx(
                    (1 - part) * values[int(below)] + part * values[above]
                )


def test_a_replica_is_dropped_from_parts_in_which_it_had_not_diverged() -> None:
    found, _ = frame({("a", 0): 5, ("a", 1): ALWAYS})
    assert found.where(step=0).kept["seed"].tolist() == [1]
    assert {key: part.kept["seed"].tolist() for key, part in found.groups(["step"])} == {
        (step,): [1] for step in STEPS
    }
    assert found.where(step=4).before["seed"].tolist() == [0, 1]


def test_an_arm_is_named_by_all_its_columns() -> None:
    table = pd.DataFrame(
        {"beta": [1.0, 2.0, math.nan], "seed": 0, "status": ["ok", "diverged", "ok"]}
    )
    assert SeedFrame.of(table, "beta").kept["beta"].tolist() == pytest.approx(
        [1.0, math.nan], nan_ok=True
    )
    assert len(SeedFrame.of(table).kept) == 0
    assert SeedFrame.of(table.drop(columns="status")).counts == {"seeds": 1}


@pytest.mark.parametrize("n", [2, 7, 8, 12])
def test_summaries_have_the_intervals_of_scipy(n: int) -> None:
    values = np.random.default_rng(n).lognormal(size=n)
    order = np.random.default_rng(0).permutation(n)
    table = pd.DataFrame(
        {"arm": "a", "size": 64.0, "seed": order, "x": values[order], "kl": 2.0 * values[order]}
    )
    row = summarised(
        SeedFrame.of(table), ["arm"], ["x", "kl"], carried=["size"], plain=["kl"]
    ).iloc[0]
    assert list(row.index) == ["arm", "size", "seeds", "x", "x_low", "x_high", "kl"]
    assert (row["x"], row["kl"]) == pytest.approx((values.mean(), 2.0 * values.mean()))
    if n < 8:
        expected = tuple(ttest_1samp(values, 0.0).confidence_interval(0.95))
    else:
        level = 2.0 * norm.cdf(math.sqrt(n / (n - 1)) * t.ppf(0.975, n - 1)) - 1.0
        found = bootstrap(
            (values,),
            np.mean,
            n_resamples=9_999,
            confidence_level=level,
            rng=streams.generator(0, "bootstrap", "x", "a"),
        )
        expected = tuple(found.confidence_interval)
    assert (row["x_low"], row["x_high"]) == pytest.approx(expected, rel=1e-12)


def test_several_rows_a_seed_are_refused() -> None:
    found, _ = frame({("a", 0): ALWAYS, ("a", 1): ALWAYS})
    with pytest.raises(ValueError, match=r"need one row a seed, got 6 for 2 at \('a',\)"):
        summarised(found, ["arm"], ["x"])


def test_one_seed_has_a_mean_and_no_interval() -> None:
    table = pd.DataFrame({"arm": ["a"], "seed": [3], "step": [0], "x": [2.0]})
    row = summarised(SeedFrame.of(table), ["arm"], ["x"]).iloc[0]
    assert (row["seeds"], row["x"]) == (1, 2.0)
    assert math.isnan(row["x_low"])
    assert math.isnan(row["x_high"])
    assert band(SeedFrame.of(table), ["arm"], ["x"]).iloc[0][["x", "x_low", "x_high"]].tolist() == [
        2.0,
        2.0,
        2.0,
    ]


@pytest.mark.parametrize(
    ("values", "mean"),
    [
        ((1.0, math.inf), math.inf),
        ((-math.inf, 1.0, 2.0), -math.inf),
        ((math.inf, -math.inf, 0.0), math.nan),
        ((math.nan, 1.0), math.nan),
        ((math.inf, math.inf), math.inf),
    ],
)
def test_what_is_not_finite_takes_the_interval_away(values, mean) -> None:
    table = pd.DataFrame({"arm": "a", "seed": range(len(values)), "x": values})
    for found in (
        summarised(SeedFrame.of(table), ["arm"], ["x"]),
        band(SeedFrame.of(table), ["arm"], ["x"]),
    ):
        assert found.iloc[0]["x"] == pytest.approx(mean, nan_ok=True)
        assert found[["x_low", "x_high"]].isna().all(axis=None)
    assert math.isnan(effect(series(*values), series(*[0.0] * len(values))))


def test_a_difference_of_infinities_is_not_left_out() -> None:
    row = paired("d", series(math.inf, 2.0, math.inf), series(math.inf, 1.0, 0.0))
    assert row["d_seeds"] == 3
    assert math.isnan(row["d"])
    assert math.isnan(row["d_low"])
    assert math.isnan(share("s", series(math.inf, 1.0), series(1.0, 0.0))["s_low"])


def test_between_points_of_a_path_a_line_in_the_root_of_the_kl() -> None:
    kl = np.array([4.0, 1.0, 9.0])
    path = pd.DataFrame({"kl": kl, "reward": 0.5 + 3.0 * np.sqrt(kl)})
    wanted = np.array([0.0, 0.3, 1.0, 6.0, 9.0, 9.1])
    expected = [*(0.5 + 3.0 * np.sqrt(wanted[:-1])), math.nan]
    assert at_kl(path, "reward", wanted, 0.5) == pytest.approx(expected, nan_ok=True)
    assert at_kl(path, "reward", 0.25, -0.5) == pytest.approx(
        1.5
    )  # half-way from -0.5 at 0 to 3.5 at 1
    assert math.isnan(at_kl(path.iloc[:0], "reward", 0.1))
    assert at_kl(path.assign(kl=[-1e-17, 1.0, 4.0]), "reward", 4.0) == path["reward"].iloc[2]


@pytest.mark.parametrize(
    ("seeds", "diverged", "said"),
    [
        (3, 0, "ahead"),
        (2, 1, "diverged on some seeds"),
        (0, 3, "diverged on all seeds"),
    ],
)
def test_who_diverged_has_no_other_outcome(seeds, diverged, said) -> None:
    assert outcome({"seeds": seeds, "diverged": diverged}, "ahead") == said
