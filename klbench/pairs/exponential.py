"""Exponentials: the ratio is exactly Pareto, so that every tail is known."""

from __future__ import annotations

import math
from functools import cached_property
from typing import ClassVar

import numpy as np

from klbench.numerics import expm1_and_gap
from klbench.oracles import closed_form
from klbench.pairs import register
from klbench.pairs._base import Density, ScalarPair, Scale
from klbench.types import GradientTask, Truth


class Exponential(Density):
    """``rate * exp(-rate x)`` on ``x > 0``."""

    lower: ClassVar[float] = 0.0
    rate: Scale

    def log_density(self, x: np.ndarray) -> np.ndarray:
        return math.log(self.rate) - self.rate * x

    def sample(self, stream: np.random.Generator, n: int) -> np.ndarray:
        return stream.standard_exponential(n) / self.rate

    @property
    def modes(self) -> tuple[tuple[float, float], ...]:
        return ((0.0, 1.0 / self.rate),)

    def shifted(self, by: float) -> Exponential:
        assert by == 0.0  # its one mode is the origin
        return self

    def __str__(self) -> str:
        return f"Exp({self.rate:g})"


@register
class ExponentialPair(ScalarPair):
    """``q = Exp(a)``, ``p = Exp(b)``: ``KL(q‖p) = log(a/b) + b/a - 1``.

    Where ``b < a``, r is Pareto with ``k = 1 - b/a``.
    """

    kind: ClassVar[str] = "exponential"
    summary: ClassVar[str] = "exponentials (rate): the ratio is exactly Pareto, k = 1 - b/a"
    q: Exponential = Exponential(rate=1.0)
    p: Exponential = Exponential(rate=0.7)
    mu: Exponential | None = None

    def closed_form(self, target: str) -> Truth | None:
        step = math.log(self.p.rate / self.q.rate)
        if target == "kl_qp":
            return closed_form(expm1_and_gap(np.array([step]))[1][0])
        if target == "kl_pq":
            return closed_form(expm1_and_gap(np.array([-step]))[1][0])
        return None

    def finite_moment(self, order: float, weight_order: float = 0.0) -> bool:
        rate = (
            (1 - weight_order) * self.sampler.rate
            + (weight_order - order) * self.q.rate
            + order * self.p.rate
        )
        return rate > 0.0

    def gradient_task(self) -> GradientTask:
        return self._task

    @cached_property
    def _task(self) -> GradientTask:
        from klbench.pairs._density_gradient import ExponentialTask

        q, p, mu = (
            None if side is None else np.log([side.rate]) for side in (self.q, self.p, self.mu)
        )
        assert q is not None
        assert p is not None
        return ExponentialTask(q, p, mu)
