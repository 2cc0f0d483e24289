"""Gaussians in several dimensions, and what must not change them."""

import math

import mpmath
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from klbench import estimators
from klbench.pairs.gaussian import GaussianPair

TARGETS = ["kl_qp", "kl_pq", "chi2", "hellinger", "alpha:-0.3", "alpha:1.5"]
ESTIMATORS = ["k1", "k2", "k3", "k_lambda:0.3", "bregman_kl_pq", "bregman_hellinger"]


def random_normal(
    stream: np.random.Generator, d: int, spread: float = 0.3
) -> tuple[np.ndarray, np.ndarray]:
    a = spread * stream.normal(size=(d, d)) / math.sqrt(d)
    return spread * stream.normal(size=d), np.eye(d) + a + a.T + a @ a.T


def pair_of(q, p, mu=None) -> GaussianPair:
    sides = {"q": q, "p": p} | ({"mu": mu} if mu is not None else {})
    return GaussianPair(
        **{
            k: {"mean": tuple(m), "cov": tuple(map(tuple, (c + c.T) / 2))}
            for k, (m, c) in sides.items()
        }
    )


def torch_normal(side) -> torch.distributions.MultivariateNormal:
    return torch.distributions.MultivariateNormal(*(torch.tensor(x) for x in side))


def torch_kl(a, b) -> float:
    return torch.distributions.kl_divergence(torch_normal(a), torch_normal(b)).item()


@pytest.mark.parametrize("d", [1, 2, 5, 40])
@pytest.mark.parametrize("seed", [0, 1])
def test_full_covariances_agree_with_torch(d, seed) -> None:
    stream = np.random.default_rng(seed)
    q, p = random_normal(stream, d), random_normal(stream, d)
    pair = pair_of(q, p)
    assert pair.dimension == d
    assert pair.truth("kl_qp").value == pytest.approx(torch_kl(q, p), rel=1e-11, abs=1e-13)
    assert pair.truth("kl_pq").value == pytest.approx(torch_kl(p, q), rel=1e-11, abs=1e-13)


@pytest.mark.parametrize("off_policy", [False, True])
def test_samples_in_several_dimensions_have_the_right_divergences(off_policy) -> None:
    """Every exact number against 200,000 samples of its own pair, and against samples of
    NumPy's.
    """
    stream = np.random.default_rng(7)
    q, p, mu = random_normal(stream, 3), random_normal(stream, 3), (np.zeros(3), 1.3 * np.eye(3))
    pair = pair_of(q, p, mu if off_policy else None)
    draws = pair.draw(np.random.default_rng(0), 200_000)
    x = np.random.default_rng(1).multivariate_normal(*(mu if off_policy else q), 200_000)
    log_q, log_p, log_mu = (
        torch_normal(side).log_prob(torch.tensor(x)).numpy() for side in (q, p, mu)
    )
    columns = [(draws.log_ratio, log_p - log_q)] + (
        [(draws.log_weight, log_q - log_mu)] if off_policy else []
    )
    for got, expected in columns:
        for power in (1, 2):
            a, b = got**power, expected**power
            assert abs(a.mean() - b.mean()) <= 5 * math.sqrt((a.var() + b.var()) / a.size)
    name = "k1_weighted" if off_policy else "k1"
    terms = estimators.get(name).terms(draws)
    assert abs(terms.mean() - torch_kl(q, p)) <= 5 * terms.std() / math.sqrt(terms.size)


def test_the_variance_of_the_log_ratio_is_that_of_a_quadratic_form() -> None:
    """``log r = c + b'z + z'Cz/2``, ``z ~ N(0, I)``: ``Var = |b|^2 + |C|^2/2``.

    The mean is ``-KL``.
    """
    q, p = (random_normal(np.random.default_rng(seed), 4) for seed in (3, 4))
    factor = np.linalg.cholesky(q[1])
    precision = np.linalg.inv(p[1])
    slope = factor.T @ precision @ (p[0] - q[0])
    curvature = np.eye(4) - factor.T @ precision @ factor
    (exact,) = pair_of(q, p).exact([estimators.get("k1")])
    assert exact.std**2 == pytest.approx(slope @ slope + np.sum(curvature**2) / 2, rel=1e-12)
    assert exact.mean == pytest.approx(torch_kl(q, p), rel=1e-11)


def test_independent_coordinates_add_and_multiply() -> None:
    columns = {"q": [(0.0, 1.0), (1.0, 0.8), (0.3, 1.1)], "p": [(0.4, 1.1), (1.0, 0.9), (0.1, 1.1)]}
    ones = [
        GaussianPair(
            **{k: dict(zip(("mean", "std"), v[i], strict=True)) for k, v in columns.items()}
        )
        for i in range(3)
    ]
    product = GaussianPair(
        **{k: {"mean": [m for m, _ in v], "std": [s for _, s in v]} for k, v in columns.items()}
    )

    def values(target: str) -> list[float]:
        return [one.truth(target).value for one in ones]

    assert product.truth("kl_qp").value == pytest.approx(sum(values("kl_qp")), rel=1e-13)
    assert product.truth("kl_pq").value == pytest.approx(sum(values("kl_pq")), rel=1e-13)
    assert 1 + product.truth("chi2").value == pytest.approx(
        math.prod(1 + x for x in values("chi2")), rel=1e-13
    )
    assert 1 - product.truth("hellinger").value == pytest.approx(
        math.prod(1 - x for x in values("hellinger")), rel=1e-13
    )


coordinates = st.floats(-1.5, 1.5)


@given(
    means=st.tuples(coordinates, coordinates),
    stds=st.tuples(st.floats(0.8, 1.25), st.floats(0.8, 1.25)),
    shift=st.floats(-100.0, 100.0),
    scale=st.floats(0.01, 100.0),
    flip=st.booleans(),
)
def test_affine_maps_of_the_line_change_nothing(means, stds, shift, scale, flip) -> None:
    sign = -1.0 if flip else 1.0
    here = GaussianPair(q={"mean": means[0], "std": stds[0]}, p={"mean": means[1], "std": stds[1]})
    there = GaussianPair(
        q={"mean": sign * scale * means[0] + shift, "std": scale * stds[0]},
        p={"mean": sign * scale * means[1] + shift, "std": scale * stds[1]},
    )
    noise = 1e-12 * (1 + abs(shift) / scale)  # the means are rounded where they lie
    for target in TARGETS:
        a, b = here.truth(target), there.truth(target)
        assert b.value == pytest.approx(a.value, rel=1e-10, abs=noise)


@pytest.mark.parametrize("seed", range(4))
def test_affine_maps_of_space_change_nothing(seed) -> None:
    stream = np.random.default_rng(seed)
    q, p = random_normal(stream, 3), random_normal(stream, 3)
    matrix, shift = np.eye(3) + 0.5 * stream.normal(size=(3, 3)), stream.normal(size=3)
    here = pair_of(q, p)
    there = pair_of(*((matrix @ m + shift, matrix @ c @ matrix.T) for m, c in (q, p)))
    for target in TARGETS:
        assert there.truth(target).value == pytest.approx(here.truth(target).value, rel=1e-9)
    chosen = [estimators.get(name) for name in ESTIMATORS]
    for a, b in zip(here.exact(chosen), there.exact(chosen), strict=True):
        assert b.mean == pytest.approx(a.mean, rel=1e-9, abs=1e-12)
        assert b.std == pytest.approx(a.std, rel=1e-9)


def test_a_number_stands_for_every_dimension() -> None:
    full = GaussianPair(q={"mean": [0.0, 0.0]}, p={"mean": [1.0, 1.0], "std": [2.0, 2.0]})
    short = GaussianPair(q={"mean": [0.0, 0.0]}, p={"mean": 1.0, "std": 2.0})
    assert short.dimension == 2
    assert short.truth("kl_qp") == full.truth("kl_qp")


def test_a_shift_in_many_dimensions_is_one_shift() -> None:
    """Drawn as one, too: a thousand dimensions cost no more than one."""
    many = GaussianPair(q={"mean": [0.0] * 1000}, p={"mean": 0.02})
    one = GaussianPair(q={"mean": 0.0}, p={"mean": 0.02 * math.sqrt(1000)})
    drawn = [pair.draw(np.random.default_rng(0), 100).log_ratio for pair in (many, one)]
    np.testing.assert_allclose(drawn[0], drawn[1], rtol=1e-9)


def test_dimensions_in_which_the_sides_agree_do_not_matter() -> None:
    plain = GaussianPair(q={"mean": 0.0, "std": 1.0}, p={"mean": 0.5, "std": 0.7})
    padded = GaussianPair(
        q={"mean": [0.0, 3.0], "std": [1.0, 5.0]}, p={"mean": [0.5, 3.0], "std": [0.7, 5.0]}
    )
    for target in [*TARGETS, "js"]:
        assert padded.truth(target).value == pytest.approx(plain.truth(target).value, rel=1e-12)


def test_equal_sides_are_zero_apart() -> None:
    pair = GaussianPair(q={"mean": 0.3, "std": 2.0}, p={"mean": 0.3, "std": 2.0})
    for target in [*TARGETS, "js"]:
        assert pair.truth(target).value == 0.0
    np.testing.assert_array_equal(pair.draw(np.random.default_rng(0), 5).log_ratio, np.zeros(5))


@pytest.mark.parametrize(
    ("sides", "label"),
    [
        ({"q": {"mean": 0.0}, "p": {"mean": 1.0}}, "N(0, 1²) ‖ N(1, 1²)"),
        (
            {"q": {"mean": 0.0}, "p": {"cov": [[4.0]]}, "mu": {"std": 3.0}},
            "N(0, 1²) ‖ N(0, 2²) from N(0, 3²)",
        ),
        ({"q": {"mean": [0.0, 0.0]}, "p": {"mean": 0.1}}, "Gaussian d=2, KL=0.01"),
        (
            {"q": {"mean": [0.0, 0.0]}, "p": {"mean": 0.1}, "mu": {"std": 2.0}},
            "Gaussian d=2, KL=0.01 off-policy",
        ),
    ],
)
def test_labels(sides, label) -> None:
    assert GaussianPair(**sides).title == label


def rotated(eigenvalues, stream) -> np.ndarray:
    axes = np.linalg.qr(stream.normal(size=(len(eigenvalues), len(eigenvalues))))[0]
    cov = (axes * eigenvalues) @ axes.T
    return (cov + cov.T) / 2


def exact_gaussians(q, p) -> dict[str, mpmath.mpf]:
    """Divergences and the end of the moments of r, of the doubles as they are, at 100 digits."""
    with mpmath.workdps(100):
        (mean_q, cov_q), (mean_p, cov_p) = (
            (mpmath.matrix(m.tolist()), mpmath.matrix(c.tolist())) for m, c in (q, p)
        )
        shift = mean_p - mean_q

        def kl(a, b):
            inverse = b**-1
            product = inverse * a
            trace = mpmath.fsum(product[i, i] for i in range(product.rows))
            return (
                trace
                + (shift.T * inverse * shift)[0]
                - product.rows
                - mpmath.log(mpmath.det(product))
            ) / 2

        precision = 2 * cov_p**-1 - cov_q**-1
        linear = 2 * cov_p**-1 * shift
        log_moment = (
            -mpmath.log(mpmath.det(precision * cov_q) * mpmath.det(cov_p * cov_q**-1) ** 2) / 2
        )
        log_moment -= ((shift.T * linear)[0] - (linear.T * precision**-1 * linear)[0]) / 2
        largest = 1 / min(
            mpmath.eigsy(
                mpmath.cholesky(cov_q).T * cov_p**-1 * mpmath.cholesky(cov_q), eigvals_only=True
            )
        )
        finite = min(mpmath.eigsy(precision, eigvals_only=True)) > 0
        return {
            "kl_qp": kl(cov_q, cov_p),
            "kl_pq": kl(cov_p, cov_q),
            "tail": 1 - 1 / largest,
            "chi2": mpmath.expm1(log_moment) if finite else mpmath.inf,
        }


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("orders", [1, 4, 8, 11, 13, 14])
def test_ill_conditioned_covariances_keep_their_error_bounds(orders, seed) -> None:
    """Eigenvalues over ``orders`` powers of ten, alike in both.

    The bound grows with the condition, and holds.
    """
    stream = np.random.default_rng([orders, seed])
    cov = rotated(10.0 ** np.linspace(-8.0, orders - 8.0, 10), stream)
    factor = np.linalg.cholesky(cov)
    q = np.zeros(10), cov
    near = rotated(1.0 + 0.3 * stream.random(10), stream)
    p = 0.5 * factor @ stream.normal(size=10) / math.sqrt(10), factor @ near @ factor.T
    p = p[0], (p[1] + p[1].T) / 2
    pair, exact = pair_of(q, p), exact_gaussians(q, p)
    for target in ("kl_qp", "kl_pq", "chi2"):
        truth = pair.truth(target)
        if math.isfinite(truth.error) and math.isfinite(truth.value):
            assert abs(truth.value - exact[target]) <= truth.error, target
        assert target == "chi2" or orders > 11 or truth.error <= 10.0 ** (orders - 11) * truth.value
    if orders <= 11:
        assert pair.tail_index() == pytest.approx(float(exact["tail"]), abs=10.0 ** (orders - 12))
    (k3,) = pair.exact([estimators.get("k3")])
    assert (
        k3 is None
        or not math.isfinite(k3.mean_error)
        or abs(k3.mean - exact["kl_qp"]) <= k3.mean_error
    )


@pytest.mark.parametrize("seed", range(3))
def test_where_no_digit_is_sure_the_variances_of_p_are_not_taken_for_those_of_q(seed) -> None:
    """A variance of 1e-13 is no 1, however uncertain it is; its size decides the divergence."""
    stream = np.random.default_rng([14, seed])
    q, p = ((np.zeros(10), rotated(10.0 ** np.linspace(-8.0, 6.0, 10), stream)) for _ in range(2))
    truth = pair_of(q, p).truth("kl_qp")
    assert math.isinf(truth.error)
    assert truth.value == pytest.approx(float(exact_gaussians(q, p)["kl_qp"]), rel=0.5)


def test_scales_that_differ_cost_no_digits() -> None:
    """Standard deviations from 1e-6 to 1e6 in correlated coordinates.

    The condition that counts is that of the correlations.
    """
    stream = np.random.default_rng(0)
    scales = 10.0 ** np.linspace(-6.0, 6.0, 5)
    q, p = (
        (scales * m, scales[:, None] * c * scales)
        for m, c in (random_normal(stream, 5) for _ in range(2))
    )
    truth, exact = pair_of(q, p).truth("kl_qp"), exact_gaussians(q, p)
    assert abs(truth.value - exact["kl_qp"]) <= truth.error
    assert truth.error <= 1e-12 * truth.value
