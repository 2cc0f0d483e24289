"""The sampler's temperature, and that at which both sides are scored.

Three quantities that are not one.
"""

from __future__ import annotations

import math

import mpmath
import numpy as np
import pytest
import torch
from pydantic import ValidationError

from klbench import estimators, gradients, pairs
from klbench.gradients.exact import moments
from klbench.numerics import tempered
from klbench.pairs.lm import LmPair
from klbench.pairs.sequence import SequencePair

T = 0.6
TINY = {"vocabulary": 2, "horizon": 3, "prompts": 2, "kl": 0.4}


def logits(**temperatures: float):
    sides = {"q": {"logits": [1.0, 0.0, -1.0]}, "p": {"logits": [0.4, 0.0, -0.4]}}
    return pairs.get("categorical").model_validate(sides | temperatures)


def sequences(**fields: object) -> SequencePair:
    return SequencePair.model_validate({**TINY, **fields})


def exact_mean(pair: object, name: str) -> float:
    (found,) = pair.exact([estimators.get(name)])  # type: ignore[attr-defined]
    return float(found.mean)


def test_three_tokens_by_hand() -> None:
    plain, both = logits(), logits(temperature=T, scored_temperature=T)
    mixed = logits(temperature=T)
    assert plain.truth("kl_qp").value == pytest.approx(0.088771, abs=5e-7)
    assert both.truth("kl_qp").value == pytest.approx(0.159856, abs=5e-7)
    assert not both.off_policy
    assert exact_mean(both, "k1") == pytest.approx(0.159856, abs=5e-7)
    assert mixed.off_policy
    assert mixed.truth("kl_qp").value == pytest.approx(0.088771, abs=5e-7)
    assert exact_mean(mixed, "k1") == pytest.approx(0.216141, abs=5e-7)
    assert exact_mean(mixed, "k1_weighted") == pytest.approx(0.088771, abs=5e-7)
    sampled_of_q = pairs.get("categorical").model_validate(
        {"q": {"logits": [1 / T, 0.0, -1 / T]}, "p": {"logits": [0.4, 0.0, -0.4]}}
    )
    assert sampled_of_q.truth("kl_qp").value == pytest.approx(0.279504, abs=5e-7)


def test_the_weight_of_the_sampler_has_mean_1() -> None:
    sides = logits(temperature=T).log_probs
    assert math.fsum(np.exp(sides["mu"] + sides["q"] - sides["mu"])) == pytest.approx(1.0)
    pair = sequences(temperature=T)
    _, log_weight, often = pair._atoms
    assert log_weight is not None
    assert math.fsum(often * np.exp(log_weight)) == pytest.approx(1.0, abs=1e-14)


def test_it_is_told_in_words() -> None:
    assert "sampled at T=0.6, scored by q and p" in logits(temperature=T).describe()
    both = sequences(temperature=T, scored_temperature=T).describe()
    assert "sampled at T=0.6, scored by both q and p at T=0.6" in both
    assert "sampled at" not in sequences().describe()
    lm = LmPair(temperature=T, scored_temperature=T)
    assert "sampled at T=0.6, scored by both q and p at T=0.6" in lm.describe()
    assert LmPair(temperature=T).describe().endswith("T=0.6")


@pytest.mark.parametrize("temperature", [0.01, 0.6, 3.0, 100.0])
def test_tempered_against_mpmath(temperature: float) -> None:
    given = [0.0, -0.5, -3.0, -200.0, -math.inf]
    found = tempered(np.array(given), temperature)
    with mpmath.workdps(60):
        powers = [mpmath.exp(mpmath.mpf(x) / mpmath.mpf(str(temperature))) for x in given[:-1]]
        total = mpmath.fsum(powers)
        for got, power in zip(found, powers, strict=False):
            assert got == pytest.approx(float(mpmath.log(power / total)), rel=1e-13, abs=1e-15)
    assert found[-1] == -math.inf


def test_conditionals_are_those_of_divided_logits() -> None:
    pair = sequences(temperature=T, scored_temperature=2.0)
    plain = sequences()
    with torch.no_grad():
        weights = pair.policy.split(torch.from_numpy(plain.parameters["q"]))
        logits = pair.policy.everywhere(weights, torch.arange(2))
    for side, temperature in (("q", 2.0), ("mu", T)):
        exact = (logits / temperature).log_softmax(-1).numpy()
        np.testing.assert_allclose(pair.token_log_probs[side], exact, rtol=1e-12, atol=1e-14)
    assert plain.truth("kl_qp").value == pytest.approx(0.4, rel=1e-10)
    assert pair.truth("kl_qp").value != pytest.approx(0.4, rel=0.05)


@pytest.mark.parametrize("model", ["table", "gru"])
def test_the_gradient_is_that_of_scored_divergences(model: str) -> None:
    pair = sequences(model=model, scored_temperature=T, temperature=T)
    task = pair.gradient_task()
    exact = task.gradient("kl_qp")
    for name in ("full_with_score", "k1_reward"):
        torch.testing.assert_close(
            moments(gradients.get(name), task).mean, exact, rtol=1e-9, atol=1e-13
        )
    # Against differences of truths along a direction.
    direction = torch.from_numpy(np.random.default_rng(0).standard_normal(len(exact)))

    def at(step: float) -> float:
        moved = sequences(model=model, scored_temperature=T, temperature=T)
        for cached in ("token_log_probs", "leaf_log_probs", "_atoms"):
            moved.__dict__.pop(cached, None)
        q = pair.parameters["q"] + step * direction.numpy()
        moved.__dict__["parameters"] = pair.parameters | {"q": q}
        return moved.truth("kl_qp").value

    slope = (at(1e-4) - at(-1e-4)) / 2e-4
    assert float(exact @ direction) == pytest.approx(slope, rel=1e-5)


def test_weights_repair_what_the_temperature_mixes() -> None:
    pair = sequences(temperature=T)
    task = pair.gradient_task()
    exact = task.gradient("kl_qp")
    assert task.staleness > 0.0
    right = moments(gradients.get("k1_reward_sequence_ratio"), task).mean
    torch.testing.assert_close(right, exact, rtol=1e-9, atol=1e-13)
    assert float((moments(gradients.get("k1_reward"), task).mean - exact).norm()) > 1e-3


def test_streams_of_pairs_without_a_temperature_are_what_they_were() -> None:
    # Recorded at 7610f5e: SequencePair(vocabulary=2, horizon=3, prompts=2, kl=0.4).completions(0,
    # 0, 6).token
    found = sequences().completions(0, 0, 6).token
    assert found is not None
    assert found.tolist() == RECORDED


RECORDED = [[1, 1, 2], [1, 1, 1], [1, 1, 2], [1, 1, 2], [1, 1, 1], [1, 1, 2]]


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"temperature": 0.0}, "greater than or equal to 0.01"),
        ({"scored_temperature": -1.0}, "greater than or equal to 0.01"),
        (
            {"temperature": T, "lag": 0.1},
            "give lag and mismatch, or temperature and scored_temperature",
        ),
        ({"temperature": 0.01, "kl": 2.0}, "make log-ratios above 300"),
    ],
)
def test_bad_temperatures(fields: dict[str, float], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        sequences(**fields)


def test_a_third_distribution_leaves_no_choice() -> None:
    with pytest.raises(ValidationError, match="give mu, or temperature"):
        logits(temperature=T, mu={"probs": [0.2, 0.3, 0.5]})  # type: ignore[arg-type]
