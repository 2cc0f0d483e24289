"""Completions sampled from a language model, batched, from given uniform numbers."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from klbench.lm.batching import Batch, in_batches
from klbench.lm.model import LanguageModel, accepted
from klbench.lm.sampling import Sampling, choose
from klbench.lm.shared import cacheable, distinct


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
        Log-probability in nats of each token under the distribution it was chosen from, float64; 0
        where masked.
    """

    token: np.ndarray
    mask: np.ndarray
    log_mu: np.ndarray


def generate(
    lm: LanguageModel,
    prompts: Sequence[Sequence[int]],
    uniform: np.ndarray,
    sampling: Sampling,
    batch: int | Batch = 64,
) -> Sampled:
    """One completion of each prompt; ``uniform``, shape ``(n, T)`` in [0, 1), decides every token.

    The same numbers give the same completions whatever the batch, but for a token whose quantile
    lies within rounding of the border between two.

    Raises
    ------
    RunError
        Not even one sequence fits into memory.
    """
    n, steps = uniform.shape
    out = Sampled(
        np.full((n, steps), lm.pad), np.zeros((n, steps), dtype=bool), np.zeros((n, steps))
    )

    def work(chosen: Sequence[int]) -> None:
        rows = list(chosen)
        token, mask, log_mu = _batch(lm, [prompts[i] for i in rows], uniform[rows], sampling)
        width = token.shape[1]
        out.token[rows, :width], out.mask[rows, :width], out.log_mu[rows, :width] = (
            token,
            mask,
            log_mu,
        )

    in_batches(work, [len(prompt) + steps for prompt in prompts], batch)
    return out


def _batch(
    lm: LanguageModel, prompts: list[Sequence[int]], uniform: np.ndarray, sampling: Sampling
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Tokens, mask and log-probabilities of one batch, ``(n, t)`` with t as many tokens as the
    longest took.
    """
    numbers = torch.from_numpy(np.ascontiguousarray(uniform)).to(lm.device)
    end = torch.tensor(lm.end, device=lm.device)
    alive = torch.ones(len(prompts), dtype=torch.bool, device=lm.device)
    tokens, masks, log_mus = [], [], []
    with torch.inference_mode():
        steps = _with_cache(lm, prompts)
        logits = next(steps)
        for t in range(uniform.shape[1]):
            log_probs = sampling.log_probs(logits)
            token = choose(log_probs, numbers[:, t])
            tokens.append(torch.where(alive, token, lm.pad))
            masks.append(alive)
            log_mus.append(torch.where(alive, log_probs.gather(-1, token[:, None])[:, 0], 0.0))
            alive = alive & ~torch.isin(token, end)
            if t + 1 == uniform.shape[1] or not alive.any():
                break
            logits = steps.send(tokens[-1])
    return (
        torch.stack(tokens, -1).cpu().numpy(),
        torch.stack(masks, -1).cpu().numpy(),
        torch.stack(log_mus, -1).cpu().numpy(),
    )


def _with_cache(lm: LanguageModel, prompts: list[Sequence[int]]) -> Generator[Tensor, Tensor, None]:
    """Logits of the next tokens, ``(n, vocabulary)``, for the first and whenever the tokens that
    were chosen are sent.
    """
    once, which = distinct(prompts)
    shared = len(once) < len(prompts) and not lm.small and cacheable(lm)
    first = once if shared else prompts
    longest = max(map(len, first))
    # On the left, so that all continue at the same column.
    ids = torch.tensor([[lm.pad] * (longest - len(p)) + list(p) for p in first], device=lm.device)
    seen = torch.tensor([[0] * (longest - len(p)) + [1] * len(p) for p in first], device=lm.device)
    positions = (seen.cumsum(-1) - 1).clamp(min=0)
    takes = accepted(type(lm.model).forward)
    kept = {"logits_to_keep": 1} if "logits_to_keep" in takes else {}
    past = None  # the model makes the kind of cache that its layers need
    while True:
        where = {"position_ids": positions} if "position_ids" in takes else {}
        cache: dict[str, Any] = {} if past is None else {"past_key_values": past}
        output = lm.model(
            input_ids=ids, attention_mask=seen, use_cache=True, **cache, **where, **kept
        )
        past = getattr(output, "past_key_values", None)
        if (
            past is None
        ):  # a recurrent model, which hands its state on in ways of its own, padding and all
            yield from _without_cache(lm, prompts)
            return
        logits = output.logits[:, -1]
        if shared:
            rows = which.to(lm.device)
            past.batch_select_indices(rows)
            logits, seen, positions, shared = logits[rows], seen[rows], positions[rows], False
        ids = (yield logits)[:, None]
        seen = torch.cat([seen, torch.ones_like(ids)], dim=-1)
        positions = positions[:, -1:] + 1


def _without_cache(
    lm: LanguageModel, prompts: list[Sequence[int]]
) -> Generator[Tensor, Tensor, None]:
    """The same, from the beginning for every token.

    Padded on the right, which comes after all that counts.
    """
    lengths = torch.tensor([len(p) for p in prompts], device=lm.device)
    row = torch.arange(len(prompts), device=lm.device)
    longest = int(lengths.max())
    ids = torch.tensor([list(p) + [lm.pad] * (longest - len(p)) for p in prompts], device=lm.device)
    while True:
        output = lm.model(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False)
        chosen = yield output.logits[row, lengths - 1]
        ids = torch.cat([ids, torch.full_like(ids[:, :1], lm.pad)], dim=-1)
        ids[row, lengths] = chosen
        lengths = lengths + 1
