"""A language model that is ready to run, and the checks that make it one."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from klbench import inputs
from klbench.lm.quiet import quiet
from klbench.types import ConfigError

FEW_PARAMETERS = 5_000_000
"""A model with no more is small.

It runs on one thread, since more would not be faster, and what saves time and rounds otherwise is
left: its last bits are the same on every machine.
"""


@dataclass(frozen=True, eq=False)
class LanguageModel:
    """A causal language model that is ready to run, and its tokenizer.

    Parameters
    ----------
    name
        What it was asked for by.
    vocabulary
        How many tokens its logits are over.
    context
        The longest sequence it takes; None where its configuration names none.
    end
        Ids of the tokens that end a sequence; none where it has no such token.
    pad
        What fills up a batch; no result depends on it.
    """

    name: str
    model: Any
    tokenizer: Any
    device: str
    vocabulary: int
    context: int | None
    end: tuple[int, ...]
    pad: int

    @property
    def small(self) -> bool:
        """Return whether it has few parameters."""
        return bool(self.model.num_parameters() <= FEW_PARAMETERS)

    def encode(self, prompt: str) -> list[int]:
        """The ids of a prompt, with what the tokenizer puts before every text.

        Raises
        ------
        ConfigError
            Not one token comes of it.
        """
        with quiet():
            ids: list[int] = self.tokenizer(prompt)["input_ids"]
        if not ids:
            raise ConfigError(
                f"{self.name}: the prompt {prompt!r} has no tokens; a completion needs at least one"
                " before it"
            )
        if max(ids) >= self.vocabulary:
            raise ConfigError(
                f"{self.name}: its tokenizer has token {max(ids)}, which is beyond the"
                f" {self.vocabulary} that the model knows (in the prompt {prompt!r:.60})"
            )
        return ids

    def continued(self, completion: str) -> list[int]:
        """The ids of what follows a prompt, without what the tokenizer puts around a text of its
        own.
        """
        with quiet():
            ids: list[int] = self.tokenizer(completion, add_special_tokens=False)["input_ids"]
        return ids

    def chat(self, prompt: Sequence[Any], answer: Sequence[Any] = ()) -> tuple[str, str]:
        """Messages as the tokenizer's template writes them.

        The prompt up to the answer's turn, and what follows.

        The template is that of the tokenizer's own files. transformers runs it in Jinja's sandbox.

        Raises
        ------
        ConfigError
            There is no template, it does not take these messages, or writes the prompt otherwise
            with an answer after it.
        """
        if not self.tokenizer.chat_template:
            raise ConfigError(
                f"{self.name}: messages need a tokenizer with a chat template, and it has none;"
                " give texts, or another model"
            )
        with (
            quiet(),
            inputs.refused(f"{self.name}: its chat template does not take these messages"),
        ):
            before = self.tokenizer.apply_chat_template(
                list(prompt), tokenize=False, add_generation_prompt=True
            )
            if not answer:
                return before, ""
            whole = self.tokenizer.apply_chat_template([*prompt, *answer], tokenize=False)
        if not whole.startswith(before):
            raise ConfigError(
                f"{self.name}: its chat template writes a prompt otherwise where an answer follows"
                f" ({before[-40:]!r})"
            )
        return before, whole[len(before) :]

    def encode_chat(
        self, prompt: Sequence[Any], answer: Sequence[Any]
    ) -> tuple[list[int], list[int]]:
        """The ids of messages and of an answer to them, up to the last token that ends one.

        Raises
        ------
        ConfigError
            As :meth:`chat`.
        """
        before, after = (self.continued(text) for text in self.chat(prompt, answer))
        ends = [i for i, each in enumerate(after, 1) if each in self.end]
        return before, after[: ends[-1]] if ends else [*after, *self.end[:1]]

    def texts(self, token: np.ndarray, mask: np.ndarray) -> list[str]:
        """Completions ``(n, T)`` as texts, without special tokens."""
        with quiet():
            rows = [row[keep].tolist() for row, keep in zip(token, mask, strict=True)]
            found: list[str] = self.tokenizer.batch_decode(rows, skip_special_tokens=True)
        return found

    def decode(self, ids: Sequence[int]) -> list[str]:
        """The text of each token by itself."""
        with quiet():
            return [self.tokenizer.decode([int(each)]) for each in ids]


def ready(name: str, model: Any, tokenizer: Any, device: str) -> LanguageModel:
    """Return a model of transformers as one to measure.

    On its device, its weights fixed, and checked by its logits.

    Raises
    ------
    ConfigError
        It has no logits over tokens, they are not finite or depend on later tokens, or its end is
        no token of it.
    """
    model = model.to(device).eval().requires_grad_(False)
    head = model.get_output_embeddings()
    if head is None:
        raise ConfigError(f"{name}: has no output over tokens; expected a causal language model")
    logits = _logits(model, head.weight.shape[0])
    if not bool(logits.isfinite().all()):
        raise ConfigError(
            f"{name}: its logits are NaN or infinite, though its weights are not; expected a"
            " config.json that fits the weights, and a dtype that holds what comes of them (this"
            f" is {model.dtype})"
        )
    if not _is_causal(logits, model):
        raise ConfigError(
            f"{name}: what it says of a token depends on later ones; expected a causal language"
            " model"
        )
    ends = model.generation_config.eos_token_id if model.generation_config is not None else None
    ends = tokenizer.eos_token_id if ends is None else ends
    end = tuple(ends) if isinstance(ends, list | tuple) else () if ends is None else (ends,)
    vocabulary = int(head.weight.shape[0])
    for each in end:
        if type(each) is not int or not 0 <= each < vocabulary:
            raise ConfigError(
                f"{name}: eos_token_id={each!r}: must be a token of the model, 0 to"
                f" {vocabulary - 1:,}"
            )
    # A padding token that was added to the tokenizer alone has no embedding; any that has one does
    # as well.
    pad = next(
        (
            int(each)
            for each in (tokenizer.pad_token_id, *end)
            if each is not None and each < vocabulary
        ),
        0,
    )
    config = model.config.get_text_config()
    return LanguageModel(
        name=name,
        model=model,
        tokenizer=tokenizer,
        device=device,
        vocabulary=vocabulary,
        context=getattr(config, "max_position_embeddings", None),
        end=end,
        pad=pad,
    )


def _logits(model: Any, vocabulary: int) -> Tensor:
    """Logits after a first token that two different ones follow, one in each of two rows."""
    ids = torch.tensor([[0, 1, 2], [0, 2, 1]], device=model.device) % vocabulary
    with torch.inference_mode():
        return (
            model(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False)
            .logits[:, 0]
            .float()
        )


def _is_causal(logits: Tensor, model: Any) -> bool:
    """Return whether logits are the same whatever follows.

    Transformers loads encoders such as BERT's as causal models, too.
    """
    one, other = logits
    rounding = 1e-4 if model.dtype == torch.float32 else 0.05
    return bool((one - other).abs().max() <= rounding * one.abs().max())


@cache
def accepted(forward: Any) -> frozenset[str]:
    """The arguments that a model's ``forward`` takes."""
    parameters = inspect.signature(forward).parameters
    hands_on = any(each.kind is inspect.Parameter.VAR_KEYWORD for each in parameters.values())
    # Positions are given where they can only be handed on, too: padding on the left would shift
    # them.
    return frozenset(parameters) | ({"position_ids"} if hands_on else set())
