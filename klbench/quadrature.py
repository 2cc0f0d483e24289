"""Exact moments of estimators over one-dimensional densities.

One vector-valued integral a pair, weighed in log space.

A term that overflows is weighed all the same, as ``exp(log density + log |term|)``: near an
infinite variance the mass of the second moment lies where the term is beyond any float. Every mode
of every density has a cell and coordinates of its own, so that a narrow mode far out is seen, and
seen without cancellation.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Protocol, Self

import numpy as np

from klbench.log_terms import log_terms
from klbench.types import Draws, Estimator

EPS = float(np.finfo(np.float64).eps)
TINY = float(np.finfo(np.float64).tiny)
RTOL = 1e-13
"""Relative error at which a panel is settled.

The error that is reported is the one that was reached.
"""
RULE = np.polynomial.legendre.leggauss(16)
"""Points and weights of a panel, on (-1, 1)."""
MOST_HALVINGS = 48
MOST_PANELS = 20_000
NEGLIGIBLE = 50.0
"""Mass smaller than the largest by this factor, in nats, is left out."""
FARTHEST = 1e150
"""The limit in units of the narrowest scale: further out, squares overflow."""
BIG = 600.0
"""Log-size from which a term is as good as its distance from the mean."""
DOUBT = 1e10
"""The assumed bound on an undeclared power of ``log r`` where the formula overflows."""
STEP = 1e-6
"""Relative step in the log-ratio that shows how an integrand depends on it."""
LONGEST_STEP = 0.1
"""The same in nats, past which a power of r would change too much, unless the log-ratio itself
has no digit as small.
"""
Integrand = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]
"""``(n,)`` points to values and to bounds on their rounding errors, both ``(m, n)``."""


class Density(Protocol):
    """A one-dimensional density, smooth but for kinks at its modes.

    Attributes
    ----------
    lower
        Where its support begins.
    modes
        Location and scale of each mode.
    """

    @property
    def lower(self) -> float: ...

    @property
    def modes(self) -> tuple[tuple[float, float], ...]: ...

    def log_density(self, x: np.ndarray) -> np.ndarray:
        """Log-density at ``x``, any shape."""

    def shifted(self, by: float) -> Self:
        """The density of ``x + by``."""


def integrate(
    function: Integrand, edges: Sequence[float] | np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return integrals of a vector-valued function of one variable, by Gauss-Legendre rules on
    panels, halved where needed.

    All panels of a round are one call of ``function``. The error of a panel is how far its rule is
    from the sum of the rules of its halves. These are what is returned, so that the error of a
    smooth function is far smaller than its bound.

    Parameters
    ----------
    function
        ``(n,)`` points to values and to bounds on their rounding errors, both ``(m, n)``.
    edges
        Limits, kinks, and enough cuts to see where the mass is; finite.

    Returns ------- The values and bounds on their errors, both ``(m,)``; where the function is not
    finite, the error is inf.
    """
    edges = np.unique(edges)
    low, high = edges[:-1], edges[1:]
    whole = _rules(function, low, high)[0]
    value, error = np.zeros(len(whole)), np.zeros(len(whole))
    for halving in range(MOST_HALVINGS + 1):
        middle = 0.5 * (low + high)
        low, high = np.stack([low, middle]), np.stack([middle, high])
        halves, rounding = (
            x.reshape(len(whole), 2, -1) for x in _rules(function, low.ravel(), high.ravel())
        )
        with np.errstate(invalid="ignore"):
            gap = np.abs(whole - halves.sum(axis=1))
            gap[np.isnan(gap)] = math.inf
            noise = rounding.sum(axis=1)
            total = np.abs(value + halves.sum(axis=(1, 2)))
            settled = (gap <= np.maximum(RTOL / gap.shape[1] * total[:, None], noise)) | np.isinf(
                gap
            )
        unsettled = ~settled.all(axis=0)
        if halving == MOST_HALVINGS or unsettled.sum() > MOST_PANELS:
            unsettled[:] = False
        value += halves[:, :, ~unsettled].sum(axis=(1, 2))
        error += (gap + noise)[:, ~unsettled].sum(axis=1)
        if not unsettled.any():
            break
        low, high = low[:, unsettled].ravel(), high[:, unsettled].ravel()
        whole = halves[:, :, unsettled].reshape(len(whole), -1)
    return value, np.where(np.isfinite(value), error, math.inf)


def _rules(function: Integrand, low: np.ndarray, high: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the rule's sums over each panel, of the values and of their rounding errors.

    ``(m, panels)`` both.
    """
    nodes, weights = RULE
    half = 0.5 * (high - low)
    x = (0.5 * (low + high))[:, None] + half[:, None] * nodes
    values, rounding = (y.reshape(len(y), *x.shape) for y in function(x.ravel()))
    with np.errstate(invalid="ignore"):
        return (values @ weights) * half, ((rounding + EPS * np.abs(values)) @ weights) * half


@dataclass(frozen=True)
class _Line:
    """A policy, a reference and perhaps a third distribution that samples, in coordinates with
    their origin at a mode.
    """

    q: Density
    p: Density
    mu: Density | None

    @property
    def densities(self) -> tuple[Density, ...]:
        return (self.q, self.p) if self.mu is None else (self.q, self.p, self.mu)

    def cells(self) -> Iterator[tuple[_Line, float, float, float]]:
        """Yield each mode's coordinates, its scale, and where its cell begins and ends in them."""
        scales: dict[float, float] = {}
        for location, scale in (mode for density in self.densities for mode in density.modes):
            scales[location] = max(scale, scales.get(location, 0.0))
        locations = sorted(scales)
        bounds = [self.q.lower, *(0.5 * (a + b) for a, b in pairwise(locations)), math.inf]
        for (low, high), location in zip(pairwise(bounds), locations, strict=True):
            mu = None if self.mu is None else self.mu.shifted(-location)
            moved = _Line(self.q.shifted(-location), self.p.shifted(-location), mu)
            yield moved, scales[location], low - location, high - location

    def draws(self, x: np.ndarray) -> tuple[Draws, np.ndarray, np.ndarray, np.ndarray]:
        """Return the draws at ``x``, the sampler's log-density, and bounds on rounding errors.

        Of the sampler's log-density and its weight together, and of the log-ratio: a term may be
        tiny beside its logarithms.
        """
        with np.errstate(over="ignore", invalid="ignore"):
            log_q, log_p = self.q.log_density(x), self.p.log_density(x)
            log_mu = log_q if self.mu is None else self.mu.log_density(x)
            of_q = 4.0 * EPS * (1.0 + np.abs(log_q))
            of_mu = of_q if self.mu is None else of_q + 4.0 * EPS * np.abs(log_mu)
            draws = Draws(log_p - log_q, None if self.mu is None else log_q - log_mu)
            return draws, log_mu, of_mu, of_q + 4.0 * EPS * np.abs(log_p)


@dataclass(frozen=True)
class _Moments:
    """First moments of terms, then second moments of some of them about their centers, as
    integrands on a line.

    The second moments are in units of ``exp(units)``, lest they overflow where their root does not.
    """

    line: _Line
    estimators: Sequence[Estimator]
    spread: np.ndarray
    centers: np.ndarray
    units: np.ndarray

    def log_sizes(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return signs and log-sizes of the integrands, ``(m, n)`` both."""
        draws, log_density, _, _ = self.line.draws(x)
        return self._log_sizes(draws, log_density)[:2]

    def _log_sizes(
        self, draws: Draws, log_density: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return signs and log-sizes of the integrands, and which are doubtful, all ``(m, n)``."""
        sign, size, doubtful = (
            np.stack(each)
            for each in zip(*(log_terms(e, draws) for e in self.estimators), strict=True)
        )
        with np.errstate(all="ignore"):
            some, signs = size[self.spread], sign[self.spread]
            near = np.log(
                np.abs(signs * np.exp(np.minimum(some, BIG)) - self.centers[self.spread, None])
            )
            size = (
                np.concatenate([size, 2.0 * np.where(some < BIG, near, some) - self.units[:, None]])
                + log_density
            )
        size[:, np.isneginf(log_density)] = -math.inf
        return (
            np.concatenate([sign, np.ones_like(some)]),
            size,
            np.concatenate([doubtful, doubtful[self.spread]]),
        )

    def __call__(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        draws, log_density, of_density, of_ratio = self.line.draws(x)
        sign, size, doubtful = self._log_sizes(draws, log_density)
        far = np.abs(draws.log_ratio)
        with np.errstate(over="ignore", invalid="ignore"):
            step = np.maximum(np.clip(STEP * far, STEP, LONGEST_STEP), 8.0 * EPS * far)
            moved_sign, moved_size, _ = self._log_sizes(
                Draws(draws.log_ratio + step, draws.log_weight), log_density
            )
            values, moved = sign * np.exp(size), moved_sign * np.exp(moved_size)
            error = 3.0 * of_density * np.abs(values) + of_ratio / step * np.abs(moved - values)
            return values, np.where(doubtful, DOUBT * np.abs(values), error)

    def reach(self, scale: float, direction: float) -> float:
        """Return where the mass of every integrand has ended, from the origin in one direction,
        looking from the scale on.
        """
        farthest = FARTHEST * min(s for density in self.line.densities for _, s in density.modes)
        x = scale * 2.0 ** np.arange(0.0, math.log2(farthest / scale), 0.5)
        mass = self.log_sizes(direction * x)[1] + np.log(x)
        mass[np.isnan(mass)] = -math.inf
        alive = (mass >= mass.max(axis=1, keepdims=True) - NEGLIGIBLE).any(axis=0)
        return direction * float(
            x[min(int(np.flatnonzero(alive)[-1]) + 2, x.size - 1)] if alive.any() else scale
        )

    def beyond(self, x: float) -> tuple[np.ndarray, np.ndarray]:
        """Return the integrals from ``x`` on to infinity, by the power of ``x`` that each falls
        with there; as errors, too.
        """
        sign, size = self.log_sizes(np.array([x, 2.0 * x]))
        with np.errstate(over="ignore", invalid="ignore"):
            excess = (size[:, 0] - size[:, 1]) / math.log(2.0) - 1.0
            rest = np.where(excess > 0.0, np.exp(size[:, 0]) * abs(x) / excess, math.inf)
        rest[np.isneginf(size[:, 0])] = 0.0
        return sign[:, 0] * rest, rest


def _crossings(line: _Line, edges: np.ndarray, levels: Sequence[float]) -> list[float]:
    """Return where the log-ratio crosses the levels."""
    if not levels:
        return []
    x = np.unique(edges[:-1, None] + np.linspace(0.0, 1.0, 9) * np.diff(edges)[:, None])
    above = line.draws(x)[0].log_ratio > np.array(levels)[:, None]
    which, at = np.nonzero(above[:, 1:] != above[:, :-1])
    low, high, level, started_above = x[at], x[at + 1], np.array(levels)[which], above[which, at]
    for _ in range(64):
        middle = 0.5 * (low + high)
        same = (line.draws(middle)[0].log_ratio > level) == started_above
        low, high = np.where(same, middle, low), np.where(same, high, middle)
    return [*low, *high]


def moments(
    q: Density,
    p: Density,
    mu: Density | None,
    estimators: Sequence[Estimator],
    spread: Sequence[bool],
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return exact means of estimators' terms and, where ``spread`` says so, standard deviations,
    with bounds on their errors.

    Parameters
    ----------
    q, p, mu
        Policy, reference, and the third distribution that samples; None where the policy does.
    estimators
        Those whose terms have a mean here.
    spread
        Which of them have a variance here.

    Returns ------- Means and the bounds on their errors, shape ``(len(estimators),)``; standard
    deviations and the bounds on theirs, one for each True in ``spread``. Where a bound cannot be
    given it is inf.
    """
    which = np.array(spread, bool)
    some, levels = which.sum(), sorted({x for e in estimators for x in e.kinks})
    parts = []
    units = np.full(some, -math.inf)
    for line, scale, low, high in _Line(q, p, mu).cells():
        plain = _Moments(line, estimators, which, np.zeros(which.size), np.zeros(some))
        limits = [
            plain.reach(scale, sign) if math.isinf(x) else x
            for x, sign in ((low, -1.0), (high, 1.0))
        ]
        edges = _edges(line, limits, levels)
        parts.append(
            (
                line,
                edges,
                [x for x, cell in zip(limits, (low, high), strict=True) if math.isinf(cell)],
            )
        )
        sizes = plain.log_sizes(0.5 * (edges[1:] + edges[:-1]))[1][which.size :] + np.log(
            np.diff(edges)
        )
        units = np.fmax(
            units, np.max(np.where(sizes < math.inf, sizes, -math.inf), axis=1, initial=-math.inf)
        )
    units = np.where(np.isfinite(units), units, 0.0)
    firsts = partial(
        _Moments, spread=np.zeros_like(which), centers=np.zeros(which.size), units=np.zeros(0)
    )
    coarse = sum(
        _rules(firsts(line, estimators), edges[:-1], edges[1:])[0].sum(axis=1)
        for line, edges, _ in parts
    )
    centers = np.where(np.isfinite(coarse), coarse, 0.0)
    value, error = np.zeros(which.size + some), np.zeros(which.size + some)
    for line, edges, ends in parts:
        integrand = _Moments(line, estimators, which, centers, units)
        for more in (integrate(integrand, edges), *map(integrand.beyond, ends)):
            value, error = value + more[0], error + more[1]
    mean, mean_error = value[: which.size], error[: which.size]
    with np.errstate(over="ignore", invalid="ignore"):
        off, off_error = (x[which] * np.exp(-0.5 * units) for x in (mean - centers, mean_error))
        variance = np.maximum(value[which.size :] - off * off, 0.0)
        variance_error = error[which.size :] + (2.0 * np.abs(off) + off_error) * off_error
        std, unit = np.sqrt(variance), np.exp(0.5 * units)
        # Off by e, a variance v has a root that is off by e/sqrt(v) at most, and by sqrt(e) however
        # small v is.
        std_error = np.minimum(variance_error / np.maximum(std, TINY), np.sqrt(variance_error))
        unknown = ~np.isfinite(std * unit)  # a variance, or the mean it is about, is beyond a float
        return (
            mean,
            mean_error,
            np.where(unknown, math.inf, std * unit),
            np.where(unknown, math.inf, std_error * unit),
        )


def _edges(line: _Line, limits: Sequence[float], levels: Sequence[float]) -> np.ndarray:
    """Return the cuts of a cell.

    By factors of 2 from every mode, in its scale, and where the log-ratio crosses the levels.

    From those of other cells too: a narrow mode may lie closer to the middle of a wide one than the
    narrow one's own scale.
    """
    low, high = limits
    cuts = [np.array([low, 0.0, high])]
    for location, scale in {mode for density in line.densities for mode in density.modes}:
        width = max(high - location, location - low)
        steps = scale * 2.0 ** np.arange(-1.0, max(0.0, math.log2(width / scale)) + 1.0)
        cuts += [location + steps, location - steps]
    edges = np.unique(np.clip(np.concatenate(cuts), low, high))
    return np.unique([*edges, *_crossings(line, edges, levels)])
