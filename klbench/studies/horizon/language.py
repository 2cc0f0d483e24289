"""The law over length on the embedded language models.

Sampled, without an end token, up to 256 tokens.

The models see 96 tokens. A longer text is read in overlapping windows, each of which continues the
second half of the one before: an autoregressive policy like any other, whose memory is between one
and two halves long. Gradients are those in the readout, of which every token's score is an outer
product, ``(one-hot - q) h``; so that all gradients are matrix products.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from klbench import streams
from klbench.gradients import Combination
from klbench.gradients.exact import taken_apart
from klbench.gradients.plans import split
from klbench.gradients.sampled import SampledGradients
from klbench.gradients.surrogate import centred, ratio
from klbench.lm import loading, prompts
from klbench.metrics.tails import pareto_khat
from klbench.rows import Rows
from klbench.studies.horizon.columns import Z95
from klbench.studies.horizon.levels import gaps
from klbench.studies.horizon.series import row_of
from klbench.threads import one_thread
from klbench.types import Rollouts

POLICY, REFERENCE = "embedded:finetuned-midway", "embedded:reference"
PROMPT, HALF = 8, 44
LENGTHS = (8, 16, 32, 64, 128, 256)
BATCHES, GROUP = 16, 8
NEVER = -1e30


@dataclass(frozen=True)
class Read:
    """Texts as the models read them.

    The tokens after the prompt, what the policy's readout sees, and log-probabilities.

    ``token`` is ``(n, T)``, ``hidden`` ``(n, T, width)``, the others ``(n, T, vocabulary)``.
    """

    token: Tensor
    hidden: Tensor
    log_q: Tensor
    log_p: Tensor


class Models:
    """Policy and reference, read in windows."""

    def __init__(self) -> None:
        self.policy, self.reference = (
            loading.load(name, None, "float32", "cpu") for name in (POLICY, REFERENCE)
        )
        texts = prompts.load("", 256)
        encoded = [self.policy.encode(text)[:PROMPT] for text in texts]
        self.prompts = [each for each in encoded if len(each) == PROMPT]

    def _logits(self, model: Any, ids: Tensor, **others: Any) -> tuple[Any, Tensor]:
        out = model.transformer(ids, attention_mask=None, **others)
        logits = model.lm_head(out.last_hidden_state)
        logits[..., list(self.policy.end)] = NEVER
        return out, logits.log_softmax(-1)

    def sample(self, stream: np.random.Generator, n: int, tokens: int, back: float) -> Tensor:
        """Return ``n`` texts, each prompt's next to each other, from the path ``q^(1-back)
        p^back``.
        """
        chosen = [self.prompts[k % len(self.prompts)] for k in range(n // GROUP)]
        ids = torch.tensor(chosen).repeat_interleave(GROUP, 0)
        uniform = torch.from_numpy(stream.random((n, tokens))).float()
        pair = [each.model for each in ((self.policy, self.reference) if back else (self.policy,))]
        while ids.shape[1] < PROMPT + tokens:
            start = max(0, (ids.shape[1] // HALF - 1) * HALF)
            stop = min(start + 2 * HALF, PROMPT + tokens)
            fresh, past = ids[:, start:], [None] * len(pair)
            while ids.shape[1] < stop:
                found = [
                    self._logits(model, fresh, past_key_values=kept, use_cache=True)
                    for model, kept in zip(pair, past, strict=True)
                ]
                past = [out.past_key_values for out, _ in found]
                log_mu = self.behind([log_probs[:, -1] for _, log_probs in found], back)
                cumulative = log_mu.exp().cumsum(-1)
                at = uniform[:, ids.shape[1] - PROMPT, None] * cumulative[:, -1:]
                fresh = (cumulative < at).sum(-1, keepdim=True).clamp(max=log_mu.shape[-1] - 1)
                ids = torch.cat([ids, fresh], 1)
        return ids

    @staticmethod
    def behind(sides: Sequence[Tensor], back: float) -> Tensor:
        """Return the sampler's log-probabilities from those of policy and reference."""
        if not back:
            return sides[0]
        return ((1.0 - back) * sides[0] + back * sides[1]).log_softmax(-1)

    def read(self, ids: Tensor) -> Read:
        """Return what the models make of texts."""
        hidden, log_q, log_p = [], [], []
        starts = range(0, max(ids.shape[1] - HALF, 1), HALF)
        for start in starts:
            window, new = ids[:, start : start + 2 * HALF], HALF if start else 0
            out, q = self._logits(self.policy.model, window)
            hidden.append(out.last_hidden_state[:, new:])
            log_q.append(q[:, new:])
            log_p.append(self._logits(self.reference.model, window)[1][:, new:])
        before = slice(PROMPT - 1, ids.shape[1] - 1)
        return Read(
            ids[:, PROMPT:], *(torch.cat(each, 1)[:, before] for each in (hidden, log_q, log_p))
        )


@dataclass(frozen=True)
class Sampled:
    """Texts of one sampler, ready to be differentiated."""

    read: Read
    rollouts: Rollouts

    @classmethod
    def of(cls, read: Read, back: float) -> Sampled:
        """Return them; ``back`` is where on the path from policy to reference the sampler
        stands.
        """
        log_mu = Models.behind([read.log_q, read.log_p], back)
        q, p, mu = (
            each.gather(-1, read.token[..., None])[..., 0].double()
            for each in (read.log_q, read.log_p, log_mu)
        )
        gap = (read.log_q - read.log_p).double()
        kl = (read.log_q.double().exp() * gap).sum(-1)
        return cls(read, Rollouts(q, p, mu, kl, torch.ones_like(q, dtype=torch.bool)))

    def first(self, tokens: int) -> Sampled:
        """Return the first tokens of each."""
        each = self.read
        return Sampled(
            Read(*(x[:, :tokens] for x in (each.token, each.hidden, each.log_q, each.log_p))),
            self.rollouts.each(lambda values: values[:, :tokens]),
        )

    def gradients(self, token: Tensor, full: Tensor) -> Iterator[Tensor]:
        """Yield mean gradients of each batch, ``(combinations, parameters)``, from coefficients
        ``(combinations, n, T)``.
        """
        size = len(self.read.token) // BATCHES
        for batch in range(BATCHES):
            rows = slice(batch * size, (batch + 1) * size)
            h = self.read.hidden[rows].flatten(0, 1)
            log_q, log_p = (x[rows].flatten(0, 1) for x in (self.read.log_q, self.read.log_p))
            q, kl = log_q.exp(), self.rollouts.kl[rows].flatten().float()
            slope = q * (log_q - log_p - kl[:, None])
            scored, straight = (
                (each[:, rows].flatten(1).float()[..., None] * h).movedim(0, 1).flatten(1)
                for each in (token, full)
            )
            total = slope.T @ straight - q.T @ scored
            total.index_add_(0, self.read.token[rows].flatten(), scored)
            yield total.view(q.shape[1], len(token), -1).movedim(1, 0).flatten(1).double() / size


def _coefficients(combination: Combination, rollouts: Rollouts) -> tuple[Tensor, Tensor]:
    """Return what multiplies each token's score and the gradient of each token's own KL."""
    token, full, pieces = taken_apart(combination, rollouts)
    if pieces.weights is not None and pieces.returns is not None:
        returns = centred(pieces.returns, GROUP, combination.baseline)
        token = token + pieces.weights * returns
    return token, full


def _exactly(rollouts: Rollouts) -> tuple[Tensor, Tensor]:
    """Return the coefficients of an unbiased gradient of little noise.

    Later KLs less their mean over the other batches.
    """
    kl = _centred_kl(rollouts)
    later = kl.flip(-1).cumsum(-1).flip(-1) - kl
    return later, torch.ones_like(later)


def _centred_kl(rollouts: Rollouts) -> Tensor:
    """Return each token's KL less its mean over the other batches."""
    kl = rollouts.kl.view(BATCHES, -1, rollouts.kl.shape[-1])
    total, size = kl.sum((0, 1)), kl.shape[1]
    others = (total - kl.sum(1, keepdim=True)) / (size * (BATCHES - 1))
    return (kl - others).flatten(0, 1)


def _weights(combination: Combination, rollouts: Rollouts) -> tuple[float, float]:
    """Return the logarithm of the effective share of the samples, and k-hat.

    NaN where weights are bounded.
    """
    if not combination.factors or combination.signed:
        return 0.0, math.nan
    weight = ratio(combination, rollouts)
    parts = split(combination)
    if parts is not None and parts.prefix:
        weight = weight[:, -1:]
    w = weight.flatten().numpy()
    log_ess = 2.0 * math.log(w.sum()) - math.log(len(w) * float((w**2).sum()))
    plain = len(combination.factors) == 1 and combination.factors[0].high == math.inf
    if not plain or np.ptp(w) < 1e-12:
        return log_ess, math.nan
    return log_ess, pareto_khat(np.log(w))[0]


@dataclass(frozen=True)
class Found:
    """The rows of each table."""

    horizon: Rows
    sampled: Rows
    gaps: Rows


def rows(
    chosen: Sequence[Combination],
    lag_tokens: Sequence[float],
    lengths: Sequence[int],
    samples: int,
    seed: int,
) -> Found:
    """Return the rows of ``horizon``, ``sampled`` and ``gaps`` of the language models."""
    models = Models()
    with torch.no_grad(), one_thread():
        stream = streams.generator(seed, "horizon", "lm")
        texts = models.sample(stream, samples, lengths[-1], 0.0)
        fresh = Sampled.of(models.read(texts), 0.0)
    kl_token = float(fresh.rollouts.kl.mean())
    found = Found([], [], _gaps(fresh))
    for lag in lag_tokens:
        back, drawn = 0.0, fresh
        if lag:
            # KL(q‖q^(1-b) p^b) is about b² KL(q‖p).
            back = min(math.sqrt(lag / kl_token), 1.0)
            with torch.no_grad(), one_thread():
                stream = streams.generator(seed, "horizon", "lm", f"{lag:g}")
                texts = models.sample(stream, samples, lengths[-1], back)
                drawn = Sampled.of(models.read(texts), back)
        for tokens in lengths:
            more = _measured(chosen, fresh.first(tokens), drawn.first(tokens), back)
            found.horizon.extend(more[0])
            found.sampled.extend(more[1])
    return found


def _gaps(fresh: Sampled) -> Rows:
    """Return what token losses leave out within so many later tokens, with its 95 % interval."""
    tokens = fresh.rollouts.log_q.shape[1]
    after = gaps(tokens)
    whole, ones = _exactly(fresh.rollouts)
    cumulative = _centred_kl(fresh.rollouts).cumsum(-1)
    at = torch.arange(tokens)
    cut = [cumulative[:, (at + gap).clamp(max=tokens - 1)] - cumulative for gap in after]
    nothing = torch.zeros_like(ones)
    with torch.no_grad(), one_thread():
        token = torch.stack([whole, *cut])
        full = torch.stack([ones, *(nothing for _ in cut)])
        reference, *parts = torch.stack(list(fresh.gradients(token, full)), 1)
    size, zero = len(whole) // BATCHES, torch.zeros_like(reference[0])
    square = SampledGradients(reference, size).squared_distance(zero).value
    result: Rows = []
    for gap, part in zip(after, parts, strict=True):
        distance, se, _ = SampledGradients(part, size).squared_distance(zero)
        middle, low, high = (
            math.sqrt(max(distance + k * Z95 * se, 0.0) / square) for k in (0, -1, 1)
        )
        result.append(
            {
                "series": "lm",
                "kl_token": float(fresh.rollouts.kl.mean()),
                "tokens": tokens,
                "gap": gap,
                "left_out": middle,
                "left_out_low": low,
                "left_out_high": high,
            }
        )
    whole_part = result[-1]["left_out"]
    return [
        row | {"share": row["left_out"] / whole_part if whole_part else math.nan} for row in result
    ]


def _lag(read: Read, back: float) -> float:
    """Return ``KL(q‖mu)`` a token."""
    log_mu = Models.behind([read.log_q, read.log_p], back)
    return float((read.log_q.exp() * (read.log_q - log_mu)).sum(-1).mean()) if back else 0.0


def _measured(
    chosen: Sequence[Combination], fresh: Sampled, drawn: Sampled, back: float
) -> tuple[Rows, Rows]:
    tokens, n = drawn.rollouts.log_q.shape[1], len(drawn.rollouts.log_q)
    usable = [each for each in chosen if not each.normalised]
    pairs = [_coefficients(each, drawn.rollouts) for each in usable]
    with torch.no_grad(), one_thread():
        token, full = (torch.stack([pair[k] for pair in pairs]) for k in (0, 1))
        gradients = torch.stack(list(drawn.gradients(token, full)), 1)
        exact = [x[None] for x in _exactly(fresh.rollouts)]
        reference = torch.cat(list(fresh.gradients(*exact)))
    square, square_se, _ = SampledGradients(reference, n // BATCHES).squared_distance(
        torch.zeros_like(reference[0])
    )
    length = math.sqrt(max(square, 1e-300))
    kl = float(fresh.rollouts.kl.sum(-1).mean())
    lag = _lag(fresh.read, back)
    result: tuple[Rows, Rows] = ([], [])
    for each, own in zip(usable, gradients, strict=True):
        apart = SampledGradients(own - reference, n // BATCHES)
        distance, distance_se, _ = apart.squared_distance(torch.zeros_like(reference[0]))
        bias = math.sqrt(max(distance, 0.0)) / length
        relative = square_se / (2.0 * square)
        unsure = (
            distance_se / (2.0 * bias * length**2)
            if distance > distance_se
            else (math.sqrt(distance_se) / length)
        )
        of = SampledGradients(own, n // BATCHES)
        noise = math.sqrt(max(of.variance, 0.0)) / length
        log_ess, khat = _weights(each, drawn.rollouts)
        nats = (kl / tokens, lag, kl)
        result[0].append(row_of("lm", each, tokens, nats, (bias, noise), log_ess, khat, "sampling"))
        result[1].append(
            {
                "series": "lm",
                "combination": each.name,
                "tokens": tokens,
                "lag_token": lag,
                "rel_bias": bias,
                "rel_bias_se": math.hypot(unsure, bias * relative),
                "rel_std": noise,
                "rel_std_se": math.hypot(
                    of.variance_se / (2.0 * noise * length**2) if noise else 0.0, noise * relative
                ),
                "samples": n,
            }
        )
    return result
