"""The temperature study: against numbers by hand, a list of all sequences, and pairs at T."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from pydantic import ValidationError

import klbench
from klbench import pairs
from klbench.choices import pair_of
from klbench.numerics import tempered
from klbench.studies.temperature.options import TemperatureOptions
from klbench.studies.temperature.run import enumerated, of_states

T = 0.6
LOGITS = {"q": {"logits": [1.0, 0.0, -1.0]}, "p": {"logits": [0.4, 0.0, -0.4]}}
SEQUENCE = {"kind": "sequence", "vocabulary": 2, "horizon": 3, "prompts": 2, "kl": 0.4}


def test_three_tokens_by_hand() -> None:
    pair = pairs.get("categorical").model_validate(LOGITS)
    at, plain = enumerated(pair, [T, 1.0])
    assert at["kl_models"] == pytest.approx(0.088771, abs=5e-7)
    assert at["kl_scored"] == pytest.approx(0.159856, abs=5e-7)
    assert at["mean_mixed"] == pytest.approx(0.216141, abs=5e-7)
    assert at["kl_sampler"] == pytest.approx(0.279504, abs=5e-7)
    for name in ("kl_scored", "mean_mixed", "kl_sampler"):
        assert plain[name] == pytest.approx(plain["kl_models"], rel=1e-14)
    assert enumerated(pair, [1.5])[0]["mean_mixed"] < 0.0


def test_where_a_side_has_no_probability() -> None:
    kind = pairs.get("categorical")
    pair = kind.model_validate({"q": {"probs": [0.6, 0.4, 0]}, "p": {"probs": [0.5, 0.3, 0.2]}})
    (row,) = enumerated(pair, [1.0])
    assert row["kl_models"] == pytest.approx(0.224466, abs=5e-7)
    assert (row["mean_weight"], row["ess"]) == (pytest.approx(1.0), pytest.approx(1.0))
    without = of_states(torch.tensor([0.5, 0.5]).log(), torch.tensor([1.0, 0.0]).log(), T)
    assert all(bool(each.isposinf()) for each in without.values())


@pytest.mark.parametrize("temperature", [0.2, T, 3.0])
def test_sequences_against_a_list_of_all(temperature: float) -> None:
    pair = pair_of(SEQUENCE)
    (row,) = enumerated(pair, [temperature])
    paths = pair.tree.paths
    node, token, mask = (each.numpy() for each in paths)

    def leaves(log_probs: np.ndarray) -> np.ndarray:
        return np.where(mask, log_probs[:, node, token], 0.0).sum(-1)

    q, p = (pair.token_log_probs[side] for side in "qp")
    sampler, scored = tempered(q, temperature), tempered(p, temperature)
    often = np.exp(leaves(sampler))
    assert often.sum(-1) == pytest.approx(1.0)

    def mean(log_ratio: np.ndarray) -> float:
        return float((often * log_ratio).sum(-1).mean())

    assert row["kl_models"] == pytest.approx(0.4, rel=1e-9)
    assert row["kl_scored"] == pytest.approx(mean(leaves(sampler) - leaves(scored)), rel=1e-10)
    assert row["mean_mixed"] == pytest.approx(mean(leaves(q) - leaves(p)), rel=1e-10)
    assert row["kl_sampler"] == pytest.approx(mean(leaves(sampler) - leaves(p)), rel=1e-10)
    weight = np.exp(leaves(q) - leaves(sampler))
    assert row["ess"] == pytest.approx(1.0 / mean(weight**2), rel=1e-9)


@pytest.mark.usefixtures("tiny_models")
def test_language_models_are_scored_as_pairs_at_that_temperature(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    table: pd.DataFrame = klbench.run(
        "temperature",
        *("pair=lm", "policy=embedded:finetuned-far", "prompt_count=4", "max_new_tokens=4"),
        *("samples=12", f"temperatures=[{T},1]"),
    ).tables["temperature"]
    at, plain = table.to_dict("records")
    options: dict[str, Any] = {"policy": "embedded:finetuned-far", "prompt_count": 4}
    pair = pairs.get("lm").model_validate(
        {**options, "max_new_tokens": 4, "temperature": T, "scored_temperature": T}
    )
    found = pair.completions(0, 0, 12)
    assert at["kl_scored"] == pytest.approx(found.kl_qp.sum(-1).mean(), rel=1e-4)
    mixed = pair.model_copy(update={"scored_temperature": 1.0}).completions(0, 0, 12)
    weight = np.exp((mixed.log_q - mixed.log_mu).sum(-1))
    assert at["mean_weight"] == pytest.approx(weight.mean(), rel=1e-4)
    assert plain["mean_weight"] == pytest.approx(1.0)
    assert plain["kl_models"] == plain["kl_scored"] == pytest.approx(plain["mean_mixed"])
    assert (at["method"], at["samples"]) == ("sampling", 12)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"pairs": [{"kind": "gaussian"}]}, "no logits"),
        ({"pairs": [{"kind": "sequence", "lag": 0.1}]}, "leave out mu, lag"),
        ({"pairs": [{"kind": "lm", "top_p": 0.9}]}, "leave out mu, lag, mismatch, top_p"),
        (
            {"pairs": [{"kind": "lm", "temperature": T, "scored_temperature": T}]},
            "the pair's own temperatures",
        ),
        ({"pairs": [SEQUENCE], "temperatures": [0.0]}, "greater than or equal to 0.01"),
        ({"pairs": [SEQUENCE], "temperatures": []}, "at least 1"),
        ({"pairs": [SEQUENCE], "samples": 1}, "greater than or equal to 2"),
    ],
)
def test_bad_settings(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        TemperatureOptions.model_validate(options)
