"""Which moments of the ratio exist, and how heavy its tail is, against what theory and the
integrands say.
"""

import math

import numpy as np
import pytest
from scipy import stats

from klbench import estimators, pairs


def gaussian(mean=0.0, std=1.0):
    return stats.norm(mean, std)


# kind, q, p, and the Pareto k of the upper tail of r over q: 1 over the order at which moments end.
TAILS = [
    ("exponential", {"rate": 1.0}, {"rate": 0.5}, 0.5),
    ("exponential", {"rate": 2.0}, {"rate": 1.6}, 0.2),
    ("exponential", {"rate": 1.0}, {"rate": 1.0}, 0.0),
    ("exponential", {"rate": 1.0}, {"rate": 3.0}, 0.0),
    ("gaussian", {"std": 1.0}, {"std": 2.0}, 0.75),
    ("gaussian", {"std": 1.2, "mean": 3.0}, {"std": 1.3}, 1 - 1.44 / 1.69),
    ("gaussian", {"std": 1.0}, {"std": 1.0, "mean": 2.0}, 0.0),
    ("gaussian", {"std": 2.0}, {"std": 1.0}, 0.0),
    ("student_t", {"df": 8.0}, {"df": 2.0}, 0.75),
    ("student_t", {"df": 6.0, "scale": 3.0}, {"df": 5.0}, 1 / 6),
    ("student_t", {"df": 5.0}, {"df": 5.0, "scale": 2.0}, 0.0),
    ("student_t", {"df": 2.0}, {"df": 5.0}, 0.0),
    ("laplace", {"scale": 1.0}, {"scale": 4.0}, 0.75),
    ("laplace", {"scale": 1.0, "loc": 5.0}, {"scale": 1.0}, 0.0),
    (
        "mixture",
        {"weights": [0.9, 0.1], "means": [0.0, 0.0], "stds": [0.2, 1.0]},
        {"weights": [0.01, 0.99], "means": [0.0, 3.0], "stds": [1.25, 0.5]},
        1 - 1 / 1.25**2,
    ),
    ("categorical", {"probs": [0.999999, 0.000001]}, {"probs": [0.5, 0.5]}, 0.0),
]


@pytest.mark.parametrize(("kind", "q", "p", "k"), TAILS)
def test_the_tail_index_is_the_known_one(kind, q, p, k) -> None:
    pair = pairs.get(kind)(q=q, p=p)
    assert pair.tail_index() == pytest.approx(k, abs=1e-9)
    if k:
        assert pair.finite_moment(1 / k * (1 - 1e-9))
        assert not pair.finite_moment(1 / k * (1 + 1e-9))


@pytest.mark.parametrize(
    ("kind", "q", "p"),
    [
        ("exponential", {"rate": 1.0}, {"rate": 0.5}),
        ("laplace", {"scale": 1.0}, {"scale": 2.0}),
        ("student_t", {"df": 4.0}, {"df": 2.0}),
    ],
)
def test_the_moment_at_the_border_is_infinite(kind, q, p) -> None:
    """At ``k = 1/2`` the second moment diverges logarithmically or faster."""
    pair = pairs.get(kind)(q=q, p=p)
    assert not pair.finite_moment(2.0)
    assert pair.truth("chi2").value == math.inf
    assert pair.exact([estimators.get("k3")])[0].std == math.inf


DENSITIES = {
    "exponential": lambda rate: lambda x: math.log(rate) - rate * x,
    "gaussian": lambda mean=0.0, std=1.0: gaussian(mean, std).logpdf,
    "laplace": lambda loc=0.0, scale=1.0: lambda x: -abs(x - loc) / scale - math.log(2 * scale),
    "student_t": lambda df, loc=0.0, scale=1.0: stats.t(df, loc, scale).logpdf,
}
OFF_POLICY = [
    ("exponential", {"rate": 1.0}, {"rate": 0.6}, {"rate": 0.7}),
    ("exponential", {"rate": 1.0}, {"rate": 1.5}, {"rate": 2.3}),
    ("gaussian", {"std": 1.0}, {"mean": 0.4, "std": 1.3}, {"mean": -0.2, "std": 1.2}),
    ("gaussian", {"std": 1.0}, {"mean": 0.4, "std": 0.7}, {"mean": -0.2, "std": 0.8}),
    ("laplace", {"scale": 1.0}, {"scale": 1.5}, {"scale": 1.1}),
    ("laplace", {"scale": 1.0}, {"scale": 0.6}, {"scale": 0.7}),
    ("student_t", {"df": 5.0}, {"df": 3.0}, {"df": 4.0}),
    ("student_t", {"df": 3.0}, {"df": 5.0}, {"df": 7.0}),
]


@pytest.mark.parametrize(("kind", "q", "p", "mu"), OFF_POLICY)
@pytest.mark.parametrize("order", [-2.0, -0.9, 0.0, 0.9, 1.1, 2.2, 4.0])
@pytest.mark.parametrize("weight_order", [0.0, 1.0, 2.0])
def test_a_moment_is_finite_where_its_integrand_falls_faster_than_one_over_x(
    kind, q, p, mu, order, weight_order
) -> None:
    log_q, log_p, log_mu = (DENSITIES[kind](**side) for side in (q, p, mu))

    def log_integrand(x: float) -> float:
        return log_mu(x) + weight_order * (log_q(x) - log_mu(x)) + order * (log_p(x) - log_q(x))

    ends = (1e4,) if kind == "exponential" else (1e4, -1e4)
    slopes = [(log_integrand(2 * x) - log_integrand(x)) / math.log(2.0) for x in ends]
    assert pairs.get(kind)(q=q, p=p, mu=mu).finite_moment(order, weight_order) == all(
        slope < -1.0 for slope in slopes
    )


@pytest.mark.parametrize(
    ("name", "q_std", "p_std", "finite_mean", "finite_variance"),
    [
        ("k1", 1.0, 3.0, True, True),
        ("k3", 1.0, 1.3, True, True),
        ("k3", 1.0, 1.5, True, False),
        ("k_lambda:0", 1.0, 3.0, True, True),
        ("k3_clamped", 1.0, 3.0, True, True),
        ("bregman_hellinger", 1.0, 1.5, True, False),
        ("bregman_chi2", 1.0, 1.1, True, True),
        ("bregman_chi2", 1.0, 1.3, True, False),
        ("bregman_chi2", 1.0, 1.5, False, False),
        ("bregman_alpha:-1", 1.5, 1.0, False, False),
        ("bregman_alpha:-1", 1.3, 1.0, True, False),
        ("bregman_alpha:-1", 1.1, 1.0, True, True),
    ],
)
def test_mean_and_variance_exist_where_the_growth_of_the_terms_lets_them(
    name, q_std, p_std, finite_mean, finite_variance
) -> None:
    """Gaussians: ``E_q[r^s]`` is finite where ``1 + s (q_var/p_var - 1) > 0``."""
    pair, estimator = (
        pairs.get("gaussian")(q={"std": q_std}, p={"std": p_std}),
        estimators.get(name),
    )
    assert pair.finite_mean(estimator) == finite_mean
    assert pair.finite_second_moment(estimator) == finite_variance
    (exact,) = pair.exact([estimator])
    assert (exact is not None) == finite_mean
    assert exact is None or math.isfinite(exact.std) == finite_variance


def test_a_weights_own_tail_counts() -> None:
    """A sampler narrower than q: the weight has no second moment, whatever is weighted."""
    pair = pairs.get("gaussian")(q={"std": 1.0}, p={"mean": 0.2}, mu={"std": 0.6})
    assert not pair.finite_second_moment(estimators.get("k1_weighted"))
    assert pair.finite_mean(estimators.get("k1_weighted"))
    (exact,) = pair.exact([estimators.get("k1_weighted")])
    assert exact.mean == pytest.approx(0.02, rel=1e-8)
    assert exact.std == math.inf


@pytest.mark.parametrize(
    ("shift", "q_std", "p_std"),
    [(0.0, 1.0, 1.2), (0.7, 1.0, 0.8), (0.5, 2.0, 2.5), (0.5, 1.0, 1.5)],
)
def test_chi_squared_is_the_published_formula(shift, q_std, p_std) -> None:
    """``1 + X = q_var/(p_std sqrt D) exp(shift^2/D)``, ``D = 2 q_var - p_var``.

    Infinite where ``D <= 0``.
    """
    d = 2 * q_std**2 - p_std**2
    expected = q_std**2 / (p_std * np.sqrt(d)) * math.exp(shift**2 / d) - 1 if d > 0 else math.inf
    truth = pairs.get("gaussian")(q={"std": q_std}, p={"mean": shift, "std": p_std}).truth("chi2")
    assert truth.value == pytest.approx(expected, rel=1e-12)
