"""The callback beside TRL's own trainers, on embedded models."""

import logging
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import transformers
from datasets import Dataset

from klbench.lm import embedded
from klbench.pairs.lm import LmPair
from klbench.rollouts.batches import read
from klbench.types import ConfigError

trl = pytest.importorskip("trl", reason="trl is not installed: pip install 'klbench[trl]'")
pytestmark = pytest.mark.filterwarnings("ignore")

from klbench.integrations.trl import Watch, watch  # noqa: E402  # it is of use with trl alone

T = 12


@pytest.fixture(scope="module", autouse=True)
def lm_cache(tmp_path_factory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KLBENCH_CACHE", str(tmp_path_factory.mktemp("lm-cache")))
        patch.setenv("KLBENCH_EMBEDDED", "tiny")
        patch.setenv("HF_HUB_OFFLINE", "1")
        patch.setenv("TRL_EXPERIMENTAL_SILENCE", "1")
        yield


def grpo(folder: Path, steps: int = 3, model: str = "reference", **options):
    """A trainer that has the letter e rewarded; ``rollout_func`` stands for an engine."""
    rollout_func = options.pop("rollout_func", None)
    arguments = {
        "output_dir": str(folder),
        "per_device_train_batch_size": 16,
        "num_generations": 4,
        "beta": 0.05,
        "max_completion_length": T,
        "learning_rate": 1e-3,
        "max_steps": steps,
        "logging_steps": 1,
        "report_to": "none",
        "use_cpu": True,
        "save_strategy": "no",
        "bf16": False,
        "disable_tqdm": True,
        "seed": 1,
    }
    return trl.GRPOTrainer(
        model=str(embedded.folder(f"embedded:{model}")),
        reward_funcs=lambda completions, **_: [float(text.count("e")) for text in completions],
        args=trl.GRPOConfig(**arguments | options),
        train_dataset=Dataset.from_dict(
            {"prompt": [f"the {word} " for word in ("a", "b", "c", "d") * 8]}
        ),
        rollout_func=rollout_func,
    )


def twice(make, folder: Path, **options) -> tuple[Watch, list[dict]]:
    """Train without and with the callback from one seed, and compare all but what it adds: weights, logs."""
    found, watcher = [], None
    for name in ("alone", "watched"):
        trainer = make(folder / name, **options)
        if name == "watched":
            watcher = watch(trainer, every=1)
        trainer.train()
        logs = [
            {
                k: v
                for k, v in each.items()
                if not ("klbench" in k or "time" in k or "_per_second" in k)
            }
            for each in trainer.state.log_history
        ]
        weights = {k: v.clone() for k, v in trainer.model.state_dict().items()}
        found.append((weights, logs, torch.random.get_rng_state()))
    (alone, logs, state), (watched, others, after) = found
    assert all(torch.equal(watched[name], each) for name, each in alone.items())
    assert torch.equal(state, after)
    assert logs == others
    return watcher, trainer.state.log_history


@pytest.mark.parametrize("options", [{}, {"num_iterations": 2, "steps_per_generation": 2}])
def test_weights_are_the_same_bits_with_and_without(tmp_path, options) -> None:
    watcher, logs = twice(grpo, tmp_path, **options)
    assert list(watcher.diagnoses) == [0, 1, 2]
    assert any("klbench/reference/kl_token" in each for each in logs)


def test_what_is_written_is_what_the_trainer_has(tmp_path) -> None:
    trainer = grpo(tmp_path, steps=2)
    watcher = watch(trainer, every=1)
    trainer.train()
    files = sorted(watcher.out.iterdir())
    assert [path.name for path in files] == ["step_000000.parquet", "step_000001.parquet"]
    reading = read(watcher.out)
    assert dict(reading.columns) == {
        "policy": "per_token_logps",
        "reference": "ref_per_token_logps",
        "tokens": "completion_ids",
        "prompt": "prompt_ids",
        "step": "step",
    }
    last = trainer._buffered_inputs[0]
    mask = last["completion_mask"].bool()
    (batch,) = read(files[-1]).batches()
    np.testing.assert_array_equal(batch.tokens, last["completion_ids"][mask])
    np.testing.assert_array_equal(
        batch.columns["reference"], last["ref_per_token_logps"][mask].double()
    )
    (first,) = read(files[0]).batches()
    np.testing.assert_allclose(first.columns["policy"], first.columns["reference"], atol=1e-6)
    logged = [each["kl"] for each in trainer.state.log_history if "kl" in each]
    log_ratio = batch.columns["reference"] - batch.columns["policy"]
    assert logged[1] == pytest.approx(np.mean(np.expm1(log_ratio) - log_ratio), rel=1e-4)


def engine(temperature: float):
    """An engine that samples, and scores, at a temperature."""

    def rollout(prompts, trainer):
        tokenizer, model = trainer.processing_class, trainer.model
        result = {"prompt_ids": [], "completion_ids": [], "logprobs": []}
        for prompt in prompts:
            ids = tokenizer(prompt)["input_ids"]
            row, chosen, scores = list(ids), [], []
            with torch.no_grad():
                for _ in range(T):
                    log_probs = (
                        model(torch.tensor([row])).logits[0, -1] / temperature
                    ).log_softmax(-1)
                    token = int(torch.multinomial(log_probs.exp(), 1))
                    row.append(token)
                    chosen.append(token)
                    scores.append(float(log_probs[token]))
            for name, each in zip(result, (ids, chosen, scores), strict=True):
                result[name].append(each)
        return result

    return rollout


def test_an_engine_at_another_temperature_is_found_within_three_steps(
    tmp_path, caplog, monkeypatch
) -> None:
    monkeypatch.delenv("KLBENCH_EMBEDDED")  # the smallest models are sure of nothing
    monkeypatch.delenv("KLBENCH_CACHE")
    options = {"beta": 0.0, "learning_rate": 1e-6, "per_device_train_batch_size": 32}
    trainer = grpo(tmp_path / "wrong", rollout_func=engine(0.6), **options)
    watcher = watch(trainer, every=1)
    with caplog.at_level(logging.WARNING, "klbench"):
        trainer.train()
    last = watcher.diagnoses[2]
    assert not last.ok
    assert last.cause[0].name == "temperature"
    assert last.cause[0].about["temperature"] == pytest.approx(0.6, abs=0.05)
    assert "temperature" in caplog.text
    right = grpo(tmp_path / "right", rollout_func=engine(1.0), **options)
    watcher = watch(right, every=1)
    right.train()
    assert watcher.diagnoses[2].ok
    assert watcher.diagnoses[2].cause[0].name == "healthy"


def test_its_divergence_is_that_of_klbench_on_the_checkpoint(tmp_path) -> None:
    trainer = grpo(
        tmp_path, steps=4, model="finetuned-near", learning_rate=0.0, per_device_train_batch_size=64
    )
    reference = transformers.AutoModelForCausalLM.from_pretrained(
        embedded.folder("embedded:reference")
    )
    trainer.ref_model.load_state_dict(reference.state_dict())
    watcher = watch(trainer, every=1)
    trainer.train()
    trainer.save_model(tmp_path / "checkpoint")
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text("".join(f'{{"prompt": "the {word} "}}\n' for word in "abcd"))
    pair = LmPair(
        policy=str(tmp_path / "checkpoint"),
        reference="embedded:reference",
        max_new_tokens=T,
        prompts=str(prompts),
        dtype="float32",
    )
    own = pair.completions(0, 0, 512).kl_qp.sum(1)
    found = watcher.diagnoses[3].reference
    assert found["kl_sequence_low"] < own.mean() < found["kl_sequence_high"]


def test_without_a_second_column_it_says_what_is_missing_and_trains_on(tmp_path, caplog) -> None:
    trainer = grpo(tmp_path, beta=0.0, log_completions=True)
    watcher = watch(trainer, every=2)
    with caplog.at_level(logging.WARNING, "klbench"):
        trainer.train()
    assert watcher.diagnoses == {}
    assert caplog.text.count("klbench has nothing to compare") == 1
    assert trainer.state.global_step == 3
    with pytest.raises(ConfigError, match="TRL's log_completions holds text and rewards"):
        read(tmp_path / "completions")  # TRL's own dump


def test_a_failure_of_its_own_does_not_end_the_training(tmp_path, caplog, monkeypatch) -> None:
    trainer = grpo(tmp_path, steps=2)
    watch(trainer, every=1)
    monkeypatch.setattr(
        Watch, "_write", lambda *_: (_ for _ in ()).throw(OSError("the disk is full"))
    )
    trainer.train()
    assert trainer.state.global_step == 2
    assert "could not look at step 0: OSError: the disk is full" in caplog.text


def dpo(folder: Path, **options):
    arguments = {
        "output_dir": str(folder),
        "per_device_train_batch_size": 4,
        "gradient_accumulation_steps": 2,
        "max_steps": 3,
        "learning_rate": 1e-3,
        "logging_steps": 1,
        "report_to": "none",
        "use_cpu": True,
        "save_strategy": "no",
        "bf16": False,
        "disable_tqdm": True,
        "seed": 1,
        "max_length": 64,
    }
    rows = {
        "prompt": [f"the {i} " for i in range(24)],
        "chosen": ["tree and the sea " * (i % 3 + 1) for i in range(24)],
        "rejected": ["stone under a wall " * (i % 2 + 1) for i in range(24)],
    }
    return trl.DPOTrainer(
        model=str(embedded.folder("embedded:reference")),
        args=trl.DPOConfig(**arguments | options),
        train_dataset=Dataset.from_dict(rows),
    )


def test_preferences_are_watched_and_trained_on_as_without(tmp_path) -> None:
    watcher, logs = twice(dpo, tmp_path)
    frames = [pd.read_parquet(path) for path in sorted(watcher.out.iterdir())]
    assert [len(frame) for frame in frames] == [8, 8, 8]
    assert set(frames[0]) == {
        "step",
        "chosen_logps",
        "rejected_logps",
        "ref_chosen_logps",
        "ref_rejected_logps",
    }
    np.testing.assert_allclose(frames[0]["chosen_logps"], frames[0]["ref_chosen_logps"], atol=1e-3)
    logged = [each for each in logs if "rewards/margins" in each]
    for frame, log in zip(frames, logged, strict=True):
        margins = (
            frame["chosen_logps"]
            - frame["ref_chosen_logps"]
            - frame["rejected_logps"]
            + frame["ref_rejected_logps"]
        )
        assert log["rewards/margins"] == pytest.approx(0.1 * margins.mean(), abs=1e-4)
        assert log["logps/chosen"] == pytest.approx(frame["chosen_logps"].mean(), abs=1e-3)
    reading = read(watcher.out)
    assert (reading.layout, reading.paired) == ("sums", True)
    assert list(watcher.diagnoses) == [0, 1, 2]


def test_other_trainers_are_refused(tmp_path) -> None:
    with pytest.raises(
        ConfigError, match="expected a trainer like TRL's GRPOTrainer or DPOTrainer, got int"
    ):
        watch(3)
    with pytest.raises(ConfigError, match=r"watch\(every=0\): expected 1 or more"):
        watch(3, every=0)
