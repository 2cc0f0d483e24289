"""Identification: the function's values over a grid of log-ratios, fitted by what it may turn
out to be.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from klbench.audit import forms
from klbench.audit.batches import SHAPE, Batch, stacked, uniform
from klbench.audit.forms import Form
from klbench.audit.probe import Probe

_NEAR = "0.02 0.05 0.1 0.2 0.35 0.5 0.75 1.0 1.3 1.7 2.2 2.8 3.5 4.5 6.0 8.0"
_FAR = "10.5 13.0 16.0 19.0 22.0 26.0 30.0 45.0 60.0"
_SIDE = [float(number) for number in f"{_NEAR} {_FAR}".split()]
GRID = np.array([*(-x * 1.01 for x in reversed(_SIDE)), *_SIDE])
"""Log-ratios, in nats; the two sides differ, so that no symmetry is an accident."""
TOLERANCES = ((1e-7, 1e-11), (2e-3, 5e-6), (0.1, 0.03))
"""Relative and absolute, for functions that compute in float64, float32 and 16 bits, whatever
they are given.
"""
NEAR = 3.0
"""The log-ratio up to which values of 16 bits, and values that are nearly a form's, are fitted."""
LEAST_INSIDE = 0.1
"""The share of the grid on which values agree with a form that they leave beyond a clamp."""
LN = {"2": math.log(2.0), "10": math.log(10.0)}


@dataclass(frozen=True)
class Identity:
    """The estimator that the values fit.

    Parameters
    ----------
    form
        None where they fit nothing that is known.
    scale
        Of the probe's batch: reduction and coefficient together.
    clamp
        As in :class:`klbench.audit.findings.Audit`.
    level
        ``token`` or ``sequence``.
    tolerance
        Index into ``TOLERANCES``: how exactly the function computes.
    near
        Where there is no form, one that the values are near to, for tokens that are not rare.
    """

    form: Form | None
    scale: float
    clamp: dict[str, float] | None = None
    level: str = "token"
    tolerance: int = 0
    near: Form | None = None


@dataclass(frozen=True)
class Grid:
    """Values of the function where all tokens are equal, one for each point of the grid."""

    points: tuple[Batch, ...]
    values: np.ndarray

    @cached_property
    def tokens(self) -> Batch:
        """The points, a row of one token each."""
        return stacked(self.points)

    def terms(self, form: Form, level: str) -> np.ndarray:
        """Return a form's terms at the points."""
        with np.errstate(all="ignore"):
            if level == "sequence" and form.of_ratio is not None:
                return form.of_ratio(self.tokens.log_ratio[:, 0] * SHAPE[1])
            return form.terms(self.tokens)[:, 0]


def at(log_ratio: float, index: int = 0) -> Batch:
    """Return the batch of equal tokens with that log-ratio; the rest of it differs by ``index``."""
    return uniform(log_ratio, *SHAPE, log_q=-1.1 - 0.37 * (index % 4), name=f"point {index % 7}")


def evaluate(probe: Probe) -> Grid:
    """Return the function's values over the grid."""
    points = tuple(at(float(log_ratio), k) for k, log_ratio in enumerate(GRID))
    return Grid(points, np.array([probe.one(batch) for batch in points]))


def identify(probe: Probe, grid: Grid) -> Identity:
    """Return what the values fit.

    The shortest name first, then families, clamps, sums of two, and wrong forms.
    """
    if not np.isfinite(grid.values).any() or np.nanmax(np.abs(grid.values)) == 0.0:
        return Identity(None, 0.0)
    logits = probe.plan.form == "logits"
    known = [*forms.sampled()] if not logits or probe.plan.has("tokens") else []
    wrong = [*forms.wrong()] if known else []
    if logits:
        known = [*known, *forms.full()]
    for k, tolerance in enumerate(TOLERANCES):
        if k == 2 and not _coarse(probe):
            break
        levels = ("token", "sequence") if probe.output != "token" else ("token",)
        for level in levels:
            found = _fitted(grid, known, wrong, level, tolerance, coarse=k == 2)
            if found is not None:
                return replace(found, level=level, tolerance=k, clamp=_refined(probe, found, level))
    close = _plain(grid, [each for each in known if not each.full], "token", TOLERANCES[2], NEAR)
    return Identity(None, close.scale if close else 1.0, near=close.form if close else None)


def _plain(
    grid: Grid, known: Sequence[Form], level: str, tolerance: tuple[float, float], most: float
) -> Identity | None:
    """Return the first form of which the values are a multiple, up to log-ratios of ``most``."""
    used = np.abs(GRID) <= most
    for form in known:
        terms = grid.terms(form, level)
        for scale in _scales(grid.values, terms):
            if _near(grid.values, scale * terms, scale, tolerance)[used].all():
                return Identity(form, scale)
    return None


def _coarse(probe: Probe) -> bool:
    """Return whether values stand still, or jump, where the log-ratio changes by a millionth.

    Those of 16 bits do.
    """
    one, two = probe.one(at(0.5)), probe.one(at(0.5 * (1.0 + 1e-6)))
    change = abs(two - one) / max(abs(one), 1e-300)
    return change < 1e-9 or change > 1e-4


def _near(
    values: np.ndarray, fitted: np.ndarray, scale: float, tolerance: tuple[float, float]
) -> np.ndarray:
    relative, absolute = tolerance
    with np.errstate(all="ignore"):
        return np.abs(values - fitted) <= relative * np.abs(fitted) + absolute * abs(scale)


def _scales(values: np.ndarray, terms: np.ndarray, most: float = 2.0) -> list[float]:
    """Return the multiples that could be meant.

    From either side of 0, up to log-ratios of ``most``.
    """
    found = []
    for side in (GRID < 0.0, GRID > 0.0):
        core = side & (np.abs(GRID) <= most) & (np.abs(GRID) >= 0.1) & (np.abs(terms) > 1e-9)
        if core.any():
            scale = float(np.median(values[core] / terms[core]))
            if scale and math.isfinite(scale):
                found.append(scale)
    return found


def _fitted(
    grid: Grid,
    known: Sequence[Form],
    wrong: Sequence[Form],
    level: str,
    tolerance: tuple[float, float],
    *,
    coarse: bool,
) -> Identity | None:
    values = grid.values
    most = NEAR if coarse else math.inf
    plain = _plain(grid, [*known, *wrong], level, tolerance, most)
    if plain is not None or not known or known[0].full:
        return plain
    family = _family(grid, level, tolerance, np.abs(GRID) <= most)
    if family is not None:
        return family
    if coarse:
        return None
    terms = [(form, grid.terms(form, level)) for form in (*known, *wrong)]
    for form, each in terms:
        if form.of_ratio is None:
            continue
        for scale in (*_scales(values, each), *_scales(values, each, 0.4)):
            clamp = _clamp(values, each, scale, tolerance)
            if clamp is not None:
                return Identity(form, scale, clamp)
    return _sum(
        values, [(form, each) for form, each in terms if form in known and not form.full], tolerance
    )


def _least_squares(values: np.ndarray, columns: np.ndarray) -> np.ndarray:
    with np.errstate(all="ignore"):
        weight = 1.0 / (np.abs(values) + 1e-3 * np.nanmedian(np.abs(values)))
        usable = np.isfinite(weight) & np.isfinite(columns).all(axis=1)
        result: np.ndarray = np.linalg.lstsq(
            columns[usable] * weight[usable, None], values[usable] * weight[usable], rcond=None
        )[0]
    return result


def _family(
    grid: Grid, level: str, tolerance: tuple[float, float], used: np.ndarray
) -> Identity | None:
    """Return ``k_lambda``, its other way up, or a mix of the two parts with a constant."""
    ratio = GRID * (SHAPE[1] if level == "sequence" else 1)
    with np.errstate(all="ignore"):
        for sign in (1.0, -1.0):
            columns = np.stack([-sign * ratio, np.expm1(sign * ratio), np.ones_like(ratio)], axis=1)
            for parts in (columns[:, :2], columns):
                found = _least_squares(grid.values, parts)
                scale, slope = float(found[0]), float(found[1])
                if not _near(grid.values, parts @ found, scale, tolerance)[used].all() or not scale:
                    continue
                weight = float(f"{slope / scale:.6g}")
                if len(found) == 3 and abs(found[2]) < 1e-6 * abs(scale):
                    continue
                return Identity(
                    _family_form(sign, weight, float(found[2] / scale) if len(found) == 3 else 0.0),
                    scale,
                )
    return None


def _family_form(sign: float, weight: float, constant: float) -> Form:
    def of(log_ratio: np.ndarray) -> np.ndarray:
        return -sign * log_ratio + weight * np.expm1(sign * log_ratio) + constant

    if constant:
        return Form(
            f"-log r + {weight:g} (r - 1) + {constant:g}",
            "",
            lambda b: of(b.log_ratio),
            "not-a-kl",
            of_ratio=of,
        )
    for base, ln in LN.items():
        if abs(weight - ln) < 1e-4:
            return Form(
                f"k3 with a logarithm of base {base}",
                "",
                lambda b: of(b.log_ratio),
                "log-base",
                of_ratio=of,
            )
    if sign < 0.0:
        words = f"k_lambda:{weight:g} of the log-ratio the other way up"
        return Form(words, "", lambda b: of(b.log_ratio), "direction", of_ratio=of)
    return Form(f"k_lambda:{weight:g}", forms.QP, lambda b: of(b.log_ratio), of_ratio=of)


def _clamp(
    values: np.ndarray, terms: np.ndarray, scale: float, tolerance: tuple[float, float]
) -> dict[str, float] | None:
    """Return where values are constant though the terms are not.

    Outside of one interval on which they agree.
    """
    near = _near(values, scale * terms, scale, tolerance)
    inside = np.flatnonzero(near)
    if inside.size < LEAST_INSIDE * near.size:
        return None
    first, last = inside[0], inside[-1]
    if not near[first : last + 1].all() or GRID[first] > 0.05 or GRID[last] < -0.05:
        return None
    clamp = {"low": -math.inf, "high": math.inf}
    for name, outside, edge in (
        ("low", slice(0, first), first),
        ("high", slice(last + 1, None), last),
    ):
        beyond = values[outside]
        if not beyond.size:
            continue
        if not np.allclose(beyond, beyond[0], rtol=1e-3, atol=1e-9 * abs(scale), equal_nan=True):
            return None
        clamp |= {name: float(GRID[edge]), f"value_{name}": float(beyond[0] / scale)}
    return clamp


def _refined(probe: Probe, found: Identity, level: str) -> dict[str, float] | None:
    """Return the clamp with its ends found by bisection."""
    if found.clamp is None or found.form is None or found.form.of_ratio is None:
        return None
    clamp, of = dict(found.clamp), found.form.of_ratio
    width = SHAPE[1] if level == "sequence" else 1
    for name, step in (("low", -1), ("high", 1)):
        inside = clamp[name]
        if not math.isfinite(inside):
            continue
        index = int(np.argmin(np.abs(GRID - inside))) + step
        outside = float(GRID[index])
        for _ in range(24):
            middle = 0.5 * (inside + outside)
            value = probe.one(at(middle, index))
            plateau = found.scale * clamp[f"value_{name}"]
            fitted = found.scale * of(np.array([middle * width]))
            # Where it is continuous the plateau is met more sharply than the terms are left.
            good = abs(value - plateau) > 1e-6 * abs(plateau) or bool(
                _near(np.array([value]), fitted, found.scale, (1e-9, 0.0))[0]
            )
            inside, outside = (middle, outside) if good else (inside, middle)
        clamp[name] = inside * width
    return clamp


def _sum(
    values: np.ndarray, terms: Sequence[tuple[Form, np.ndarray]], tolerance: tuple[float, float]
) -> Identity | None:
    for (first, one), (second, two) in itertools.combinations(terms, 2):
        columns = np.stack([one, two], axis=1)
        a, b = map(float, _least_squares(values, columns))
        scale = max(abs(a), abs(b))
        if min(abs(a), abs(b)) < 1e-3 * scale or not scale:
            continue
        if (
            _near(values, columns @ np.array([a, b]), scale, tolerance).all()
            and first.of_ratio
            and second.of_ratio
        ):
            total = a + b
            if not total:
                return None
            u, v = float(f"{a / total:.6g}"), float(f"{b / total:.6g}")
            f, g = first.of_ratio, second.of_ratio

            def of(x: np.ndarray, f=f, g=g, u=u, v=v) -> np.ndarray:  # type: ignore[no-untyped-def]
                return u * f(x) + v * g(x)

            same = first.divergence if first.divergence == second.divergence else ""
            name = f"{u:g} {first.name} + {v:g} {second.name}"
            return Identity(Form(name, same, lambda batch: of(batch.log_ratio), of_ratio=of), total)
    return None
