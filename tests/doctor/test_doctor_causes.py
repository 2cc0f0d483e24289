"""The causes that the doctor names, on recordings with one fault each that were made without it,
and on healthy ones.
"""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from made_rollouts import frame, tables

from klbench.doctor.api import doctor

RECORDINGS = Path(__file__).parents[2] / "reports" / "published" / "doctor" / "recordings"
CAUSE = {
    "temperature_0.6": "temperature",
    "temperature_1.3": "temperature",
    "top_p_0.8": "top_p",
    "top_k_20": "top_k",
    "bfloat16": "low_precision",
    "int8": "quantised",
    "lag_8": "stale_weights",
    "lag_64": "stale_weights",
    "dropout": "dropout",
    "adapter": "adapter_not_merged",
    "padding": "padding_counted",
    "end_token": "end_token_dropped",
    "shift": "shifted_by_one",
    "swap": "columns_swapped",
    "probabilities": "not_logprobs",
    "base_2": "wrong_log_base",
    "template": "template_or_prefix",
    "row": "outlier_tokens",
    "healthy": "healthy",
    "one_behind": "stale_weights",
}
WITHOUT_CONSEQUENCE = {"bfloat16", "int8", "end_token", "healthy", "one_behind"}


def test_every_recording_is_read():
    assert {path.stem for path in RECORDINGS.glob("*.parquet")} == set(CAUSE)


@pytest.mark.parametrize("name", CAUSE)
def test_the_cause_of_a_recording_is_first_and_alarms_if_it_has_consequences(name):
    found = doctor(RECORDINGS / f"{name}.parquet")
    assert found.cause[0].name == CAUSE[name]
    assert found.ok == (name in WITHOUT_CONSEQUENCE)


@pytest.mark.parametrize(
    "name", ["temperature_0.6", "top_p_0.8", "lag_8", "dropout", "padding", "row"]
)
def test_a_cause_is_found_without_the_reference(name):
    recorded = pd.read_parquet(RECORDINGS / f"{name}.parquet").drop(columns="ref_logprobs")
    found = doctor(recorded)
    assert found.cause[0].name == CAUSE[name]
    assert not found.ok


def test_the_temperature_is_estimated_from_tokens_after_the_same_text():
    for name, value in (("temperature_0.6", 0.6), ("temperature_1.3", 1.3)):
        cause = doctor(RECORDINGS / f"{name}.parquet").cause[0]
        assert cause.about["temperature"] == pytest.approx(value, rel=1e-3)


def test_swapped_columns_without_a_sampler_are_found_by_a_negative_kl():
    right = frame(distance=0.6)[["logprobs", "ref_logprobs"]]
    assert doctor(right).ok
    found = doctor(right.rename(columns={"logprobs": "ref_logprobs", "ref_logprobs": "logprobs"}))
    assert found.cause[0].name == "columns_swapped"
    assert not found.ok
    assert found.reference["kl_token"] < 0.0


def test_rewards_tell_an_unmerged_adapter_from_swapped_columns():
    q, p = tables(4, 0.5)
    unmerged, right = frame(4, distance=0.5, sampler=p, policy=q), frame(4, distance=0.5)
    noise = np.random.default_rng(4).normal(size=200)
    for recorded, names, cause in (
        (unmerged, {}, "adapter_not_merged"),
        (right, {"logprobs": "ref_logprobs", "ref_logprobs": "logprobs"}, "columns_swapped"),
    ):
        gain = [
            np.sum(np.subtract(a, b))
            for a, b in zip(recorded["logprobs"], recorded["ref_logprobs"], strict=True)
        ]
        found = doctor(recorded.rename(columns=names).assign(reward=gain + noise))
        assert (found.cause[0].name, found.cause[0].score) == (cause, 0.95)
        assert "of more reward" in found.cause[0].evidence
        blind = doctor(recorded.rename(columns=names))
        assert blind.cause[0].score < 0.95
        assert {"adapter_not_merged", "columns_swapped"} <= {each.name for each in blind.cause}


def changed(name, function):
    recorded = frame(distance=0.5)
    return recorded.assign(**{name: [function(np.array(row)).tolist() for row in recorded[name]]})


@pytest.mark.parametrize(
    ("name", "function", "cause"),
    [
        ("ref_logprobs", lambda x: x / np.log(10.0), "wrong_log_base"),
        ("ref_logprobs", lambda x: x / np.log(2.0), "wrong_log_base"),
        ("ref_logprobs", lambda x: np.append(x[1:], x[-1]), "shifted_by_one"),
        ("sampling_logprobs", np.negative, "not_logprobs"),
        ("sampling_logprobs", np.exp, "not_logprobs"),
    ],
)
def test_a_fault_of_one_column_is_found(name, function, cause):
    found = doctor(changed(name, function))
    assert found.cause[0].name == cause
    assert not found.ok


@pytest.mark.parametrize("distance", [0.2, 0.6, 1.0, 1.4])
def test_right_runs_however_far_from_their_reference_do_not_alarm(distance):
    alarms = [doctor(frame(seed, 150, distance=distance, noise=1e-3)).alarms for seed in range(5)]
    assert alarms == [[]] * 5


def test_tokens_that_the_reference_never_says_again_and_again():
    found = frame(distance=0.3)
    ids = np.concatenate(found["tokens"].to_list())
    often = np.bincount(ids).argmax()
    found["ref_logprobs"] = [
        [-30.0 if token == often else lp for token, lp in zip(tokens, lps, strict=True)]
        for tokens, lps in zip(found["tokens"], found["ref_logprobs"], strict=True)
    ]
    causes = doctor(found).cause
    assert causes[0].name == "reference_lacks_support"
    assert f"id {often}" in causes[0].evidence


def test_one_impossible_token_is_named():
    found = frame(distance=0.3).drop(columns="sampling_logprobs")
    row = found["logprobs"][17]
    row[3] = found["ref_logprobs"][17][3] - 22.6
    diagnosis = doctor(found)
    assert not diagnosis.ok
    said = next(each for each in diagnosis.checks if each.name == "possible_penalty_token")
    assert said.ok is False
    assert "row 18, token 4" in said.message
    assert f"id {found['tokens'][17][3]}" in said.message


def test_the_age_of_weights_is_evidence():
    q, _ = tables(3, 0.3)
    old = q + 0.4 * np.random.default_rng(3).normal(size=q.shape)
    old -= np.logaddexp.reduce(old, axis=1, keepdims=True)
    fresh, stale = frame(3, noise=1e-3), frame(3, sampler=old, policy=q)
    found = pd.concat([fresh.assign(version=9), stale.assign(version=1)], ignore_index=True)
    cause = doctor(found).cause[0]
    assert cause.name == "stale_weights"
    assert "grows with the age" in cause.evidence


def test_the_policy_today_is_told_from_the_trainer_at_sampling_time():
    q, _ = tables(1, 0.3)
    new = q + 0.3 * np.random.default_rng(1).normal(size=q.shape)
    new -= np.logaddexp.reduce(new, axis=1, keepdims=True)
    found = frame(1)
    found["old_logprobs"] = found["logprobs"]
    moved = frame(1, policy=new)
    found["logprobs"] = moved["logprobs"]
    diagnosis = doctor(found)
    assert diagnosis.sampler["ess_sequence"] > 0.99
    assert diagnosis.lag["ess_sequence"] < 0.9
    assert diagnosis.lag["kl_token"] == pytest.approx(
        np.mean(np.concatenate(found["old_logprobs"]) - np.concatenate(found["logprobs"]))
    )


def test_steps_are_curves_and_the_first_that_leaves_is_named():
    parts = [frame(seed, 40, noise=1e-3).assign(step=seed) for seed in range(8)]
    q, _ = tables(8, 0.3)
    old = q + 0.5 * np.random.default_rng(8).normal(size=q.shape)
    old -= np.logaddexp.reduce(old, axis=1, keepdims=True)
    parts.append(frame(8, 40, sampler=old).assign(step=8))
    diagnosis = doctor(pd.concat(parts, ignore_index=True))
    assert [row["step"] for row in diagnosis.steps] == list(range(9))
    assert diagnosis.left["sampler_kl_token"] == 8
    assert diagnosis.steps[0]["sampler_kl_token"] == pytest.approx(0.0, abs=1e-3)


def test_a_logged_k3_is_no_truth():
    found = frame()
    log_r = [
        np.subtract(p, q) for p, q in zip(found["ref_logprobs"], found["logprobs"], strict=True)
    ]
    found["kl"] = [(np.expm1(x) - x).tolist() for x in log_r]
    said = [each for each in doctor(found).checks if each.name == "logged_kl"]
    assert [each.ok for each in said] == [False]
    assert "k3 at every token" in said[0].message


def test_identical_columns_are_said_and_no_alarm():
    found = frame()
    found["sampling_logprobs"] = found["logprobs"]
    found["ref_logprobs"] = found["logprobs"]
    diagnosis = doctor(found)
    assert diagnosis.ok
    assert diagnosis.cause[0].name == "healthy"
    assert {each.name for each in diagnosis.checks if each.ok is False} >= {
        "identical_sampler",
        "identical_penalty",
    }


def test_an_empty_response_is_counted_and_left_out():
    found = frame(rollouts=60)
    for name in ("tokens", "logprobs", "sampling_logprobs", "ref_logprobs"):
        found.at[5, name] = []
    diagnosis = doctor(found)
    assert (diagnosis.rollouts, diagnosis.empty) == (59, 1)
    assert diagnosis.ok
    assert any("1 rollouts have no token" in each for each in diagnosis.findings)


def test_every_cause_has_advice_and_a_place_in_the_schema():
    from klbench import trainers
    from klbench.doctor import advice, findings
    from klbench.trainers import remedies

    schema = json.loads(
        (Path(findings.__file__).parent / "schema.json").read_text(encoding="utf-8")
    )
    names = schema["properties"]["cause"]["items"]["properties"]["name"]["enum"]
    assert set(names) == set(findings.CAUSES) == set(advice.WORDS)
    for trainer, options in remedies.REMEDIES.items():
        assert trainers.get(trainer).name == trainer
        assert set(options) <= set(names)


def test_sums_of_preferences_have_margins_accuracy_and_loss():
    stream = np.random.default_rng(0)
    logps = -stream.gamma(20.0, 2.0, size=(4, 300))
    names = ("chosen_logps", "rejected_logps", "reference_chosen_logps", "reference_rejected_logps")
    diagnosis = doctor(pd.DataFrame(dict(zip(names, logps, strict=True))))
    margin = (logps[0] - logps[2]) - (logps[1] - logps[3])
    found = diagnosis.preferences
    assert diagnosis.ok
    assert diagnosis.reference is None
    assert found["pairs"] == 300
    assert found["margin"] == pytest.approx(margin.mean())
    assert found["margin_se"] == pytest.approx(margin.std(ddof=1) / np.sqrt(300))
    assert found["accuracy"] == pytest.approx((margin > 0).mean())
    assert found["loss"] == pytest.approx(np.log1p(np.exp(-0.1 * margin)).mean())


def test_several_files_are_the_same_by_workers(tmp_path, monkeypatch):
    files = [tmp_path / f"step_{k}.jsonl" for k in range(3)]
    for k, file in enumerate(files):
        frame(k, 40).to_json(file, orient="records", lines=True)
    alone = doctor(files, workers=1)
    monkeypatch.setattr("klbench.doctor.reading.WORTH_SHARING", 0)
    together = doctor(files, workers=2)
    assert together.plain() == alone.plain()
    assert [row["step"] for row in alone.steps] == [0, 1, 2]


@pytest.mark.parametrize(("pad", "score"), [(39, 0.9), (0, 0.75)])
def test_an_end_token_that_the_mask_leaves_out_is_not_taken_for_padding(pad, score):
    found = frame(rollouts=150)
    longest = found["tokens"].map(len).max()
    numbers = ["logprobs", "sampling_logprobs", "ref_logprobs"]
    found["mask"] = [
        [1] * (len(row) - 1) + [0] * (longest - len(row) + 1) for row in found["tokens"]
    ]
    found["tokens"] = [row + [pad] * (longest - len(row)) for row in found["tokens"]]
    for name in numbers:
        found[name] = [row + [0.0] * (longest - len(row)) for row in found[name].map(list)]
    cause = doctor(found).cause[0]
    assert (cause.name, cause.score) == ("end_token_dropped", score)
    assert ("leaves out id 0" in cause.evidence) == (score == 0.9)
