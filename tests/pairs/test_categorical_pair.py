import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.distance import jensenshannon

from klbench import divergences, estimators
from klbench.pairs.categorical import CategoricalPair
from klbench.types import Draws


def three_sides(n: int):
    side = st.lists(st.floats(0.01, 1.0), min_size=n, max_size=n).map(
        lambda w: np.array(w) / sum(w)
    )
    return st.tuples(side, side, side)


def log_ratios(pair: CategoricalPair, n: int = 99) -> np.ndarray:
    return pair.draw(np.random.default_rng(0), n).log_ratio


def pair_of(q, p, mu=None) -> CategoricalPair:
    sides = {"q": q, "p": p} | ({"mu": mu} if mu is not None else {})
    return CategoricalPair(**{k: {"probs": tuple(v)} for k, v in sides.items()})


@given(sides=st.integers(2, 6).flatmap(three_sides))
def test_exact_moments_are_sums_over_categories(sides) -> None:
    q, p, mu = sides
    for name in ("k1", "k2", "k3", "bregman_kl_pq", "k3_clamped:0.1"):
        estimator = estimators.get(name)
        (exact,) = pair_of(q, p).exact([estimator])
        terms = estimator.terms(np.log(p / q))
        assert exact.mean == pytest.approx(q @ terms, rel=1e-9, abs=1e-14)
        assert exact.std == pytest.approx(
            math.sqrt(q @ (terms - q @ terms) ** 2), rel=1e-8, abs=1e-12
        )
    for name in ("k1_weighted", "k3_weighted"):
        estimator = estimators.get(name)
        (exact,) = pair_of(q, p, mu).exact([estimator])
        terms = estimator.terms(Draws(np.log(p / q), np.log(q / mu)))
        assert exact.mean == pytest.approx(mu @ terms, rel=1e-9, abs=1e-14)
        assert exact.mean == pytest.approx(q @ np.log(q / p), rel=1e-9, abs=1e-13)


@pytest.mark.parametrize("off_policy", [False, True])
def test_categories_are_drawn_as_often_as_their_probability_says(off_policy) -> None:
    q, p, mu = (
        np.array([0.1, 0.2, 0.3, 0.4]),
        np.array([0.4, 0.1, 0.2, 0.3]),
        np.array([0.25, 0.15, 0.45, 0.15]),
    )
    n = 200_000
    draws = pair_of(q, p, mu if off_policy else None).draw(np.random.default_rng(2), n)
    sampler = mu if off_policy else q
    for i, log_ratio in enumerate(np.log(p / q)):
        hit = np.isclose(draws.log_ratio, log_ratio, rtol=1e-12)
        assert abs(hit.mean() - sampler[i]) <= 5 * math.sqrt(sampler[i] * (1 - sampler[i]) / n)
        if off_policy:
            np.testing.assert_allclose(draws.log_weight[hit], math.log(q[i] / mu[i]), rtol=1e-12)


def test_probs_and_logits_are_two_ways_to_say_one_thing() -> None:
    a = CategoricalPair(q={"probs": (0.2, 0.8)}, p={"probs": (0.5, 0.5)})
    b = CategoricalPair(q={"logits": (900.0, 900.0 + math.log(4.0))}, p={"logits": (-3.0, -3.0)})
    assert a.truth("kl_qp").value == pytest.approx(b.truth("kl_qp").value, rel=1e-12)


BEYOND = {"q": {"probs": [0.6, 0.4, 0.0]}, "p": {"probs": [0.5, 0.3, 0.2]}}


def test_truths_count_what_p_has_where_q_has_nothing() -> None:
    """By the sums over all categories that define them."""
    pair = CategoricalPair(**BEYOND)
    q, p = np.array([0.6, 0.4, 0.0]), np.array([0.5, 0.3, 0.2])
    expected = {
        "kl_qp": 0.6 * math.log(0.6 / 0.5) + 0.4 * math.log(0.4 / 0.3),
        "kl_pq": math.inf,
        "chi2": math.inf,
        "js": jensenshannon(q, p) ** 2,
        "hellinger": 0.5 * ((np.sqrt(q) - np.sqrt(p)) ** 2).sum(),
        "alpha:0.5": ((p**0.5 * q**0.5).sum() - 1.0) / (0.5 * -0.5),
        "alpha:2": math.inf,
        "alpha:-1": ((q**2 / p).sum() - 1.0) / 2.0,
        "alpha:0.998": ((p**0.998 * q**0.002).sum() - 1.0) / (0.998 * -0.002),
    }
    assert {name.partition(":")[0] for name in expected} == set(divergences.names())
    for name, value in expected.items():
        truth = pair.truth(name)
        assert truth.value == pytest.approx(value, rel=1e-12), name
        assert truth.error < 1e-12
    assert pair.truth("kl_qp").value == pytest.approx(0.22447, abs=5e-6)


def test_what_it_does_to_each_estimator_that_p_reaches_beyond_q() -> None:
    """E[r] = 0.8: k3 is off by -0.2, k_lambda by lambda times that, k1 by nothing."""
    pair = CategoricalPair(**BEYOND)
    kl, names = pair.truth("kl_qp").value, ("k1", "k3", "k_lambda:0.3", "k2")
    k1, k3, k_lambda, k2 = (
        each.mean for each in pair.exact([estimators.get(name) for name in names])
    )
    assert k1 == pytest.approx(kl)
    assert k3 == pytest.approx(kl - 0.2)
    assert k3 == pytest.approx(0.02447, abs=5e-6)
    assert k_lambda == pytest.approx(kl - 0.3 * 0.2)
    assert k2 == pytest.approx(0.3 * math.log(1.2) ** 2 + 0.2 * math.log(0.75) ** 2)
    assert pair.unreached == pytest.approx(0.2)
    assert "0.2 of p out of q's reach" in pair.title
    np.testing.assert_allclose(
        np.unique(log_ratios(pair)), [math.log(0.3 / 0.4), math.log(0.5 / 0.6)]
    )
    assert "no logit gives" in pair.gradient_task().reason


def test_a_category_that_no_side_has_changes_nothing() -> None:
    a = pair_of([0.2, 0.8], [0.5, 0.5])
    b = pair_of([0.2, 0.0, 0.8], [0.5, 0.0, 0.5])
    assert a.truth("kl_qp") == b.truth("kl_qp")
    np.testing.assert_array_equal(log_ratios(a), log_ratios(b))


def test_a_sampler_may_visit_what_the_policy_never_does() -> None:
    """There the weight is zero, and so is all that it weighs."""
    pair = pair_of([0.4, 0.6, 0.0], [0.7, 0.3, 0.0], [0.3, 0.3, 0.4])
    kl = 0.4 * math.log(0.4 / 0.7) + 0.6 * math.log(2.0)
    assert pair.truth("kl_qp").value == pytest.approx(kl, rel=1e-13)
    for name in ("k1_weighted", "k3_weighted"):
        assert pair.exact([estimators.get(name)])[0].mean == pytest.approx(kl, rel=1e-13)
    draws = pair.draw(np.random.default_rng(0), 100_000)
    assert abs(np.mean(np.isneginf(draws.log_weight)) - 0.4) < 0.01
    for name in ("k1_weighted", "k1_self_normalized"):
        terms = estimators.get(name).terms(draws)
        assert abs(terms.mean() - kl) <= 5 * terms.std() / math.sqrt(terms.size)


@pytest.mark.parametrize(("size", "kl"), [(2, 0.1), (50, 1e-4), (1_000, 2.0), (100_000, 0.5)])
def test_a_random_pair_has_the_divergence_asked_for(size, kl) -> None:
    pair = CategoricalPair(random={"size": size, "kl": kl, "seed": 1})
    assert pair.truth("kl_qp").value == pytest.approx(kl, rel=1e-8)
    assert pair.truth("kl_pq").value != pytest.approx(kl, rel=1e-4)
    other = CategoricalPair(random={"size": size, "kl": kl, "seed": 2})
    assert not np.array_equal(log_ratios(pair), log_ratios(other))


def test_equal_pairs_are_equal() -> None:
    assert pair_of([0.2, 0.8], [0.5, 0.5]) == pair_of([0.2, 0.8], [0.5, 0.5])
    assert pair_of([0.2, 0.8], [0.5, 0.5]) != pair_of([0.2, 0.8], [0.4, 0.6])


def test_labels() -> None:
    assert (
        CategoricalPair(random={"size": 9, "kl": 0.25, "seed": 4}).title
        == "Categorical 9, KL=0.25, seed 4"
    )
    assert pair_of([0.5, 0.5], [0.25, 0.75]).title == "Categorical 2, KL=0.1438"
    assert (
        pair_of([0.5, 0.5], [0.25, 0.75], [0.3, 0.7]).title == "Categorical 2, KL=0.1438 off-policy"
    )
