"""Statistics of preference pairs: sums of log-probabilities of chosen and rejected completions."""

from __future__ import annotations

import math

import numpy as np
from scipy.special import stdtrit

from klbench.rollouts.batches import Batch

BETA = 0.1
"""DPO's default in TRL, by which the loss is said."""
NAMES = ("margin", "accuracy", "loss", "chosen_log_ratio", "rejected_log_ratio")


class Pairs:
    """The moments of pairs, the chosen one first and the rejected one next."""

    def __init__(self) -> None:
        self.n = 0
        self._sums, self._squares = np.zeros(len(NAMES)), np.zeros(len(NAMES))

    def add(self, batch: Batch) -> None:
        """Add the pairs of a batch whose numbers are all there."""
        total = batch.offsets.size - 1
        row = np.repeat(np.arange(total), np.diff(batch.offsets))

        def summed(role: str) -> np.ndarray:
            return np.bincount(row, batch.columns[role], minlength=total)

        ratio = summed("policy") - (summed("reference") if "reference" in batch.columns else 0.0)
        chosen, rejected = ratio[0 : total - 1 : 2], ratio[1:total:2]
        good = np.isfinite(chosen) & np.isfinite(rejected)
        chosen, rejected = chosen[good], rejected[good]
        margin = chosen - rejected
        loss = np.logaddexp(0.0, -BETA * margin)
        values = np.stack([margin, (margin > 0.0).astype(float), loss, chosen, rejected])
        self.n += margin.size
        self._sums += values.sum(axis=1)
        self._squares += (values * values).sum(axis=1)

    def merge(self, later: Pairs) -> None:
        """Take in others."""
        self.n += later.n
        self._sums, self._squares = self._sums + later._sums, self._squares + later._squares

    def plain(self) -> dict[str, float]:
        """Return each mean with its standard error and 95 % interval, which takes pairs for independent."""
        found: dict[str, float] = {"pairs": float(self.n), "beta": BETA}
        quantile = float(stdtrit(self.n - 1, 0.975)) if self.n > 1 else math.nan
        for name, total, square in zip(NAMES, self._sums, self._squares, strict=True):
            mean = total / self.n if self.n else math.nan
            spread = max(square - self.n * mean * mean, 0.0) if self.n > 1 else math.nan
            se = math.sqrt(spread / (self.n - 1) / self.n) if self.n > 1 else math.nan
            half = quantile * se
            found |= {
                name: mean,
                f"{name}_se": se,
                f"{name}_low": mean - half,
                f"{name}_high": mean + half,
            }
        return found
