"""Every registered estimator against the promises of its kind: arrays, names, values."""

import itertools
import pickle
from functools import cache

import array_api_strict
import cloudpickle
import numpy as np
import pytest
import torch

from klbench import divergences, estimators
from klbench.pairs.categorical import CategoricalPair
from klbench.pairs.exponential import ExponentialPair
from klbench.pairs.gaussian import GaussianPair
from klbench.pairs.laplace import LaplacePair
from klbench.types import Clamp, Draws

FAMILY_MEMBERS = [
    "k_lambda:0",
    "k_lambda:1",
    "k_lambda:0.3",
    "k_lambda_pq:0",
    "k_lambda_pq:0.4",
    "bregman_alpha:-1",
    "bregman_alpha:2",
    "bregman_alpha:0.1",
    "k3_clamped:2",
    "k3_clamped:0.05",
]
NAMES = [*estimators.names(), *FAMILY_MEMBERS]
EPS = np.finfo(np.float64).eps

every = pytest.mark.parametrize("name", NAMES)


def sample(shape, seed=0) -> tuple[np.ndarray, np.ndarray]:
    stream = np.random.default_rng(seed)
    log_ratio = stream.normal(-0.2, 0.9, shape)
    log_ratio.flat[:3] = 1e-9, 6.0, -7.0  # both sides of every internal switch
    return log_ratio, stream.normal(-0.1, 0.5, shape)


def terms(name, log_ratio, log_weight):
    estimator = estimators.get(name)
    return estimator.terms(Draws(log_ratio, log_weight if estimator.needs_weight else None))


def strict(x):
    return array_api_strict.asarray(x, copy=True)


def read_only(x):
    x = x.copy()
    x.flags.writeable = False
    return x


BACKENDS = {
    "numpy": lambda x: x.copy(),
    "numpy read-only": read_only,
    "numpy float32": lambda x: x.astype(np.float32),
    "torch": lambda x: torch.tensor(x),
    "torch float32": lambda x: torch.tensor(x, dtype=torch.float32),
    "strict": strict,
    "strict float32": lambda x: strict(x.astype(np.float32)),
}


@every
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("shape", [(7,), (2, 3, 8)])
def test_shape_dtype_and_kind_are_kept_and_numbers_agree(name, backend, shape) -> None:
    log_ratio, log_weight = (BACKENDS[backend](x) for x in sample(shape))
    before = np.asarray(log_ratio).copy(), np.asarray(log_weight).copy()
    got = terms(name, log_ratio, log_weight)
    assert tuple(got.shape) == shape
    assert got.dtype == log_ratio.dtype
    assert type(got) is type(log_ratio)
    np.testing.assert_array_equal(np.asarray(log_ratio), before[0])
    np.testing.assert_array_equal(np.asarray(log_weight), before[1])
    # The reference sees the same rounded inputs, in double.
    reference = terms(name, *(x.astype(np.float64) for x in before))
    eps = 1.2e-7 if "32" in backend else EPS
    np.testing.assert_allclose(np.asarray(got), reference, rtol=48 * eps, atol=16 * eps)


def half_ulp(x: np.ndarray, mantissa: int) -> np.ndarray:
    return 2.0 ** (np.floor(np.log2(np.abs(x))) - mantissa - 1)


@every
@pytest.mark.parametrize("kind", ["torch bfloat16", "torch float16", "numpy float16"])
def test_sixteen_bits_are_rounded_once(name, kind) -> None:
    dtype = torch.bfloat16 if kind == "torch bfloat16" else torch.float16
    log_ratio, log_weight = (torch.tensor(x).to(dtype) for x in sample((2, 64), seed=1))
    log_ratio[0, :3] = torch.tensor([0.002, 4.0, -6.0])
    arrays = (log_ratio, log_weight) if "torch" in kind else (log_ratio.numpy(), log_weight.numpy())
    got = terms(name, *arrays)
    assert got.dtype == arrays[0].dtype
    exact = terms(name, *(x.to(torch.float64).numpy() for x in (log_ratio, log_weight)))
    allowed = half_ulp(exact, 7 if dtype == torch.bfloat16 else 10) * 1.05 + 1e-6
    assert np.all(np.abs(torch.as_tensor(got).to(torch.float64).numpy() - exact) <= allowed)


@every
def test_bare_log_ratios_stand_for_draws(name) -> None:
    estimator = estimators.get(name)
    log_ratio, log_weight = sample((9,))
    if estimator.needs_weight:
        for bare in (log_ratio, Draws(log_ratio)):
            with pytest.raises(
                ValueError,
                match=rf"^{name} needs samples of a third distribution: Draws\(log_ratio, log_w",
            ):
                estimator.terms(bare)
        np.testing.assert_array_equal(
            estimator(Draws(log_ratio, log_weight)), terms(name, log_ratio, log_weight)
        )
    else:
        np.testing.assert_array_equal(estimator(log_ratio), terms(name, log_ratio, log_weight))
        # A weight that it does not need changes nothing.
        np.testing.assert_array_equal(estimator(Draws(log_ratio, log_weight)), estimator(log_ratio))


@every
@pytest.mark.parametrize("make", [np.asarray, torch.asarray, array_api_strict.asarray])
def test_integers_are_refused(name, make) -> None:
    with pytest.raises(TypeError, match=r"^log_ratio must have a real floating dtype, got .*int64"):
        terms(name, make(np.array([1, 2])), make(np.array([0, 1])))


@every
def test_leading_axes_are_independent(name) -> None:
    log_ratio, log_weight = sample((3, 4, 6), seed=2)
    together = terms(name, log_ratio, log_weight)
    swapped = terms(name, log_ratio.transpose(1, 0, 2), log_weight.transpose(1, 0, 2))
    np.testing.assert_allclose(swapped, together.transpose(1, 0, 2), rtol=16 * EPS, atol=4 * EPS)
    for i, j in itertools.product(range(3), range(4)):
        alone = terms(name, log_ratio[i, j], log_weight[i, j])
        np.testing.assert_allclose(alone, together[i, j], rtol=16 * EPS, atol=4 * EPS)


@every
def test_a_batch_of_terms_is_a_sum_of_one_term_each_unless_declared_batchwise(name) -> None:
    log_ratio, log_weight = (np.random.default_rng(seed).normal(0.0, 0.5, 8) for seed in (3, 4))
    together = terms(name, log_ratio, log_weight)
    if estimators.get(name).batch is None:
        alone = [terms(name, log_ratio[i : i + 1], log_weight[i : i + 1])[0] for i in range(8)]
        np.testing.assert_allclose(together, alone, rtol=16 * EPS, atol=4 * EPS)
    else:
        changed = log_ratio.copy(), log_weight.copy()
        changed[0][0] += 1.0
        changed[1][0] += 1.0
        assert np.max(np.abs(terms(name, *changed) - together)[1:]) > 1e-3


@every
def test_the_gradient_is_that_of_the_values(name) -> None:
    """Against central differences of the batch's mean, in float64."""
    log_ratio, log_weight = sample((8,), seed=4)
    log_ratio[:3] = 0.02, 3.1, -2.7  # no kink, clamp or switch within a step
    step = 1e-5
    x = torch.tensor(log_ratio, requires_grad=True)
    (got,) = torch.autograd.grad(terms(name, x, torch.tensor(log_weight)).mean(), x)
    moved = step * np.eye(8)
    differences = [
        terms(name, log_ratio + e, log_weight).mean()
        - terms(name, log_ratio - e, log_weight).mean()
        for e in moved
    ]
    np.testing.assert_allclose(
        got.numpy(), np.array(differences) / (2 * step), rtol=2e-7, atol=2e-9
    )


GRADIENTS = {
    "0": lambda qp, pq: 0.0 * qp,
    "grad KL(q‖p)": lambda qp, pq: qp,
    "grad KL(p‖q)": lambda qp, pq: pq,
}


@every
def test_the_gradient_is_of_what_is_claimed(name) -> None:
    """Used as a loss on-policy, against the exact gradients of a softmax."""
    estimator = estimators.get(name)
    if estimator.claims.gradient is None:
        return
    task = CategoricalPair(random={"size": 5, "kl": 0.4}).gradient_task()
    theta = task.theta().requires_grad_()
    log_q = theta.log_softmax(0)
    log_p = next(task.atoms()).rollouts.log_p[:, 0]
    draws = Draws(log_p - log_q, log_q - log_q.detach() if estimator.needs_weight else None)
    (got,) = torch.autograd.grad(log_q.detach().exp() @ estimator.terms(draws), theta)
    claim = estimator.claims.gradient.removeprefix("lambda ")
    weight = 1.0 if claim == estimator.claims.gradient else float(name.partition(":")[2] or 0.5)
    claimed = weight * GRADIENTS[claim](task.gradient("kl_qp"), task.gradient("kl_pq"))
    torch.testing.assert_close(got, claimed, rtol=1e-12, atol=1e-14)


@every
def test_not_a_number_in_is_not_a_number_out(name) -> None:
    log_ratio, log_weight = sample((6,))
    log_ratio[3] = np.nan
    assert np.isnan(terms(name, log_ratio, log_weight)[3])


# ---- promises of value


@every
@pytest.mark.parametrize("make", [np.asarray, torch.asarray])
@pytest.mark.parametrize(("dtype", "largest"), [(np.float64, 700.0), (np.float32, 80.0)])
def test_nonnegative_means_never_negative_and_no_less_is_claimed(
    name, make, dtype, largest
) -> None:
    sizes = np.array(
        [*np.geomspace(1e-12, largest, 300), *np.linspace(0.2, 6.0, 300), 10.0, 20.0, 0.0]
    )
    x = np.concatenate([-sizes, sizes]).astype(dtype)
    mild = np.array([0.3, 0.2, -0.3, 0.4], dtype=dtype)  # for those that look at the whole batch
    with np.errstate(all="ignore"):
        got = np.concatenate(
            [np.asarray(terms(name, make(each), make(np.zeros_like(each)))) for each in (x, mild)]
        )
    if estimators.get(name).claims.nonnegative:
        assert not np.isnan(got).any(), (
            f"{name} claims nonnegative=True: expected no NaN on finite log-ratios"
        )
        assert not (got < 0.0).any(), (
            f"{name} claims nonnegative=True: expected no term below 0, got {got.min()}"
        )
    else:
        assert (got < 0.0).any(), (
            f"{name} claims nonnegative=False, but no term is below 0: expected nonnegative=True"
        )


def by_enumeration(name, pair: CategoricalPair, n: int) -> float:
    """The exact mean of the estimate over all batches of ``n``."""
    log_ratio, _, log_weight, log_probabilities = pair._atoms
    probabilities = np.exp(log_probabilities)
    batches = np.array(list(itertools.product(range(len(probabilities)), repeat=n)))
    weight = log_weight[batches] if log_weight is not None else None
    means = terms(name, log_ratio[batches], weight).mean(axis=-1)
    return float(np.sum(np.prod(probabilities[batches], axis=-1) * means))


# With log-ratios beyond +-10, where the clamps of trainers bite.
WIDE = {"q": {"probs": (2e-5, 0.3, 0.69998)}, "p": {"probs": (0.6, 1e-6, 0.399999)}}
MILD = {"q": {"probs": (0.2, 0.5, 0.3)}, "p": {"probs": (0.5, 0.1, 0.4)}}
MU = {"probs": (0.3, 0.3, 0.4)}


@every
@pytest.mark.parametrize("n", [2, 3, 5])
def test_unbiased_means_exactly_so_over_all_batches_and_no_less_is_claimed(name, n) -> None:
    estimator = estimators.get(name)
    pairs = [
        CategoricalPair(**sides, mu=MU if estimator.needs_weight else None)
        for sides in (MILD, WIDE)
    ]
    errors = [
        by_enumeration(name, pair, n) / pair.truth(estimator.target).value - 1.0 for pair in pairs
    ]
    got = (
        f"the bias over {estimator.target}, on two enumerated pairs and batches of {n}, is {errors}"
    )
    if estimator.claims.unbiased:
        assert np.abs(errors).max() < 1e-11, (
            f"{name} claims unbiased=True: expected no bias, but {got}"
        )
    else:
        assert np.abs(errors).max() > 1e-3, (
            f"{name} claims unbiased=False: expected a bias, but {got}"
        )


ON_POLICY = [
    GaussianPair(q={"mean": 0.0, "std": 1.0}, p={"mean": 0.4, "std": 0.8}),
    GaussianPair(q={"mean": [0.0, 0.0]}, p={"mean": [0.3, -0.2], "cov": [[0.9, 0.2], [0.2, 0.7]]}),
    LaplacePair(q={"scale": 1.0}, p={"loc": 0.3, "scale": 1.3}),
    ExponentialPair(q={"rate": 1.0}, p={"rate": 1.4}),
    CategoricalPair(random={"size": 20, "kl": 0.3, "seed": 4}),
]
OFF_POLICY = [
    GaussianPair(q={"std": 1.0}, p={"mean": 0.4, "std": 0.8}, mu={"mean": -0.2, "std": 1.2}),
    ExponentialPair(q={"rate": 1.0}, p={"rate": 1.2}, mu={"rate": 0.8}),
    CategoricalPair(**MILD, mu=MU),
]


@cache
def draws_of(pair_index: int, off_policy: bool) -> Draws:
    pair = (OFF_POLICY if off_policy else ON_POLICY)[pair_index]
    draws = pair.draw(np.random.default_rng(11 + pair_index), 8 * 16_384)
    return Draws(
        draws.log_ratio.reshape(-1, 8),
        None if draws.log_weight is None else draws.log_weight.reshape(-1, 8),
    )


@pytest.mark.parametrize("name", [name for name in NAMES if estimators.get(name).claims.unbiased])
def test_unbiased_holds_on_samples_of_every_kind(name) -> None:
    estimator = estimators.get(name)
    tested = 0
    for i, pair in enumerate(OFF_POLICY if estimator.needs_weight else ON_POLICY):
        if pair.finite_second_moment(estimator):
            truth = pair.truth(estimator.target)
            if truth is None:
                continue
            means = estimator.terms(draws_of(i, estimator.needs_weight)).mean(axis=-1)
            assert (
                abs(means.mean() - truth.value)
                <= 5 * means.std(ddof=1) / np.sqrt(means.size) + truth.error
            )
            tested += 1
    assert tested >= 3


@pytest.mark.parametrize("name", [name for name in NAMES if estimators.get(name).polynomial])
def test_polynomial_is_the_formula(name) -> None:
    x = np.array([-5.0, -1.0, -0.1, 0.3, 1.0, 4.0])
    parts = np.array([c * np.exp(a * x) * x**b for c, a, b in estimators.get(name).polynomial])
    off = np.abs(parts.sum(axis=0) - terms(name, x, None))
    assert np.all(off <= 1e-14 * np.abs(parts).sum(axis=0)), (
        f"{name}: expected its polynomial to equal its terms, off by {off}"
    )


@every
def test_growth_is_how_fast_terms_grow(name) -> None:
    """Beside two mild samples, so that it holds for those that look at the whole batch."""
    estimator = estimators.get(name)

    def size(x: float) -> float:
        batch = np.array([0.3, -0.2, x, x])
        return float(np.log(np.abs(terms(name, batch, np.zeros(4))).max()))

    for declared, sign in (("growth", 1.0), ("growth_at_zero", -1.0)):
        got = (size(sign * 200.0) - size(sign * 100.0)) / 100.0
        expected = pytest.approx(getattr(estimator, declared), abs=0.02)
        assert got == expected, (
            f"{name} declares {declared}={getattr(estimator, declared)}: its terms grow as"
            f" r^{got:.3g}"
        )


def cut_off(estimator, x: np.ndarray, step: float) -> np.ndarray:
    """Whether the term stands still at each log-ratio.

    No gradient, and the same value to the last bit a step to both sides.

    Beside three mild samples, so that it holds for those that look at the whole batch.
    """

    def batches(at: np.ndarray) -> torch.Tensor:
        return torch.tensor(
            np.column_stack([at, *np.broadcast_to([[0.3], [-0.2], [0.4]], (3, at.size))])
        )

    def first_terms(batch: torch.Tensor) -> torch.Tensor:
        return estimator.terms(
            Draws(batch, torch.zeros_like(batch) if estimator.needs_weight else None)
        )[:, 0]

    batch = batches(x).requires_grad_()
    (gradient,) = torch.autograd.grad(first_terms(batch).sum(), batch)
    here, *beside = (first_terms(batches(x + by)) for by in (0.0, -step, step))
    return ((gradient[:, 0] == 0.0) & (here == beside[0]) & (here == beside[1])).numpy()


GRID = np.linspace(
    -30.0, 30.0, 6001
)  # beyond, gaps that level off as r vanishes move by less than the last bit


@every
def test_a_clamp_is_declared_where_the_terms_are_cut_off_and_nowhere_else(name) -> None:
    estimator = estimators.get(name)
    clamp = estimator.clamp or Clamp()
    ends = np.array([end for end in (clamp.low, clamp.high) if np.isfinite(end)])
    grid = GRID[(np.abs(GRID[:, None] - ends) > 2e-3).all(axis=1)]
    said = (
        f"{name} declares clamp={estimator.clamp}: expected terms to be cut off beyond it, and"
        " nowhere else"
    )
    np.testing.assert_array_equal(cut_off(estimator, grid, 1e-3), clamp.active(grid), err_msg=said)
    if estimator.clamp is not None:
        assert ends.size
        for x, step in (
            (np.concatenate([ends - 1e-5, ends + 1e-5]), 1e-6),
            (np.array([-1e7, -500.0, 500.0, 1e7]), 1.0),
        ):
            np.testing.assert_array_equal(cut_off(estimator, x, step), clamp.active(x))
        assert set(ends) <= set(estimator.kinks), (
            f"{name}: expected the ends of its clamp among its kinks {estimator.kinks}"
        )


def test_the_ends_of_a_clamp_count_as_within_it_and_infinite_log_ratios_as_beyond() -> None:
    x = torch.tensor([-torch.inf, -2.0, -1.0, 0.0, 3.0, 4.0, torch.inf, torch.nan])
    assert Clamp(-1.0, 3.0).active(x).tolist() == [
        True,
        True,
        False,
        False,
        False,
        True,
        True,
        False,
    ]
    assert Clamp(high=3.0).active(x).tolist() == [False] * 5 + [True, True, False]


# ---- names and descriptions


def test_names_and_aliases_are_unique_and_lead_to_the_same_estimator() -> None:
    taken = list(estimators.names())
    for name in estimators.names():
        estimator = estimators.get(name)
        taken += estimator.aliases
        for alias in estimator.aliases:
            assert estimators.get(alias).name in {name, alias}
    assert len(set(taken)) == len(taken)
    assert {"v1", "kl", "naive", "v2", "mse", "low_var_kl", "kl3"} <= set(taken)


@every
def test_every_estimator_is_described(name) -> None:
    estimator = estimators.get(name)
    assert estimator.name == name
    assert estimator.tex, f"{name}: expected a tex, its formula"
    assert estimator.summary, f"{name}: expected a summary, one line for --help"
    assert estimator.summary == estimator.summary.strip()
    assert "\n" not in estimator.summary
    assert estimator.source, f"{name}: expected a source"
    assert all(alias and alias != name for alias in estimator.aliases)
    assert divergences.get(estimator.target)


@every
def test_the_target_is_kl_qp_unless_the_name_says_otherwise(name) -> None:
    target, _, number = estimators.get(name).target.partition(":")
    family, _, asked = name.partition(":")
    said = (
        family.removeprefix("bregman_")
        if family.startswith("bregman_")
        else "kl_pq"
        if family.endswith("_pq")
        else "kl_qp"
    )
    assert target == said, (
        f"{name} estimates {target}: expected {said}, as its name says; kl_pq is for NAME_pq"
    )
    assert not asked or target != "alpha" or float(number) == float(asked)


@every
def test_estimators_travel_to_other_processes(name) -> None:
    log_ratio, log_weight = sample((8,))
    travelled = pickle.loads(cloudpickle.dumps(estimators.get(name)))
    assert travelled.name == name
    assert travelled.claims == estimators.get(name).claims
    draws = Draws(log_ratio, log_weight)
    np.testing.assert_array_equal(travelled.terms(draws), estimators.get(name).terms(draws))


def test_weights_must_have_the_shape_of_the_ratios() -> None:
    with pytest.raises(
        ValueError, match=r"log_weight must have log_ratio's shape \(3,\), got \(2,\)"
    ):
        Draws(np.zeros(3), np.zeros(2))


def test_what_is_derived_from_the_draws_is_computed_once() -> None:
    calls = []

    def square(x):
        calls.append(x)
        return x * x

    draws = Draws(np.array([2.0]))
    assert draws.derived(square) is draws.derived(square)
    assert len(calls) == 1
