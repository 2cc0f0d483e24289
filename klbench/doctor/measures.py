"""Divergences, effective sample sizes and mean ratios of a file, from its sums."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from klbench.doctor import statistics as st
from klbench.doctor.kept import Kept
from klbench.doctor.reading import Gathered, ratios
from klbench.doctor.series import Series
from klbench.doctor.statistics import Number, bare, estimate
from klbench.metrics.tails import CANNOT_TELL, ENOUGH_TERMS, HEAVY, pareto_khat, unit_mean

SMALL = 1e-3
"""The error of a token's mean when nobody would notice: rounding in an engine's kernels does as
much.
"""
LIGHT = 0.25
"""Intervals of means of squared weights need finite fourth moments: k below this."""
FULL, FULL_SEQUENCE = 0.8, 0.85
"""Intervals of effective sample sizes, and of what they are made of, are given above these."""


@dataclass(frozen=True)
class Measured:
    """One log-ratio ``x = log(above / below)``, over samples of ``below``.

    Parameters
    ----------
    kl_token, kl_sequence
        The mean of ``-x``: KL(below‖above) where ``below`` sampled.
    gap_token, gap_sequence
        The same by ``r - 1 - x``, summed over tokens: right only where the mean of r is 1.
    excess, reverse
        The mean of ``r - 1``, and that of ``1 / r - 1``.
    holds
        Whether the mean of r is 1, in the words of :mod:`klbench.metrics.tails`.
    khat_token, khat
        Pareto k of r's tail, over tokens and over rollouts.
    """

    name: str
    series: Series
    groups: np.ndarray
    numbers: Mapping[str, Number]
    holds: str
    khat_token: float
    khat: float

    def __getitem__(self, name: str) -> Number:
        return self.numbers[name]

    @property
    def rollouts(self) -> int:
        """Return how many rollouts there are."""
        return round(self.series.of("rollouts"))

    @property
    def tokens(self) -> int:
        """Return how many tokens there are."""
        return round(self.series.of("n"))

    @property
    def identical(self) -> bool:
        """Return whether both columns are the same at every token."""
        return self.tokens > 0 and self.series.of("x2") == 0.0

    @property
    def negative(self) -> bool:
        """Return whether the KL is below 0 by more than noise and rounding."""
        kl = self["kl_token"]
        return kl.value < -SMALL and kl.z < -5.0


def khats(kept: Kept, above: str, below: str) -> tuple[float, float]:
    """Return Pareto k of the ratio of tokens, and of whole rollouts; NaN for too few."""
    counted = kept.counted
    x, index = counted.ratio(above, below)
    if x.size < 100 or float(np.abs(x).max()) < 1e-2:
        return math.nan, math.nan
    total = np.bincount(counted.row[index], x, minlength=counted.counts.size)[counted.counts > 0]
    return pareto_khat(x)[0], pareto_khat(total)[0]


FUNCTIONS = {
    "kl_token": st.mean_of("x", sign=-1.0),
    "kl_sequence": st.mean_of("x", "rollouts", -1.0),
    "gap_token": st.mean_of("gap"),
    "gap_sequence": st.mean_of("gap", "rollouts"),
    "k2_token": lambda sums: st.mean_of("x2")(sums) / 2.0,
    "excess": st.mean_of("excess"),
    "size_token": st.mean_of("size"),
    "chi2_token": st.chi2_token,
    "chi2_sequence": st.chi2_sequence,
}
HEAVY_TAILED = ("gap_token", "gap_sequence", "excess", "chi2_token")


Found = Mapping[str, Measured]
"""The measured ratios of a file, by name."""


def measure(name: str, series: Series, kept: Kept, above: str, below: str) -> Measured:
    """Return what the sums of one ratio say."""
    groups = st.clusters(series)
    numbers = {each: estimate(groups, function) for each, function in FUNCTIONS.items()}
    numbers["ess_token"] = st.size(groups, st.ess_token, FULL)
    numbers["ess_sequence"] = st.size(groups, st.ess_sequence, FULL_SEQUENCE)
    khat_token, khat = khats(kept, above, below)
    terms = numbers["ess_token"].value * series.of("n")
    holds = unit_mean(
        numbers["excess"].value,
        numbers["excess"].se,
        ess=terms,
        khat=khat_token,
        rollouts=len(groups),
    )
    if math.isnan(numbers["excess"].low) and holds != CANNOT_TELL:
        holds = CANNOT_TELL  # one rollout makes the error
    if not (terms > ENOUGH_TERMS and not khat_token >= LIGHT):
        numbers |= {each: bare(numbers[each]) for each in HEAVY_TAILED}
    if not numbers["ess_sequence"].value > FULL or khat >= LIGHT:
        numbers["chi2_sequence"] = bare(numbers["chi2_sequence"])
    if not numbers["ess_token"].value > FULL:
        numbers["chi2_token"] = bare(numbers["chi2_token"])
    return Measured(name, series, groups, numbers, holds, khat_token, khat)


def measures(gathered: Gathered) -> dict[str, Measured]:
    """Return what is known of each ratio of the file that has tokens."""
    roles = frozenset(gathered.columns)
    return {
        name: measure(name, gathered.series[name], gathered.kept, ratio.above, ratio.below)
        for name, ratio in ratios(roles).items()
        if name in gathered.series and gathered.series[name].of("n") > 0
    }


__all__ = ["HEAVY", "Measured", "measure", "measures"]
