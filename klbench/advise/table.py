"""The stored errors: their grid, the file, and what lies between its points."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import as_file, files
from pathlib import Path

import numpy as np

FILE = "table.npz"
COMMAND = "python -m klbench.advise.measured"
KLS = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1, 0.3)
LAGS = (0.0, 1e-6, 1e-5, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1)
LENGTHS = tuple(2**k for k in range(1, 16))
VALUES = tuple(
    f"{estimator}/{weight}" if weight else estimator
    for estimator in ("k1", "k2", "k3", "full_kl")
    for weight in ("", "token_ratio", "decision_ratio", "sequence_ratio")
)
GRADIENTS = (
    "k1_reward",
    "k1_reward_to_go",
    "k1_reward_leave_one_out",
    "k1_reward_token_ratio",
    "k1_reward_truncated_ratio",
    "k1/reward/token/token_ratio/leave_one_out",
    "k1/reward_to_go/token/decision_ratio",
    "k1/reward_to_go/token/sequence_ratio",
    "k2_loss",
    "k3_loss",
    "k3_ratio_loss",
    "k3_sequence_ratio_loss",
    "k1_prefix_ratio_loss",
    "k2/loss/token/prefix_ratio",
    "full_loss",
    "full_kl/full/token/token_ratio",
    "full_kl/full/token/decision_ratio",
    "full_with_score",
    "full_kl/full_with_score/token/token_ratio",
    "full_kl/full_with_score/token/decision_ratio",
    "full_with_score_sequence_ratio",
)
LEAST, MOST = -20.0, 300.0
"""Ends of the logarithms that are stored.

An error below is 0 up to rounding, one above is beyond use.
"""
ROUNDING = 1.01 * math.exp(LEAST)
"""Errors below are at the lower end, where only rounding is left: they count as 0."""


@dataclass(frozen=True)
class Table:
    """Logarithms of bias and noise, ``(candidates, kls, lags, lengths, 2)``."""

    values: np.ndarray
    gradients: np.ndarray

    @classmethod
    def of(cls, values: np.ndarray, combinations: np.ndarray) -> Table:
        """Return the table of errors themselves."""
        with np.errstate(divide="ignore"):
            return cls(*(np.clip(np.log(each), LEAST, MOST) for each in (values, combinations)))

    @classmethod
    def stored(cls) -> Table:
        """Return the table that ships with klbench."""
        with as_file(files(__package__) / FILE) as path, np.load(path, allow_pickle=False) as kept:
            return cls(kept["values"].astype(float), kept["gradients"].astype(float))

    def save(self, path: Path) -> None:
        """Write it, in half precision, with the command that made it."""
        np.savez_compressed(
            path,
            values=self.values.astype(np.float16),
            gradients=self.gradients.astype(np.float16),
            command=np.array(COMMAND),
        )

    def at(self, kl: float, lag: float, tokens: int) -> tuple[np.ndarray, np.ndarray]:
        """Return bias and noise of values and gradients, ``(candidates, 2)`` each, straight
        between points of logarithms.
        """
        places = [
            _between([math.log(each) for each in KLS], math.log(kl)),
            _lag(lag),
            _between([math.log(each) for each in LENGTHS], math.log(tokens)),
        ]
        results = []
        for stored in (self.values, self.gradients):
            total = np.zeros((len(stored), 2))
            for corner in itertools.product(*places):
                (i, a), (j, b), (k, c) = corner
                total += a * b * c * stored[:, i, j, k]
            results.append(np.exp(total))
        return results[0], results[1]


def _between(points: Sequence[float], x: float) -> list[tuple[int, float]]:
    """Return the neighbours of x among rising points, and their weights."""
    k = min(max(sum(point <= x for point in points) - 1, 0), len(points) - 2)
    share = (x - points[k]) / (points[k + 1] - points[k])
    return [(k, 1.0 - share), (k + 1, share)]


def _lag(lag: float) -> list[tuple[int, float]]:
    """Return the same of a lag: the smallest stands for what is below, but for none."""
    if lag == 0.0:
        return [(0, 1.0)]
    found = _between([math.log(each) for each in LAGS[1:]], math.log(max(lag, LAGS[1])))
    return [(k + 1, share) for k, share in found]
