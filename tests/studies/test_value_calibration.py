"""What the value study says of its own certainty is true.

Checked over many seeds, against exact values.
"""

import math
from collections.abc import Iterator
from functools import cache

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from klbench.context import Context
from klbench.pairs import Pair
from klbench.pairs.categorical import Categorical, CategoricalPair
from klbench.pairs.gaussian import GaussianPair, Normal
from klbench.pairs.laplace import Laplace, LaplacePair
from klbench.studies.value import run as value_run
from klbench.studies.value.options import ValueOptions

SEEDS = 40
RARE = 1e-5
"""How improbable, were all as it should be, what a test refuses is.

The seeds are fixed, so that it passes always or never.
"""

SHIFT = GaussianPair(q=Normal(mean=0.0), p=Normal(mean=0.3))
COIN = CategoricalPair(q=Categorical(probs=(0.5, 0.3, 0.2)), p=Categorical(probs=(0.4, 0.4, 0.2)))
NARROW = LaplacePair(q=Laplace(loc=0.0, scale=1.0), p=Laplace(loc=0.2, scale=0.9))
OTHER = GaussianPair(q=Normal(mean=0.0), p=Normal(mean=0.3), mu=Normal(mean=0.1, std=1.1))
PAIRS: tuple[Pair, ...] = (SHIFT, COIN, NARROW)


def run(seed: int, samples: int = 8192, **options: object) -> dict[str, pd.DataFrame]:
    chosen = {
        "pairs": PAIRS,
        "estimators": ("k1", "k2", "k3"),
        "batches": (1, 16),
        "samples": samples,
    } | options
    return value_run.run(ValueOptions(**chosen), Context(seed))


@pytest.fixture(scope="module", autouse=True)
def _solved_once() -> Iterator[None]:
    """What is exact about a pair is the same for all seeds, and takes longer than the rest."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(value_run, "solve", cache(value_run.solve))
        yield


@pytest.fixture(scope="module")
def repeated() -> dict[str, pd.DataFrame]:
    """The tables ``values`` and ``differences`` of many seeds, one under the other."""
    runs = [run(seed) for seed in range(SEEDS)]
    return {
        name: pd.concat([each[name].assign(seed=k) for k, each in enumerate(runs)])
        for name in ("values", "differences")
    }


def of(table: pd.DataFrame, **values: object) -> pd.DataFrame:
    for column, wanted in values.items():
        table = table[table[column] == wanted]
    assert len(table) == SEEDS
    return table


def assert_standard(z: np.ndarray) -> None:
    """Mean 0 and variance 1, as nearly as so many standard normal numbers have them."""
    assert np.isfinite(z).all()
    assert abs(z.mean()) <= -stats.norm.ppf(RARE) / math.sqrt(z.size)
    low, high = stats.chi2.ppf([RARE, 1 - RARE], z.size)
    assert low <= np.sum(z * z) <= high


def assert_calibrated(estimates: np.ndarray, errors: np.ndarray) -> None:
    """The spread of the estimates is what their standard errors say."""
    n = len(estimates)
    low, high = stats.chi2.ppf([RARE, 1 - RARE], n - 1)
    assert low <= (n - 1) * np.var(estimates, ddof=1) / np.mean(errors**2) <= high


CASES = [(pair.title, name) for pair in PAIRS for name in ("k1", "k2", "k3")]


@pytest.mark.parametrize(("pair", "estimator"), CASES)
def test_bias_z_is_standard_normal_where_the_bias_is_known(
    repeated, pair: str, estimator: str
) -> None:
    table = of(repeated["values"], pair=pair, estimator=estimator, batch=1)
    z = ((table["bias"] - table["exact_bias"]) / table["bias_se"]).to_numpy()
    np.testing.assert_allclose(table["bias_z"], z, rtol=1e-9)
    assert_standard(z)


@pytest.mark.parametrize("estimator", ["k1", "k2", "k3"])
def test_an_interval_of_95_percent_covers_in_95_percent(repeated, estimator: str) -> None:
    table = repeated["values"]
    table = table[(table["estimator"] == estimator) & (table["batch"] == 1)]
    covered = int(((table["bias"] - table["exact_bias"]).abs() <= 1.96 * table["bias_se"]).sum())
    assert stats.binom.ppf(RARE, len(table), 0.95) <= covered < len(table)


@pytest.mark.parametrize(("pair", "estimator"), CASES)
def test_standard_errors_of_spread_are_calibrated(repeated, pair: str, estimator: str) -> None:
    for batch in (1, 16):
        table = of(repeated["values"], pair=pair, estimator=estimator, batch=batch)
        for column in ("mean", "variance", "std", "rmse"):
            assert_calibrated(table[column].to_numpy(), table[f"{column}_se"].to_numpy())
        assert abs((table["std"] - table["exact_std"]).mean()) <= 5 * table[
            "std_se"
        ].mean() / math.sqrt(SEEDS)


@pytest.mark.parametrize("pair", [pair.title for pair in PAIRS])
def test_rmse_is_that_of_batches(repeated, pair: str) -> None:
    """Against its definition: bias and standard deviation, both exact."""
    for name in ("k1", "k2", "k3"):
        for batch in (1, 16):
            table = of(repeated["values"], pair=pair, estimator=name, batch=batch)
            exact = np.hypot(table["exact_bias"], table["exact_std"]).iloc[0]
            assert table["rmse"].mean() == pytest.approx(
                exact, abs=5 * table["rmse_se"].mean() / math.sqrt(SEEDS)
            )


@pytest.mark.parametrize("pair", [pair.title for pair in PAIRS])
def test_differences_are_paired_and_calibrated(repeated, pair: str) -> None:
    for first, second in (("k1", "k2"), ("k1", "k3"), ("k2", "k3")):
        for batch in (1, 16):
            table = of(repeated["differences"], pair=pair, first=first, second=second, batch=batch)
            for column in ("mean_difference", "rmse_difference"):
                assert_calibrated(table[column].to_numpy(), table[f"{column}_se"].to_numpy())
            sides = [
                of(repeated["values"], pair=pair, estimator=name, batch=batch)
                for name in (first, second)
            ]
            exact = float(sides[0]["exact_bias"].iloc[0] - sides[1]["exact_bias"].iloc[0])
            assert_standard(
                ((table["mean_difference"] - exact) / table["mean_difference_se"]).to_numpy()
            )


def test_two_that_go_together_differ_by_much_less_than_either_is_unsure_of(repeated) -> None:
    """k2 and k3 differ by the third order of log r: that is what shared draws are for."""
    table = of(repeated["differences"], pair=COIN.title, first="k2", second="k3", batch=1)
    sides = [
        of(repeated["values"], pair=COIN.title, estimator=name, batch=1) for name in ("k2", "k3")
    ]
    alone = np.hypot(*(side["mean_se"].to_numpy() for side in sides))
    assert (table["mean_difference_se"].to_numpy() < 0.2 * alone).all()


@pytest.mark.parametrize("batch", [1, 4, 64])
def test_k1_is_negative_as_often_as_the_normal_distribution_says(batch: int) -> None:
    """``mean of k1 = d^2/2 - d mean(x)`` is below 0 where ``mean(x) > d/2``.

    With probability ``Phi(-d sqrt(n) / 2)``.
    """
    shift = 0.3
    (row,) = run(0, 2**18, pairs=(SHIFT,), estimators=("k1",), batches=(batch,))["values"].to_dict(
        "records"
    )
    exact = stats.norm.cdf(-shift * math.sqrt(batch) / 2)
    assert row["batches"] == 2**18 // batch
    assert row["frac_negative"] == pytest.approx(
        exact, abs=5 * math.sqrt(exact * (1 - exact) / row["batches"])
    )
    assert row["frac_negative_se"] == pytest.approx(
        math.sqrt(exact * (1 - exact) / row["batches"]), rel=0.05
    )


def test_what_cannot_be_negative_never_is() -> None:
    table = run(0, 2**14, estimators=("k2", "k3", "bregman_js", "abs"), batches=(1, 4))["values"]
    assert (table["frac_negative"] == 0.0).all()
    assert (
        table["frac_negative_se"] > 0.0
    ).all()  # which is not to say that it is known never to be


def test_t_intervals_of_normal_terms_cover_95_percent() -> None:
    """k1 of a shift is normal, so that Student's interval is exact at every batch size."""
    table = run(0, 2**18, pairs=(SHIFT,), estimators=("k1",), batches=(1, 2, 5, 16, 64))["values"]
    assert math.isnan(table["coverage"].iloc[0])
    rest = table.iloc[1:]
    assert (
        (rest["coverage"] - 0.95).abs() <= 5 * np.sqrt(0.95 * 0.05 / (2**18 // rest["batch"]))
    ).all()


def test_of_weighted_estimators_too_the_bias_is_as_said() -> None:
    z = []
    for seed in range(SEEDS):
        table = run(
            seed,
            4096,
            pairs=(OTHER,),
            estimators=("k1", "k1_weighted", "k3_weighted"),
            batches=(1,),
        )["values"]
        z.append(((table["bias"] - table["exact_bias"]) / table["bias_se"]).to_numpy())
    for column in np.array(z).T:
        assert_standard(column)
    assert (
        table["exact_bias"].abs().iloc[0] > 10 * table["exact_bias"].abs().iloc[1]
    )  # unweighted, k1 means another thing


def test_estimators_of_whole_batches_are_calibrated() -> None:
    """They have no exact moments; batches that are independent of each other stand in for these."""
    tables = [
        run(seed, 4096, estimators=("k_fitted",), pairs=(SHIFT,), batches=(16, 64))["values"]
        for seed in range(SEEDS)
    ]
    table = pd.concat(tables)
    for batch in (16, 64):
        rows = of(table, batch=batch)
        assert_calibrated(rows["mean"].to_numpy(), rows["mean_se"].to_numpy())
        assert_calibrated(rows["std"].to_numpy(), rows["std_se"].to_numpy())


def test_batches_that_do_not_divide_a_panel_are_counted_as_they_are_formed() -> None:
    """A panel of 1,024 holds two batches of 350.

    The estimator's mean is one of 64 batches, not of 93.
    """
    z = []
    for seed in range(300):
        row = run(seed, pairs=(SHIFT,), estimators=("k_fitted",), batches=(350,), samples=32_768)[
            "values"
        ].iloc[0]
        z.append((row["mean"] - row["truth"]) / row["mean_se"])
    assert_standard(np.array(z))
    assert row["mean_se"] == pytest.approx(math.sqrt(row["variance"] / 64), rel=1e-12)
