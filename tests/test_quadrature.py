"""Exact moments by quadrature against closed forms and 60-digit arithmetic, at the borders.

No error bound is ever exceeded.

The oracle of most tests is ``G(j, s) = integral of mu^(1-j) q^(j-s) p^s``, whose b-th derivative by
s is ``E_mu[w^j r^s (log r)^b]``: a closed form for exponentials, Gaussians, and Laplace densities
of one location.
"""

import math
import warnings

import mpmath
import numpy as np
import pytest

from klbench import divergences, estimators, pairs
from klbench.estimators.bregman import bregman
from klbench.log_terms import log_terms
from klbench.quadrature import integrate
from klbench.types import Claims, Draws, Estimator

BREGMAN = (
    "bregman_kl_pq",
    "bregman_chi2",
    "bregman_hellinger",
    "bregman_alpha:3",
    "bregman_alpha:-0.7",
)
POLYNOMIALS = {
    name: estimators.get(name).polynomial for name in ("k1", "k2", "k3", "k_lambda:0.3", *BREGMAN)
}
WEIGHTED = {"k1_weighted": "k1", "k2_weighted": "k2", "k3_weighted": "k3"}


def exponential_moment(q, p, mu):
    def moment(j, s):
        rate = (1 - j) * mu + (j - s) * q + s * p
        return mu ** (1 - j) * q ** (j - s) * p**s / rate

    return moment


def gaussian_moment(q, p, mu):
    """Of ``(mean, std)``: complete the square."""

    def moment(j, s):
        parts = [(1 - j, *mu), (j - s, *q), (s, *p)]
        a = mpmath.fsum(c / sd**2 for c, m, sd in parts)
        b = mpmath.fsum(c * m / sd**2 for c, m, sd in parts)
        constant = mpmath.fsum(c * (m**2 / sd**2 / 2 + mpmath.log(sd)) for c, m, sd in parts)
        return mpmath.exp(b**2 / a / 2 - constant) / mpmath.sqrt(a)

    return moment


MOMENTS = {
    "exponential": exponential_moment,
    "gaussian": gaussian_moment,
    "laplace": exponential_moment,
}


def oracle_moments(moment, polynomial, j):
    """Mean and standard deviation of ``w^j`` times the polynomial, from ``E[w^j r^a (log r)^b] =
    G^(b)(j, a)``.
    """
    with mpmath.workdps(60):

        def mean_of(parts, j):
            return mpmath.fsum(
                mpmath.mpf(c)
                * mpmath.taylor(lambda s: moment(j, s), a, int(b))[-1]
                * mpmath.factorial(b)
                for c, a, b in parts
            )

        mean = mean_of([(c, mpmath.mpf(a), b) for c, a, b in polynomial], j)
        squares = [
            (mpmath.mpf(c) * d, mpmath.mpf(a) + e, b + f)
            for c, a, b in polynomial
            for d, e, f in polynomial
        ]
        return mean, mpmath.sqrt(mean_of(squares, 2 * j) - mean**2)


def near_the_border(kind: str, stream: np.random.Generator) -> tuple[dict, tuple]:
    """A pair whose chi-squared, or its own square, all but diverges, in klbench's words and in
    the oracle's.
    """
    near = 1.0 - 10.0 ** -stream.uniform(0.3, 4.0)
    order = stream.choice([1.0, 2.0, 3.0, 4.0])
    if kind == "gaussian":
        q, p, mu = (
            (0.0, 1.0),
            (stream.normal(), 1.0 / math.sqrt(1.0 - near / max(order, 1.0 + near))),
            (stream.normal(), 1.1),
        )
        words = {
            side: {"mean": m, "std": s} for side, (m, s) in zip("qpm", (q, p, mu), strict=True)
        }
        exact = [tuple(map(mpmath.mpf, side)) for side in (q, p, mu)]
    else:
        # E[r^order] needs a positive rate: 1 + order (b - 1) = 1 - near.
        rates = 1.0, 1.0 - near / order, stream.uniform(0.8, 1.2)
        scale = 10.0 ** stream.uniform(-3.0, 3.0)
        name, values = (
            ("rate", [r * scale for r in rates])
            if kind == "exponential"
            else ("scale", [scale / r for r in rates])
        )
        words = {side: {name: v} for side, v in zip("qpm", values, strict=True)}
        exact = [mpmath.mpf(v) if kind == "exponential" else 1 / mpmath.mpf(v) for v in values]
    return words, tuple(exact)


@pytest.mark.parametrize("kind", MOMENTS)
@pytest.mark.parametrize("seed", range(12))
def test_near_an_infinite_moment_no_error_bound_is_exceeded(kind, seed) -> None:
    words, (q, p, mu) = near_the_border(kind, np.random.default_rng([seed, len(kind)]))
    for off_policy in (False, True):
        pair = pairs.get(kind)(
            q=words["q"], p=words["p"], **({"mu": words["m"]} if off_policy else {})
        )
        moment = MOMENTS[kind](q, p, mu if off_policy else q)
        chosen = [*POLYNOMIALS, *(WEIGHTED if off_policy else ())]
        for name, exact in zip(
            chosen, pair.exact([estimators.get(name) for name in chosen]), strict=True
        ):
            if exact is None:
                assert not pair.finite_mean(estimators.get(name))
                continue
            j = int(name in WEIGHTED)
            mean, std = oracle_moments(moment, POLYNOMIALS[WEIGHTED.get(name, name)], j)
            assert (
                abs(exact.mean - mean) <= exact.mean_error or float(mean) == exact.mean == math.inf
            ), name
            if pair.finite_second_moment(estimators.get(name)) and std < 1e308:
                assert abs(exact.std - std) <= exact.std_error, name
                assert exact.std_error <= 1e-6 * exact.std, name
        for target in ("chi2", "kl_pq", "alpha:3", "alpha:-0.7"):
            truth = pair.truth(target)
            if math.isfinite(truth.value):
                value, _ = oracle_moments(
                    MOMENTS[kind](q, p, q), divergences.get(target).polynomial, 0
                )
                assert abs(truth.value - value) <= truth.error, target


@pytest.mark.parametrize(
    ("kind", "name", "value", "exact"),
    [
        ("exponential", "rate", 0.501, lambda b: b**2 / (2 * b - 1) - 1),
        ("exponential", "rate", 0.50001, lambda b: b**2 / (2 * b - 1) - 1),
        ("laplace", "scale", 1.99, lambda s: 1 / (s * (2 - s)) - 1),
        ("laplace", "scale", 1.99999, lambda s: 1 / (s * (2 - s)) - 1),
    ],
)
def test_chi_squared_where_its_terms_overflow_before_its_mass_ends(
    kind, name, value, exact
) -> None:
    truth = pairs.get(kind)(q={name: 1.0}, p={name: value}).truth("chi2")
    with mpmath.workdps(60):
        assert abs(truth.value - exact(mpmath.mpf(value))) <= truth.error
    assert truth.error <= 1e-7 * truth.value


@pytest.mark.parametrize(
    ("kind", "sides", "name", "std"),
    [
        ("exponential", {"q": {"rate": 1.0}, "p": {"rate": 0.501}}, "k3", 11.12454),
        ("gaussian", {"q": {"std": 1.0}, "p": {"mean": 1.0, "std": 1.4}}, "bregman_js", 175750.866),
        (
            "gaussian",
            {"q": {"std": 1.0}, "p": {"mean": 1.0}, "mu": {"mean": 0.5, "std": 0.72}},
            "k3_weighted",
            670.230864,
        ),
    ],
)
def test_standard_deviations_whose_mass_lies_where_squares_overflow(kind, sides, name, std) -> None:
    (exact,) = pairs.get(kind)(**sides).exact([estimators.get(name)])
    assert exact.std == pytest.approx(std, rel=1e-6)


def test_jensen_shannon_near_an_infinite_variance_at_60_digits() -> None:
    """No polynomial says how it grows, and its second moment ends far beyond where it overflows."""
    mean, std = 0.3, 1.4142
    (exact,) = pairs.get("gaussian")(q={"std": 1.0}, p={"mean": mean, "std": std}).exact(
        [estimators.get("bregman_js")]
    )
    with mpmath.workdps(60):
        m, s = mpmath.mpf(mean), mpmath.mpf(std)

        def term(x):
            log_ratio = -mpmath.log(s) - ((x - m) / s) ** 2 / 2 + x**2 / 2
            r = mpmath.exp(log_ratio)
            return (r * log_ratio - (1 + r) * mpmath.log((1 + r) / 2)) / 2

        cuts = [0, *(d * 3**k for k in range(9) for d in (-1, 1))]
        first, second = (
            mpmath.quad(lambda x, k=k: mpmath.npdf(x) * term(x) ** k, sorted(cuts)) for k in (1, 2)
        )
        assert abs(exact.mean - first) <= exact.mean_error
        assert abs(exact.std - mpmath.sqrt(second - first**2)) <= exact.std_error


def mixture(weights, means, stds) -> dict:
    return {"weights": list(weights), "means": list(means), "stds": list(stds)}


@pytest.mark.parametrize(
    "sides",
    [
        {"q": (0.0, 1.0), "p": (1.0, 1.2)},
        {"q": (0.0, 1.0), "p": (1.0, 1.4)},
        {"q": (0.0, 1.0), "p": (1.0, 1.0), "mu": (0.5, 0.72)},
        {"q": (1e9, 1e-3), "p": (1e9 + 1e-3, 1.2e-3)},
    ],
)
def test_a_mixture_of_one_component_is_the_gaussian_pair(sides) -> None:
    gaussian = pairs.get("gaussian")(**{k: {"mean": m, "std": s} for k, (m, s) in sides.items()})
    one = pairs.get("mixture")(**{k: mixture([1.0], [m], [s]) for k, (m, s) in sides.items()})
    chosen = [
        e
        for e in map(estimators.get, estimators.names())
        if e.batch is None and (len(sides) == 3 or not e.needs_weight)
    ]
    for e, a, b in zip(chosen, gaussian.exact(chosen), one.exact(chosen), strict=True):
        assert (a is None) == (b is None)
        if a is not None:
            assert abs(a.mean - b.mean) <= a.mean_error + b.mean_error, e.name
            assert a.std == b.std or abs(a.std - b.std) <= a.std_error + b.std_error, e.name
    for target in divergences.names():
        a, b = gaussian.truth(target), one.truth(target)
        assert a.value == b.value or abs(a.value - b.value) <= a.error + b.error


@pytest.mark.parametrize(
    ("distance", "width"), [(100.0, 0.01), (100.0, 1e-6), (1e6, 1e-3), (-1e12, 1e3), (3e9, 1.0)]
)
def test_narrow_modes_far_out_are_seen(distance, width) -> None:
    """Modes that share nothing: the KL is that of the weights, plus each mode's own."""
    q, p = (0.9, 0.1), (0.5, 0.5)
    pair = pairs.get("mixture")(
        q=mixture(q, [0.0, distance], [1.0, width]), p=mixture(p, [0.0, distance], [1.0, 2 * width])
    )
    truth = pair.truth("kl_qp")
    inner = math.log(2.0) + 1.0 / 8.0 - 0.5
    assert (
        abs(truth.value - (0.9 * math.log(1.8) + 0.1 * (math.log(0.2) + inner)))
        <= truth.error + 1e-15
    )
    assert truth.error <= 1e-12


def k3_crossings(limit):
    """Where ``exp(x) - 1 - x`` is the limit, by Lambert's W."""
    argument = -mpmath.exp(-1 - limit)
    return sorted(-1 - limit - mpmath.lambertw(argument, k).real for k in (0, -1))


@pytest.mark.parametrize("offset", [-6.8, 0.3, 40.0])
@pytest.mark.parametrize("narrow", [1.0, 1e-3])
def test_a_narrow_mode_close_to_the_middle_of_a_wide_one_is_seen(offset, narrow) -> None:
    """The narrow mode's own cell ends half-way to the middle of the wide one, amid the narrow
    one's mass.
    """
    wide, offset = 1e7, offset * narrow
    means, stds, of_q, of_p = (0.0, offset), (wide, narrow), (0.9, 0.1), (0.001, 0.999)
    sides = {
        side: {"weights": w, "means": means, "stds": stds} for side, w in (("q", of_q), ("p", of_p))
    }
    pair = pairs.get("mixture")(**sides)
    with mpmath.workdps(30):

        def log_density(weights):
            parts = [
                (mpmath.mpf(w), mpmath.mpf(m), mpmath.mpf(s))
                for w, m, s in zip(weights, means, stds, strict=True)
            ]
            return lambda x: mpmath.log(
                sum(w / s * mpmath.exp(-(((x - m) / s) ** 2) / 2) for w, m, s in parts)
            )

        log_q, log_p = log_density(of_q), log_density(of_p)
        near = {
            m + s * mpmath.mpf(k)
            for m, s in zip(means, stds, strict=True)
            for k in range(-14, 15, 2)
        }
        far = {
            offset + sign * mpmath.mpf(narrow) * 30 * 4**k for k in range(17) for sign in (-1, 1)
        }
        kl = mpmath.quad(
            lambda x: mpmath.exp(log_q(x)) * (log_q(x) - log_p(x)) / mpmath.sqrt(2 * mpmath.pi),
            sorted(near | far),
        )
    for known in pair.exact([estimators.get("k1"), estimators.get("k3")]):
        assert abs(known.mean - kl) <= known.mean_error < 1e-10
    truth = pair.truth("kl_qp")
    assert abs(truth.value - kl) <= truth.error


@pytest.mark.parametrize("scale", [1e-6, 1e-12])
def test_a_reference_far_narrower_than_the_policy_has_digits_to_its_value(scale) -> None:
    """``KL`` and ``E[k1] = E[k3]`` of ``N(0, 1)`` and ``N(0, s^2)`` are ``(s^-2 - 1) / 2 + log
    s``.
    """
    one = {"weights": (1.0,), "means": (0.0,)}
    pair = pairs.get("mixture")(q=one | {"stds": (1.0,)}, p=one | {"stds": (scale,)})
    with mpmath.workdps(40):
        s = mpmath.mpf(scale)
        kl = (s**-2 - 1) / 2 + mpmath.log(s)
        std = (s**-2 - 1) / mpmath.sqrt(2)
    k1, k3 = pair.exact([estimators.get("k1"), estimators.get("k3")])
    assert abs(k1.mean - kl) <= k1.mean_error < 1e-12 * kl
    assert abs(k3.mean - kl) <= k3.mean_error < 1e-12 * kl
    assert abs(k1.std - std) <= k1.std_error < 1e-12 * std


@pytest.mark.parametrize("df", [30.0, 1e4, 1e6, 1e10])
def test_student_t_of_many_degrees_of_freedom_keeps_its_normalizer(df) -> None:
    x = np.array([0.0, 1.5, -40.0])
    found = pairs.get("student_t")(q={"df": df}, p={"df": 1.0}).q.log_density(x)
    with mpmath.workdps(40):
        half = mpmath.mpf(df) / 2
        top = (
            mpmath.loggamma(half + 0.5)
            - mpmath.loggamma(half)
            - mpmath.log(2 * mpmath.pi * half) / 2
        )
        exact = [top - (half + 0.5) * mpmath.log1p(mpmath.mpf(float(each)) ** 2 / df) for each in x]
    for value, known in zip(found, exact, strict=True):
        assert abs(value - known) <= 1e-15 * (1 + abs(known))


@pytest.mark.parametrize("limit", ["0.5", "1e-6", "10", "1e6", "0.003"])
@pytest.mark.parametrize("mu", [(-0.3, 0.9), (0.2, 1.3)])
def test_the_ends_of_a_clamp_are_cut_points(limit, mu) -> None:
    """``q = N(0, 1)``, ``p = N(1, 1.2^2)``, samples of mu; the clamp begins at two log-ratios."""
    sides = {"q": {"std": 1.0}, "p": {"mean": 1.0, "std": 1.2}, "mu": {"mean": mu[0], "std": mu[1]}}
    (exact,) = pairs.get("gaussian")(**sides).exact([estimators.get(f"k3_clamped:{limit}")])
    with mpmath.workdps(30):
        bound, (m, s), v = mpmath.mpf(limit), map(mpmath.mpf, mu), mpmath.mpf(1.2) ** 2

        def log_ratio(x):
            return x**2 / 2 - (x - 1) ** 2 / (2 * v) - mpmath.log(v) / 2

        a, b, c = (1 - 1 / v) / 2, 1 / v, -1 / (2 * v) - mpmath.log(v) / 2
        roots = []
        for level in k3_crossings(bound):
            discriminant = b**2 - 4 * a * (c - level)
            roots += (
                [(-b + sign * mpmath.sqrt(discriminant)) / (2 * a) for sign in (-1, 1)]
                if discriminant > 0
                else []
            )
        cuts = sorted([*roots, *range(-16, 17)])

        def moment(k):
            return mpmath.quad(
                lambda x: (
                    mpmath.npdf(x, m, s)
                    * min(mpmath.expm1(log_ratio(x)) - log_ratio(x), bound) ** k
                ),
                cuts,
            )

        mean = moment(1)
        assert abs(exact.mean - mean) <= exact.mean_error
        assert exact.mean_error <= 1e-12 * exact.mean
        assert abs(exact.std - mpmath.sqrt(moment(2) - mean**2)) <= exact.std_error
    if limit == "0.5" and mu == (-0.3, 0.9):
        assert exact.mean == pytest.approx(0.24669108919, abs=1e-11)


@pytest.mark.parametrize(
    "name", [name for name in estimators.names() if estimators.get(name).batch is None]
)
def test_terms_have_derivatives_everywhere_but_at_their_kinks(name) -> None:
    """Second differences on a fine grid.

    A kink that is not declared stands out by orders of magnitude.
    """
    estimator = estimators.get(name)
    step = 1e-3
    for low, high in ((-26.0, -5.0), (-5.0, 5.0), (5.0, 26.0)):
        x = np.arange(low, high, step)
        terms = estimator.formula(Draws(x, np.zeros_like(x)))
        bent = np.abs(np.diff(terms, 2))
        smooth = np.ones(bent.size, bool)
        for kink in estimator.kinks:
            smooth &= np.abs(x[1:-1] - kink) > 2 * step
        scale = np.maximum(np.abs(terms[1:-1]), 1.0)
        assert np.max((bent / scale)[smooth], initial=0.0) <= 30.0 * step**2, name
        for kink in (
            k
            for k in estimator.kinks
            if low < k < high and np.ptp(terms[np.abs(x - k) < 3 * step]) > 0.0
        ):
            assert np.max((bent / scale)[np.abs(x[1:-1] - kink) <= 2 * step]) > 50.0 * step**2, name


@pytest.mark.parametrize(("df_q", "df_p"), [(0.2, 0.3), (8.0, 2.0), (1.0, 1e6)])
def test_heavy_tails_of_polynomials_are_followed_to_their_end(df_q, df_p) -> None:
    """Student's t with ``df = 0.2`` has 1e-3 of its mass beyond 1e14."""
    truth = pairs.get("student_t")(q={"df": df_q}, p={"df": df_p, "loc": 0.5}).truth("kl_qp")
    with mpmath.workdps(40):

        def log_t(x, df):
            half = mpmath.mpf(df) / 2
            constant = (
                mpmath.loggamma(half + 0.5) - mpmath.loggamma(half) - mpmath.log(mpmath.pi * df) / 2
            )
            return constant - (half + mpmath.mpf(1) / 2) * mpmath.log1p(x**2 / df)

        def integrand(u):
            """In ``x = sinh(u)``, where powers are exponentials."""
            x = mpmath.sinh(u)
            log_q = log_t(x, df_q)
            return mpmath.cosh(u) * mpmath.exp(log_q) * (log_q - log_t(x - mpmath.mpf(0.5), df_p))

        exact = mpmath.quad(
            integrand, [-1000, *range(-400, 0, 20), *range(-4, 5), *range(20, 401, 20), 1000]
        )
    assert abs(truth.value - exact) <= truth.error
    assert truth.error <= 1e-8 * truth.value


def test_an_unknown_growth_beyond_the_largest_float_has_no_certified_value() -> None:
    """``r (log r)^2`` grows with a logarithm that no polynomial tells.

    The bound says so where that matters.
    """

    def formula(draws: Draws) -> np.ndarray:
        return np.exp(draws.log_ratio) * draws.log_ratio**2

    term = Estimator(
        "own", formula, "kl_qp", "", "", Claims(unbiased=False, nonnegative=True), growth=1.0
    )
    q, p = {"rate": 1.0}, {"rate": 0.501}
    with np.errstate(over="ignore"):
        (exact,) = pairs.get("exponential")(q=q, p=p).exact([term])
    _, std = oracle_moments(
        exponential_moment(*map(mpmath.mpf, (1.0, 0.501, 1.0))), ((1.0, 1.0, 2),), 0
    )
    assert abs(exact.std - std) <= exact.std_error
    assert exact.std_error > 1e-4 * exact.std


def test_terms_in_log_space_are_the_terms() -> None:
    x = np.concatenate(
        [np.linspace(-30.0, 30.0, 61), [-2e4, -800.0, -400.0, 250.0, 400.0, 800.0, 2e4]]
    )
    for name in estimators.names():
        e = estimators.get(name)
        if e.batch is not None:
            continue
        sign, size, doubtful = log_terms(e, Draws(x, np.full_like(x, 0.3)))
        with np.errstate(all="ignore"):
            terms = e.formula(Draws(x, np.full_like(x, 0.3)))
            finite = np.isfinite(terms)
            np.testing.assert_allclose((sign * np.exp(size))[finite], terms[finite], rtol=1e-12)
        assert not doubtful.any()
        assert not np.isnan(size).any()
        assert np.all(np.isfinite(size) | (terms == 0.0)), name
    far = log_terms(bregman(divergences.get("alpha:3")), Draws(np.array([1e5])))
    assert (far[0][0], far[1][0]) == (1.0, pytest.approx(3e5 - math.log(6.0), rel=1e-12))


def test_integrals_are_as_good_as_their_error_says_and_silent() -> None:
    def function(x):
        values = np.stack([np.cos(x), np.abs(x - 0.3), 1.0 / (1e-4 + x * x)])
        return values, 4e-16 * np.abs(values)

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        value, error = integrate(function, [-1.0, 1.0])
        nothing, unknown = integrate(
            lambda x: (np.where(x > 0.5, np.inf, 1.0)[None], np.zeros((1, x.size))), [0.0, 1.0]
        )
    exact = [2.0 * math.sin(1.0), (1.3**2 + 0.7**2) / 2.0, 200.0 * math.atan(100.0)]
    assert np.all(np.abs(value - exact) <= error)
    assert np.all(error <= 1e-11 * value)
    assert not np.isfinite(nothing[0])
    assert unknown[0] == math.inf


def test_a_mean_beyond_a_float_leaves_no_nan() -> None:
    """Narrow modes far from each other.

    The reference's is 200 standard deviations out, seen from a sampler that is wide.
    """
    q, p, mu = (
        mixture([1.0], [13.6], [0.45]),
        mixture([1.0], [-17.1], [0.23]),
        mixture([1.0], [0.0], [8.0]),
    )
    chosen = [estimators.get(name) for name in ("k1", "k3", "bregman_js", "k3_clamped")]
    for exact in pairs.get("mixture")(q=q, p=p, mu=mu).exact(chosen):
        assert not math.isnan(exact.mean + exact.mean_error + exact.std + exact.std_error)


@pytest.mark.parametrize("gap", [40, 720, 800, 1400])
def test_categories_whose_ratio_is_beyond_a_float_are_weighed(gap) -> None:
    pair = pairs.get("categorical")(q={"logits": [0, -gap]}, p={"logits": [0, 0]})
    with mpmath.workdps(700):
        z = mpmath.log(1 + mpmath.exp(-gap))
        log_q, log_p = (-z, -gap - z), -mpmath.log(2)
        kl = sum(mpmath.exp(each) * (each - log_p) for each in log_q)
        variance = sum(
            mpmath.exp(each) * (mpmath.expm1(log_p - each) - (log_p - each) - kl) ** 2
            for each in log_q
        )
    (k3,) = pair.exact([estimators.get("k3")])
    assert abs(k3.mean - kl) <= k3.mean_error < 1e-11
    assert abs(k3.std - mpmath.sqrt(variance)) <= k3.std_error < 1e-11 * k3.std
    (chi2,) = pair.exact([estimators.get("bregman_chi2")])
    assert not math.isnan(chi2.mean)
    assert not math.isnan(chi2.std)
