"""Weighted mean and covariance of vectors, accumulated without cancellation and merged in a
fixed order.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass
class Moments:
    """Mean and scatter of vectors whose variance is inversely proportional to their weight.

    A vector is what one panel of samples says (its means and variances, all estimators side by
    side) and its weight the number of samples in it, so that ``scatter / (count - 1)`` estimates
    the covariance of a vector of weight 1.

    Attributes
    ----------
    count
        Number of vectors.
    weight
        Sum of their weights.
    mean
        Weighted mean, ``(d,)``.
    scatter
        Weighted sum of squares and products about the mean, ``(d, d)``.
    """

    count: int
    weight: float
    mean: np.ndarray
    scatter: np.ndarray

    @classmethod
    def of(cls, vectors: np.ndarray, weights: np.ndarray) -> Moments:
        """Moments of ``(m, d)`` vectors with weights ``(m,)``."""
        weight = float(weights.sum())
        # Non-finite entries spoil their own row and column of the scatter, and are counted
        # elsewhere.
        with np.errstate(all="ignore"):
            # A first guess is taken out before the mean is formed, so that the mean itself is exact
            # to the last places.
            mean = vectors[0] + weights @ (vectors - vectors[0]) / weight
            infinite = ~np.isfinite(mean)  # a difference of infinities is none
            mean[infinite] = (weights / weight) @ vectors[:, infinite]
            centered = vectors - mean
            return cls(len(vectors), weight, mean, (centered * weights[:, None]).T @ centered)

    def merge(self, other: Moments) -> Moments:
        """Return the moments of both. (Chan, Golub and LeVeque 1983.)"""
        weight = self.weight + other.weight
        with np.errstate(all="ignore"):
            step = other.mean - self.mean
            mean = self.mean + step * (other.weight / weight)
            mean = np.where(
                np.isfinite(mean),
                mean,
                self.mean * (self.weight / weight) + other.mean * (other.weight / weight),
            )
            scatter = (
                self.scatter
                + other.scatter
                + np.outer(step, step) * (self.weight * other.weight / weight)
            )
        return Moments(self.count + other.count, weight, mean, scatter)

    @property
    def covariance_of_mean(self) -> np.ndarray:
        """Estimated covariance of ``mean``, ``(d, d)``, from the spread between vectors.

        NaN for a single vector.
        """
        if self.count < 2:
            return np.full_like(self.scatter, np.nan)
        return self.scatter / ((self.count - 1) * self.weight)
