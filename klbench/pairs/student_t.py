"""Student-t densities: polynomial tails, truths by quadrature."""

from __future__ import annotations

import math
from functools import cached_property
from typing import Annotated, ClassVar

import numpy as np
from pydantic import Field

from klbench.pairs import register
from klbench.pairs._base import Density, Location, ScalarPair, Scale


def _log_gamma_step(x: float) -> float:
    """Return ``log gamma(x + 1/2) - log gamma(x)``, which as a difference would lose digits, by
    its asymptotic series.
    """
    below = 0.0
    while x < 20.0:
        below += math.log1p(0.5 / x)
        x += 1.0
    square = 1.0 / (x * x)
    series = -1 / 8 + square * (
        1 / 192 + square * (-1 / 640 + square * (17 / 14336 - square * 31 / 18432))
    )
    return 0.5 * math.log(x) + series / x - below


class StudentT(Density):
    """Student's t with ``df`` degrees of freedom, shifted by ``loc`` and stretched by ``scale``."""

    df: Annotated[float, Field(ge=0.01, le=1e12)]
    loc: Location = 0.0
    scale: Scale = 1.0

    @cached_property
    def _log_normalizer(self) -> float:
        return (
            _log_gamma_step(self.df / 2.0)
            - 0.5 * math.log(math.pi * self.df)
            - math.log(self.scale)
        )

    def log_density(self, x: np.ndarray) -> np.ndarray:
        z = (x - self.loc) / self.scale
        return self._log_normalizer - (self.df + 1.0) / 2.0 * np.log1p(z * z / self.df)

    def sample(self, stream: np.random.Generator, n: int) -> np.ndarray:
        return self.loc + self.scale * stream.standard_t(self.df, n)

    @property
    def modes(self) -> tuple[tuple[float, float], ...]:
        return ((self.loc, self.scale),)

    def shifted(self, by: float) -> StudentT:
        return self.model_construct(**(self.model_dump() | {"loc": self.loc + by}))

    def __str__(self) -> str:
        return f"t{self.df:g}({self.loc:g}, {self.scale:g})"


@register
class StudentTPair(ScalarPair):
    """Student-t densities.

    The ratio's tail is Pareto with ``k = 1 - df_p/df_q`` where ``df_p < df_q``.
    """

    kind: ClassVar[str] = "student_t"
    summary: ClassVar[str] = (
        "Student-t densities (df, loc, scale): polynomial tails, truth by quadrature"
    )
    q: StudentT = StudentT(df=8.0, loc=0.0, scale=1.0)
    p: StudentT = StudentT(df=6.0, loc=0.5, scale=1.0)
    mu: StudentT | None = None

    def finite_moment(self, order: float, weight_order: float = 0.0) -> bool:
        decay = (
            (1 - weight_order) * (self.sampler.df + 1)
            + (weight_order - order) * (self.q.df + 1)
            + order * (self.p.df + 1)
        )
        return decay > 1.0
