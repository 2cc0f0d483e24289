"""Signs in kept rollouts that tell causes apart: what a difference of two columns depends on."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from klbench.doctor.kept import Counted

NAN = math.nan
TINY = 1e-12


def rms(x: np.ndarray) -> float:
    """Return the root of the mean square; NaN of nothing."""
    return math.sqrt(float(np.mean(x * x))) if x.size else NAN


def correlation(x: np.ndarray, y: np.ndarray) -> float:
    """Return the correlation; NaN where one of them does not vary."""
    if x.size < 10 or x.std() < TINY or y.std() < TINY:
        return NAN
    return float(np.corrcoef(x, y)[0, 1])


def between(x: np.ndarray, group: np.ndarray) -> tuple[float, float]:
    """Return the share of the variance that lies between groups, and its z-score.

    One-way analysis of variance with random effects: (MSB - MSW) / (MSB + (n0 - 1) MSW). (Searle,
    Casella, McCulloch 1992, "Variance components", section 3.6.)
    """
    _, group = np.unique(group, return_inverse=True)
    n = np.bincount(group)
    kept = n >= 2
    use = kept[group]
    x, group = x[use], group[use]
    if x.size < 30 or kept.sum() < 3:
        return NAN, NAN
    _, group = np.unique(group, return_inverse=True)
    n = np.bincount(group).astype(float)
    groups, total = n.size, x.size
    means = np.bincount(group, x) / n
    msb = float(np.sum(n * (means - x.mean()) ** 2)) / (groups - 1)
    msw = float(np.sum((x - means[group]) ** 2)) / max(total - groups, 1)
    n0 = (total - float(np.sum(n * n)) / total) / (groups - 1)
    if msw <= 0.0:
        return (1.0, math.inf) if msb > 0.0 else (NAN, NAN)
    share = (msb - msw) / (msb + (n0 - 1.0) * msw)
    spread = math.sqrt(2.0 / (groups - 1) + 2.0 / max(total - groups, 1))
    return share, (msb / msw - 1.0) / spread


def without_trend(x: np.ndarray, by: np.ndarray, parts: int = 12) -> np.ndarray:
    """Return ``x`` less its mean among tokens of a like ``by``, over its spread there."""
    edges = np.quantile(by, np.linspace(0, 1, parts + 1)[1:-1])
    part = np.searchsorted(edges, by)
    n = np.maximum(np.bincount(part, minlength=parts), 1)
    mean = np.bincount(part, x, minlength=parts) / n
    left = x - mean[part]
    spread = np.sqrt(np.bincount(part, left * left, minlength=parts) / n)
    return np.asarray(left / np.maximum(spread[part], TINY))


@dataclass(frozen=True)
class Signs:
    """Signs of the difference ``d = above - below`` of two columns.

    Parameters
    ----------
    sd, mean
        Of d.
    positive, negative
        Shares of tokens where d is above, or below, what rounding makes.
    sure_below, sure
        The share of sure tokens (more probable than one half under one of the two) where d is
        negative, and how many differ.
    by_token, by_token_z
        The share of the variance of d that the token's id explains, once what its probability
        explains is taken out.
    shared
        Slope of ``reference - below`` on d: 1 where ``below`` is the odd one of three, or both
        others share their error; 0 where ``above`` is the odd one.
    along
        Correlation of ``reference - above`` and d: what trains a policy moves it to or from its
        reference, rounding does not.
    again_above, again_below
        How much each column differs between the same tokens after the same text, over what d
        would make of it.
    again
        How many such pairs there are.
    early, late
        Mean square of d at the first, and at the last places, over that in the middle.
    slope
        Of ``above`` on ``below``.
    correlation
        Of the two columns.
    """

    n: int
    sd: float
    mean: float
    positive: float
    negative: float
    sure_below: float
    sure: int
    by_token: float
    by_token_z: float
    shared: float
    along: float
    again_above: float
    again_below: float
    again: int
    early: float
    late: float
    slope: float
    correlation: float


ROUNDING = 4e-3
"""A difference that an engine's kernels make."""


def signs(counted: Counted, above: str, below: str, use: np.ndarray | None = None) -> Signs | None:
    """Return the signs of two columns, over the rollouts ``use``; None for fewer than 30 tokens."""
    d, index = counted.ratio(above, below)
    if use is not None:
        kept = use[counted.row[index]]
        d, index = d[kept], index[kept]
    if d.size < 30:
        return None
    a, b = counted.columns[above][index], counted.columns[below][index]
    sure = (np.maximum(a, b) > math.log(0.5)) & (np.abs(d) > ROUNDING)
    by_token = by_token_z = NAN
    if counted.tokens is not None and d.std() > 1e-7:
        by_token, by_token_z = between(without_trend(d, b), counted.tokens[index])
    shared = along = NAN
    if "reference" in counted.columns and "reference" not in (above, below):
        e = counted.columns["reference"][index] - b
        good = np.isfinite(e)
        if good.sum() > 30 and d[good].var() > TINY:
            shared = float(np.cov(e[good], d[good])[0, 1] / d[good].var(ddof=1))
            along = correlation(e[good] - d[good], d[good])
    again, again_above, again_below = _again(counted, index, a, b, d)
    early, late = _ends(counted, index, d)
    spread = b.var()
    return Signs(
        d.size,
        float(d.std()),
        float(d.mean()),
        float(np.mean(d > ROUNDING)),
        float(np.mean(d < -ROUNDING)),
        float(np.mean(d[sure] < 0.0)) if sure.any() else NAN,
        int(sure.sum()),
        by_token,
        by_token_z,
        shared,
        along,
        again_above,
        again_below,
        again,
        early,
        late,
        float(np.cov(a, b)[0, 1] / b.var(ddof=1)) if spread > TINY else NAN,
        correlation(a, b),
    )


def _again(
    counted: Counted, index: np.ndarray, a: np.ndarray, b: np.ndarray, d: np.ndarray
) -> tuple[int, float, float]:
    contexts = counted.contexts
    if contexts is None or counted.tokens is None:
        return 0, NAN, NAN
    keys = np.stack([contexts[index], counted.tokens[index].astype(np.uint64)])
    order = np.lexsort(keys)
    same = np.flatnonzero((keys[:, order[1:]] == keys[:, order[:-1]]).all(axis=0))
    one, other = order[same], order[same + 1]
    if not same.size or d.std() < TINY:
        return int(same.size), NAN, NAN
    scale = math.sqrt(2.0) * rms(d)
    return int(same.size), rms(a[one] - a[other]) / scale, rms(b[one] - b[other]) / scale


def _ends(counted: Counted, index: np.ndarray, d: np.ndarray) -> tuple[float, float]:
    """Return the mean square at the first place and in the last third, over that between."""
    position = counted.position[index]
    longest = int(counted.counts.max(initial=0))
    if longest < 8:
        return NAN, NAN
    square = d * d
    first, last = position < 1, position >= 2 * longest // 3
    middle = (position >= max(4, longest // 6)) & (position < longest // 3 * 2)
    base = float(np.median(square[middle])) if middle.sum() > 30 else NAN
    floor = float(np.mean(square[middle])) if middle.sum() > 30 else NAN
    if not base > 0.0:
        return NAN, NAN
    return (
        float(np.mean(square[first])) / floor if first.sum() >= 10 else NAN,
        float(np.median(square[last])) / base if last.sum() > 30 else NAN,
    )
