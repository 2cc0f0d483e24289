"""Mixtures of Gaussians in one dimension: several modes, truths by quadrature."""

from __future__ import annotations

import math
from functools import cached_property
from typing import ClassVar

import numpy as np
from pydantic import PositiveFloat, field_validator, model_validator

from klbench.pairs import register
from klbench.pairs._base import Density, Location, ScalarPair, Scale

LOG_ROOT_2PI = 0.5 * math.log(2.0 * math.pi)


class Mixture(Density):
    """``sum of weights[i] * N(means[i], stds[i]^2)``."""

    weights: tuple[PositiveFloat, ...]
    means: tuple[Location, ...]
    stds: tuple[Scale, ...]

    @field_validator("weights")
    @classmethod
    def _sum_to_one(cls, weights: tuple[float, ...]) -> tuple[float, ...]:
        total = math.fsum(weights)
        if not abs(total - 1.0) <= 1e-6:
            raise ValueError(f"must sum to 1, these sum to {total:g}")
        return tuple(w / total for w in weights)

    @model_validator(mode="after")
    def _same_length(self) -> Mixture:
        lengths = len(self.weights), len(self.means), len(self.stds)
        if len(set(lengths)) > 1 or not lengths[0]:
            raise ValueError(
                f"weights, means and stds must have one length, got {lengths[0]}, {lengths[1]} and"
                f" {lengths[2]}"
            )
        return self

    @cached_property
    def _columns(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        weights, means, stds = (np.array(v)[:, None] for v in (self.weights, self.means, self.stds))
        return np.log(weights) - np.log(stds) - LOG_ROOT_2PI, means, stds

    def log_density(self, x: np.ndarray) -> np.ndarray:
        constants, means, stds = self._columns
        parts = constants - 0.5 * ((x - means) / stds) ** 2
        top = parts.max(axis=0)
        return top + np.log(np.exp(parts - top).sum(axis=0))

    def sample(self, stream: np.random.Generator, n: int) -> np.ndarray:
        component = np.searchsorted(np.cumsum(self.weights)[:-1], stream.random(n), side="right")
        return np.array(self.means)[component] + np.array(self.stds)[
            component
        ] * stream.standard_normal(n)

    @property
    def modes(self) -> tuple[tuple[float, float], ...]:
        return tuple(zip(self.means, self.stds, strict=True))

    def shifted(self, by: float) -> Mixture:
        return self.model_construct(
            **(self.model_dump() | {"means": tuple(m + by for m in self.means)})
        )

    def __str__(self) -> str:
        parts = " + ".join(
            f"{w:.3g} N({m:g}, {s:g}²)"
            for w, m, s in zip(self.weights, self.means, self.stds, strict=True)
        )
        return f"[{parts}]"


@register
class MixturePair(ScalarPair):
    """Gaussian mixtures: the widest components decide the tail."""

    kind: ClassVar[str] = "mixture"
    summary: ClassVar[str] = (
        "Gaussian mixtures (weights, means, stds): several modes, truth by quadrature"
    )
    q: Mixture = Mixture(weights=(0.3, 0.7), means=(-1.0, 1.0), stds=(0.5, 1.0))
    p: Mixture = Mixture(weights=(0.5, 0.5), means=(-1.0, 1.0), stds=(0.6, 1.1))
    mu: Mixture | None = None

    def finite_moment(self, order: float, weight_order: float = 0.0) -> bool:
        sampler, q, p = (max(each.stds) ** -2 for each in (self.sampler, self.q, self.p))
        return (1 - weight_order) * sampler + (weight_order - order) * q + order * p > 0.0
