"""Identification: the function's values over a grid of log-ratios, fitted by what it may turn out to be."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from klbench.audit import forms
from klbench.audit.batches import SHAPE, Batch, random, stacked, uniform
from klbench.audit.forms import Form
from klbench.audit.probe import Probe

_SIDE = (
    0.02, 0.05, 0.1, 0.2, 0.35, 0.5, 0.75, 1.0, 1.3, 1.7, 2.2, 2.8, 3.5, 4.5, 6.0, 8.0, 10.5, 13.0, 16.0, 19.0, 22.0, 26.0,
    30.0, 45.0, 60.0,
)  # fmt: skip
GRID = np.array([*(-x * 1.01 for x in reversed(_SIDE)), *_SIDE])
"""Log-ratios, in nats; the two sides differ, so that no symmetry is an accident."""
TOLERANCES = ((1e-7, 1e-11), (2e-3, 5e-6), (0.1, 0.03))
"""Relative and absolute, for functions that compute in float64, float32 and 16 bits, whatever they are given."""
LN = {"2": math.log(2.0), "10": math.log(10.0)}


@dataclass(frozen=True)
class Identity:
    """What the values fit.

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
    """

    form: Form | None
    scale: float
    clamp: dict[str, float] | None = None
    level: str = "token"
    tolerance: int = 0


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
    """Return what the values fit: the shortest name first, then families, clamps, sums of two, and wrong forms."""
    if not np.isfinite(grid.values).any() or np.nanmax(np.abs(grid.values)) == 0.0:
        return Identity(None, 0.0)
    logits = probe.plan.form == "logits"
    known = [*forms.sampled()] if not logits or probe.plan.has("tokens") else []
    wrong = [*forms.wrong()] if known else []
    if logits:
        known = [*known, *forms.full()]
    for k, tolerance in enumerate(TOLERANCES):
        levels = ("token", "sequence") if probe.output != "token" else ("token",)
        for level in levels:
            found = _fitted(grid, known, wrong, level, tolerance, coarse=k == 2)
            if found is not None:
                return replace(found, level=level, tolerance=k, clamp=_refined(probe, found, level))
    return Identity(None, 1.0)


def _near(values: np.ndarray, fitted: np.ndarray, scale: float, tolerance: tuple[float, float]) -> np.ndarray:
    relative, absolute = tolerance
    with np.errstate(all="ignore"):
        return np.abs(values - fitted) <= relative * np.abs(fitted) + absolute * abs(scale)


def _scales(values: np.ndarray, terms: np.ndarray) -> list[float]:
    """Return the multiples that could be meant: from either side of 0."""
    found = []
    for side in (GRID < 0.0, GRID > 0.0):
        core = side & (np.abs(GRID) <= 2.0) & (np.abs(GRID) >= 0.1) & (np.abs(terms) > 1e-9)
        if core.any():
            scale = float(np.median(values[core] / terms[core]))
            if scale and math.isfinite(scale):
                found.append(scale)
    return found


def _fitted(
    grid: Grid, known: Sequence[Form], wrong: Sequence[Form], level: str, tolerance: tuple[float, float], *, coarse: bool
) -> Identity | None:
    values = grid.values
    used = (np.abs(GRID) <= 3.0) if coarse else np.ones(GRID.size, bool)
    terms = [(form, grid.terms(form, level)) for form in (*known, *wrong)]
    for form, each in terms:
        for scale in _scales(values, each):
            if _near(values, scale * each, scale, tolerance)[used].all():
                return Identity(form, scale)
    if not known or known[0].full:
        return None
    family = _family(grid, level, tolerance, used)
    if family is not None:
        return family
    if coarse:
        return None
    for form, each in terms:
        if form.of_ratio is None:
            continue
        for scale in _scales(values, each):
            clamp = _clamp(values, each, scale, tolerance)
            if clamp is not None:
                return Identity(form, scale, clamp)
    return _sum(values, [(form, each) for form, each in terms if form in known and not form.full], tolerance)


def _least_squares(values: np.ndarray, columns: np.ndarray) -> np.ndarray:
    with np.errstate(all="ignore"):
        weight = 1.0 / (np.abs(values) + 1e-3 * np.nanmedian(np.abs(values)))
        usable = np.isfinite(weight) & np.isfinite(columns).all(axis=1)
        result: np.ndarray = np.linalg.lstsq(
            columns[usable] * weight[usable, None], values[usable] * weight[usable], rcond=None
        )[0]
    return result


def _family(grid: Grid, level: str, tolerance: tuple[float, float], used: np.ndarray) -> Identity | None:
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
                return Identity(_family_form(sign, weight, float(found[2] / scale) if len(found) == 3 else 0.0), scale)
    return None


def _family_form(sign: float, weight: float, constant: float) -> Form:
    def of(log_ratio: np.ndarray) -> np.ndarray:
        return -sign * log_ratio + weight * np.expm1(sign * log_ratio) + constant

    if constant:
        return Form(f"-log r + {weight:g} (r - 1) + {constant:g}", "", lambda b: of(b.log_ratio), "not-a-kl", of_ratio=of)
    for base, ln in LN.items():
        if abs(weight - ln) < 1e-4:
            return Form(f"k3 with a logarithm of base {base}", "", lambda b: of(b.log_ratio), "log-base", of_ratio=of)
    if sign < 0.0:
        words = f"k_lambda:{weight:g} of the log-ratio the other way up"
        return Form(words, "", lambda b: of(b.log_ratio), "direction", of_ratio=of)
    return Form(f"k_lambda:{weight:g}", forms.QP, lambda b: of(b.log_ratio), of_ratio=of)


def _clamp(values: np.ndarray, terms: np.ndarray, scale: float, tolerance: tuple[float, float]) -> dict[str, float] | None:
    """Return where values are constant though the terms are not: outside of one interval on which they agree."""
    near = _near(values, scale * terms, scale, tolerance)
    inside = np.flatnonzero(near)
    if inside.size < 0.3 * near.size:
        return None
    first, last = inside[0], inside[-1]
    if not near[first : last + 1].all():
        return None
    clamp = {"low": -math.inf, "high": math.inf}
    for name, outside, edge in (("low", slice(0, first), first), ("high", slice(last + 1, None), last)):
        beyond = values[outside]
        if not beyond.size:
            continue
        far = beyond[:2] if name == "low" else beyond[-2:]
        if not np.allclose(far, far[0], rtol=1e-3, atol=1e-9 * abs(scale), equal_nan=True):
            return None
        clamp |= {name: float(GRID[edge]), f"value_{name}": float(far[0] / scale)}
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


def _sum(values: np.ndarray, terms: Sequence[tuple[Form, np.ndarray]], tolerance: tuple[float, float]) -> Identity | None:
    for (first, one), (second, two) in itertools.combinations(terms, 2):
        columns = np.stack([one, two], axis=1)
        a, b = map(float, _least_squares(values, columns))
        scale = max(abs(a), abs(b))
        if min(abs(a), abs(b)) < 1e-3 * scale or not scale:
            continue
        if _near(values, columns @ np.array([a, b]), scale, tolerance).all() and first.of_ratio and second.of_ratio:
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


LAGS = (-0.4, 0.3, 0.9, 3.0)


def weight_of(probe: Probe) -> str:
    """Return the weight by the policy that sampled, in words; empty where its log-probabilities change nothing."""
    if probe.plan.sides.get("old") != "mu":
        return ""
    base = at(0.5)
    whole = probe.one(base)
    if not whole or not math.isfinite(whole):
        return ""
    found = [probe.one(replace(base, log_mu=base.log_q - lag)) / whole for lag in LAGS]
    exponents = np.array([math.log(each) if each > 0.0 else math.nan for each in found])
    tokens = float(SHAPE[1])
    for name, power in (("q/mu", 1.0), ("mu/q", -1.0), ("q/mu of the sequence", tokens), ("mu/q of the sequence", -tokens)):
        fitted = power * np.array(LAGS)
        near = np.abs(exponents - fitted) < 1e-3
        if near.all():
            return name
        if near[:3].all() and exponents[3] < fitted[3]:
            return f"{name}, cut off at {math.exp(exponents[3]):.3g}"
    return "" if np.abs(exponents).max() < 1e-6 else "a function of q/mu"


# How tokens become what is returned.


@dataclass(frozen=True)
class Reduced:
    """A reduction that explains the outputs of several masked batches, and what is left as the scale."""

    name: str
    scale: float
    alignment: str = ""
    fault: str = ""


def _sums(k: np.ndarray, m: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return np.where(m, k, 0.0).sum(-1), np.maximum(m.sum(-1), 1)


def _reductions(k: np.ndarray, m: np.ndarray, output: str, level: str) -> dict[str, tuple[np.ndarray, str]]:
    """Return each reduction's result and the fault it is, of terms ``(B, T)`` (``(B, 1)`` of sequences) and a mask."""
    if output == "token":
        return {"per token": (k, "")}
    if level == "sequence":
        sums, n = k[:, 0], np.maximum(m.sum(-1), 1)
    else:
        sums, n = _sums(k, m)
    if output == "sequence":
        rows = {"sum of each sequence": (sums, ""), "mean of each sequence": (sums / n, "")}
        return rows | {"mean of each sequence over the padded length": (sums / m.shape[1], "denominator")}
    found: dict[str, tuple[np.ndarray, str]] = {}
    if level == "token":
        found["token mean"] = (sums.sum() / max(m.sum(), 1), "")
    found["sequence sum, mean over the batch"] = (sums.mean(), "")
    if level == "token":
        found["mean of sequence means"] = ((sums / n).mean(), "")
    found["token sum" if level == "token" else "sum over the batch"] = (sums.sum(), "")
    if level == "token":
        found |= {
            "mean over the padded length": (sums.sum() / m.size, "denominator"),
            "sum of sequence means": ((sums / n).sum(), ""),
            "sum times the number of tokens": (sums.sum() * m.sum(), "denominator"),
            "mean of sums times their lengths": ((sums * n).mean(), "denominator"),
            "sequence sums over all lengths": (sums.mean() * (1.0 / n).mean(), "broadcast"),
            "mean of all tokens, the mask left out": (k.mean(), "padding-leak"),
            "sum of all tokens, the mask left out": (k.sum(), "padding-leak"),
        }
    return found


SLICES: dict[str, tuple[slice | str, slice | str, slice | str]] = {
    "": (slice(None), slice(None), slice(None)),
    "logits before their token": (slice(None, -1), slice(1, None), slice(1, None)),
    "logits before their token, mask unshifted": (slice(None, -1), slice(1, None), slice(None, -1)),
    "without the last": (slice(None, -1), slice(None, -1), slice(None, -1)),
    "without the first": (slice(1, None), slice(1, None), slice(1, None)),
    "token before its logits": (slice(1, None), slice(None, -1), slice(1, None)),
    "one token further": (slice(None), "roll -1", slice(None)),
    "one token back": (slice(None), "roll 1", slice(None)),
}
"""Alignments of logits and tokens: positions of logits, of tokens, and of the mask."""


def _moved(x: np.ndarray, by: slice | str) -> np.ndarray:
    return np.roll(x, int(by.split()[1]), axis=1) if isinstance(by, str) else x[:, by]


def aligned(batch: Batch, alignment: str, form: str) -> Batch:
    """Return the batch as a function sees it that pairs logits (or the policy) and tokens (or the reference) in another way."""
    if not alignment:
        return batch
    first, second, mask = SLICES[alignment]
    keep = _moved(batch.mask, mask)
    if form != "logits":
        q, p = _moved(batch.log_q, first), _moved(batch.log_p, second)
        rest: dict[str, Any] = {n: _moved(getattr(batch, n), first) for n in ("rest_q", "rest_p", "token", "offset", "log_mu")}
        return replace(batch, log_q=q, log_p=p, mask=keep, **rest)
    token = _moved(batch.token, second)
    full = (_moved(batch.full("q"), first), _moved(batch.full("p"), first), _moved(batch.full("mu"), first))
    chosen = [np.take_along_axis(each, token[..., None], axis=-1)[..., 0] for each in full]
    other: dict[str, Any] = {n: _moved(getattr(batch, n), first) for n in ("rest_q", "rest_p", "offset")}
    return replace(
        batch, log_q=chosen[0], log_p=chosen[1], log_mu=chosen[2], token=token, mask=keep, given_logits=full, **other
    )


def reduce(probe: Probe, identity: Identity) -> Reduced | None:
    """Return the reduction; None where none explains the outputs."""
    assert identity.form is not None
    form = identity.form if identity.clamp is None else forms.clamped(identity.form, identity.clamp)
    masked = probe.plan.has("mask")
    batches = [random(f"reduction {k}", *shape, masked=masked) for k, shape in enumerate(((3, 5), (3, 9), (6, 5), (4, 7)))]
    outputs = [probe.part(batch) for batch in batches]
    relative = (1e-5, 2e-3, 0.1)[identity.tolerance]
    for alignment in SLICES:
        found: dict[str, list[float]] = {}
        faults: dict[str, str] = {}
        for batch, output in zip(batches, outputs, strict=True):
            seen = aligned(batch, alignment, probe.plan.form)
            terms = form.at_level(identity.level)(seen)
            for name, (fitted, fault) in _reductions(terms, seen.mask, probe.output, identity.level).items():
                ratio = _ratio(output, fitted, seen.mask, relative)
                found.setdefault(name, []).append(ratio)
                faults[name] = fault
        for name, ratios in found.items():
            scale = ratios[0]
            if all(math.isfinite(each) and abs(each - scale) <= relative * abs(scale) for each in ratios) and scale:
                wrong = alignment in ("one token further", "one token back", "token before its logits", "without the last")
                if alignment == "without the first" and probe.plan.form == "logits":
                    wrong = True
                if alignment.startswith("logits before") and probe.plan.form != "logits":
                    wrong = True
                return Reduced(name, scale, alignment, "shift" if wrong else faults[name])
    return None


def _ratio(output: np.ndarray, fitted: np.ndarray, mask: np.ndarray, relative: float) -> float:
    """Return the multiple of what is fitted that the output is; NaN where it is none."""
    fitted = np.asarray(fitted)
    if output.ndim == 1 and fitted.shape == mask.shape and output.size == mask.sum():
        fitted, mask = fitted[mask], mask[mask]  # only the tokens that count
    if output.size != fitted.size:
        return math.nan
    output = output.reshape(fitted.shape)
    if fitted.shape == mask.shape and fitted.size > 1:
        output, fitted = output[mask], fitted[mask]
    with np.errstate(all="ignore"):
        scale = float(np.sum(output * fitted) / np.sum(fitted * fitted))
        off = np.abs(output - scale * fitted).max()
    return scale if off <= relative * abs(scale) * np.abs(fitted).max() else math.nan
