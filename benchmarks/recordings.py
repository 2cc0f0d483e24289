"""Rollouts of the embedded models with exactly one fault, or none, as a trainer would have
recorded them.

Nothing here knows how faults are found: it imports nothing of klbench.doctor. ``python
benchmarks/recordings.py FAULT FILE`` writes one.
"""

from __future__ import annotations

import copy
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from klbench import streams
from klbench.lm.corpus import corpus
from klbench.lm.generation import Sampled, generate
from klbench.lm.loading import load
from klbench.lm.model import LanguageModel
from klbench.lm.packaged import SMOLLM2
from klbench.lm.sampling import Sampling
from klbench.lm.scoring import token_logits

Columns = dict[str, list[Any]]


@dataclass(frozen=True)
class Scene:
    """Who samples, who scores, and how much.

    Parameters
    ----------
    policy, reference
        Names of embedded models, or other ones: ``smollm2``, a folder.
    engine
        Standard deviation of the engine's own noise in a log-probability.
    """

    policy: str = "finetuned-midway"
    reference: str = "reference"
    rollouts: int = 200
    tokens: int = 24
    seed: int = 0
    engine: float = 1e-4
    prompts: int = 50

    def stream(self, *names: str | int) -> np.random.Generator:
        return streams.generator(self.seed, "recordings", *names)


def model(name: str) -> LanguageModel:
    return load(name if name == SMOLLM2 or Path(name).is_dir() else f"embedded:{name}")


def changed(lm: LanguageModel, change: Callable[[Any], None]) -> LanguageModel:
    """Return a copy of a model whose module was changed."""
    module = copy.deepcopy(lm.model)
    change(module)
    return replace(lm, model=module.eval().requires_grad_(False))


@cache
def trained(name: str, updates: int, seed: int, rate: float = 1e-3) -> LanguageModel:
    """Return the model after further updates on the text that policies are fine-tuned on."""
    lm = model(name)

    def train(module: Any) -> None:
        module.requires_grad_(True)
        optimizer = torch.optim.AdamW(module.parameters(), lr=rate, betas=(0.9, 0.95))
        stream = streams.generator(seed, "recordings", "training", name)
        texts = [[*lm.encode(text), lm.end[0]][:96] for text in corpus().part]
        for _ in range(updates):
            chosen = [texts[i] for i in stream.integers(len(texts), size=32)]
            width = max(map(len, chosen))
            ids = torch.tensor([each + [lm.pad] * (width - len(each)) for each in chosen])
            target = torch.tensor([each[1:] + [-100] * (width - len(each)) for each in chosen])
            logits = module(input_ids=ids[:, :-1]).logits
            loss = torch.nn.functional.cross_entropy(
                logits.flatten(0, 1), target.flatten(), ignore_index=-100
            )
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(module.parameters(), 1.0)
            optimizer.step()

    return changed(lm, train)


def rounded_to_int8(module: Any) -> None:
    """Round every matrix to 8 bits, with one scale a row."""
    for weight in module.parameters():
        if weight.ndim == 2:
            scale = weight.data.abs().amax(dim=1, keepdim=True).clamp(min=1e-12) / 127.0
            weight.data.copy_((weight.data / scale).round() * scale)


def log_probs(
    lm: LanguageModel,
    prompts: Sequence[Sequence[int]],
    sampled: Sampled,
    how: Sampling | None = None,
) -> np.ndarray:
    """Log-probabilities of the tokens, ``(n, T)``; 0 where there are none."""
    result = np.zeros(sampled.token.shape)
    for start in range(0, len(prompts), 64):
        part = slice(start, start + 64)
        token, mask = sampled.token[part], sampled.mask[part]
        with torch.no_grad():
            logits = token_logits(lm, prompts[part], token, mask).float()
            ids = torch.from_numpy(token[mask])[:, None]
            found = (how or Sampling()).log_probs(logits).gather(-1, ids)[:, 0]
        rows = np.zeros(token.shape)
        rows[mask] = found.double().numpy()
        result[part] = rows
    return result


@dataclass
class Recording:
    """Rectangles ``(n, T)`` of what was recorded, ready for a fault that lies in the columns."""

    scene: Scene
    prompts: list[list[int]]
    sampled: Sampled
    policy: np.ndarray
    sampler: np.ndarray
    reference: np.ndarray

    def columns(self) -> Columns:
        mask = self.sampled.mask

        def cut(array: np.ndarray) -> list[Any]:
            return [row[keep].tolist() for row, keep in zip(array, mask, strict=True)]

        return {
            "prompt": [" ".join(map(str, each)) for each in self.prompts],
            "tokens": cut(self.sampled.token),
            "logprobs": cut(self.policy),
            "sampling_logprobs": cut(self.sampler),
            "ref_logprobs": cut(self.reference),
        }


def chosen_prompts(scene: Scene, lm: LanguageModel) -> list[list[int]]:
    """Return the prompts, each as often as the others."""
    texts = scene.stream("prompts").permutation(np.array(corpus().prompts, dtype=object))[
        : scene.prompts
    ]
    return [lm.encode(texts[i % len(texts)]) for i in range(scene.rollouts)]


def record(
    scene: Scene,
    *,
    trainer: LanguageModel | None = None,
    engine: LanguageModel | None = None,
    sampling: Sampling | None = None,
    raw: bool = False,
    scored: Callable[[list[int]], list[int]] = lambda prompt: prompt,
) -> Recording:
    """Sample with the engine's model and score with the trainer's.

    Parameters
    ----------
    raw
        Whether the engine reports log-probabilities before temperature and truncation.
    scored
        A prompt as the trainer has it.
    """
    own = model(scene.policy)
    trainer, engine = trainer or own, engine or own
    prompts = chosen_prompts(scene, own)
    uniform = scene.stream("sampling").random((scene.rollouts, scene.tokens))
    sampled = generate(engine, prompts, uniform, sampling or Sampling())
    theirs = [scored(list(prompt)) for prompt in prompts]
    noise = scene.stream("engine").normal(size=uniform.shape) * scene.engine
    mu = log_probs(engine, prompts, sampled, None if raw else sampling)
    return Recording(
        scene,
        prompts,
        sampled,
        log_probs(trainer, theirs, sampled),
        np.minimum(np.where(sampled.mask, mu + noise, 0.0), 0.0),
        log_probs(model(scene.reference), theirs, sampled),
    )


def with_dropout(scene: Scene) -> Recording:
    def on(module: Any) -> None:
        for each in module.modules():
            if isinstance(each, torch.nn.Dropout):
                each.p = 0.1

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(scene.seed)
        trainer = changed(model(scene.policy), on)
        trainer.model.train()
        return record(scene, trainer=trainer)


def healthy(scene: Scene) -> Columns:
    return record(scene).columns()


def hot(temperature: float, *, raw: bool = False) -> Callable[[Scene], Columns]:
    return lambda scene: record(
        scene, sampling=Sampling(temperature=temperature), raw=raw
    ).columns()


def lagging(updates: int, rate: float = 1e-3) -> Callable[[Scene], Columns]:
    return lambda scene: record(
        scene, trainer=trained(scene.policy, updates, scene.seed, rate)
    ).columns()


def in_bfloat16(scene: Scene) -> Columns:
    return record(
        scene, engine=changed(model(scene.policy), lambda module: module.bfloat16())
    ).columns()


def in_int8(scene: Scene) -> Columns:
    return record(scene, engine=changed(model(scene.policy), rounded_to_int8)).columns()


def padded(scene: Scene) -> Columns:
    """Rows of one length whose padding nothing marks: filled with 0, and the padding token."""
    found = record(scene)
    pad = model(scene.policy).pad
    return found.columns() | {
        "tokens": np.where(found.sampled.mask, found.sampled.token, pad).tolist(),
        "logprobs": found.policy.tolist(),
        "sampling_logprobs": found.sampler.tolist(),
        "ref_logprobs": found.reference.tolist(),
    }


def padded_and_scored(scene: Scene) -> Columns:
    """The same, where trainer and reference have scored the padding, and the engine has not."""
    found = record(scene)
    pad = model(scene.policy).pad
    everywhere = Sampled(
        np.where(found.sampled.mask, found.sampled.token, pad),
        np.ones_like(found.sampled.mask),
        found.sampled.log_mu,
    )
    q, p = (
        log_probs(model(name), found.prompts, everywhere)
        for name in (scene.policy, scene.reference)
    )
    return found.columns() | {
        "tokens": everywhere.token.tolist(),
        "logprobs": q.tolist(),
        "sampling_logprobs": found.sampler.tolist(),
        "ref_logprobs": p.tolist(),
    }


def _tokens(columns: Columns) -> list[str]:
    return [name for name in columns if name != "prompt"]


def without_end(scene: Scene) -> Columns:
    ends = model(scene.policy).end
    columns = record(scene).columns()
    for i, tokens in enumerate(columns["tokens"]):
        if len(tokens) > 1 and tokens[-1] in ends:
            for name in _tokens(columns):
                columns[name][i] = columns[name][i][:-1]
    return columns


def shifted(name: str) -> Callable[[Scene], Columns]:
    def fault(scene: Scene) -> Columns:
        columns = record(scene).columns()
        return columns | {name: [[*row[1:], row[-1]] for row in columns[name]]}

    return fault


def swapped(one: str, other: str) -> Callable[[Scene], Columns]:
    def fault(scene: Scene) -> Columns:
        columns = record(scene).columns()
        return columns | {one: columns[other], other: columns[one]}

    return fault


def through(
    function: Callable[[np.ndarray], np.ndarray], *names: str
) -> Callable[[Scene], Columns]:
    def fault(scene: Scene) -> Columns:
        columns = record(scene).columns()
        return columns | {
            name: [function(np.array(row)).tolist() for row in columns[name]] for name in names
        }

    return fault


def broken_row(scene: Scene) -> Columns:
    """One row of the trainer's column is another row's."""
    columns = record(scene).columns()
    row = int(scene.stream("row").integers(scene.rollouts))
    values = np.array(columns["logprobs"][row])
    columns["logprobs"][row] = (
        values - scene.stream("values").exponential(8.0, values.size)
    ).tolist()
    return columns


def without_a_token(scene: Scene) -> Columns:
    return record(scene, scored=lambda prompt: [*prompt[:-2], *prompt[-1:]]).columns()


def without_first_token(scene: Scene) -> Columns:
    return record(scene, scored=lambda prompt: prompt[1:]).columns()


def without_last_token(scene: Scene) -> Columns:
    return record(scene, scored=lambda prompt: prompt[:-1]).columns()


def with_one_more_token(scene: Scene) -> Columns:
    return record(scene, scored=lambda prompt: [*prompt, prompt[0]]).columns()


def unmerged(scene: Scene) -> Columns:
    return record(scene, engine=model(scene.reference)).columns()


FAULTS: dict[str, tuple[str, Callable[[Scene], Columns]]] = {
    "temperature_0.6": ("temperature", hot(0.6)),
    "temperature_1.3": ("temperature", hot(1.3)),
    "top_p_0.8": ("top_p", lambda scene: record(scene, sampling=Sampling(top_p=0.8)).columns()),
    "top_k_20": ("top_k", lambda scene: record(scene, sampling=Sampling(top_k=20)).columns()),
    "bfloat16": ("low_precision", in_bfloat16),
    "int8": ("quantised", in_int8),
    "lag_8": ("stale_weights", lagging(8)),
    "lag_64": ("stale_weights", lagging(64)),
    "dropout": ("dropout", lambda scene: with_dropout(scene).columns()),
    "adapter": ("adapter_not_merged", unmerged),
    "padding": ("padding_counted", padded),
    "padding_scored": ("padding_counted", padded_and_scored),
    "end_token": ("end_token_dropped", without_end),
    "shift": ("shifted_by_one", shifted("logprobs")),
    "shift_reference": ("shifted_by_one", shifted("ref_logprobs")),
    "swap": ("columns_swapped", swapped("logprobs", "ref_logprobs")),
    "probabilities": ("not_logprobs", through(np.exp, "logprobs")),
    "all_probabilities": (
        "not_logprobs",
        through(np.exp, "logprobs", "sampling_logprobs", "ref_logprobs"),
    ),
    "negative": ("not_logprobs", through(np.negative, "sampling_logprobs")),
    "base_2": ("wrong_log_base", through(lambda x: x / np.log(2.0), "sampling_logprobs")),
    "base_2_policy": ("wrong_log_base", through(lambda x: x / np.log(2.0), "logprobs")),
    "base_10": ("wrong_log_base", through(lambda x: x / np.log(10.0), "ref_logprobs")),
    "template": ("template_or_prefix", without_a_token),
    "template_first": ("template_or_prefix", without_first_token),
    "row": ("outlier_tokens", broken_row),
    "template_last": ("template_or_prefix", without_last_token),
    "template_more": ("template_or_prefix", with_one_more_token),
    "lag_8_slow": ("stale_weights", lagging(8, 1e-4)),
    "temperature_0.6_raw": ("temperature", hot(0.6, raw=True)),
    "temperature_1.3_raw": ("temperature", hot(1.3, raw=True)),
    "healthy": ("healthy", healthy),
    "one_behind": ("healthy", lagging(1, 1e-4)),
}
"""The cause that is right, and how to record it."""


def write(columns: Columns, file: Path) -> None:
    """Write JSON lines."""
    rows = zip(*columns.values(), strict=True)
    lines = (json.dumps(dict(zip(columns, row, strict=True))) for row in rows)
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    write(FAULTS[sys.argv[1]][1](Scene()), Path(sys.argv[2]))
