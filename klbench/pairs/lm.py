"""Causal language models: a policy that completes prompts, and the reference it is held to."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

import numpy as np
from pydantic import Field, PositiveFloat, field_validator

from klbench import streams
from klbench.lm import prompts
from klbench.lm.catalogue import PREFIX
from klbench.lm.fields import ModelName, PromptFile
from klbench.oracles import ExactMoments
from klbench.pairs import register
from klbench.pairs._base import Pair, at_temperatures
from klbench.threads import one_thread
from klbench.types import (
    Capabilities,
    Completions,
    ConfigError,
    Draws,
    Dtype,
    Estimator,
    Truncated,
    Truth,
)

if TYPE_CHECKING:
    from klbench.lm.batching import Batch
    from klbench.lm.model import LanguageModel
    from klbench.lm.sampling import Sampling
    from klbench.lm.scoring import Scores

COLDEST = 1e-6
FEW = 1024
"""Tokens of a vocabulary up to which plain torch scores in main memory."""


def threads(*models: LanguageModel) -> AbstractContextManager[None]:
    """Return a context of one thread for small models, and of as many as there are for others.

    More would not be faster, and the last bits would depend on how many.
    """
    return one_thread() if all(lm.small for lm in models) else nullcontext()


@register
class LmPair(Pair):
    """A policy and a reference with one tokenizer, and completions that the policy samples after
    prompts.

    A completion ends with the end-of-sequence token or is cut off after ``max_new_tokens``. ``q``
    and ``p`` are the models' own distributions, or with ``scored_temperature`` those of their
    logits divided by it, as trainers score; where temperature, top-p or top-k say otherwise,
    samples come from a third, ``mu``. Nothing is loaded, and the embedded models are not built,
    before they are first needed.
    """

    kind: ClassVar[str] = "lm"
    summary: ClassVar[str] = (
        "causal language models (policy, reference: embedded:NAME, a folder or a hub id)"
    )
    measured_with: ClassVar[str] = "+exp=lm pair=lm policy=... reference=..."
    capabilities: ClassVar[Capabilities] = Capabilities(
        completions=True, rescored=True, truncated=True, in_process=True
    )
    later: ClassVar[Sequence[str]] = ("scored_temperature",)
    policy: ModelName = "embedded:finetuned-midway"
    reference: ModelName = "embedded:reference"
    revision: str = ""
    reference_revision: str = ""
    dtype: Dtype = "float32"
    device: Literal["cpu", "cuda"] = "cpu"
    batch: int = Field(default=64, ge=1, le=65_536)
    score_batch: int = Field(default=16, ge=1, le=65_536)
    prompts: PromptFile = ""
    prompt_count: int = Field(default=64, ge=1, le=1_000_000)
    max_new_tokens: int = Field(default=32, ge=1, le=1_000_000)
    temperature: PositiveFloat = 1.0
    scored_temperature: PositiveFloat = 1.0
    top_p: float = Field(default=1.0, gt=0.0, le=1.0)
    top_k: int = Field(default=0, ge=0)
    kernel: Literal["auto", "triton", "cpu", "reference"] = "auto"

    @field_validator("temperature", "scored_temperature")
    @classmethod
    def _check_temperature(cls, value: float) -> float:
        if value < COLDEST:
            raise ValueError(
                f"must be at least {COLDEST:g}, where the most probable token is all but certain"
            )
        return value

    @property
    def sampling(self) -> Sampling:
        """The choice of tokens."""
        from klbench.lm.sampling import Sampling

        return Sampling(self.temperature, self.top_p, self.top_k)

    @property
    def off_policy(self) -> bool:
        scored = (self.scored_temperature, 1.0, 0)
        return (self.temperature, self.top_p, self.top_k) != scored  # without torch

    def describe(self) -> str:
        how = [f"{self.max_new_tokens} tokens"]
        how += [f"T={self.temperature:g}"] * (self.temperature != 1.0 == self.scored_temperature)
        how += [f"top-p {self.top_p:g}"] * (self.top_p < 1.0) + [f"top-k {self.top_k}"] * (
            self.top_k > 0
        )
        how += [self.dtype] * (self.dtype != "float32")
        scored = self.scored_temperature
        words = at_temperatures(self.temperature, scored) if scored != 1.0 else ""
        return f"LM {_short(self.policy)} ‖ {_short(self.reference)}, {', '.join(how)}{words}"

    def on_policy(self) -> Self | None:
        if not self.off_policy:
            return None
        return self.model_copy(
            update={
                "temperature": self.scored_temperature,
                "top_p": 1.0,
                "top_k": 0,
                "label": "",
                "series": "",
            }
        )

    @property
    def compute_device(self) -> str:
        return self.device

    def placed(self, device: str) -> Self:
        return self if device == "cpu" else self.model_copy(update={"device": device})

    def prepare(self) -> None:
        """Load, and where it is the first time build, all that the pair needs, so that what is
        wrong is said at once.

        Raises
        ------
        ConfigError
            A model, a tokenizer or the prompts cannot be used, or the two models are not over the
            same tokens.
        """
        _ = self._models, self._prompts

    @property
    def models(self) -> tuple[LanguageModel, LanguageModel]:
        """The policy and the reference."""
        return self._models

    @property
    def encoded_prompts(self) -> list[list[int]]:
        """The tokens of each prompt."""
        return self._prompts

    @cached_property
    def _models(self) -> tuple[LanguageModel, LanguageModel]:
        return self._models_in(self.dtype)

    def _models_in(self, dtype: str) -> tuple[LanguageModel, LanguageModel]:
        from klbench.lm import loading

        policy = loading.load(self.policy, self.revision or None, dtype, self.device)
        reference = loading.load(
            self.reference, self.reference_revision or None, dtype, self.device
        )
        loading.check_same_tokens(policy, reference)
        return policy, reference

    @cached_property
    def _generating(self) -> Batch:
        return _batch(self.batch)

    @cached_property
    def _scoring(self) -> Batch:
        return _batch(self.score_batch)

    @cached_property
    def _prompts(self) -> list[list[int]]:
        encoded = [
            self._models[0].encode(prompt)
            for prompt in prompts.load(self.prompts, self.prompt_count)
        ]
        check_room(self._models, encoded, self.max_new_tokens)
        return encoded

    def decode(self, token_ids: Sequence[int] | np.ndarray) -> list[str]:
        return self._models[0].decode([int(each) for each in token_ids])

    def completions(self, seed: int, shard: int, n: int) -> Completions:
        """``n`` completions; the i-th answers prompt ``shard * n + i``, around and around.

        Those of the first shard are kept: where all are scored again, they are not made twice. Only
        the same number of them serves, since others would be padded, and so rounded, otherwise.
        """
        if (seed, shard, n) in self._kept:
            return self._kept[seed, shard, n]
        count = len(self._prompts)
        prompt = (shard * n + np.arange(n, dtype=np.int64)) % count
        # What changes the arithmetic and not the distribution keeps the stream: dtypes are compared
        # on the same numbers.
        decides = self.model_dump(
            include={
                "policy",
                "revision",
                "prompts",
                "max_new_tokens",
                "temperature",
                "top_p",
                "top_k",
            }
        )
        stream = streams.generator(seed, "lm", json.dumps(decides, sort_keys=True), shard)
        found = self._sampled(prompt, stream.random((n, self.max_new_tokens)))
        if shard == 0:
            self._kept.clear()
            self._kept[seed, shard, n] = found
        return found

    @cached_property
    def _kept(self) -> dict[tuple[int, int, int], Completions]:
        return {}

    def _sampled(self, prompt: np.ndarray, uniform: np.ndarray) -> Completions:
        from klbench.lm.generation import generate

        policy, reference = self._models
        with threads(*self._models):
            started = time.perf_counter()
            sampled = generate(
                policy, [self._prompts[i] for i in prompt], uniform, self.sampling, self._generating
            )
            generated = time.perf_counter()
            scores = self._scored(policy, reference, prompt, sampled.token, sampled.mask)
        seconds = {"generation": generated - started, "scoring": time.perf_counter() - generated}
        log_mu = sampled.log_mu if self.off_policy else None
        return replace(
            _completions(scores, sampled.token, sampled.mask, prompt, log_mu), seconds=seconds
        )

    def _scored(
        self,
        policy: LanguageModel,
        reference: LanguageModel,
        prompt: np.ndarray,
        token: np.ndarray,
        mask: np.ndarray,
        truncate: Sequence[int] = (),
    ) -> Scores:
        from klbench.lm.scoring import score

        contexts = [self._prompts[i] for i in prompt]
        return score(
            policy,
            reference,
            contexts,
            token,
            mask,
            batch=self._scoring,
            kernel=self.chosen_kernel,
            truncate=truncate,
            temperature=self.scored_temperature,
        )

    @property
    def chosen_kernel(self) -> str:
        """The kernel that scores, where ``kernel`` leaves the choice.

        Plain torch is enough for few tokens: compiled loops take longer to load than they save.
        """
        import torch

        from klbench.kernels import choose

        left_open = self.kernel == "auto" and self.device == "cpu"
        if left_open and self._models[0].vocabulary <= FEW:
            return "reference"
        dtype = torch.float32 if self.dtype == "int8" else getattr(torch, self.dtype)
        return choose(
            torch.empty(0, 1, dtype=dtype, device=self.device),
            kernel=self.kernel,
        )

    def rescored(self, completions: Completions, dtype: Dtype) -> Completions:
        """The same tokens, scored by the same models in another dtype.

        ``log_mu`` stays what it was.

        Raises
        ------
        ValueError
            The completions have no tokens or prompts.
        """
        token, prompt = _tokens(completions)
        with threads(*self._models):
            scores = self._scored(*self._models_in(dtype), prompt, token, completions.mask)
        return _completions(scores, token, completions.mask, prompt, completions.log_mu)

    def truncated(self, completions: Completions, ks: Sequence[int]) -> list[Truncated]:
        """Return, for each k, what is left of the exact divergences when only the policy's k most
        probable tokens are distinguished; one pass of the models serves all of them.

        Raises
        ------
        ValueError
            The completions have no tokens or prompts.
        """
        token, prompt = _tokens(completions)
        with threads(*self._models):
            scores = self._scored(*self._models, prompt, token, completions.mask, truncate=ks)
        return [Truncated(k, left, scores.kl_qp - left) for k, left in scores.truncated.items()]

    def contexts(self, completions: Completions) -> list[list[int]]:
        """The tokens of the prompt that each completion answers.

        Raises
        ------
        ValueError
            The completions have no prompts.
        """
        return [self._prompts[i] for i in _tokens(completions)[1]]

    def draw(self, stream: np.random.Generator, n: int) -> Draws:
        """``n`` completions of prompts chosen at random, as log-ratios of whole completions."""
        prompt = stream.integers(len(self._prompts), size=n)
        found = self._sampled(prompt, stream.random((n, self.max_new_tokens)))
        log_weight = None if found.log_mu is None else (found.log_q - found.log_mu).sum(-1)
        return Draws((found.log_p - found.log_q).sum(-1), log_weight)

    def truth(self, target: str) -> Truth | None:
        return None  # there is no end of completions

    def finite_moment(self, order: float, weight_order: float = 0.0) -> bool:
        return True  # finitely many completions, and a softmax leaves none of them out

    def exact(self, estimators: Sequence[Estimator]) -> list[ExactMoments | None]:
        return [None] * len(estimators)


def check_room(
    models: Iterable[LanguageModel], encoded: Sequence[Sequence[int]], max_new_tokens: int
) -> None:
    """Check that the longest prompt and its completion fit into each model's context.

    Raises
    ------
    ConfigError
        They do not.
    """
    longest = max(map(len, encoded))
    for lm in models:
        if lm.context is not None and longest + max_new_tokens > lm.context:
            raise ConfigError(
                f"max_new_tokens={max_new_tokens} after a prompt of {longest} tokens is"
                f" more than the {lm.context} tokens of {lm.name}'s context"
            )


def _batch(size: int) -> Batch:
    from klbench.lm.batching import Batch

    return Batch(size)


def _short(name: str) -> str:
    return name.removeprefix(PREFIX).rstrip("/").rpartition("/")[2]


def _tokens(completions: Completions) -> tuple[np.ndarray, np.ndarray]:
    if completions.token is None or completions.prompt is None:
        raise ValueError("completions without tokens and prompts cannot be scored again")
    return completions.token, completions.prompt


def _completions(
    scores: Scores,
    token: np.ndarray,
    mask: np.ndarray,
    prompt: np.ndarray,
    log_mu: np.ndarray | None,
) -> Completions:
    fields: dict[str, Any] = {
        name: getattr(scores, name) for name in ("log_q", "log_p", "kl_qp", "kl_pq")
    }
    return Completions(**fields, mask=mask, log_mu=log_mu, token=token, prompt=prompt)
