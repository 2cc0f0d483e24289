import math
from functools import cache

import mpmath
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from klbench import divergences, numerics
from klbench.pairs.categorical import CategoricalPair
from klbench.types import ConfigError, Draws

BOUND = 16.0  # units in the last place, as Divergence.gap has it
TORCH = {np.float64: torch.float64, np.float32: torch.float32}


def alpha_gap(alpha):
    a = mpmath.mpf(alpha)
    return lambda x: (mpmath.exp(a * x) - 1 - a * mpmath.expm1(x)) / (a * (a - 1))


def alpha_slope(alpha):
    a = mpmath.mpf(alpha)
    return lambda x: (mpmath.exp(a * x) - mpmath.exp(x)) / (a - 1)


# The gap at r = exp(x), and its derivative in x, as anyone would write them; at 100 digits nothing
# is lost.
ORACLES = {
    "kl_qp": (lambda x: mpmath.exp(x) - 1 - x, lambda x: mpmath.exp(x) - 1),
    "kl_pq": (lambda x: mpmath.exp(x) * x - mpmath.exp(x) + 1, lambda x: mpmath.exp(x) * x),
    "js": (
        lambda x: (
            (mpmath.exp(x) * x - (1 + mpmath.exp(x)) * mpmath.log((1 + mpmath.exp(x)) / 2)) / 2
        ),
        lambda x: mpmath.exp(x) * mpmath.log(2 * mpmath.exp(x) / (1 + mpmath.exp(x))) / 2,
    ),
    "hellinger": (
        lambda x: (mpmath.exp(x / 2) - 1) ** 2 / 2,
        lambda x: mpmath.exp(x / 2) * (mpmath.exp(x / 2) - 1) / 2,
    ),
    "chi2": (lambda x: (mpmath.exp(x) - 1) ** 2, lambda x: 2 * mpmath.exp(x) * (mpmath.exp(x) - 1)),
    **{f"alpha:{a:g}": (alpha_gap(a), alpha_slope(a)) for a in (-1.0, 0.5, 2.0, 3.0)},
}
NAMES = list(ORACLES)


@cache
def points(dtype: type) -> np.ndarray:
    switches = (*numerics.SWITCH.values(), 0.25, 1 / 3, 0.5, 1.0, 2.0, 5.0)
    around = [s * (1.0 + 0.004 * k) for s in switches for k in range(-8, 9)]
    beside = [np.nextafter(s, side) for s in switches for side in (0.0, 9.0)]
    sizes = np.array([*np.geomspace(1e-12, 80.0, 120), *around, *beside])
    return np.concatenate([-sizes, sizes]).astype(dtype)


@cache
def exact(name: str, dtype: type, which: int) -> list[mpmath.mpf]:
    with mpmath.workdps(100):
        return [ORACLES[name][which](mpmath.mpf(float(x))) for x in points(dtype)]


def quietly(name, x):
    with np.errstate(all="ignore"):  # infinities are looked at in the result
        return divergences.get(name).gap(Draws(x))


LAYOUTS = {
    "vector": lambda x: x,
    "matrix": lambda x: x.reshape(2, -1),
    "strided": lambda x: np.repeat(x, 3)[::3],
    "fortran": lambda x: np.asfortranarray(x.reshape(2, -1)),
}


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", TORCH)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_gaps_are_accurate_to_the_last_places(name, dtype, layout, worst_ulps) -> None:
    x = LAYOUTS[layout](points(dtype))
    got = quietly(name, x)
    assert got.dtype == dtype
    assert got.shape == x.shape
    assert worst_ulps(got, exact(name, dtype, 0), dtype) <= BOUND


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", TORCH)
def test_gaps_are_accurate_without_far_company(name, dtype, worst_ulps) -> None:
    """Some gaps go another way where no log-ratio is large."""
    near = np.abs(points(dtype)) <= 5.0
    truth = [t for t, keep in zip(exact(name, dtype, 0), near, strict=True) if keep]
    assert worst_ulps(quietly(name, points(dtype)[near]), truth, dtype) <= BOUND


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", TORCH)
@pytest.mark.parametrize("company", ["far", "near"])
def test_gaps_and_their_gradients_are_accurate_in_torch(name, dtype, company, worst_ulps) -> None:
    keep = np.abs(points(dtype)) <= (5.0 if company == "near" else 80.0)
    x = torch.tensor(points(dtype)[keep], requires_grad=True)
    got = divergences.get(name).gap(Draws(x))
    got.sum().backward()
    assert got.dtype == TORCH[dtype]
    values, slopes = (
        [t for t, k in zip(exact(name, dtype, i), keep, strict=True) if k] for i in (0, 1)
    )
    assert worst_ulps(got.detach(), values, dtype) <= BOUND
    # Where the value itself overflows there is no gradient to speak of.
    finite = np.isfinite(got.detach().numpy())
    assert (
        worst_ulps(x.grad[finite], [s for s, ok in zip(slopes, finite, strict=True) if ok], dtype)
        <= BOUND
    )


@pytest.mark.parametrize(
    "alpha", [0.001, 0.01, 0.1, 0.9, 0.99, 0.999, 1.01, 1.5, -0.01, -2.5, 6.0, -6.0]
)
def test_the_alpha_family_loses_no_more_than_its_scale_towards_its_limits(
    alpha, worst_ulps
) -> None:
    """At 0 and 1 the definition is 0/0: so many places are lost as 1/(alpha (1 - alpha)) has."""
    x = points(np.float64)
    with mpmath.workdps(100):
        truth = [alpha_gap(alpha)(mpmath.mpf(float(each))) for each in x]
    assert worst_ulps(quietly(f"alpha:{alpha}", x), truth, np.float64) <= BOUND / min(
        1.0, 4.0 * abs(alpha * (1.0 - alpha))
    )


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", TORCH)
def test_gradients_survive_where_the_ratio_underflows(name, dtype) -> None:
    """As r -> 0 the gap goes to a constant, or grows like -log r.

    The alpha family below 0 has overflowed.
    """
    x = torch.tensor([-1000.0], dtype=TORCH[dtype], requires_grad=True)
    divergences.get(name).gap(Draws(x)).sum().backward()
    assert x.grad.item() == pytest.approx(
        {"kl_qp": -1.0, "alpha:-1": -math.inf}.get(name, 0.0), abs=1e-200
    )


@pytest.mark.parametrize(
    "name", [*NAMES, "alpha:20", "alpha:-20", "alpha:-2.5", "alpha:0.1", "alpha:-0.1"]
)
@pytest.mark.parametrize("dtype", TORCH)
def test_a_gap_overflows_only_where_its_value_does(name, dtype, worst_ulps) -> None:
    """Up to the last place before it.

    And its gradient is infinite, not 0 times infinity, from there on.
    """
    divergence = divergences.get(name)
    alpha = float(name[6:]) if name.startswith("alpha:") else None
    gap = ORACLES[name][0] if name in ORACLES else alpha_gap(alpha)
    largest = math.log(float(np.finfo(dtype).max))
    edges = [_edge(gap, 0.0, 2.0 * largest, np.finfo(dtype).max)]
    if alpha is not None and alpha < 0.0:
        edges.append(_edge(gap, 0.0, -20.0 * largest, np.finfo(dtype).max))
    for edge in edges:
        inside = (edge * (1.0 - np.geomspace(1e-6, 0.9, 60))).astype(dtype)
        x = torch.tensor(
            np.concatenate([inside, np.array([1.001, 1.5, 100.0]) * edge]).astype(dtype),
            requires_grad=True,
        )
        got = divergence.gap(Draws(x))
        got.sum().backward()
        with mpmath.workdps(60):
            truth = [gap(mpmath.mpf(float(each))) for each in inside]
        assert torch.isfinite(got[:60]).all()
        allowed = (
            BOUND
            if alpha is None
            else max(BOUND, abs(alpha)) / min(1.0, 4.0 * abs(alpha * (1.0 - alpha)))
        )
        assert worst_ulps(got[:60].detach(), truth, dtype) <= allowed
        assert got[60:].tolist() == [math.inf] * 3
        assert x.grad[60:].tolist() == [math.copysign(math.inf, edge)] * 3
        assert not x.grad.isnan().any()


def _edge(gap, low, high, largest) -> float:
    """Where the gap is the largest float, by bisection."""
    with mpmath.workdps(40):
        for _ in range(80):
            middle = (low + high) / 2.0
            low, high = (
                (low, middle)
                if gap(mpmath.mpf(middle)) > mpmath.mpf(float(largest))
                else (middle, high)
            )
    return low


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("make", [np.asarray, torch.asarray])
@pytest.mark.parametrize("shape", [(), (0,), (0, 3), (1,), (2, 0)])
def test_shape_is_kept_even_where_there_is_nothing(name, make, shape) -> None:
    assert tuple(divergences.get(name).gap(Draws(make(np.full(shape, 0.25)))).shape) == shape


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("make", [np.asarray, torch.asarray])
@pytest.mark.parametrize("dtype", TORCH)
def test_overflow_is_infinite_and_nan_stays_where_it_was(name, make, dtype) -> None:
    x = [1000.0, np.nan, 0.5, -3.0, 1000.0, -1000.0]
    got = np.asarray(quietly(name, make(np.array(x, dtype=dtype))), dtype=float)
    assert got[0] == got[4] == np.inf
    assert np.isnan(got[1])
    alone = [float(quietly(name, make(np.array([each], dtype=dtype)))[0]) for each in x[2:]]
    np.testing.assert_allclose(got[2:], alone, rtol=1e-6)


@pytest.mark.parametrize("name", ["kl_qp", "kl_pq", "js", "hellinger", "alpha:0.5", "alpha:2"])
def test_the_definition_as_written_loses_most_places_on_these_points(name, worst_ulps) -> None:
    """Why gaps are functions of the log-ratio, and that these points can tell."""
    divergence = divergences.get(name)
    with np.errstate(all="ignore"):
        r = np.exp(points(np.float32))
        one = np.float32(1.0)
        naive = divergence.f(r) - divergence.f(one) - divergence.df(one) * (r - one)
        near = np.abs(points(np.float32)) < 5.0
    truth = [t for t, keep in zip(exact(name, np.float32, 0), near, strict=True) if keep]
    assert worst_ulps(naive[near], truth, np.float32) > 1e5


@pytest.mark.parametrize("name", [*NAMES, "alpha"])
def test_generator_derivative_curvature_and_gap_belong_together(name) -> None:
    divergence = divergences.get(name)
    r = torch.tensor([0.05, 0.4, 1.0, 1.7, 9.0], dtype=torch.float64, requires_grad=True)
    one = torch.ones(1, dtype=torch.float64, requires_grad=True)
    torch.testing.assert_close(
        divergence.df(r), torch.autograd.grad(divergence.f(r).sum(), r)[0], rtol=1e-12, atol=1e-14
    )
    assert float(divergence.f(one).detach()) == pytest.approx(0.0, abs=1e-15)
    assert torch.autograd.grad(divergence.df(one).sum(), one)[0].item() == pytest.approx(
        divergence.curvature, rel=1e-12
    )
    definition = divergence.f(r) - divergence.f(one) - divergence.df(one) * (r - 1.0)
    torch.testing.assert_close(
        divergence.gap(Draws(torch.log(r))), definition, rtol=1e-10, atol=1e-14
    )


@pytest.mark.parametrize("name", [n for n in [*NAMES, "alpha"] if divergences.get(n).polynomial])
def test_polynomial_is_the_gap(name) -> None:
    divergence = divergences.get(name)
    x = np.array([-4.0, -1.0, 0.5, 2.0, 6.0])
    parts = np.array([c * np.exp(a * x) * x**b for c, a, b in divergence.polynomial])
    assert np.all(
        np.abs(parts.sum(axis=0) - divergence.gap(Draws(x))) <= 1e-14 * np.abs(parts).sum(axis=0)
    )


@pytest.mark.parametrize("name", [*NAMES, "alpha:0.1", "alpha:-2.5"])
def test_growth_is_how_fast_the_gap_grows(name) -> None:
    divergence = divergences.get(name)
    with np.errstate(over="ignore"):
        up = np.log(divergence.gap(Draws(np.array([100.0, 200.0]))))
        down = np.log(divergence.gap(Draws(np.array([-100.0, -200.0]))))
    assert (up[1] - up[0]) / 100 == pytest.approx(divergence.growth, abs=0.01)
    assert (down[1] - down[0]) / 100 == pytest.approx(divergence.growth_at_zero, abs=0.01)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("alpha:0", r"keep 0\.001 from 0 and 1, got 0\.0; those limits are kl_qp and kl_pq"),
        ("alpha:1", r"keep 0\.001 from 0 and 1, got 1\.0"),
        ("alpha:0.9995", "keep 0.001 from 0 and 1"),
        ("alpha:nan", "within -20 and 20, got nan"),
        ("alpha:-21", "within -20 and 20, got -21"),
        ("alpha:x", "expected a number after the colon, got 'x'"),
        ("helinger", "unknown divergence 'helinger'; did you mean 'hellinger'"),
        ("js:2", "js takes no number"),
    ],
)
def test_a_wrong_name_or_number_is_answered_with_what_is_allowed(name, message) -> None:
    with pytest.raises(ConfigError, match=message):
        divergences.get(name)


def test_a_generator_of_ones_own_is_a_bregman_gap() -> None:
    def f(r):
        return 3.0 * (r - 1.0) ** 2 + 5.0 * r + 7.0

    mine = divergences.generator("mine", f, lambda r: 6.0 * (r - 1.0) + 5.0, growth=2.0)
    x = np.array([-2.0, -0.1, 0.0, 0.3, 2.5])
    np.testing.assert_allclose(mine.gap(Draws(x)), 3.0 * np.expm1(x) ** 2, rtol=1e-12, atol=1e-13)
    assert mine.growth == 2.0


# ---- properties of the divergences themselves, over random categoricals


def two_sides(n: int):
    side = st.lists(st.floats(-5.0, 5.0), min_size=n, max_size=n)
    return st.tuples(side, side)


logits = st.integers(2, 6).flatmap(two_sides)


def softmax(values):
    weights = np.exp(np.array(values) - max(values))
    return weights / weights.sum()


def pair_of(q, p):
    return CategoricalPair(q={"logits": tuple(q)}, p={"logits": tuple(p)})


def by_definition(name, q, p):
    """The divergences as they stand in textbooks: not a word of ratios or gaps."""
    m = (q + p) / 2
    if name.startswith("alpha:"):
        a = float(name[6:])
        return (np.sum(p**a * q ** (1 - a)) - 1) / (a * (a - 1))
    return {
        "kl_qp": np.sum(q * np.log(q / p)),
        "kl_pq": np.sum(p * np.log(p / q)),
        "js": np.sum(q * np.log(q / m)) / 2 + np.sum(p * np.log(p / m)) / 2,
        "hellinger": np.sum((np.sqrt(q) - np.sqrt(p)) ** 2) / 2,
        "chi2": np.sum((p - q) ** 2 / q),
    }[name]


@pytest.mark.parametrize("name", NAMES)
@given(sides=logits)
def test_the_mean_gap_is_the_divergence(name, sides) -> None:
    truth = pair_of(*sides).truth(name).value
    assert truth == pytest.approx(
        by_definition(name, softmax(sides[0]), softmax(sides[1])), rel=1e-9, abs=1e-13
    )
    assert truth >= 0.0


@given(sides=logits)
def test_ratios_average_to_one(sides) -> None:
    pair = pair_of(*sides)
    log_ratio, _, _, log_probabilities = pair._atoms
    probabilities = np.exp(log_probabilities)
    assert math.fsum(probabilities * np.exp(log_ratio)) == pytest.approx(1.0, rel=1e-12)


@pytest.mark.parametrize(
    ("name", "dual"),
    [
        ("kl_qp", "kl_pq"),
        ("js", "js"),
        ("hellinger", "hellinger"),
        ("alpha:0.3", "alpha:0.7"),
        ("alpha:-1", "alpha:2"),
    ],
)
@given(sides=logits)
def test_swapping_the_sides_gives_the_dual(name, dual, sides) -> None:
    q, p = sides
    assert pair_of(q, p).truth(name).value == pytest.approx(
        pair_of(p, q).truth(dual).value, rel=1e-10, abs=1e-15
    )


@given(sides=logits)
def test_known_inequalities_and_identities_hold(sides) -> None:
    value = {name: pair_of(*sides).truth(name).value for name in NAMES}
    slack = 1e-12
    assert value["js"] <= math.log(2.0) + slack
    assert value["hellinger"] <= 1.0 + slack
    assert 2.0 * value["hellinger"] <= min(value["kl_qp"], value["kl_pq"]) + slack
    assert value["kl_pq"] <= math.log1p(value["chi2"]) + slack
    assert value["chi2"] == pytest.approx(2.0 * value["alpha:2"], rel=1e-12, abs=1e-15)
    assert value["hellinger"] == pytest.approx(value["alpha:0.5"] / 4.0, rel=1e-12, abs=1e-15)


@pytest.mark.parametrize("name", NAMES)
@given(sides=logits, seed=st.integers(0, 1000))
def test_relabelling_the_categories_changes_nothing(name, sides, seed) -> None:
    order = np.random.default_rng(seed).permutation(len(sides[0]))
    moved = pair_of(*(np.array(side)[order] for side in sides))
    assert moved.truth(name).value == pytest.approx(
        pair_of(*sides).truth(name).value, rel=1e-12, abs=1e-15
    )


@pytest.mark.parametrize("name", NAMES)
@given(q=st.lists(st.floats(-2.0, 2.0), min_size=3, max_size=5), seed=st.integers(0, 1000))
def test_near_p_equal_q_only_the_curvature_counts(name, q, seed) -> None:
    """``D_f = f''(1)/2 E_q[(r - 1)^2] + O(tilt^3)``.

    A curvature wrong by a hundredth would show.
    """
    tilt = np.random.default_rng(seed).uniform(0.5, 1.0, len(q)) * np.array(
        [(-1) ** i for i in range(len(q))]
    )
    pair = pair_of(q, np.array(q) + 1e-4 * tilt)
    leading = divergences.get(name).curvature / 2 * pair.truth("chi2").value
    assert pair.truth(name).value == pytest.approx(leading, rel=2e-3)
