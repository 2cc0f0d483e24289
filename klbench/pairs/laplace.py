"""Laplace densities: the log-ratio is piecewise linear, with a kink at each location."""

from __future__ import annotations

import math
from typing import ClassVar

import numpy as np

from klbench.numerics import expm1_and_gap
from klbench.oracles import closed_form
from klbench.pairs import register
from klbench.pairs._base import Density, Location, ScalarPair, Scale
from klbench.types import Truth


class Laplace(Density):
    """``exp(-|x - loc| / scale) / (2 scale)``."""

    loc: Location = 0.0
    scale: Scale = 1.0

    def log_density(self, x: np.ndarray) -> np.ndarray:
        return -np.abs(x - self.loc) / self.scale - math.log(2.0 * self.scale)

    def sample(self, stream: np.random.Generator, n: int) -> np.ndarray:
        return stream.laplace(self.loc, self.scale, n)

    @property
    def modes(self) -> tuple[tuple[float, float], ...]:
        return ((self.loc, self.scale),)

    def shifted(self, by: float) -> Laplace:
        return self.model_construct(**(self.model_dump() | {"loc": self.loc + by}))

    def __str__(self) -> str:
        return f"Laplace({self.loc:g}, {self.scale:g})"


def _kl(a: Laplace, b: Laplace) -> float:
    """``KL(a‖b) = log(b2/b1) + |d|/b2 + (b1/b2) exp(-|d|/b1) - 1``, grouped so that nothing
    cancels near ``a = b``.
    """
    shift = abs(a.loc - b.loc) / a.scale
    ratio = a.scale / b.scale
    scale_part, shift_part = expm1_and_gap(np.array([math.log(ratio), -shift]))[1]
    return float(scale_part + ratio * shift_part)


@register
class LaplacePair(ScalarPair):
    """Laplace densities: both KL divergences in closed form, the rest by quadrature."""

    kind: ClassVar[str] = "laplace"
    summary: ClassVar[str] = "Laplace densities (loc, scale): kinks, exponential tails"
    q: Laplace = Laplace(loc=0.0, scale=1.0)
    p: Laplace = Laplace(loc=0.5, scale=1.5)
    mu: Laplace | None = None

    def closed_form(self, target: str) -> Truth | None:
        if target == "kl_qp":
            return closed_form(_kl(self.q, self.p))
        if target == "kl_pq":
            return closed_form(_kl(self.p, self.q))
        return None

    def finite_moment(self, order: float, weight_order: float = 0.0) -> bool:
        rate = (
            (1 - weight_order) / self.sampler.scale
            + (weight_order - order) / self.q.scale
            + order / self.p.scale
        )
        return rate > 0.0
