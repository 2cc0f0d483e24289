"""Completions sampled from a language model, batched, from given uniform numbers."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np

from klbench.lm.batching import in_batches
from klbench.lm.sampling import Sampling, choose

if TYPE_CHECKING:
    from klbench.lm.loading import LanguageModel


@dataclass(frozen=True)
class Sampled:
    """Completions of shape ``(n, T)``.

    Parameters
    ----------
    token
        Token ids, int64; the padding token after the end.
    mask
        What counts: up to the end-of-sequence token and with it, or all T tokens where none came.
    log_mu
        Log-probability in nats of each token under the distribution it was chosen from, float64; 0 where masked.
    """

    token: np.ndarray
    mask: np.ndarray
    log_mu: np.ndarray


@cache
def accepted(forward: Any) -> frozenset[str]:
    """The arguments that a model's ``forward`` takes."""
    parameters = inspect.signature(forward).parameters
    hands_on = any(each.kind is inspect.Parameter.VAR_KEYWORD for each in parameters.values())
    # Positions are given where they can only be handed on, too: padding on the left would shift them.
    return frozenset(parameters) | ({"position_ids"} if hands_on else set())


def generate(
    lm: LanguageModel, prompts: Sequence[Sequence[int]], uniform: np.ndarray, sampling: Sampling, batch: int = 64
) -> Sampled:
    """One completion of each prompt; ``uniform``, shape ``(n, T)`` in [0, 1), decides every token.

    The same numbers give the same completions whatever the batch, but for a token whose quantile lies within rounding of
    the border between two.

    Raises
    ------
    RunError
        Not even one sequence fits into memory.
    """
    n, steps = uniform.shape
    out = Sampled(np.full((n, steps), lm.pad), np.zeros((n, steps), dtype=bool), np.zeros((n, steps)))

    def work(chosen: Sequence[int]) -> None:
        rows = list(chosen)
        token, mask, log_mu = _batch(lm, [prompts[i] for i in rows], uniform[rows], sampling)
        width = token.shape[1]
        out.token[rows, :width], out.mask[rows, :width], out.log_mu[rows, :width] = token, mask, log_mu

    in_batches(work, [len(prompt) + steps for prompt in prompts], batch)
    return out


def _batch(
    lm: LanguageModel, prompts: list[Sequence[int]], uniform: np.ndarray, sampling: Sampling
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Tokens, mask and log-probabilities of one batch, ``(n, t)`` with t as many tokens as the longest took."""
    import torch

    longest = max(map(len, prompts))
    # On the left, so that all continue at the same column.
    ids = torch.tensor([[lm.pad] * (longest - len(p)) + list(p) for p in prompts], device=lm.device)
    seen = torch.tensor([[0] * (longest - len(p)) + [1] * len(p) for p in prompts], device=lm.device)
    numbers = torch.from_numpy(np.ascontiguousarray(uniform)).to(lm.device)
    end = torch.tensor(lm.end, device=lm.device)
    alive = torch.ones(len(prompts), dtype=torch.bool, device=lm.device)
    positions = (seen.cumsum(-1) - 1).clamp(min=0)
    kept = {"logits_to_keep": 1} if "logits_to_keep" in accepted(type(lm.model).forward) else {}
    placed = "position_ids" in accepted(type(lm.model).forward)
    past = None  # the model makes the kind of cache that its layers need
    tokens, masks, log_mus = [], [], []
    with torch.inference_mode():
        for t in range(uniform.shape[1]):
            where = {"position_ids": positions} if placed else {}
            output = lm.model(input_ids=ids, attention_mask=seen, past_key_values=past, use_cache=True, **where, **kept)
            past = output.past_key_values
            log_probs = sampling.log_probs(output.logits[:, -1])
            token = choose(log_probs, numbers[:, t])
            tokens.append(torch.where(alive, token, lm.pad))
            masks.append(alive)
            log_mus.append(torch.where(alive, log_probs.gather(-1, token[:, None])[:, 0], 0.0))
            alive = alive & ~torch.isin(token, end)
            if not alive.any():
                break
            ids = tokens[-1][:, None]
            seen = torch.cat([seen, torch.ones_like(ids)], dim=-1)
            positions = positions[:, -1:] + 1
    return (
        torch.stack(tokens, -1).cpu().numpy(),
        torch.stack(masks, -1).cpu().numpy(),
        torch.stack(log_mus, -1).cpu().numpy(),
    )
