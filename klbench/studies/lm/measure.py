"""The measurement of a shard of completions.

Terms per token and per sequence, sums, positions, tokens, tails.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from klbench import estimators
from klbench.machine import peak_memory
from klbench.studies.lm.found import (
    KEPT_COMPLETIONS,
    KEPT_TOKENS,
    Clock,
    Found,
    Kept,
    Places,
    Sums,
    Tallies,
    Vocabulary,
)
from klbench.studies.lm.prompts import Prompts
from klbench.threads import one_thread
from klbench.types import Completions, CompletionSource, ConfigError, Draws, Estimator, Skip

LEVELS = ("token", "sequence")
STAGES = ("generation", "scoring")
MIXED = ("k1", "k3")
"""Estimators whose log q is exchanged for log mu, to see what that does."""
UNIT = {False: ("r",), True: ("w", "wr")}
"""Ratios to whoever sampled: of each token their mean is 1, whatever precedes it.

On the policy's samples, and on others'.
"""
ABOVE = 1e-6
"""Log-probabilities beyond this are above 0 by more than float32 leaves them."""


def skip_reason(estimator: Estimator, *, off_policy: bool) -> str | None:
    """Return the reason why an estimator is no mean of terms here; None where it is one."""
    if estimator.batch is not None:
        return "is no mean of terms"
    if estimator.needs_weight and not off_policy:
        return "needs log-probabilities of a third sampler"
    return None


def measured(chosen: Sequence[Estimator], *, off_policy: bool) -> list[Estimator]:
    """Return the estimators that can be measured."""
    return [each for each in chosen if skip_reason(each, off_policy=off_policy) is None]


class Shard:
    """Completions as flat arrays of the tokens that count.

    Attributes
    ----------
    row, position
        Of each token: its completion, and how many tokens that count come before it there.
    log_ratio, log_weight
        Of each token; ``log_weight`` is None where the policy itself sampled.
    lengths
        Tokens in each completion.
    """

    def __init__(self, completions: Completions) -> None:
        self.completions, mask = completions, completions.mask.astype(bool)
        self.mask, self.n = mask, len(mask)
        self.lengths = mask.sum(axis=1)
        self.row = np.repeat(np.arange(self.n), self.lengths)
        self.position = (np.cumsum(mask, axis=1) - 1)[mask]
        self.log_q, self.log_p = completions.log_q[mask], completions.log_p[mask]
        self.log_mu = None if completions.log_mu is None else completions.log_mu[mask]
        self.log_ratio = self.log_p - self.log_q
        self.log_weight = None if self.log_mu is None else self.log_q - self.log_mu
        self.kl = {
            key: None if values is None else values[mask]
            for key, values in (("kl_qp", completions.kl_qp), ("kl_pq", completions.kl_pq))
        }

    def summed(self, tokens: np.ndarray) -> np.ndarray:
        """Return sums over the tokens of each completion, ``(tokens,)`` to ``(n,)``."""
        return np.bincount(self.row, tokens, self.n)

    def draws(self, level: str) -> Draws:
        """Return the draws, one for each token or for each whole sequence."""
        weight = self.log_weight
        if level == "token":
            return Draws(self.log_ratio, weight)
        return Draws(self.summed(self.log_ratio), None if weight is None else self.summed(weight))

    def log_of(self, name: str) -> np.ndarray:
        """Return, for each token, the logarithm of ``r`` = p/q, of ``w`` = q/mu or of ``wr`` =
        p/mu.
        """
        if name == "r":
            return self.log_ratio
        assert self.log_weight is not None
        return self.log_weight if name == "w" else self.log_ratio + self.log_weight

    def prefix_weight(self) -> np.ndarray:
        """Return ``q/mu`` of what precedes each token."""
        assert self.log_weight is not None
        weights = np.zeros(self.mask.shape)
        weights[self.mask] = self.log_weight
        with np.errstate(over="ignore"):
            return np.asarray(np.exp(np.cumsum(weights, axis=1) - weights)[self.mask])


def _exact_columns(shard: Shard) -> dict[str, np.ndarray]:
    """Rao-Blackwell sums, and the tokens they are sums over.

    As sampled, and reweighted to the policy's own prefixes.
    """
    columns = {"tokens": shard.lengths.astype(float)}
    known = {key: kl for key, kl in shard.kl.items() if kl is not None}
    columns |= {f"exact {key}": shard.summed(kl) for key, kl in known.items()}
    if shard.log_weight is not None:
        weight = shard.prefix_weight()
        columns |= {"weighted tokens": shard.summed(weight)}
        columns |= {f"weighted {key}": shard.summed(weight * kl) for key, kl in known.items()}
    return columns


def _mixed_columns(shard: Shard) -> dict[str, np.ndarray]:
    """Return k1 and k3 as they are if log q is taken for log mu, or the samples of mu for
    samples of q.
    """
    if shard.log_mu is None:
        return {}
    columns = {}
    for side, log_ratio in (("q", shard.log_ratio), ("mu", shard.log_p - shard.log_mu)):
        for name in MIXED:
            terms = estimators.get(name)
            columns[f"mixed {side} {name} token"] = shard.summed(terms(log_ratio))
            columns[f"mixed {side} {name} sequence"] = terms(shard.summed(log_ratio))
    return columns


def _kept(shard: Shard) -> Kept:
    n = min(
        shard.n, KEPT_COMPLETIONS, int(np.searchsorted(np.cumsum(shard.lengths), KEPT_TOKENS)) + 1
    )
    tokens = int(shard.lengths[:n].sum())
    sequence, weight = shard.draws("sequence"), shard.log_weight
    return Kept(
        shard.position[:tokens],
        shard.log_ratio[:tokens],
        np.empty(0) if weight is None else weight[:tokens],
        sequence.log_ratio[:n],
        np.empty(0) if sequence.log_weight is None else sequence.log_weight[:n],
        Kept.enough(n, tokens),
    )


NONE = np.empty(0)
NOTHING_KEPT = Kept(np.empty(0, dtype=np.int64), NONE, NONE, NONE, NONE, np.array(True))


def check_columns(*, off_policy: bool) -> tuple[str, ...]:
    """Return the names of the entries of ``Found.checks``."""
    return (
        "tokens",
        "above zero",
        *(f"{what} {name}" for name in UNIT[off_policy] for what in ("excess", "square")),
    )


def _checks(shard: Shard) -> Sums:
    """Sum up, over completions.

    Tokens, those with a log-probability above 0, sums of ``x - 1`` and ``x^2`` of unit ratios.
    """
    above = (
        np.max(
            [each for each in (shard.log_q, shard.log_p, shard.log_mu) if each is not None], axis=0
        )
        > ABOVE
    )
    columns = [shard.lengths, shard.summed(above)]
    for name in UNIT[shard.log_mu is not None]:
        x = shard.log_of(name)
        columns += [shard.summed(np.expm1(x)), shard.summed(np.exp(2.0 * x))]
    return Sums.of_vectors(np.column_stack(columns).astype(np.float64))


def _logged(shard: Shard, terms: Sequence[np.ndarray]) -> Sums:
    """Sum up what trainers log of each completion.

    ``terms`` are those of each estimator, ``(tokens,)``.

    The entries: k1, k3 and k3 - k1, summed over its tokens; then the mean over its tokens of each
    estimator's terms, and last of the exact KL, where that is known.
    """
    k1, k3 = (estimators.get(name)(shard.log_ratio) for name in MIXED)
    exact = shard.kl["kl_qp"]
    means = [
        shard.summed(each) / shard.lengths for each in (*terms, *([] if exact is None else [exact]))
    ]
    return Sums.of_vectors(
        np.column_stack([*(shard.summed(each) for each in (k1, k3, k3 - k1)), *means])
    )


def _positions(shard: Shard) -> Places:
    terms = [estimators.get(name)(shard.log_ratio) for name in ("k1", "k2", "k3")]
    exact = [
        np.full(shard.log_ratio.size, np.nan) if kl is None else kl for kl in shard.kl.values()
    ]
    return Places.of_tokens(shard.position, np.array([*exact, *terms]), shard.log_ratio)


def _by_prompt(shard: Shard) -> Prompts | None:
    prompt, exact = shard.completions.prompt, shard.kl["kl_qp"]
    if prompt is None:
        return None
    k1, k3 = (shard.summed(estimators.get(name)(shard.log_ratio)) for name in ("k1", "k3"))
    return Prompts.of_completions(prompt, k1, k3, None if exact is None else shard.summed(exact))


def _peak_memory(device: str) -> float:
    """Return the most memory that this process has held, or on a GPU its tensors, MiB."""
    return torch.cuda.max_memory_allocated() / 2**20 if device == "cuda" else peak_memory()


def _stages(completions: Completions) -> np.ndarray:
    found = completions.seconds or {}
    return np.array([found.get(name, float("nan")) for name in STAGES])


def found_in(
    completions: Completions,
    chosen: Sequence[Estimator],
    seconds: float,
    *,
    keep: bool,
    device: str = "cpu",
) -> Found:
    """Return the summary of a shard; with ``keep``, its log-ratios as well."""
    shard = Shard(completions)
    usable = measured(chosen, off_policy=shard.log_mu is not None)
    columns: dict[str, np.ndarray] = {}
    negative, terms_in_all, nonfinite, spent, of_tokens = [], [], [], [], []
    with np.errstate(all="ignore"):
        for estimator in usable:
            started = time.perf_counter()
            for level in LEVELS:
                terms = estimator.terms(shard.draws(level))
                sums = columns[f"{level} {estimator.name}"] = (
                    shard.summed(terms) if level == "token" else terms
                )
                for each in (terms, sums):
                    negative.append(np.count_nonzero(each < 0.0))
                    terms_in_all.append(each.size)
                    nonfinite.append(np.count_nonzero(~np.isfinite(each)))
                of_tokens += [terms] if level == "token" else []
            spent.append(time.perf_counter() - started)
        columns |= _exact_columns(shard) | _mixed_columns(shard)
        token = completions.token
        vocabulary = (
            None
            if token is None
            else Vocabulary.of_tokens(token[shard.mask], shard.log_ratio, shard.kl["kl_qp"])
        )
        return Found(
            tuple(columns),
            Sums.of_vectors(np.column_stack(list(columns.values()))),
            _positions(shard),
            vocabulary,
            _kept(shard) if keep else NOTHING_KEPT,
            Tallies(
                *(np.array(each, dtype=np.int64) for each in (negative, terms_in_all, nonfinite))
            ),
            Clock(
                np.array(seconds),
                _stages(completions),
                np.array(spent),
                np.array(_peak_memory(device)),
            ),
            _checks(shard),
            _by_prompt(shard),
            _logged(shard, of_tokens),
        )


def measure_shard(
    pair: CompletionSource, chosen: Sequence[Estimator], seed: int, shard: int, size: int, n: int
) -> Found | None:
    """Measure the first ``n`` completions of a shard of ``size``: one task.

    Return None where there are none.

    Pure but for its timings: the same arguments give the same bits.

    Raises
    ------
    ConfigError
        The pair has no completions after all, or what it reads is not as it should be.
    """
    started = time.perf_counter()
    completions = pair.completions(seed, shard, size)
    seconds = time.perf_counter() - started
    if isinstance(completions, Skip):
        raise ConfigError(f"{pair.title}: {completions.reason}")
    if n < len(completions.log_q):
        completions = first(completions, n)
    if not len(completions.log_q):
        return None
    with one_thread(torch=False):  # a sum's bits depend on how many threads share it
        return found_in(
            completions,
            chosen,
            seconds,
            keep=shard * size < KEPT_COMPLETIONS,
            device=pair.compute_device,
        )


def first(completions: Completions, n: int) -> Completions:
    """Return the first so many completions."""
    parts: dict[str, Any] = {
        k: each[:n] if isinstance(each, np.ndarray) else each
        for k, each in vars(completions).items()
    }
    return Completions(**parts)
