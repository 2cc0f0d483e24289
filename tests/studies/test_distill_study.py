"""The distillation study, from settings to tables."""

from __future__ import annotations

import math
from pathlib import Path

import pandas as pd
import pytest
from pydantic import ValidationError

import klbench
from klbench.rlhf import objectives
from klbench.studies.distill.options import DistillOptions

PROMISED = (
    *("pair", "objective", "support", "k", "mass", "value", "value_bias", "rel_bias", "rel_std"),
    *("bytes_per_token", "method"),
)
KEY = ["pair", "objective", "support", "k"]
TWO = {"kind": "categorical", "q": {"probs": [0.6, 0.4]}, "p": {"probs": [0.9, 0.1]}}


@pytest.fixture(scope="module")
def exact(tmp_path_factory: pytest.TempPathFactory) -> pd.DataFrame:
    out = tmp_path_factory.mktemp("distill") / "run"
    sequence = "{kind:sequence,vocabulary:3,horizon:2,prompts:2,kl:0.5}"
    pairs = f"pairs=[{sequence},{{kind:categorical,random:{{size:70,kl:0.5}}}}]"
    run = klbench.run("distill", pairs, "ks=[1,8,64]", "updates=0", f"out={out}")
    return run.tables["distill"]


def row(table: pd.DataFrame, pair: str, **wanted: object) -> pd.Series:
    found = table[table["pair"].str.startswith(pair)]
    for name, value in wanted.items():
        found = found[found[name] == value]
    assert len(found) == 1
    return found.iloc[0]


def test_one_row_for_each_pair_objective_support_and_k(exact: pd.DataFrame) -> None:
    assert set(PROMISED) < set(exact.columns)
    assert not exact.duplicated(KEY).any()
    truncated = exact[exact["objective"].str.startswith("topk_")]
    assert set(truncated["support"]) == {"student", "teacher"}
    assert set(truncated["k"]) == {1, 8, 64}
    names = [name for name in objectives.names() if name.startswith("topk_")]
    assert len(truncated) == 2 * 2 * 3 * len(names)
    assert len(exact) == len(truncated) + 2 * (len(objectives.names()) - len(names))
    assert set(exact["method"]) == {"enumeration"}


def test_full_has_the_whole_vocabulary(exact: pd.DataFrame) -> None:
    full = row(exact, "Categorical", objective="full")
    assert (full["k"], full["mass"], full["bytes_per_token"]) == (70, 1.0, 280)
    assert full["unbiased"]
    assert row(exact, "Sequences", objective="full")["rel_bias"] > 0.01
    with_score = row(exact, "Sequences", objective="full_with_score")
    assert (with_score["unbiased"], with_score["value"]) == (True, pytest.approx(0.5))


def test_only_the_corrected_tail_is_right_at_every_k(exact: pd.DataFrame) -> None:
    rows = exact[exact["pair"].str.startswith("Cat") & exact["objective"].str.startswith("topk_")]
    right = rows.groupby("objective")["unbiased"].all()
    assert list(right[right].index) == ["topk_corrected_tail"]


def test_bytes_and_mass_grow_with_k(exact: pd.DataFrame) -> None:
    rows = exact[(exact["objective"] == "topk_raw") & exact["pair"].str.startswith("Cat")]
    for owner, mass in (("student", "mass"), ("teacher", "teacher_mass")):
        own = rows[rows["support"] == owner].sort_values("k")
        other = rows[rows["support"] != owner].sort_values("k")
        assert own["mass"].is_monotonic_increasing
        assert list(own["bytes_per_token"]) == [8, 64, 512]
        assert (own[mass].to_numpy() >= other[mass].to_numpy() - 1e-12).all()


def test_what_cannot_be_measured_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    table = klbench.run(
        "distill",
        "pair=categorical",
        "pair.q.probs=[.6,.4,0]",
        "pair.p.probs=[.5,.3,.2]",
        "objectives=[full,k3_loss,full:kl_pq]",
        "updates=0",
    ).tables["distill"]
    assert list(table["status"]) == ["ok", "ok", "infinite"]
    assert table["value_bias"][1] == pytest.approx(-0.2)
    assert math.isnan(table["rel_bias"][2])


@pytest.mark.usefixtures("tiny_models")
def test_language_models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    table = klbench.run(
        "distill",
        *("pair=lm", "policy=embedded:finetuned-far", "prompt_count=4", "max_new_tokens=4"),
        *(
            "samples=20",
            "updates=0",
            "ks=[1,8]",
            "objectives=[full,full_with_score,topk_raw,k1_reward:0]",
        ),
    ).tables["distill"]
    assert set(table["method"]) == {"sampling"}
    assert not table.duplicated(KEY).any()
    full, score = row(table, "LM", objective="full"), row(table, "LM", objective="full_with_score")
    assert full["truth"] > 0.0
    assert (full["value_bias"], full["rel_bias"], full["samples"]) == (0.0, 0.0, 20)
    assert (score["status"], math.isnan(score["rel_bias"])) == ("needs what follows a token", True)
    raw = row(table, "LM", objective="topk_raw", support="student", k=1)
    assert raw["rel_bias"] > 5 * raw["rel_bias_se"] > 0.0
    assert abs(row(table, "LM", objective="k1_reward:0")["value_bias"]) < 1e-12


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"pairs": [{"kind": "gaussian"}]}, "no logits of a student"),
        ({"pairs": [{**TWO, "mu": {"probs": [0.5, 0.5]}}]}, "the student samples by itself"),
        ({"pairs": [{"kind": "sequence", "lag": 0.1}]}, "the student samples by itself"),
        (
            {"pairs": [TWO], "objectives": ["full", "full:kl_qp"]},
            "full and full:kl_qp are the same",
        ),
        ({"pairs": [TWO], "objectives": []}, "at least 1"),
        ({"pairs": [TWO], "ks": [0]}, "greater than or equal to 1"),
        ({"pairs": [TWO], "samples": 1}, "greater than or equal to 2"),
    ],
)
def test_bad_settings(options: dict[str, object], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        DistillOptions.model_validate(options)
