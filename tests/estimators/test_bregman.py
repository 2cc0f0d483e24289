import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from klbench import divergences, estimators
from klbench.estimators.bregman import bregman
from klbench.types import Draws

log_ratios = st.lists(st.floats(-30.0, 30.0), min_size=1, max_size=8).map(np.array)


@given(log_ratio=log_ratios)
def test_the_gap_of_minus_log_is_k3_bit_for_bit(log_ratio) -> None:
    np.testing.assert_array_equal(
        estimators.get("bregman_kl_qp").terms(log_ratio), estimators.get("k3").terms(log_ratio)
    )


@given(log_ratio=log_ratios)
def test_gaps_of_f_and_of_its_adjoint_mirror_each_other(log_ratio) -> None:
    """The adjoint is ``r f(1/r)``: KL(p‖q) of KL(q‖p); JS and Hellinger of themselves.

    Alpha of 1 - alpha.
    """
    pairs = [
        ("kl_qp", "kl_pq"),
        ("js", "js"),
        ("hellinger", "hellinger"),
        ("alpha:-1", "alpha:2"),
        ("alpha:0.3", "alpha:0.7"),
    ]
    for name, adjoint in pairs:
        mirrored = np.exp(log_ratio) * divergences.get(name).gap(Draws(-log_ratio))
        np.testing.assert_allclose(
            divergences.get(adjoint).gap(Draws(log_ratio)), mirrored, rtol=1e-13, atol=1e-300
        )


@given(log_ratio=log_ratios)
def test_members_of_the_alpha_family_that_have_a_name_of_their_own(log_ratio) -> None:
    terms = {
        name: estimators.get(f"bregman_{name}").terms(log_ratio)
        for name in ("alpha:2", "alpha:0.5", "chi2", "hellinger")
    }
    np.testing.assert_allclose(terms["chi2"], 2.0 * terms["alpha:2"], rtol=1e-13)
    np.testing.assert_allclose(terms["hellinger"], terms["alpha:0.5"] / 4.0, rtol=1e-13)


@given(log_ratio=log_ratios)
def test_the_alpha_family_tends_to_both_kl(log_ratio) -> None:
    near = {0.001: "kl_qp", 0.999: "kl_pq"}
    for alpha, limit in near.items():
        got, expected = (
            estimators.get(f"bregman_{name}").terms(log_ratio) for name in (f"alpha:{alpha}", limit)
        )
        np.testing.assert_allclose(got, expected, rtol=0.04, atol=1e-300)


@pytest.mark.parametrize("name", [*divergences.names(), "alpha:3"])
def test_an_estimator_says_what_it_estimates(name) -> None:
    estimator = bregman(divergences.get(name))
    assert estimator.name == f"bregman_{name}"
    assert estimator.target == name
    assert divergences.get(estimator.target).symbol in estimator.summary


def test_a_generator_of_ones_own_makes_an_estimator() -> None:
    divergence = divergences.generator(
        "mine", lambda r: (r - 1.0) ** 2, lambda r: 2.0 * (r - 1.0), growth=2.0
    )
    mine = bregman(divergence, summary="mine")
    x = np.array([-1.0, 0.2, 1.5])
    np.testing.assert_allclose(mine.terms(x), estimators.get("bregman_chi2").terms(x), rtol=1e-13)
    assert (mine.name, mine.growth, mine.summary) == ("bregman_mine", 2.0, "mine")
