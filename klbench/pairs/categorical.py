"""Categorical distributions: everything by enumeration."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import ClassVar

import numpy as np
from pydantic import Field, NonNegativeInt, PositiveFloat, field_validator, model_validator

from klbench import divergences, streams
from klbench.numerics import tempered
from klbench.oracles import EPS, ExactMoments, enumerated
from klbench.pairs import register
from klbench.pairs._base import Pair, Temperature, at_temperatures
from klbench.types import Draws, Estimator, GradientTask, Options, Skip, Truth

MOST_LOGITS = 1_000
"""The most categories for which gradient estimators are enumerated."""


class Categorical(Options):
    """A categorical distribution by ``probs`` (they sum to 1) or by ``logits``, one number a
    category.
    """

    probs: tuple[float, ...] | None = None
    logits: tuple[float, ...] | None = None

    @field_validator("probs")
    @classmethod
    def _sum_to_one(cls, probs: tuple[float, ...] | None) -> tuple[float, ...] | None:
        if probs is not None:
            if min(probs, default=0.0) < 0.0:
                raise ValueError(f"must not be negative, got {min(probs):g}")
            total = math.fsum(probs)
            if not abs(total - 1.0) <= 1e-6:
                raise ValueError(f"must sum to 1, these sum to {total:g}")
        return probs

    @model_validator(mode="after")
    def _one_of_two(self) -> Categorical:
        if (self.probs is None) == (self.logits is None):
            raise ValueError("give probs or logits, one of them")
        if self.logits is not None and not self.logits:
            raise ValueError("logits must not be empty")
        return self

    def log_probs(self) -> np.ndarray:
        """Normalised log-probabilities, ``-inf`` where the probability is 0."""
        if self.logits is not None:
            logits = np.array(self.logits)
        else:
            with np.errstate(divide="ignore"):
                logits = np.log(np.array(self.probs))
        top = logits.max()
        result: np.ndarray = logits - (top + math.log(math.fsum(np.exp(logits - top))))
        return result


class Random(Options):
    """A pair drawn from a seed.

    Normal logits for p, tilted by normal noise until ``KL(q‖p)`` is ``kl`` nats.
    """

    size: int = Field(ge=2, le=10_000_000)
    kl: PositiveFloat
    seed: NonNegativeInt = 0


def normalized(logits: np.ndarray) -> np.ndarray:
    """Return the log-probabilities of logits."""
    logits = logits - logits.max()
    return np.asarray(logits - math.log(np.exp(logits).sum()))


def _tilted(random: Random) -> tuple[np.ndarray, np.ndarray]:
    from scipy.optimize import brentq

    stream = streams.generator(random.seed, "pair", "categorical", random.size)
    reference = stream.standard_normal(random.size)
    tilt = stream.standard_normal(random.size)

    log_p = normalized(reference)

    def excess(log_strength: float) -> float:
        log_q = normalized(log_p + math.exp(log_strength) * tilt)
        return float(np.exp(log_q) @ (log_q - log_p)) - random.kl

    low, high = -20.0, 6.0
    if excess(high) < 0.0:
        limit = excess(high) + random.kl
        raise ValueError(
            f"random.kl={random.kl:g} is out of reach for {random.size} categories: less than"
            f" {limit:.3g} is possible here"
        )
    return normalized(log_p + math.exp(brentq(excess, low, high, xtol=1e-14)) * tilt), log_p


@register
class CategoricalPair(Pair):
    """Categorical distributions, given or drawn from a seed with a chosen size and divergence.

    Samples are of q's logits over ``temperature``, and q and p are compared with theirs over
    ``scored_temperature``.

    Where q is 0, p need not be. What p has there no sample of q shows: ``E_q[r]`` is 1 less that
    mass, every estimator with ``r - 1`` in it is off by as much, and KL(p‖q) is infinite.
    """

    kind: ClassVar[str] = "categorical"
    summary: ClassVar[str] = (
        "categoricals (probs or logits; or random.size, random.kl, random.seed): everything by"
        " enumeration"
    )
    later: ClassVar[Sequence[str]] = ("temperature", "scored_temperature")
    q: Categorical | None = None
    p: Categorical | None = None
    mu: Categorical | None = None
    random: Random | None = None
    temperature: Temperature = 1.0
    scored_temperature: Temperature = 1.0

    @model_validator(mode="after")
    def _check(self) -> CategoricalPair:
        if (self.random is None) == (self.q is None and self.p is None) or (self.q is None) != (
            self.p is None
        ):
            raise ValueError("give q and p, or random (size, kl, seed), one of the two")
        if self.mu is not None and (self.temperature, self.scored_temperature) != (1.0, 1.0):
            raise ValueError("give mu, or temperature and scored_temperature, one of the two")
        sizes = {side: len(log_probs) for side, log_probs in self._log_probs.items()}
        if len(set(sizes.values())) > 1:
            raise ValueError(
                "all sides must have one number of categories, got "
                + ", ".join(f"{k}: {v}" for k, v in sizes.items())
            )
        support = {side: np.isfinite(log_probs) for side, log_probs in self._log_probs.items()}
        for inside, outside, expression in (("q", "p", "KL(q‖p)"), ("q", "mu", "the weight q/mu")):
            if outside in support and np.any(missing := support[inside] & ~support[outside]):
                raise ValueError(
                    f"{outside} is zero at category {int(np.argmax(missing))}, where {inside} is"
                    f" not: {expression} is infinite"
                )
        return self

    @cached_property
    def _log_probs(self) -> dict[str, np.ndarray]:
        if self.random is not None:
            log_q, log_p = _tilted(self.random)
            sides = {"q": log_q, "p": log_p}
        else:
            assert self.q is not None
            assert self.p is not None
            sides = {"q": self.q.log_probs(), "p": self.p.log_probs()}
        if self.mu is not None:
            sides["mu"] = self.mu.log_probs()
        elif self.temperature != self.scored_temperature:
            sides["mu"] = tempered(sides["q"], self.temperature)
        return sides | {side: tempered(sides[side], self.scored_temperature) for side in "qp"}

    @property
    def log_probs(self) -> Mapping[str, np.ndarray]:
        """Log-probabilities of the categories, ``(k,)``, of ``q``, ``p`` and, where a third
        samples, ``mu``.
        """
        return self._log_probs

    @cached_property
    def _atoms(self) -> tuple[np.ndarray, np.ndarray, np.ndarray | None, np.ndarray]:
        """Log-ratio, log q, log-weight and the sampler's log-probabilities, over the sampler's
        support inside q's.
        """
        log_q, log_p = self._log_probs["q"], self._log_probs["p"]
        log_sampler = self._log_probs.get("mu", log_q)
        inside = np.isfinite(log_sampler)
        with np.errstate(invalid="ignore"):
            # Where mu samples what q never does, the weight is 0 and the ratio, 0/0, is never used:
            # any number serves.
            log_ratio = np.where(np.isfinite(log_q), log_p - log_q, 0.0)[inside]
        log_weight = (log_q - log_sampler)[inside] if self.off_policy else None
        return log_ratio, log_q[inside], log_weight, log_sampler[inside]

    @property
    def unreached(self) -> float:
        return math.fsum(np.exp(self._log_probs["p"][~np.isfinite(self._log_probs["q"])]))

    @cached_property
    def _cumulative(self) -> np.ndarray:
        total = np.cumsum(np.exp(self._atoms[3]))
        return total[:-1] / total[-1]

    @property
    def off_policy(self) -> bool:
        return "mu" in self._log_probs

    def describe(self) -> str:
        if self.random is not None:
            return (
                f"Categorical {self.random.size}, KL={self.random.kl:g}, seed {self.random.seed}"
                + at_temperatures(self.temperature, self.scored_temperature)
            )
        return f"Categorical {len(self._log_probs['q'])}, KL={self.truth('kl_qp').value:.4g}" + (
            (f", {self.unreached:.3g} of p out of q's reach" if self.unreached else "")
            + (" off-policy" if self.mu is not None else "")
            + at_temperatures(self.temperature, self.scored_temperature)
        )

    def draw(self, stream: np.random.Generator, n: int) -> Draws:
        index = np.searchsorted(self._cumulative, stream.random(n), side="right")
        log_ratio, _, log_weight, _ = self._atoms
        return Draws(log_ratio[index], None if log_weight is None else log_weight[index])

    def truth(self, target: str) -> Truth:
        log_q, log_p = self._log_probs["q"], self._log_probs["p"]
        inside = np.isfinite(log_q)
        terms = divergences.terms(target, log_q[inside], log_p[inside])
        missed = self.unreached * divergences.unreached(target) if self.unreached else 0.0
        total = math.fsum(terms) + missed
        return Truth(
            total,
            16 * EPS * (math.fsum(np.abs(terms)) + missed) if math.isfinite(total) else 0.0,
            "enumeration",
        )

    def finite_moment(self, order: float, weight_order: float = 0.0) -> bool:
        return True

    def exact(self, estimators: Sequence[Estimator]) -> list[ExactMoments | None]:
        log_ratio, _, log_weight, log_probabilities = self._atoms
        draws = Draws(log_ratio, log_weight)
        return [
            (
                None
                if e.batch is not None or (e.needs_weight and not self.off_policy)
                else enumerated(e, draws, log_probabilities)
            )
            for e in estimators
        ]

    def gradient_task(self) -> GradientTask | Skip:
        log_q = self._log_probs["q"]
        if len(log_q) > MOST_LOGITS:
            return Skip(
                f"gradients are measured on up to {MOST_LOGITS:,} categories, here are"
                f" {len(log_q):,}"
            )
        if not np.isfinite(log_q).all():
            return Skip(f"q is zero at category {int(np.argmin(log_q))}, which no logit gives")
        return self._task

    @cached_property
    def _task(self) -> GradientTask:
        from klbench.pairs._categorical_gradient import CategoricalTask

        log_q, log_p = self._log_probs["q"], self._log_probs["p"]
        return CategoricalTask(log_q, log_p, self._log_probs.get("mu", log_q))
