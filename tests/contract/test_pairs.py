"""Every registered pair against the promises of its kind, on-policy and off-policy."""

import math
import pickle
from functools import cache

import cloudpickle
import numpy as np
import pytest
from pydantic import ValidationError

from klbench import divergences, estimators, pairs
from klbench.pairs import Pair
from klbench.types import Skip

# Examples of each kind: mild ones, and one whose chi-squared is infinite if there is such. A kind
# without any is tested with its defaults.
EXAMPLES: dict[str, list[dict]] = {
    "gaussian": [
        {"q": {"mean": 0.0}, "p": {"mean": 1.0}},
        {"q": {"mean": 0.0, "std": 1.0}, "p": {"mean": 0.3, "std": 2.0}},
        {"q": {"mean": [0.0, 1.0, -1.0]}, "p": {"mean": 0.2, "std": [1.1, 0.9, 1.0]}},
        {
            "q": {"mean": [0.1, 0.0]},
            "p": {"mean": [0.0, 0.3], "cov": [[1.2, 0.3], [0.3, 0.8]]},
            "mu": {"std": [1.2, 1.2]},
        },
        {"q": {"std": 1.0}, "p": {"mean": 0.4, "std": 0.8}, "mu": {"mean": -0.2, "std": 1.2}},
    ],
    "categorical": [
        {"q": {"probs": [0.2, 0.5, 0.3]}, "p": {"probs": [0.5, 0.1, 0.4]}},
        {
            "q": {"logits": [0.0, 1.0, -1.0, 0.3]},
            "p": {"logits": [0.4, 0.0, 0.0, 0.1]},
            "mu": {"probs": [0.25] * 4},
        },
        {"random": {"size": 1_000, "kl": 0.2, "seed": 3}},
    ],
    "exponential": [
        {"q": {"rate": 1.0}, "p": {"rate": 1.5}},
        {"q": {"rate": 1.0}, "p": {"rate": 0.3}},
        {"q": {"rate": 1.0}, "p": {"rate": 1.3}, "mu": {"rate": 0.8}},
    ],
    "laplace": [
        {"q": {"loc": 0.0, "scale": 1.0}, "p": {"loc": 0.5, "scale": 1.4}},
        {"q": {"loc": 0.0, "scale": 1.0}, "p": {"loc": -0.5, "scale": 3.0}},
        {
            "q": {"loc": 0.0, "scale": 1.0},
            "p": {"loc": 0.5, "scale": 0.9},
            "mu": {"loc": 0.1, "scale": 1.2},
        },
    ],
    "student_t": [
        {"q": {"df": 8.0}, "p": {"df": 6.0, "loc": 0.5}},
        {"q": {"df": 8.0}, "p": {"df": 2.0, "scale": 1.2}},
        {"q": {"df": 5.0}, "p": {"df": 6.0, "loc": 0.3}, "mu": {"df": 4.0, "scale": 1.2}},
    ],
    "mixture": [
        {
            "q": {"weights": [0.3, 0.7], "means": [-1.0, 1.0], "stds": [0.5, 1.0]},
            "p": {"weights": [0.5, 0.5], "means": [-1.0, 1.2], "stds": [0.6, 1.1]},
        },
        {
            "q": {"weights": [1.0], "means": [0.0], "stds": [1.0]},
            "p": {"weights": [0.9, 0.1], "means": [0.0, 1.0], "stds": [0.8, 2.0]},
        },
        {
            "q": {"weights": [0.3, 0.7], "means": [-1.0, 1.0], "stds": [0.5, 1.0]},
            "p": {"weights": [1.0], "means": [0.2], "stds": [0.9]},
            "mu": {"weights": [1.0], "means": [0.0], "stds": [1.5]},
        },
    ],
    "sequence": [
        {"vocabulary": 3, "horizon": 3, "prompts": 2, "kl": 0.3},
        {
            "model": "table",
            "vocabulary": 4,
            "horizon": 2,
            "prompts": 3,
            "kl": 0.1,
            "lag": 0.05,
            "seed": 1,
        },
        {
            "model": "transformer",
            "vocabulary": 2,
            "horizon": 4,
            "prompts": 1,
            "kl": 0.2,
            "width": 4,
        },
    ],
}
# Kinds without an exact value have nothing to hold the promises below against; their own tests do
# what can be done.
WITHOUT_TRUTH = {"lm", "recorded"}
EXAMPLES |= {
    kind: [{}] for kind in pairs.names() if kind not in EXAMPLES and kind not in WITHOUT_TRUTH
}
CASES = [(kind, i) for kind in EXAMPLES for i in range(len(EXAMPLES[kind]))]
SAMPLES = 100_000

every = pytest.mark.parametrize(("kind", "i"), CASES, ids=[f"{kind}-{i}" for kind, i in CASES])


@cache
def pair_of(kind: str, i: int) -> Pair:
    return pairs.get(kind)(**EXAMPLES[kind][i])


@cache
def draws_of(kind: str, i: int):
    return pair_of(kind, i).draw(np.random.default_rng(17), SAMPLES)


@cache
def exact_of(kind: str, i: int):
    chosen = [estimators.get(name) for name in [*estimators.names(), "k_lambda:0"]]
    return list(zip(chosen, pair_of(kind, i).exact(chosen), strict=True))


@pytest.mark.parametrize("kind", EXAMPLES)
def test_a_kind_is_described_and_refuses_what_it_does_not_know(kind) -> None:
    cls = pairs.get(kind)
    assert cls.kind == kind
    assert cls.summary, f"{kind}: expected a summary, one line for --help"
    with pytest.raises(ValidationError, match="colour"):
        cls(**EXAMPLES[kind][0], colour="red")


@pytest.mark.parametrize("kind", pairs.names())
def test_a_kind_declares_what_it_can_do_with_completions_and_no_more(kind) -> None:
    cls = pairs.get(kind)
    for ability in ("completions", "rescored", "truncated"):
        defined = getattr(cls, ability) is not getattr(Pair, ability)
        declared = getattr(cls.capabilities, ability)
        assert declared == defined, (
            f"{kind}: capabilities.{ability}={declared}, expected {defined}, as it defines"
            f" {ability}()"
        )


@every
def test_what_a_pair_cannot_do_with_completions_it_skips(kind, i) -> None:
    pair = pair_of(kind, i)
    drawn = pair.completions(0, 0, 5)
    assert isinstance(drawn, Skip) == (not pair.capabilities.completions)
    if not isinstance(drawn, Skip):
        assert len(drawn.log_q) == 5
        assert isinstance(pair.rescored(drawn, "bfloat16"), Skip) == (
            not pair.capabilities.rescored
        )
        assert isinstance(pair.truncated(drawn, (2,)), Skip) == (not pair.capabilities.truncated)
    assert pair.decode(np.arange(3)) == ["", "", ""]
    assert pair.on_policy() is None  # the truth is exact, whoever samples
    assert pair.placed("cuda") is pair


@every
def test_a_pair_is_its_parameters(kind, i) -> None:
    pair = pair_of(kind, i)
    again = type(pair).model_validate_json(pair.model_dump_json())
    assert again == pairs.get(kind)(**EXAMPLES[kind][i])
    travelled = pickle.loads(cloudpickle.dumps(pair))
    for other in (again, travelled):
        np.testing.assert_array_equal(
            other.draw(np.random.default_rng(0), 50).log_ratio,
            pair.draw(np.random.default_rng(0), 50).log_ratio,
        )
        assert other.truth("kl_qp") == pair.truth("kl_qp")
    with pytest.raises(ValidationError, match="frozen"):
        pair.label = "mine"


@every
def test_a_label_is_made_or_taken(kind, i) -> None:
    made = pair_of(kind, i).title
    assert made
    assert "\n" not in made
    assert made == pair_of(kind, i).describe()
    assert pairs.get(kind)(**EXAMPLES[kind][i], label="mine").title == "mine"
    assert pairs.get(kind)(**EXAMPLES[kind][i], label="mine").describe() == made


@every
@pytest.mark.parametrize("n", [1, 7, 100])
def test_draws_have_one_shape_and_come_from_the_stream_alone(kind, i, n) -> None:
    pair = pair_of(kind, i)
    draws, same, other = (pair.draw(np.random.default_rng(seed), n) for seed in (5, 5, 6))
    for x in (draws.log_ratio, *([draws.log_weight] if pair.off_policy else [])):
        assert x.shape == (n,)
        assert x.dtype == np.float64
        assert np.isfinite(x).all()
    assert (draws.log_weight is not None) == pair.off_policy
    np.testing.assert_array_equal(draws.log_ratio, same.log_ratio)
    assert n < 100 or not np.array_equal(draws.log_ratio, other.log_ratio)
    # A stream goes on: what follows is new.
    stream = np.random.default_rng(5)
    first, second = pair.draw(stream, n), pair.draw(stream, n)
    np.testing.assert_array_equal(first.log_ratio, draws.log_ratio)
    assert n < 100 or not np.array_equal(second.log_ratio, draws.log_ratio)


def assert_mean(values: np.ndarray, expected: float, what: str) -> None:
    mean, error = values.mean(), values.std(ddof=1) / math.sqrt(values.size)
    assert abs(mean - expected) <= 5 * error + 1e-12, (
        f"expected {what} to be {expected} over the draws, got {mean} ± {error}"
    )


@every
def test_ratios_and_weights_average_to_one(kind, i) -> None:
    pair, draws = pair_of(kind, i), draws_of(kind, i)
    if pair.off_policy:
        assert_mean(np.exp(draws.log_weight), 1.0, f"{kind}: E[w]")
        assert pair.finite_moment(2.0, 2.0)
        assert_mean(np.exp(draws.log_weight + draws.log_ratio), 1.0, f"{kind}: E[w r]")
    elif pair.finite_moment(2.0):
        assert_mean(np.exp(draws.log_ratio), 1.0, f"{kind}: E[r]")


@every
def test_draws_have_the_exact_mean_and_spread_of_every_estimator(kind, i) -> None:
    pair, draws = pair_of(kind, i), draws_of(kind, i)
    tested = 0
    for estimator, exact in exact_of(kind, i):
        if exact is None or not pair.finite_second_moment(estimator):
            continue
        terms = estimator.terms(draws)
        assert_mean(terms, exact.mean, f"{kind}: exact() of {estimator.name}")
        tested += 1
        weight = 4.0 if estimator.needs_weight else 0.0
        if pair.finite_moment(4.0 * estimator.growth, weight) and pair.finite_moment(
            -4.0 * estimator.growth_at_zero, weight
        ):
            squares = (terms - exact.mean) ** 2
            if (
                squares.std() < 30 * squares.mean()
            ):  # else its own mean is not normal at this sample size
                assert_mean(squares, exact.std**2, f"{kind}: the variance of {estimator.name}")
    assert tested >= 3 or not any(exact for _, exact in exact_of(kind, i))


@every
def test_exact_means_of_unbiased_estimators_are_the_truth(kind, i) -> None:
    pair = pair_of(kind, i)
    for estimator, exact in exact_of(kind, i):
        if (
            exact is not None
            and estimator.claims.unbiased
            and estimator.needs_weight == pair.off_policy
        ):
            truth = pair.truth(estimator.target)
            assert abs(exact.mean - truth.value) <= exact.mean_error + truth.error + 4e-16 * abs(
                truth.value
            )
            assert exact.mean_error <= 1e-8 * max(1.0, abs(exact.mean))


@every
def test_exact_moments_exist_where_they_should_and_are_infinite_where_they_are(kind, i) -> None:
    pair = pair_of(kind, i)
    for estimator, exact in exact_of(kind, i):
        if (
            estimator.batch is not None
            or (estimator.needs_weight and not pair.off_policy)
            or not pair.finite_mean(estimator)
        ):
            assert exact is None
        elif exact is not None:
            assert math.isfinite(exact.std) == pair.finite_second_moment(estimator), estimator.name
            assert exact.method in {"closed-form", "quadrature", "enumeration"}
            assert not math.isfinite(exact.std) or exact.std_error <= 1e-6 * exact.std


@every
def test_truths_are_never_negative_and_sure(kind, i) -> None:
    pair = pair_of(kind, i)
    for target in [*divergences.names(), "alpha:-1", "alpha:2"]:
        truth = pair.truth(target)
        if truth is not None:
            assert truth.value > 0.0
            assert math.isinf(truth.value) or truth.error <= 1e-8 * truth.value
            assert truth.method in {"closed-form", "quadrature", "enumeration"}
    for target in ("kl_qp", "kl_pq"):
        assert pair.truth(target) is not None, (
            f"{kind}: expected truth({target!r}) to be exact, got None"
        )


@every
def test_truths_do_not_depend_on_where_the_samples_come_from(kind, i) -> None:
    pair = pair_of(kind, i)
    if pair.off_policy:
        on_policy = pairs.get(kind)(
            **{key: value for key, value in EXAMPLES[kind][i].items() if key not in ("mu", "lag")}
        )
        here, there = pair.truth("kl_qp"), on_policy.truth("kl_qp")
        assert abs(here.value - there.value) <= here.error + there.error
        assert not on_policy.off_policy


@every
def test_the_tail_index_is_where_moments_end(kind, i) -> None:
    pair = pair_of(kind, i)
    k = pair.tail_index()
    assert pair.finite_moment(0.0)
    assert pair.finite_moment(1.0, 1.0 if pair.off_policy else 0.0)
    if k > 0.0:
        assert pair.finite_moment(1.0 / k - 1e-6)
        assert not pair.finite_moment(1.0 / k + 1e-6)
    else:
        assert pair.finite_moment(100.0)


def test_the_examples_have_heavy_tails_and_light_ones() -> None:
    indices = [pair_of(*case).tail_index() for case in CASES]
    assert any(k >= 0.5 for k in indices)
    assert any(k == 0.0 for k in indices)
    assert any(0.0 < k < 0.5 for k in indices)
