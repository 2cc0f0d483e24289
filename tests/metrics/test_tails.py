import math

import numpy as np
import pytest
from arviz_stats.base.array import array_stats

from klbench.metrics.tails import pareto_khat, unit_mean


def pareto_log_ratio(k: float, n: int, seed: int) -> np.ndarray:
    """The logarithm of a ratio whose upper tail is exactly Pareto of index k."""
    return k * np.random.default_rng(seed).standard_exponential(n)


@pytest.mark.parametrize("k", [0.2, 0.5, 0.8, 1.3])
@pytest.mark.parametrize("n", [5_000, 100_000])
def test_exact_pareto_tails_are_found_within_their_standard_error(k, n) -> None:
    for seed in range(4):
        khat, se = pareto_khat(pareto_log_ratio(k, n, seed))
        assert abs(khat - k) <= 5 * se
        assert se == pytest.approx((1 + khat) / math.sqrt(3 * math.sqrt(n)), rel=0.01)


@pytest.mark.parametrize("n", [100, 101, 1_000, 12_345])
@pytest.mark.parametrize("k", [0.01, 0.5, 1.3])
@pytest.mark.parametrize("sign", [-1, 1])
def test_khat_is_that_of_arviz(n, k, sign) -> None:
    log_ratio = sign * pareto_log_ratio(k, n, seed=n)
    expected = float(array_stats.psislw(-log_ratio)[1])  # psislw negates its input
    assert pareto_khat(log_ratio)[0] == pytest.approx(expected, rel=1e-12)


def test_the_standard_error_is_the_spread_of_repetitions() -> None:
    results = np.array([pareto_khat(pareto_log_ratio(0.5, 5_000, seed)) for seed in range(120)])
    assert abs(results[:, 0].mean() - 0.5) <= 5 * results[:, 0].std() / math.sqrt(120) + 0.02
    assert results[:, 0].std() == pytest.approx(results[:, 1].mean(), rel=0.35)


@pytest.mark.parametrize("k", [0.5, 0.8])
def test_it_is_the_upper_tail_that_counts(k) -> None:
    """The ratio is bounded above and its inverse is heavy.

    A sign lost on the way would make this tail heavy.
    """
    log_ratio = -pareto_log_ratio(k, 20_000, 0)
    khat, se = pareto_khat(log_ratio)
    assert khat < 0.0
    assert pareto_khat(-log_ratio)[0] == pytest.approx(k, abs=5 * se + 0.3)


def test_light_tails_are_light() -> None:
    normal = 0.3 * np.random.default_rng(0).standard_normal(50_000)
    assert pareto_khat(normal)[0] < 0.3
    uniform = np.random.default_rng(0).random(50_000)
    assert pareto_khat(uniform)[0] < 0.0


@pytest.mark.parametrize("shift", [-800.0, 800.0])
def test_the_scale_of_the_ratio_does_not_matter(shift) -> None:
    log_ratio = pareto_log_ratio(0.6, 10_000, 1)
    assert pareto_khat(log_ratio + shift)[0] == pytest.approx(pareto_khat(log_ratio)[0], abs=1e-6)


def test_the_order_of_samples_does_not_matter_and_they_stay_as_they_are() -> None:
    log_ratio = pareto_log_ratio(0.6, 10_000, 1)
    before = log_ratio.copy()
    first = pareto_khat(log_ratio)
    np.testing.assert_array_equal(log_ratio, before)
    assert pareto_khat(np.sort(log_ratio)) == pytest.approx(first, rel=1e-9)


@pytest.mark.parametrize(
    "log_ratio",
    [
        pareto_log_ratio(0.5, 99, 0),
        np.zeros(1_000),
        np.repeat([0.0, 1.0], 1_000),
        np.append(pareto_log_ratio(0.5, 999, 0), np.inf),
        np.append(pareto_log_ratio(0.5, 999, 0), np.nan),
    ],
    ids=["too few", "constant", "an atom on top", "infinite", "not a number"],
)
def test_where_there_is_no_tail_to_fit_there_is_no_answer(log_ratio) -> None:
    khat, se = pareto_khat(log_ratio)
    assert math.isnan(khat)
    assert math.isnan(se)


SPEAKS = {"excess": 0.0, "se": 0.01, "ess": 101.0, "khat": 0.4, "rollouts": 30}


@pytest.mark.parametrize(
    ("change", "verdict"),
    [
        ({}, "holds"),
        ({"excess": 0.05}, "holds"),
        ({"excess": -0.0501}, "fails"),
        ({"excess": 0.0501}, "fails"),
        ({"ess": 100.0}, "cannot tell"),
        ({"khat": 0.5}, "cannot tell"),
        ({"rollouts": 29}, "cannot tell"),
        ({"excess": 0.0501, "khat": 0.499}, "fails"),
        ({"excess": 9.0, "khat": 0.5}, "cannot tell"),
        ({"khat": math.nan}, "holds"),  # a tail that ends in an atom
        ({"se": math.nan}, "cannot tell"),
        ({"excess": math.inf}, "cannot tell"),
        ({"ess": math.nan}, "cannot tell"),
        ({"excess": 0.0, "se": 0.0}, "holds"),
        ({"excess": 1e-15, "se": 0.0}, "holds"),
        ({"excess": 1e-3, "se": 0.0}, "fails"),
    ],
)
def test_whether_a_mean_of_1_holds_is_only_said_where_the_data_can_tell(change, verdict) -> None:
    arguments = SPEAKS | change
    assert unit_mean(arguments.pop("excess"), arguments.pop("se"), **arguments) == verdict


def test_on_right_data_it_never_fails_and_on_wrong_data_it_does() -> None:
    """Log-normal ratios whose mean is 1, and the same with a fiftieth taken away."""
    said = {"right": set(), "wrong": set()}
    for seed in range(60):
        ratio = np.exp(np.random.default_rng(seed).normal(-0.02, 0.2, (400, 20)))
        for name, x in (("right", ratio), ("wrong", 0.98 * ratio)):
            rows = x.mean(1) - 1.0
            se, ess = float(rows.std(ddof=1)) / 20.0, float(x.sum() ** 2 / (x * x).sum())
            said[name].add(
                unit_mean(
                    float(rows.mean()),
                    se,
                    ess=ess,
                    khat=pareto_khat(np.log(x).ravel())[0],
                    rollouts=400,
                )
            )
    assert said["right"] == {"holds"}
    assert "fails" in said["wrong"]
