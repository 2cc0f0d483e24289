"""Truths and exact moments of one-dimensional pairs against SciPy's own densities, its
quadrature, torch and mpmath.
"""

import math
from collections.abc import Callable
from functools import cache

import mpmath
import numpy as np
import pytest
import torch
from scipy import integrate, special, stats

from klbench import estimators, pairs
from klbench.types import Draws


class Mixture:
    def __init__(self, weights, means, stds) -> None:
        self._log_weights, self._parts = (
            np.log(weights),
            [stats.norm(m, s) for m, s in zip(means, stds, strict=True)],
        )

    def logpdf(self, x):
        parts = [w + part.logpdf(x) for w, part in zip(self._log_weights, self._parts, strict=True)]
        return special.logsumexp(parts, axis=0)

    def cdf(self, x):
        return sum(
            np.exp(w) * part.cdf(x) for w, part in zip(self._log_weights, self._parts, strict=True)
        )


INDEPENDENT: dict[str, Callable] = {
    "gaussian": lambda mean=0.0, std=1.0: stats.norm(mean, std),
    "exponential": lambda rate: stats.expon(scale=1.0 / rate),
    "laplace": lambda loc=0.0, scale=1.0: stats.laplace(loc, scale),
    "student_t": lambda df, loc=0.0, scale=1.0: stats.t(df, loc, scale),
    "mixture": Mixture,
}

# kind, q, p, mu, and where the independent quadrature cuts the line.
CASES = {
    "gaussian shift": ("gaussian", {"mean": 0.0}, {"mean": 1.0}, None, (-4, 0, 1, 5)),
    "gaussian narrower": (
        "gaussian",
        {"mean": 0.5, "std": 1.5},
        {"mean": 0.0, "std": 1.3},
        None,
        (-5, 0, 6),
    ),
    "gaussian wider": ("gaussian", {"std": 1.0}, {"mean": -0.6, "std": 1.3}, None, (-5, 0, 5)),
    "gaussian off-policy": (
        "gaussian",
        {"std": 1.0},
        {"mean": 0.4, "std": 0.8},
        {"mean": -0.3, "std": 1.4},
        (-5, 0, 5),
    ),
    "gaussian near": ("gaussian", {"mean": 0.0}, {"mean": 1e-3, "std": 1.001}, None, (-4, 0, 4)),
    "exponential light": ("exponential", {"rate": 1.0}, {"rate": 1.5}, None, (0, 1, 8)),
    "exponential heavy": ("exponential", {"rate": 2.0}, {"rate": 1.3}, None, (0, 1, 4, 12, 30)),
    "exponential off-policy": (
        "exponential",
        {"rate": 1.0},
        {"rate": 1.3},
        {"rate": 0.7},
        (0, 1, 8),
    ),
    "laplace": (
        "laplace",
        {"loc": 0.0, "scale": 1.0},
        {"loc": 0.5, "scale": 1.2},
        None,
        (-5, 0, 0.5, 6),
    ),
    "laplace narrower": (
        "laplace",
        {"loc": -1.0, "scale": 1.0},
        {"loc": 0.5, "scale": 0.7},
        None,
        (-20, -6, -1, 0.5, 5, 20),
    ),
    "laplace off-policy": (
        "laplace",
        {},
        {"loc": 0.5, "scale": 0.9},
        {"loc": 0.2, "scale": 1.3},
        (-6, 0, 0.2, 0.5, 6),
    ),
    "student-t": ("student_t", {"df": 8.0}, {"df": 6.0, "loc": 0.5}, None, (-6, 0, 0.5, 6)),
    "student-t lighter": (
        "student_t",
        {"df": 3.0},
        {"df": 5.0, "loc": 0.5, "scale": 1.2},
        None,
        (-9, 0, 0.5, 9),
    ),
    "student-t off-policy": (
        "student_t",
        {"df": 5.0},
        {"df": 6.0, "loc": 0.3},
        {"df": 4.0, "scale": 1.2},
        (-9, 0, 0.3, 9),
    ),
    "mixture": (
        "mixture",
        {"weights": [0.3, 0.7], "means": [-1.0, 1.0], "stds": [0.5, 1.0]},
        {"weights": [0.6, 0.4], "means": [-0.8, 1.2], "stds": [0.6, 1.1]},
        None,
        (-6, -3, -1, 1, 4, 6),
    ),
    "mixture far apart": (
        "mixture",
        {"weights": [0.5, 0.5], "means": [-15.0, 15.0], "stds": [1.0, 0.2]},
        {"weights": [0.1, 0.9], "means": [-15.0, 15.0], "stds": [0.9, 0.21]},
        None,
        (-20, -15, -10, 10, 14.5, 15, 15.5, 20),
    ),
    "mixture off-policy": (
        "mixture",
        {"weights": [0.3, 0.7], "means": [-1.0, 1.0], "stds": [0.5, 1.0]},
        {"weights": [1.0], "means": [0.2], "stds": [0.9]},
        {"weights": [1.0], "means": [0.0], "stds": [1.5]},
        (-6, -3, -1, 1, 4, 6),
    ),
}
NAMES = list(CASES)


@cache
def pair_of(case: str):
    kind, q, p, mu, _ = CASES[case]
    return pairs.get(kind)(q=q, p=p, **({"mu": mu} if mu is not None else {}))


@cache
def side(case: str, which: str):
    kind, q, p, mu, _ = CASES[case]
    return INDEPENDENT[kind](**{"q": q, "p": p, "mu": q if mu is None else mu}[which])


def integral(case: str, integrand: Callable[[np.ndarray], np.ndarray]) -> float:
    """By SciPy's tanh-sinh rule, which klbench does not use, cut where the mass is and where the
    densities have kinks.
    """
    kind, *_, cuts = CASES[case]
    edges = np.array(
        [*((0.0, *cuts[1:]) if kind == "exponential" else (-math.inf, *cuts)), math.inf]
    )

    def guarded(x):
        with np.errstate(all="ignore"):
            value = integrand(x)
        return np.where(np.isfinite(value), value, 0.0)  # beyond where the densities underflow

    with np.errstate(all="ignore"):
        pieces = integrate.tanhsinh(guarded, edges[:-1], edges[1:], rtol=1e-11, maxlevel=9)
    return math.fsum(pieces.integral)


def textbook(target: str, log_q: np.ndarray, log_p: np.ndarray) -> np.ndarray:
    """The integrand of a divergence, written in both densities."""
    q, p = np.exp(log_q), np.exp(log_p)
    if target == "kl_qp":
        return q * (log_q - log_p) - q + p
    if target == "kl_pq":
        return p * (log_p - log_q) - p + q
    if target == "js":
        log_m = np.logaddexp(log_q, log_p) - math.log(2.0)
        return (q * (log_q - log_m) + p * (log_p - log_m)) / 2
    if target == "hellinger":
        return (np.exp(log_q / 2) - np.exp(log_p / 2)) ** 2 / 2
    if target == "chi2":
        return np.exp(2 * log_p - log_q) - 2 * p + q
    a = float(target.partition(":")[2])
    return (np.exp(a * log_p + (1 - a) * log_q) - q - a * (p - q)) / (a * (a - 1))


@pytest.mark.parametrize("case", NAMES)
@pytest.mark.parametrize(
    "target", ["kl_qp", "kl_pq", "js", "hellinger", "chi2", "alpha:-1", "alpha:0.3"]
)
def test_truths_agree_with_quadrature_of_scipys_densities(case, target) -> None:
    truth = pair_of(case).truth(target)
    if math.isinf(truth.value):
        pytest.skip("infinite here: see test_finite_moments.py")
    q, p = side(case, "q"), side(case, "p")
    oracle = integral(case, lambda x: textbook(target, q.logpdf(x), p.logpdf(x)))
    assert abs(truth.value - oracle) <= truth.error + 1e-9 * oracle + 1e-13


@pytest.mark.parametrize("case", NAMES)
@pytest.mark.parametrize(
    "name",
    [
        "k1",
        "k2",
        "k3",
        "k_lambda:0.3",
        "bregman_kl_pq",
        "bregman_js",
        "bregman_chi2",
        "k3_clamped:1",
        "k1_weighted",
        "k2_weighted",
        "k3_weighted",
    ],
)
def test_exact_moments_agree_with_quadrature_of_terms(case, name) -> None:
    pair, estimator = pair_of(case), estimators.get(name)
    (exact,) = pair.exact([estimator])
    if exact is None:
        assert (estimator.needs_weight and not pair.off_policy) or not pair.finite_mean(estimator)
        return
    q, p, sampler = (side(case, which) for which in ("q", "p", "mu"))

    def weighted(x: np.ndarray, function: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
        log_q, log_sampler = q.logpdf(x), sampler.logpdf(x)
        return np.exp(log_sampler) * function(
            estimator.terms(Draws(p.logpdf(x) - log_q, log_q - log_sampler))
        )

    mean = integral(case, lambda x: weighted(x, lambda terms: terms))
    rough = 1e3 if "clamped" in name else 1.0  # at its kink the oracle is less sure
    assert abs(exact.mean - mean) <= exact.mean_error + rough * (1e-8 * abs(mean) + 1e-12)
    if pair.finite_second_moment(estimator):
        variance = integral(case, lambda x: weighted(x, lambda terms: (terms - mean) ** 2))
        assert exact.std == pytest.approx(math.sqrt(variance), rel=rough * 1e-7, abs=1e-10)
    else:
        assert exact.std == math.inf


@pytest.mark.parametrize("case", NAMES)
def test_samples_and_densities_are_those_of_the_distribution(case) -> None:
    """Kolmogorov-Smirnov, at a fixed seed; the densities point by point.

    Gaussians draw no x: their ratios are compared.
    """
    pair, q, p, sampler = pair_of(case), *(side(case, which) for which in ("q", "p", "mu"))
    if CASES[case][0] == "gaussian":
        x = sampler.rvs(20_000, random_state=8)
        draws = pair.draw(np.random.default_rng(3), 20_000)
        assert stats.ks_2samp(draws.log_ratio, p.logpdf(x) - q.logpdf(x)).pvalue > 1e-4
        if pair.off_policy:
            assert stats.ks_2samp(draws.log_weight, q.logpdf(x) - sampler.logpdf(x)).pvalue > 1e-4
        return
    x = pair.sampler.sample(np.random.default_rng(3), 20_000)
    assert stats.kstest(x, sampler.cdf).pvalue > 1e-4
    draws = pair.draws_at(x[:100])
    np.testing.assert_allclose(
        draws.log_ratio, p.logpdf(x[:100]) - q.logpdf(x[:100]), rtol=1e-10, atol=1e-12
    )
    if pair.off_policy:
        np.testing.assert_allclose(
            draws.log_weight, q.logpdf(x[:100]) - sampler.logpdf(x[:100]), rtol=1e-10, atol=1e-12
        )


def torch_normal(mean=0.0, std=1.0):
    return torch.distributions.Normal(*torch.tensor([mean, std], dtype=torch.float64))


def torch_exponential(rate):
    return torch.distributions.Exponential(torch.tensor(rate, dtype=torch.float64))


def torch_laplace(loc=0.0, scale=1.0):
    return torch.distributions.Laplace(*torch.tensor([loc, scale], dtype=torch.float64))


TORCH = {"gaussian": torch_normal, "exponential": torch_exponential, "laplace": torch_laplace}


@pytest.mark.parametrize("case", [case for case in NAMES if CASES[case][0] in TORCH])
def test_closed_forms_agree_with_torch(case) -> None:
    kind, q, p, _, _ = CASES[case]
    a, b = TORCH[kind](**q), TORCH[kind](**p)
    for target, sides in (("kl_qp", (a, b)), ("kl_pq", (b, a))):
        truth = pair_of(case).truth(target)
        assert truth.method == "closed-form"
        assert truth.value == pytest.approx(
            torch.distributions.kl_divergence(*sides).item(), rel=1e-12, abs=1e-14
        )


def quadrature_at_50_digits(function, points):
    with mpmath.workdps(50):
        return mpmath.quad(function, points)


@pytest.mark.parametrize(("mean", "std"), [(1.0, 1.0), (-0.7, 1.3), (0.02, 1.01)])
def test_gaussian_truths_keep_their_error_bounds_at_50_digits(mean, std) -> None:
    """The parameters are the doubles' exact values; each bound is honest, and tight."""
    pair = pairs.get("gaussian")(q={"mean": 0.0}, p={"mean": mean, "std": std})
    m, s = mpmath.mpf(mean), mpmath.mpf(std)

    def log_ratio(x):
        return -mpmath.log(s) - ((x - m) / s) ** 2 / 2 + x**2 / 2

    gaps = {
        "kl_qp": lambda x: mpmath.expm1(x) - x,
        "kl_pq": lambda x: mpmath.exp(x) * x - mpmath.expm1(x),
        "js": lambda x: (
            (mpmath.exp(x) * x - (1 + mpmath.exp(x)) * mpmath.log((1 + mpmath.exp(x)) / 2)) / 2
        ),
        "hellinger": lambda x: mpmath.expm1(x / 2) ** 2 / 2,
        "chi2": lambda x: mpmath.expm1(x) ** 2,
    }
    for target, gap in gaps.items():
        exact = quadrature_at_50_digits(
            lambda x, gap=gap: mpmath.npdf(x) * gap(log_ratio(x)), [-50, -12, 0, 12, 50]
        )
        truth = pair.truth(target)
        assert abs(truth.value - exact) <= truth.error
        assert truth.error <= 1e-9 * truth.value


def exact_kl(kind: str, q: dict, p: dict) -> mpmath.mpf:
    with mpmath.workdps(60):
        q, p = ({k: mpmath.mpf(v) for k, v in each.items()} for each in (q, p))
        if kind == "gaussian":
            squares = (q["std"] ** 2 + (q["mean"] - p["mean"]) ** 2) / p["std"] ** 2
            return mpmath.log(p["std"] / q["std"]) + (squares - 1) / 2
        if kind == "exponential":
            return mpmath.log(q["rate"] / p["rate"]) + p["rate"] / q["rate"] - 1
        distance = abs(q["loc"] - p["loc"])
        tail = q["scale"] / p["scale"] * mpmath.exp(-distance / q["scale"])
        return mpmath.log(p["scale"] / q["scale"]) + distance / p["scale"] + tail - 1


@pytest.mark.parametrize("gap", [1e-9, 1e-6, 1e-4, 1e-2, 0.5, 3.0])
@pytest.mark.parametrize(
    ("kind", "shift", "scale"),
    [
        ("gaussian", "mean", "std"),
        ("laplace", "loc", "scale"),
        ("exponential", None, "rate"),
    ],
)
def test_near_and_far_the_error_bound_holds(kind, shift, scale, gap) -> None:
    """Near ``p = q`` the divergence is far smaller than what it is made of."""
    q, p = {scale: 1.0}, {scale: 1.0 + gap}
    if shift is not None:
        q[shift], p[shift] = 0.25, 0.25 + gap / 3
    pair = pairs.get(kind)(q=q, p=p)
    for target, exact in (("kl_qp", exact_kl(kind, q, p)), ("kl_pq", exact_kl(kind, p, q))):
        truth = pair.truth(target)
        assert abs(truth.value - exact) <= truth.error
        assert truth.error <= max(1e-13, 1e-14 / gap) * truth.value


def moment_of_gaussians(s, mean, std):
    """``E_q[r^s] = integral of p^s q^(1-s)``, q standard: complete the square."""
    with mpmath.workdps(60):
        s, mean, std = mpmath.mpf(s), mpmath.mpf(mean), mpmath.mpf(std)
        precision = s / std**2 + 1 - s
        linear = s * mean / std**2
        return (
            std**-s
            / mpmath.sqrt(precision)
            * mpmath.exp(-(s * mean**2 / std**2 - linear**2 / precision) / 2)
        )


@pytest.mark.parametrize(
    ("mean", "std"), [(0.1, 1.0), (1e-3, 1.0), (0.5, 1.3), (0.02, 1.01), (0.0, 1.0001), (2.0, 0.3)]
)
@pytest.mark.parametrize(
    ("target", "power", "scale"),
    [
        ("chi2", 2.0, 1.0),
        ("hellinger", 0.5, -1.0),
        ("alpha:-0.4", -0.4, 1 / 0.56),
        ("alpha:0.3", 0.3, -1 / 0.21),
        ("alpha:3", 3.0, 1 / 6),
    ],
)
def test_truths_from_the_moment_function_keep_their_error_bounds(
    target, power, scale, mean, std
) -> None:
    truth = pairs.get("gaussian")(q={"mean": 0.0}, p={"mean": mean, "std": std}).truth(target)
    if power / std**2 + 1 - power <= 0:
        assert truth.value == math.inf
    else:
        exact = mpmath.mpf(scale) * (moment_of_gaussians(power, mean, std) - 1)
        assert abs(truth.value - exact) <= truth.error


@pytest.mark.parametrize("bent", [0.0, 1e-9, 1e-5, 1e-2])
@pytest.mark.parametrize(("dimension", "condition"), [(1, 0.0), (2, 0.0), (3, 3.0), (6, 4.0)])
def test_exact_moments_of_nearly_equal_gaussians_keep_within_their_bounds(
    dimension, condition, bent
) -> None:
    """The KL, the mean of k1 and its variance ``tr((S_p^-1 S_q - 1)^2)/2 + d' S_p^-1 S_q S_p^-1
    d``, at 80 digits.
    """
    stream = np.random.default_rng(dimension)
    axes, _ = np.linalg.qr(stream.normal(size=(dimension, dimension)))
    cov = (axes * 10.0 ** np.linspace(-condition / 2, condition / 2, dimension)) @ axes.T
    cov, shift = 0.5 * (cov + cov.T), stream.normal(size=dimension) * 1e-4
    q, p = (
        {"mean": [0.0] * dimension, "cov": cov.tolist()},
        {"mean": shift.tolist(), "cov": (cov * (1.0 + bent)).tolist()},
    )
    pair = pairs.get("gaussian")(q=q, p=p)
    with mpmath.workdps(80):
        of_q, of_p, d = (mpmath.matrix(each) for each in (q["cov"], p["cov"], p["mean"]))
        inverse, one = of_p**-1, mpmath.eye(dimension)

        def trace(matrix):
            return sum(matrix[i, i] for i in range(dimension))

        off = inverse * of_q - one
        log_det = mpmath.log(mpmath.det(of_p) / mpmath.det(of_q))
        kl = (trace(off) + (d.T * inverse * d)[0] + log_det) / 2
        std = mpmath.sqrt(trace(off * off) / 2 + (d.T * inverse * of_q * inverse * d)[0])
    (k1,), truth = pair.exact([estimators.get("k1")]), pair.truth("kl_qp")
    assert abs(truth.value - kl) <= truth.error
    assert abs(k1.mean - kl) <= k1.mean_error
    assert abs(k1.std - std) <= k1.std_error
