"""A callback for TRL's trainers: rollouts are written while training, looked at by the doctor, and logged.

``GRPOTrainer`` and its kin: the generation buffer holds tokens, masks, and the log-probabilities of the engine, of the trainer
when it sampled, and of the reference, as far as there are any (``trl/trainer/grpo_trainer.py``, 1.16). ``DPOTrainer``: the
batches of a step hold chosen and rejected completions. Both are read and never changed. The policy's own log-probabilities come
from a forward pass without gradient, between the backward pass and the update, so with the weights that sampled where a
generation is used once. The state of the random streams is put back.
"""

from __future__ import annotations

import functools
import logging
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Tensor
from transformers import TrainerCallback

from klbench.doctor.api import diagnosed
from klbench.doctor.findings import Diagnosis
from klbench.doctor.reading import gather
from klbench.rollouts.batches import read
from klbench.types import ConfigError

LOGGER = logging.getLogger("klbench")
GIVEN = ("sampling_per_token_logps", "old_per_token_logps", "ref_per_token_logps")
"""Log-probabilities that the generation buffer may hold, one a token of the completion."""
LOGGED = {
    "sampler": (
        "kl_token",
        "kl_sequence",
        "ess_token",
        "ess_sequence",
        "mean_ratio",
        "max_abs_difference",
    ),
    "reference": ("kl_token", "kl_sequence"),
    "preferences": ("accuracy", "margin", "loss"),
}
"""Numbers of the diagnosis that go to the trainer's tracker, as ``klbench/sampler/kl_token``."""
RECENT = 8
"""Watched steps that a diagnosis looks at together."""


def watch(trainer: Any, every: int = 10, out: str | Path | None = None) -> Watch:
    """Watch a trainer from now on; to be called before ``trainer.train()``.

    Parameters
    ----------
    trainer
        A ``GRPOTrainer``, a ``DPOTrainer``, or a trainer built like one of them.
    every
        Updates from one look to the next; the first is at the first update.
    out
        The folder of the rollouts, a file a look; by default ``klbench`` in the trainer's output folder.

    Raises
    ------
    ConfigError
        The trainer has neither a generation buffer nor pairs of completions, or ``every`` is below 1.
    """
    if every < 1:
        raise ConfigError(f"watch(every={every}): expected 1 or more")
    if not (hasattr(trainer, "_buffered_inputs") or hasattr(trainer, "compute_ref_log_probs")):
        raise ConfigError(
            f"watch: expected a trainer like TRL's GRPOTrainer or DPOTrainer, got {type(trainer).__name__}; "
            "write rollouts yourself, and read them with klbench.doctor"
        )
    watcher = Watch(trainer, every, Path(out or Path(trainer.args.output_dir) / "klbench"))
    trainer.add_callback(watcher)
    return watcher


class Watch(TrainerCallback):
    """A callback, as :func:`watch` adds it to a trainer.

    Parameters
    ----------
    diagnoses
        The diagnosis of each look, by the number of updates before it.
    """

    def __init__(self, trainer: Any, every: int, out: Path) -> None:
        self.trainer, self.every, self.out = trainer, every, out
        self.diagnoses: dict[int, Diagnosis] = {}
        self._recent: deque[Path] = deque(maxlen=RECENT)
        self._said = ""
        self._batches: list[Mapping[str, Any]] = []
        if not hasattr(trainer, "_buffered_inputs"):
            self._keep_batches()

    def _keep_batches(self) -> None:
        """Remember the batches that the loss of a step is computed on: no buffer holds them."""
        original = self.trainer.compute_loss

        @functools.wraps(original)
        def compute_loss(model: Any, inputs: Mapping[str, Any], *args: Any, **options: Any) -> Any:
            if model.training:
                self._batches.append(inputs)
            return original(model, inputs, *args, **options)

        self.trainer.compute_loss = compute_loss

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Forget the last step's batches."""
        self._batches.clear()

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Look, if it is time to."""
        if state.global_step % self.every:
            return
        try:
            self._look(state.global_step, bool(state.is_world_process_zero))
        except Exception as error:  # noqa: BLE001  # training must not end for what watches it
            self._say(
                f"klbench could not look at step {state.global_step}: {type(error).__name__}: {error}"
            )

    def _look(self, step: int, speaks: bool) -> None:
        with unchanged(self.trainer):
            frame = self._rollouts() if hasattr(self.trainer, "_buffered_inputs") else self._pairs()
        if frame is None or not len(frame):
            return
        frame.insert(0, "step", step)
        self._recent.append(self._write(frame, step))
        try:
            reading = read(list(self._recent))
        except ConfigError as error:
            self._say(
                f"klbench has nothing to compare: {error}; set beta above 0, or let the engine return log-probabilities",
                "nothing",
            )
            return
        found = self.diagnoses[step] = diagnosed(reading, gather(reading), "trl")
        self._log(found)
        if found.ok:
            self._said = ""
        elif speaks:
            cause = found.cause[0]
            self._say(
                f"klbench at step {step}: {cause.name}: {cause.evidence}. {' '.join(found.advice[:1])} "
                f"(klbench doctor {self.out})",
                cause.name,
            )

    def _say(self, message: str, key: str = "") -> None:
        """Warn once of each thing in a row."""
        if (key or message) != self._said:
            self._said = key or message
            LOGGER.warning(message)

    def _write(self, frame: pd.DataFrame, step: int) -> Path:
        """Write a look's rollouts, whole or not at all; each process its own."""
        self.out.mkdir(parents=True, exist_ok=True)
        many = self.trainer.accelerator.num_processes > 1
        rank = f"_rank_{self.trainer.accelerator.process_index}" if many else ""
        path = self.out / f"step_{step:06d}{rank}.parquet"
        unfinished = path.with_suffix(".unfinished")
        frame.to_parquet(unfinished)
        return unfinished.replace(path)

    def _log(self, found: Diagnosis) -> None:
        """Hand numbers to the trainer's own log, which brings them to its trackers with its next line."""
        metrics = getattr(self.trainer, "_metrics", {}).get("train")
        if metrics is None:
            return
        metrics["klbench/alarm"].append(float(not found.ok))
        for part, names in LOGGED.items():
            numbers = getattr(found, part) or {}
            for name in names:
                if isinstance(numbers.get(name), float):
                    metrics[f"klbench/{part}/{name}"].append(numbers[name])

    def _rollouts(self) -> pd.DataFrame | None:
        """The rollouts of the generation buffer, a row each, of the tokens of the completion alone."""
        rows: list[dict[str, Any]] = []
        for batch in self.trainer._buffered_inputs or ():
            ids, mask = batch["completion_ids"], batch["completion_mask"]
            columns: dict[str, Tensor] = {
                "completion_ids": ids,
                "per_token_logps": self._policy(batch),
                **{
                    name: batch[name]
                    for name in (*GIVEN, "tool_mask")
                    if batch.get(name) is not None
                },
            }
            prompts = lists({"prompt_ids": batch["prompt_ids"]}, batch["prompt_mask"])
            advantages = batch["advantages"].reshape(len(ids), -1)[:, 0].tolist()
            rows += [
                {**prompt, "advantage": advantage, **row}
                for prompt, advantage, row in zip(
                    prompts, advantages, lists(columns, mask), strict=True
                )
            ]
        return pd.DataFrame(rows)

    def _policy(self, batch: Mapping[str, Any]) -> Tensor:
        """The policy's log-probability of each token of the completion, by the trainer's own function."""
        ids = torch.cat([batch["prompt_ids"], batch["completion_ids"]], dim=1)
        mask = torch.cat([batch["prompt_mask"], batch["completion_mask"]], dim=1)
        found = self.trainer._get_per_token_logps_and_entropies(
            self.trainer.model,
            ids,
            mask,
            batch["completion_ids"].size(1),
            batch_size=self.trainer.args.per_device_train_batch_size,
        )
        result: Tensor = found[0]
        return result

    def _pairs(self) -> pd.DataFrame | None:
        """The sums of log-probabilities of chosen and rejected completions, a pair a row."""
        parts = []
        for inputs in self._batches:
            chosen, rejected = sums(self.trainer.model, inputs).chunk(2)
            columns = {"chosen_logps": chosen, "rejected_logps": rejected}
            if "ref_chosen_logps" in inputs:
                columns |= {
                    name: inputs[name] for name in ("ref_chosen_logps", "ref_rejected_logps")
                }
            elif self.trainer.ref_model is not None:
                first, second = sums(self.trainer.ref_model, inputs).chunk(2)
                columns |= {"ref_chosen_logps": first, "ref_rejected_logps": second}
            else:
                first, second = self.trainer.compute_ref_log_probs(self.trainer.model, inputs)
                columns |= {"ref_chosen_logps": first, "ref_rejected_logps": second}
            parts.append(
                pd.DataFrame({name: each.double().tolist() for name, each in columns.items()})
            )
        return pd.concat(parts, ignore_index=True) if parts else None


def lists(columns: Mapping[str, Tensor], mask: Tensor) -> Iterator[dict[str, list[float]]]:
    """Return a row for each of rectangular columns' rows, of the places that the mask counts."""
    plain = {
        name: (each.double() if each.is_floating_point() else each).cpu()
        for name, each in columns.items()
    }
    kept = mask.cpu().bool()
    for i in range(len(kept)):
        yield {name: each[i][kept[i]].tolist() for name, each in plain.items()}


def sums(model: Any, inputs: Mapping[str, Any]) -> Tensor:
    """Return the sum of the completion's log-probabilities, ``(2 pairs,)``: chosen first, then rejected."""
    left_out = ("completion_mask", "ref_chosen_logps", "ref_rejected_logps")
    logits = model(**{k: v for k, v in inputs.items() if k not in left_out}, use_cache=False).logits
    targets, counts = inputs["input_ids"][:, 1:], inputs["completion_mask"][:, 1:].bool()
    logits = logits[:, -targets.size(1) - 1 : -1].float()
    chosen = logits.gather(2, targets.unsqueeze(2)).squeeze(2) - logits.logsumexp(2)
    return chosen.where(counts, 0.0).sum(1)


@contextmanager
def unchanged(trainer: Any) -> Iterator[None]:
    """Compute without gradients, and put random streams and the trainer's own metrics back afterwards."""
    device = trainer.accelerator.device
    devices: Sequence[Any] = [device] if device.type == "cuda" else []
    metrics = getattr(trainer, "_metrics", {}).get("train", {})
    before = {name: len(each) for name, each in metrics.items()}
    with (
        torch.random.fork_rng(devices=devices),
        torch.no_grad(),
        trainer.compute_loss_context_manager(),
    ):
        yield
    for name in list(metrics):
        del metrics[name][before.get(name, 0) :]
