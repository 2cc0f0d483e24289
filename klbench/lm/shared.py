"""Prompts that several completions answer: large models pass through each of them once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import DynamicCache, DynamicLayer

from klbench.lm.model import LanguageModel, accepted

WORTH = 64
"""Tokens that must be saved.

Every weight then has two gradients, and adding them up costs as much as the passes of about twenty
tokens.
"""


@dataclass(frozen=True)
class Passed:
    """The beginnings of some sequences, which a model has passed through.

    Parameters
    ----------
    cache
        Keys and values of each sequence's beginning, differentiable.
    seen
        What counts of them, ``(n, width)``: they are padded on the right.
    """

    cache: Any
    seen: Tensor


def cacheable(lm: LanguageModel) -> bool:
    """Return whether a model goes on from a cache to which every earlier token is known.

    A layer with a window or a state of its own would count the padding.
    """
    needed = {"position_ids", "past_key_values", "logits_to_keep", "attention_mask"}
    if not needed <= accepted(type(lm.model).forward):
        return False
    layers = DynamicCache(config=lm.model.config).layers
    return all(type(layer) is DynamicLayer for layer in layers)


def distinct(prompts: Sequence[Sequence[int]]) -> tuple[list[Sequence[int]], Tensor]:
    """Return each prompt once, and which of them each of ``prompts`` is, ``(n,)``."""
    place: dict[tuple[int, ...], int] = {}
    which = [place.setdefault(tuple(each), len(place)) for each in prompts]
    return list(place), torch.tensor(which)


def saved(prompts: Sequence[Sequence[int]], counts: Sequence[int]) -> int:
    """Return how many tokens, padding included, fewer pass through a model.

    ``counts`` are those of what follows each prompt; the last of them need not pass.
    """
    once = {tuple(prompt[:-1]) for prompt in prompts}
    whole = max(len(prompt) + n for prompt, n in zip(prompts, counts, strict=True))
    apart = len(once) * max(map(len, once)) + len(prompts) * max(counts)
    return len(prompts) * whole - apart if any(once) else 0


def passed(lm: LanguageModel, beginnings: Sequence[Sequence[int]]) -> Passed:
    """Pass through each beginning once, however often it occurs. Some of them may be empty."""
    once, which = distinct(beginnings)
    width = max(map(len, once))
    ids = torch.tensor([[*each, *[lm.pad] * (width - len(each))] for each in once])
    seen = torch.tensor([[1] * len(each) + [0] * (width - len(each)) for each in once])
    visible = seen.clone()
    visible[:, 0] = 1  # of no token at all there is no attention
    output = lm.model(
        input_ids=ids.to(lm.device),
        attention_mask=visible.to(lm.device),
        position_ids=torch.arange(width, device=lm.device).expand_as(ids),
        use_cache=True,
        logits_to_keep=1,
    )
    output.past_key_values.batch_select_indices(which.to(lm.device))
    return Passed(output.past_key_values, seen[which].to(lm.device))


def continued(lm: LanguageModel, before: Passed, ids: Tensor) -> Tensor:
    """Return the logits of what follows each token of ``ids``, ``(n, t, vocabulary)``.

    ``ids`` come after the beginnings and may be padded on the right.
    """
    first = before.seen.sum(-1, keepdim=True)
    logits: Tensor = lm.model(
        input_ids=ids,
        attention_mask=torch.cat([before.seen, torch.ones_like(ids)], dim=-1),
        position_ids=first + torch.arange(ids.shape[1], device=lm.device),
        past_key_values=before.cache,
        use_cache=True,
    ).logits
    return logits
