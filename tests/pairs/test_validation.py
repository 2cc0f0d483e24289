"""A pair that makes no sense is refused, in words that say what is wrong."""

import numpy as np
import pytest
from pydantic import ValidationError

from klbench import estimators, pairs
from klbench.types import ConfigError

NAN, INF = float("nan"), float("inf")
HALF = {"probs": [0.5, 0.5]}
ONE = {"weights": [1], "means": [0], "stds": [1]}

REFUSED = [
    # kind, parameters, where, and what is said
    ("gaussian", {"q": {"std": 0.0}}, "q.std", "must be positive"),
    ("gaussian", {"q": {"std": [1.0, -1.0]}}, "q.std", "must be positive"),
    ("gaussian", {"q": {"std": NAN}}, "q.std", "finite number"),
    ("gaussian", {"p": {"mean": INF}}, "p.mean", "finite number"),
    ("gaussian", {"p": {"mean": [0.0, NAN]}}, "p.mean", "finite number"),
    ("gaussian", {"q": {"mean": "zero"}}, "q.mean", "valid number"),
    (
        "gaussian",
        {"q": {"cov": [[1.0, 2.0], [2.0, 1.0]]}},
        "q.cov",
        "positive definite, its smallest eigenvalue is -1",
    ),
    (
        "gaussian",
        {"q": {"cov": [[1.0, 1.0], [1.0, 1.0]]}},
        "q.cov",
        "positive definite, its smallest eigenvalue is",
    ),
    ("gaussian", {"q": {"cov": [[1.0, 0.5], [0.4, 1.0]]}}, "q.cov", "must be symmetric"),
    ("gaussian", {"q": {"cov": [[1.0, 0.5]]}}, "q.cov", "must be square, its rows have lengths 2"),
    (
        "gaussian",
        {"q": {"cov": [[1.0, 0.0], [0.0]]}},
        "q.cov",
        "must be square, its rows have lengths 2, 1",
    ),
    ("gaussian", {"q": {"cov": []}}, "q.cov", "positive definite"),
    ("gaussian", {"q": {"std": 1.0, "cov": [[1.0]]}}, "q", "give std or cov, not both"),
    (
        "gaussian",
        {"q": {"mean": [0.0, 0.0], "std": [1.0, 1.0, 1.0]}},
        "q",
        "must have one dimension, got 2 and 3",
    ),
    ("gaussian", {"q": {"mean": []}}, "q", "must have one dimension, got 0"),
    (
        "gaussian",
        {"q": {"mean": [0, 0]}, "p": {"mean": [0, 0, 0]}},
        "",
        "all sides must have one dimension, got q: 2, p: 3",
    ),
    ("gaussian", {"q": {"mean": [0.0, 0.0]}, "mu": {"std": [1.0]}}, "", "got q: 2, mu: 1"),
    ("gaussian", {"p": {"mean": 1e200}}, "p.mean", "must be at most 1e+15 in size"),
    ("gaussian", {"p": {"mean": [0.0, -1e200]}}, "p.mean", "must be at most 1e+15 in size"),
    ("gaussian", {"q": {"std": 1e-200}}, "q.std", "must be from 1e-15 to 1e+15"),
    ("gaussian", {"q": {"std": [1.0, 1e200]}}, "q.std", "must be from 1e-15 to 1e+15"),
    ("gaussian", {"q": {"cov": [[1e200]]}}, "q.cov", "must be from 1e-15 to 1e+15"),
    (
        "exponential",
        {"q": {"rate": 1e300}, "p": {"rate": 1.0}},
        "q.rate",
        "must be from 1e-15 to 1e+15",
    ),
    ("laplace", {"q": {"scale": 1e-250}, "p": {}}, "q.scale", "must be from 1e-15 to 1e+15"),
    (
        "student_t",
        {"q": {"df": 3, "loc": 1e200}, "p": {"df": 3}},
        "q.loc",
        "must be at most 1e+15 in size",
    ),
    (
        "mixture",
        {"q": {**ONE, "stds": [1e-200]}, "p": ONE},
        "q.stds",
        "must be from 1e-15 to 1e+15",
    ),
    ("gaussian", {"q": {"sd": 1.0}}, "q.sd", "not permitted"),
    (
        "categorical",
        {"q": {"probs": [0.5, 0.4]}, "p": HALF},
        "q.probs",
        "must sum to 1, these sum to 0.9",
    ),
    (
        "categorical",
        {"q": {"probs": [1.5, -0.5]}, "p": HALF},
        "q.probs",
        "must not be negative, got -0.5",
    ),
    ("categorical", {"q": {"probs": []}, "p": HALF}, "q.probs", "must sum to 1, these sum to 0"),
    ("categorical", {"q": {"probs": [NAN, 1.0]}, "p": HALF}, "q.probs", "finite number"),
    ("categorical", {"q": {"logits": []}, "p": HALF}, "q", "logits must not be empty"),
    ("categorical", {"q": {"logits": [0.0, -INF]}, "p": HALF}, "q.logits", "finite number"),
    ("categorical", {"q": {}, "p": HALF}, "q", "give probs or logits, one of them"),
    (
        "categorical",
        {"q": {"probs": [1.0], "logits": [0.0]}, "p": HALF},
        "q",
        "give probs or logits, one of them",
    ),
    (
        "categorical",
        {"q": HALF, "p": {"probs": [1, 0]}},
        "",
        "p is zero at category 1, where q is not: KL(q‖p) is infinite",
    ),
    (
        "categorical",
        {"q": HALF, "p": HALF, "mu": {"probs": [1.0, 0.0]}},
        "",
        "mu is zero at category 1, where q is not: the weight q/mu is infinite",
    ),
    (
        "categorical",
        {"q": HALF, "p": {"probs": [0.2, 0.3, 0.5]}},
        "",
        "one number of categories, got q: 2, p: 3",
    ),
    ("categorical", {}, "", "give q and p, or random"),
    ("categorical", {"q": HALF}, "", "give q and p, or random"),
    (
        "categorical",
        {"q": HALF, "p": HALF, "random": {"size": 2, "kl": 0.1}},
        "",
        "give q and p, or random",
    ),
    (
        "categorical",
        {"random": {"size": 1, "kl": 0.1}},
        "random.size",
        "greater than or equal to 2",
    ),
    ("categorical", {"random": {"size": 3, "kl": 0.0}}, "random.kl", "greater than 0"),
    (
        "categorical",
        {"random": {"size": 2, "kl": 500.0}},
        "",
        "random.kl=500 is out of reach for 2 categories",
    ),
    ("exponential", {"q": {"rate": 0.0}, "p": {"rate": 1.0}}, "q.rate", "greater than 0"),
    ("exponential", {"q": {"rate": 1.0}, "p": {"rate": NAN}}, "p.rate", "finite number"),
    ("laplace", {"q": {"scale": -1.0}, "p": {}}, "q.scale", "greater than 0"),
    ("laplace", {"q": {"loc": INF}, "p": {}}, "q.loc", "finite number"),
    ("student_t", {"q": {"df": 0.0}, "p": {"df": 3.0}}, "q.df", "greater than or equal to 0.01"),
    (
        "student_t",
        {"q": {"df": 1e13}, "p": {"df": 3.0}},
        "q.df",
        "less than or equal to 1000000000000",
    ),
    ("student_t", {"q": {}, "p": {"df": 3.0}}, "q.df", "required"),
    (
        "mixture",
        {"q": {"weights": [0.5, 0.6], "means": [0, 1], "stds": [1, 1]}, "p": ONE},
        "q.weights",
        "must sum to 1, these sum to 1.1",
    ),
    (
        "mixture",
        {"q": {"weights": [0.5, 0.5], "means": [0], "stds": [1, 1]}, "p": ONE},
        "q",
        "must have one length, got 2, 1 and 2",
    ),
    (
        "mixture",
        {"q": {"weights": [1], "means": [0], "stds": [0]}, "p": ONE},
        "q.stds.0",
        "greater than 0",
    ),
    (
        "mixture",
        {"q": {"weights": [1.5, -0.5], "means": [0, 0], "stds": [1, 1]}, "p": ONE},
        "q.weights.1",
        "greater than 0",
    ),
]


@pytest.mark.parametrize(("kind", "parameters", "where", "message"), REFUSED)
def test_what_makes_no_sense_is_refused_by_name(kind, parameters, where, message) -> None:
    with pytest.raises(ValidationError) as caught:
        pairs.get(kind)(**parameters)
    found = [(".".join(map(str, error["loc"])), error["msg"]) for error in caught.value.errors()]
    assert any(place.startswith(where) and message in said for place, said in found), found


def test_a_divergence_just_within_reach_is_found() -> None:
    with pytest.raises(ValidationError, match=r"less than (\d+\.?\d*) is possible here"):
        pairs.get("categorical")(random={"size": 2, "kl": 500.0})


@pytest.mark.parametrize("kind", pairs.names())
def test_nothing_is_taken_that_is_not_known(kind) -> None:
    with pytest.raises(ValidationError, match="not permitted"):
        pairs.get(kind)(colour="red")


def test_an_unknown_kind_is_answered_with_the_nearest() -> None:
    with pytest.raises(ConfigError, match="unknown pair 'gausian'; did you mean 'gaussian'"):
        pairs.get("gausian")


@pytest.mark.parametrize("std", [1e-15, 1.0, 1e15])
@pytest.mark.parametrize("mean", [0.0, 1e15])
def test_the_most_extreme_gaussians_that_are_taken_can_be_computed_with(
    std: float, mean: float
) -> None:
    other = 1e15 if std < 1.0 else 1e-15
    pair = pairs.get("gaussian").model_validate(
        {"q": {"std": std}, "p": {"mean": mean, "std": other}}
    )
    truth = pair.truth("kl_qp")
    k1, k2 = pair.exact([estimators.get("k1"), estimators.get("k2")])
    assert truth is not None
    assert k1 is not None
    assert k2 is not None
    assert truth.value == pytest.approx(
        0.5 * ((std / other) ** 2 + (mean / other) ** 2 - 1.0) - np.log(std / other), rel=1e-12
    )
    assert k1.mean == pytest.approx(truth.value, rel=1e-12)
    assert k2.std > 0.0
