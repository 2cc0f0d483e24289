"""Advice: near the best of the whole grid at random settings, as JSON with a schema, and refused
on one line.
"""

import json
import math
from collections.abc import Iterator
from importlib import resources
from pathlib import Path

import numpy as np
import pytest
from json_schema import conforms

from klbench import gradients
from klbench.advise.answer import Setting, advise, kept, plain, spelled
from klbench.advise.measured import errors, policies
from klbench.advise.table import GRADIENTS, KLS, LAGS, LENGTHS, VALUES, Table
from klbench.engine.cli import command_line
from klbench.gradients import lognormal

SCHEMA = json.loads(resources.files("klbench.advise").joinpath("schema.json").read_text("utf-8"))
USUAL = "advise --tokens 1024 --batch 256 --kl-token 0.01 --lag-token 0.0005".split()


def regrets(seed: int) -> Iterator[tuple[float, float]]:
    """Yield the error of what is advised over the least of all.

    Value and gradient, at 20 settings of one KL and lag.
    """
    stream = np.random.default_rng(seed)
    kl, lag = map(float, np.exp(stream.uniform(np.log([1e-4, 1e-6]), np.log([0.3, 0.1]))))
    lag = lag if seed % 3 else 0.0
    powers = [stream.choice(np.arange(1, 13), 2, replace=False) for _ in range(10)]
    lengths = sorted({int(2**a + 2**b) for a, b in powers})
    measured = errors([*policies(kl, lag, seed=seed + 1)], lengths)  # none that the table was of
    for k in range(20):
        place, batch = k % len(lengths), int(np.exp(stream.uniform(0.0, np.log(1e4))))
        found = advise(Setting(lengths[place], batch, kl, lag, logits=bool(k % 2)))
        chosen = found["value"]["estimator"], found["gradient"]["combination"]
        results = []
        for names, each, name in zip((VALUES, GRADIENTS), measured, chosen, strict=True):
            rmse = {
                candidate: math.hypot(bias, noise / math.sqrt(batch))
                for candidate, (bias, noise) in zip(names, each[:, place], strict=True)
                if k % 2 or "full" not in candidate
            }
            results.append(rmse[name] / min(rmse.values()))
        yield results[0], results[1]


def test_what_is_advised_is_near_the_best_of_the_grid() -> None:
    found = np.array([each for seed in range(5) for each in regrets(seed)])
    assert found.shape == (100, 2)
    assert ((found <= 1.2).mean(0) >= 0.95).all()


def test_the_stored_table_is_what_its_command_measures() -> None:
    table = Table.stored()
    shape = (len(KLS), len(LAGS), len(LENGTHS), 2)
    assert table.values.shape == (len(VALUES), *shape)
    assert table.gradients.shape == (len(GRADIENTS), *shape)
    assert not np.isnan(table.values).any()
    assert not np.isnan(table.gradients).any()
    values, combinations = errors([*policies(KLS[4], LAGS[5])], [64])
    again = Table.of(values, combinations)
    k = LENGTHS.index(64)
    assert table.values[:, 4, 5, k] == pytest.approx(again.values[:, 0], rel=2e-3, abs=2e-3)
    assert table.gradients[:, 4, 5, k] == pytest.approx(again.gradients[:, 0], rel=2e-3, abs=2e-3)


def test_between_its_points_the_table_is_straight() -> None:
    table = Table.stored()
    at = table.at(KLS[2], LAGS[3], LENGTHS[4])
    assert np.log(at[1]) == pytest.approx(table.gradients[:, 2, 3, 4], abs=1e-9)
    middle = table.at(math.sqrt(KLS[2] * KLS[3]), 0.0, LENGTHS[4])
    ends = (table.gradients[:, 2, 0, 4] + table.gradients[:, 3, 0, 4]) / 2
    assert np.log(middle[1]) == pytest.approx(ends, abs=1e-9)


def test_the_usual_question(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    file = tmp_path / "advice.json"
    assert command_line([*USUAL, "--logits", "--json", str(file)]) == 0
    said, found = capsys.readouterr().out, json.loads(file.read_text("utf-8"))
    assert conforms(found, SCHEMA, {})
    assert found["gradient"]["combination"] in said
    assert gradients.get(found["gradient"]["combination"]).correction == found["correction"]
    size = next(each for each in found["watch"] if "sample size" in each["what"])
    assert size["expect"] == pytest.approx(math.exp(-2 * 1024 * 0.0005))


def test_what_has_no_bias_is_said_to_have_none() -> None:
    found = advise(Setting(1024, 10**300, 0.01, 0.0))
    assert found["gradient"]["combination"].startswith("k1_reward")
    assert found["gradient"]["rel_bias"] == 0.0
    assert not found["watch"]


def test_json_replaces_no_file_of_anyone_else(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    file = tmp_path / "config.json"
    file.write_text('{"mine": 1}', "utf-8")
    assert command_line([*USUAL, "--json", str(file)]) == 2
    assert "did not write it" in capsys.readouterr().err
    assert file.read_text("utf-8") == '{"mine": 1}'


def test_logits_only_help_and_more_samples_too() -> None:
    plain, full = (advise(Setting(256, 64, 0.01, 0.001, logits=logits)) for logits in (False, True))
    for what in ("value", "gradient"):
        assert full[what]["rel_rmse"] <= plain[what]["rel_rmse"]
    larger = advise(Setting(256, 640, 0.01, 0.001))
    assert larger["gradient"]["rel_rmse"] <= plain["gradient"]["rel_rmse"]


@pytest.mark.parametrize("error", [0.5, 0.1, 1e-6])
def test_the_batch_that_is_named_is_enough(error: float) -> None:
    setting = Setting(64, 1, 0.01, 0.001, error=error)
    batch = advise(setting)["batch"]
    assert batch is not None
    assert advise(Setting(64, batch, 0.01, 0.001))["gradient"]["rel_rmse"] <= 1.001 * error


@pytest.mark.parametrize("trainer", ["trl", "verl", "openrlhf", "slime", "nemo_rl"])
def test_a_trainers_own_options(trainer: str) -> None:
    found = advise(Setting(64, 16, 0.01, 0.001, trainer=trainer))
    assert found["gradient"]["options"]
    assert (
        spelled(trainer)[gradients.get(found["gradient"]["combination"]).spec]
        == found["gradient"]["options"]
    )
    assert conforms(found, SCHEMA, {})


def test_clamps_and_means_are_left_out_of_a_trainers_combination() -> None:
    assert plain("k3_verl/loss/token:mean/none/none") == gradients.get("k3_loss").spec
    assert plain("k3_openrlhf@k2/straight_through/token/none/none") == gradients.get("k2_loss").spec


@pytest.mark.parametrize("nats", [0.1, 1.0, 5.0])
def test_the_share_that_a_mask_keeps_is_the_gradients(nats: float) -> None:
    assert kept(nats, 3.0) == pytest.approx(lognormal.kept(nats, 3.0), rel=1e-12)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (["--tokens", "1"], "--tokens 1: expected 2 to 32768"),
        (["--tokens", "many"], "--tokens"),
        (["--tokens", "2.5"], "--tokens"),
        (["--tokens", "nan"], "--tokens"),
        (["--batch", "0"], "--batch 0: expected at least 1"),
        (["--kl-token", "0"], "--kl-token 0: expected 0.0001 to 0.3"),
        (["--kl-token", "nan"], "--kl-token nan"),
        (["--lag-token", "-1"], "--lag-token -1: expected 0 to 0.1"),
        (["--error", "0"], "--error 0"),
        (["--error", "1e200"], "--error 1e+200: expected 1e-06 to 100"),
        (["--trainer", "verll"], "verl"),
        (["--colour", "red"], "--colour"),
        (["--json", "/no/such/folder/x.json"], "/no/such/folder/x.json"),
    ],
)
def test_what_cannot_be_answered_is_one_line(
    capsys: pytest.CaptureFixture[str], change: list[str], said: str
) -> None:
    assert command_line([*USUAL, *change]) == 2
    out, err = capsys.readouterr()
    assert not out
    assert err.count("\n") == 1
    assert err.startswith("klbench: ")
    assert said in err


def test_help_names_every_option(capsys: pytest.CaptureFixture[str]) -> None:
    assert command_line(["advise", "--help"]) == 0
    out = capsys.readouterr().out
    assert all(
        f"--{name}" in out
        for name in ("tokens", "batch", "kl-token", "lag-token", "trainer", "logits", "json")
    )
