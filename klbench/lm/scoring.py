"""Scores of given completions by policy and reference.

log-probabilities, and exact divergences over each next token.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from klbench.kernels import token_divergences
from klbench.lm.batching import Batch, in_batches
from klbench.lm.model import LanguageModel, accepted
from klbench.lm.sampling import Sampling
from klbench.lm.shared import cheaper, packable, packed, packed_logits

BLOCK = {"cpu": 2**21, "cuda": 2**26}
"""Most logits of one model that are worked on at once."""
DIVERGENCES = ("log_q", "log_p", "kl_qp", "kl_pq", "entropy")


@dataclass(frozen=True)
class Scores:
    """Arrays of shape ``(n, T)``, float64, in nats, 0 where masked.

    Of the models' own distributions unless it says otherwise.

    Parameters
    ----------
    log_q, log_p
        Log-probability of each token under policy and reference.
    kl_qp, kl_pq
        ``KL(q ‖ p)`` and ``KL(p ‖ q)`` over the next token.
    entropy
        Of the policy over the next token.
    log_mu
        Log-probability under the distribution that tokens are sampled from; None where none was
        asked for.
    truncated
        By k: ``KL(q ‖ p)`` over the policy's k most probable tokens and one bucket of all others;
        never above ``kl_qp``.
    """

    log_q: np.ndarray
    log_p: np.ndarray
    kl_qp: np.ndarray
    kl_pq: np.ndarray
    entropy: np.ndarray
    log_mu: np.ndarray | None
    truncated: dict[int, np.ndarray]


def score(
    policy: LanguageModel,
    reference: LanguageModel,
    prompts: Sequence[Sequence[int]],
    token: np.ndarray,
    mask: np.ndarray,
    *,
    batch: int | Batch = 8,
    kernel: str = "auto",
    sampling: Sampling | None = None,
    truncate: Sequence[int] = (),
    temperature: float = 1.0,
) -> Scores:
    """Score completions ``token``, shape ``(n, T)``, of which ``mask`` counts, each after its
    prompt.

    Logits of both models are divided by ``temperature`` first.

    Logits of ``batch`` sequences are held of either model; all else is computed from them in blocks
    of rows.

    Raises
    ------
    RunError
        Not even one sequence fits into memory.
    """
    out = {
        name: np.zeros(token.shape) for name in (*DIVERGENCES, *["log_mu"] * (sampling is not None))
    }
    tails = {k: np.zeros(token.shape) for k in truncate}
    lengths = [len(prompt) + int(row.sum()) for prompt, row in zip(prompts, mask, strict=True)]

    def work(chosen: Sequence[int]) -> None:
        rows = list(chosen)
        ids, places = layout([prompts[i] for i in rows], token[rows], mask[rows], policy.pad)
        with torch.inference_mode():
            ours, theirs = (_logits(lm, ids, places, temperature) for lm in (policy, reference))
            tokens = torch.from_numpy(token[rows][mask[rows]]).to(ours.device)
            found = _in_blocks(ours, theirs, tokens, kernel, sampling, truncate)
        sequence, step = np.nonzero(mask[rows])
        target = np.asarray(rows)[sequence]
        for name, values in found.items():
            (tails[name] if isinstance(name, int) else out[name])[target, step] = values

    in_batches(work, lengths, batch)
    return Scores(**{"log_mu": None} | out, truncated=tails)  # type: ignore[arg-type]


def layout(
    prompts: list[Sequence[int]], token: np.ndarray, mask: np.ndarray, pad: int
) -> tuple[np.ndarray, np.ndarray]:
    """Prompts and completions padded on the right, ``(n, L)``, and where each counted token is
    predicted, ``(rows, 2)``.

    Padding on the right comes after all that counts, so that no causal model sees it.
    """
    sequences = [
        [*prompt, *row[keep].tolist()]
        for prompt, row, keep in zip(prompts, token, mask, strict=True)
    ]
    ids = np.full((len(sequences), max(map(len, sequences))), pad, dtype=np.int64)
    for row, sequence in zip(ids, sequences, strict=True):
        row[: len(sequence)] = sequence
    places = [(i, len(p) - 1 + t) for i, p in enumerate(prompts) for t in range(int(mask[i].sum()))]
    return ids, np.asarray(places, dtype=np.int64).reshape(-1, 2)


def token_logits(
    lm: LanguageModel,
    prompts: Sequence[Sequence[int]],
    token: np.ndarray,
    mask: np.ndarray,
    temperature: float = 1.0,
) -> Tensor:
    """The logits that predict the tokens that count, in the order of ``mask``'s rows.

    ``(counted, vocabulary)``.

    All in one pass, and differentiable, unlike :func:`score`. Large models pass through a prompt
    once for all of its completions, where that costs less.
    """
    if not lm.small and packable(lm):
        found = packed(prompts, token, mask, lm.pad)
        lengths = [len(p) + n for p, n in zip(prompts, mask.sum(-1).tolist(), strict=True)]
        if len(found.ids) < len(prompts) and cheaper(lm, found, lengths):
            return _tempered(packed_logits(lm, found), temperature)
    ids, places = layout(list(prompts), token, mask, lm.pad)
    return _logits(lm, ids, places, temperature)[:]


def _tempered(logits: Tensor, temperature: float) -> Tensor:
    """Logits divided by a temperature.

    Not in 16 bits, where a quotient would be rounded once more.
    """
    if temperature == 1.0:
        return logits
    return (logits if logits.dtype == torch.float64 else logits.float()) / temperature


class _Rows:
    """The rows of logits that predict counted tokens, handed out block by block."""

    def __init__(self, logits: Tensor, index: Tensor, temperature: float) -> None:
        self._logits, self._index, self.device = logits.flatten(0, 1), index, logits.device
        self._temperature = temperature
        self._in_order = bool((index.diff() > 0).all())

    def __getitem__(self, block: slice) -> Tensor:
        return _tempered(self.plain(block), self._temperature)

    def plain(self, block: slice) -> Tensor:
        """The rows as the model gave them, divided by no temperature."""
        index = self._index[block]
        # All of them, one after the other: no copy.
        first, last = (int(index[0]), int(index[-1]) + 1) if len(index) else (0, 0)
        if self._in_order and last - first == len(index):
            return self._logits[first:last]
        return self._logits[index]

    @property
    def vocabulary(self) -> int:
        return self._logits.shape[-1]


def _logits(
    lm: LanguageModel, ids: np.ndarray, places: np.ndarray, temperature: float = 1.0
) -> _Rows:
    length = ids.shape[1]
    first = int(places[:, 1].min()) if len(places) else length - 1
    takes = accepted(type(lm.model).forward)
    kept = (
        {"logits_to_keep": length - first} if "logits_to_keep" in takes else {}
    )  # of prompts nothing is needed
    x = torch.from_numpy(ids).to(lm.device)
    logits = lm.model(
        input_ids=x, attention_mask=torch.ones_like(x), use_cache=False, **kept
    ).logits
    width = logits.shape[1]
    index = places[:, 0] * width + places[:, 1] - (length - width)
    return _Rows(logits, torch.from_numpy(index).to(logits.device), temperature)


def _in_blocks(
    ours: _Rows,
    theirs: _Rows,
    tokens: Tensor,
    kernel: str,
    sampling: Sampling | None,
    truncate: Sequence[int],
) -> dict[str | int, np.ndarray]:
    rows = max(1, BLOCK[ours.device.type] // ours.vocabulary)
    parts: list[dict[str | int, Any]] = []
    for start in range(0, tokens.shape[0], rows):
        block = slice(start, start + rows)
        q, p, chosen = ours[block], theirs[block], tokens[block]
        part = _token_divergences(q, p, chosen, kernel)
        if sampling is not None:
            own = sampling.log_probs(ours.plain(block))
            part["log_mu"] = own.gather(-1, chosen[:, None])[:, 0]
        if truncate:
            part.update(truncated_kl(q, p, truncate).items())
        parts.append(part)
    if not parts:
        return {}
    return {
        name: np.concatenate([part[name].double().cpu().numpy() for part in parts])
        for name in parts[0]
    }


def _token_divergences(q: Tensor, p: Tensor, tokens: Tensor, kernel: str) -> dict[str | int, Any]:
    """Log-probabilities, divergences and entropy of each row.

    The one place that says what computes them.
    """
    found = token_divergences(q, p, tokens, kernel=kernel)
    return {name: getattr(found, name) for name in DIVERGENCES}


def truncated_kl(q: Tensor, p: Tensor, ks: Sequence[int]) -> dict[str | int, Tensor]:
    """``KL(q ‖ p)`` of logits ``(rows, vocabulary)`` when all but the policy's k most probable
    tokens are taken for one, for each k.

    Lumping loses information and never adds any: the result is at most the exact divergence, and
    equal to it from ``k = vocabulary - 1`` on.
    """
    size = q.shape[-1]
    top = q.topk(min(max(ks), size)).indices
    (log_q, tail_q), (log_p, tail_p) = (_ranked(x.double(), top) for x in (q, p))
    told_apart = torch.where(log_q == -torch.inf, 0.0, log_q.exp() * (log_q - log_p)).cumsum(-1)
    lumped = torch.where(tail_q == -torch.inf, 0.0, tail_q.exp() * (tail_q - tail_p))
    return {k: told_apart[:, min(k, size) - 1] + lumped[:, min(k, size) - 1] for k in ks}


def _ranked(logits: Tensor, top: Tensor) -> tuple[Tensor, Tensor]:
    """Log-probabilities of the tokens ``top``, and of all that come after each of them."""
    best = logits.gather(-1, top)
    # Summed over what is left, since 1 minus the rest would leave nothing but rounding of a small
    # tail.
    others = logits.scatter(-1, top, -torch.inf).logsumexp(-1, keepdim=True)
    from_each = torch.cat([best, others], dim=-1).flip(-1).logcumsumexp(-1).flip(-1)
    return best - from_each[:, :1], from_each[:, 1:] - from_each[:, :1]
