"""Finite pairs, all of whose expectations are sums: what claims about values are decided on."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from klbench import estimators, pairs, streams
from klbench.oracles import ExactMoments


@dataclass(frozen=True)
class Finite:
    """A policy ``q`` and a reference ``p`` on the same few outcomes, probabilities of shape
    ``(n,)``.
    """

    q: np.ndarray
    p: np.ndarray

    @property
    def log_ratio(self) -> np.ndarray:
        """``log p - log q`` where q samples, shape ``(m,)``."""
        inside = self.q > 0.0
        return np.log(self.p[inside]) - np.log(self.q[inside])

    def mean(self, terms: np.ndarray) -> float:
        """``E_q`` of terms of shape ``(m,)``."""
        return math.fsum(self.q[self.q > 0.0] * terms)

    def variance(self, terms: np.ndarray) -> float:
        """``Var_q`` of terms of shape ``(m,)``."""
        return self.mean((terms - self.mean(terms)) ** 2)

    @property
    def kl_qp(self) -> float:
        """``KL(q‖p)`` in nats."""
        return -self.mean(self.log_ratio)

    @property
    def kl_pq(self) -> float:
        """``KL(p‖q)`` in nats, over the outcomes that q samples."""
        return math.fsum(self.p[self.q > 0.0] * self.log_ratio)

    @property
    def chi2(self) -> float:
        """``χ²(p‖q)``."""
        return math.fsum((self.p - self.q) ** 2 / self.q)

    @property
    def jeffreys(self) -> float:
        """``KL(q‖p) + KL(p‖q)``, as one sum."""
        return math.fsum((self.p - self.q) * self.log_ratio)


def finite(q: list[float], p: list[float]) -> Finite:
    """A pair from two lists of probabilities."""
    return Finite(np.array(q), np.array(p))


def random_pairs(seed: int, name: str, n: int = 200) -> Iterator[Finite]:
    """Pairs of 2 to 20 outcomes, from almost equal to far apart.

    Each claim has a stream of its own.
    """
    stream = streams.generator(seed, "claims", name)
    for _ in range(n):
        size = int(stream.integers(2, 21))
        logits = stream.standard_normal(size)
        tilt = 10.0 ** stream.uniform(-2.0, 0.5) * stream.standard_normal(size)
        yield Finite(
            *(np.exp(each - np.logaddexp.reduce(each)) for each in (logits + tilt, logits))
        )


def shift(kl: float) -> Any:
    """The pair ``N(0, 1) ‖ N(m, 1)`` with that divergence in nats: ``m = sqrt(2 kl)``."""
    return pairs.get("gaussian").model_validate(
        {"q": {"mean": 0.0}, "p": {"mean": math.sqrt(2.0 * kl)}}
    )


def exact(pair: Any, *names: str) -> list[ExactMoments]:
    """Exact moments of one term of each named estimator."""
    found = pair.exact([estimators.get(name) for name in names])
    assert all(each is not None for each in found)
    return list(found)


def crossing(first: str, second: str, low: float, high: float) -> float:
    """The ``KL(q‖p)`` at which two estimators' terms are equally noisy on shifted Gaussians,
    between two limits, in nats.
    """
    from scipy.optimize import brentq

    def difference(kl: float) -> float:
        a, b = exact(shift(kl), first, second)
        return math.log(a.std / b.std)

    return float(brentq(difference, low, high, xtol=1e-12))
