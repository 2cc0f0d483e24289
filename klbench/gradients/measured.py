"""The numbers of tokens and sequences that factors of corrections are made of."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from klbench.gradients.kinds import Over
from klbench.types import Array

EPSILONS = 8
"""Bounds belong to what they keep.

A log-ratio so many units in the last place beyond one is on it.
"""


@dataclass(frozen=True)
class Measured:
    """Numbers of a batch, from the log-ratio of the newer policy to the older, 0 where masked."""

    xp: Any
    log_ratio: Array
    mask: Array
    log_old: Array | None
    advantage: Array | None

    def summed(self, values: Array) -> Array:
        """Return the sum over the tokens that count, ``(n, 1)``."""
        return self.xp.sum(self._counted(values), axis=-1, keepdims=True)

    def _counted(self, values: Array) -> Array:
        return self.xp.where(self.mask, values, self.xp.zeros_like(values))

    def all(self, inside: Array) -> Array:
        """Return whether every token that counts is inside, ``(n, 1)``."""
        return self.xp.all(inside | ~self.mask, axis=-1, keepdims=True)

    @property
    def length(self) -> Array:
        return self.xp.sum(self.xp.astype(self.mask, self.log_ratio.dtype), axis=-1, keepdims=True)

    @property
    def sum(self) -> Array:
        return self.xp.sum(self.log_ratio, axis=-1, keepdims=True)

    @property
    def mean(self) -> Array:
        return self.sum / self.length

    def blocks(self, size: int) -> Array:
        """Return the sums of log-ratios up to the end of each token's block, ``(n, T)``."""
        total = self.xp.cumulative_sum(self.log_ratio, axis=-1)
        last = total.shape[-1] - 1
        ends = [min((t // size + 1) * size - 1, last) for t in range(last + 1)]
        return self.xp.stack([total[..., end] for end in ends], axis=-1)

    def faded(self, up: float, down: float) -> Array:
        """Return the slope of SAPO's gate in the log-ratio, ``(n, T)``."""
        xp, ratio = self.xp, self.xp.exp(self.log_ratio)
        tau = xp.where(self.towards > 0.0, xp.full_like(ratio, up), xp.full_like(ratio, down))
        # 4 s (1 - s), with an exponent that no ratio takes beyond a float
        decay = xp.exp(-xp.abs(tau * (ratio - 1.0)))
        return 4.0 * ratio * decay / (1.0 + decay) ** 2

    def moved(self, low: float, high: float) -> Array:
        """Return GMPO's weights: the geometric mean of moved ratios, 0 for those, ``(n, T)``."""
        xp, x = self.xp, self.log_ratio
        least, most = (math.log(each) if each > 0.0 else -math.inf for each in (low, high))
        above = (self.towards > 0.0) & (x > most + self.slack(x))
        below = (self.towards < 0.0) & (x < least - self.slack(x))
        bounded = xp.where(above, xp.full_like(x, most), x)
        bounded = xp.where(below, xp.full_like(x, least), bounded)
        mean = xp.exp(self.summed(bounded) / self.length)
        return xp.where(above | below, xp.zeros_like(x), mean)

    def reduced(self, values: Array, over: Over) -> Array:
        """Return the numbers of tokens themselves, or their sum, mean or largest over each
        sequence.
        """
        if over in ("token", "every"):
            return values
        if over == "max":
            return self.xp.max(values, axis=-1, keepdims=True)
        return self.summed(values) / (self.length if over == "mean" else 1.0)

    @property
    def towards(self) -> Array:
        if self.advantage is None:
            raise ValueError("a signed factor takes the advantage of each token")
        return self.advantage

    def slack(self, x: Array) -> Array:
        """Return how far beyond a bound rounding alone may take ``x``."""
        unit = EPSILONS * float(self.xp.finfo(self.log_ratio.dtype).eps)
        size = self.xp.abs(x)
        return unit * self.xp.where(size > 1.0, size, self.xp.ones_like(size))

    def statistic(self, name: str) -> Array:
        """Return of each token log q/mu, log mu/q, k2, k3, |q/mu - 1|, the binary KL(mu‖q) or its
        change.

        0 where masked.
        """
        xp, x = self.xp, self.log_ratio
        if name in ("ratio", "inverse", "log_inverse"):
            return x if name == "ratio" else -x
        if name in ("k2", "k3"):
            return 0.5 * x * x if name == "k2" else xp.expm1(x) - x
        if name == "change":
            return xp.abs(xp.expm1(x))
        if self.log_old is None:
            raise ValueError("a binary divergence takes the log-probabilities of the older policy")
        old, new = xp.exp(self.log_old), xp.exp(self.log_old + x)
        if name == "tv":
            return self._counted(xp.abs(new - old))
        if name == "fall":
            return self._counted(old - new)
        # Near 1 the other outcome's probability is what rounding leaves; a certain token has no
        # other outcome.
        tiny = float(xp.finfo(x.dtype).tiny)
        rest_old, rest_new = -xp.expm1(self.log_old), -xp.expm1(self.log_old + x)
        rest = rest_old * (
            xp.log(rest_old + tiny)
            - xp.log(xp.where(rest_new > tiny, rest_new, xp.full_like(x, tiny)))
        )
        return self._counted(rest - old * x)


def sign(xp: Any, x: Array) -> Array:
    """Return -1, 0 or 1 for each number, without a gradient of its own."""
    return xp.astype(x > 0.0, x.dtype) - xp.astype(x < 0.0, x.dtype)
