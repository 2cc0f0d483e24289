"""The way from tokens to the output.

A reduction, an alignment of policy and tokens, and what is left as the scale.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from klbench.audit import forms
from klbench.audit.batches import SHAPE, Batch, random
from klbench.audit.identify import Identity, at
from klbench.audit.probe import Probe


@dataclass(frozen=True)
class Reduced:
    """A reduction that explains the outputs of several masked batches, and what is left as the
    scale.
    """

    name: str
    scale: float
    alignment: str = ""
    fault: str = ""


def _sums(k: np.ndarray, m: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return np.where(m, k, 0.0).sum(-1), np.maximum(m.sum(-1), 1)


def _reductions(
    k: np.ndarray, m: np.ndarray, output: str, level: str
) -> dict[str, tuple[np.ndarray, str]]:
    """Return each reduction's result and the fault it is, of terms ``(B, T)`` (``(B, 1)`` of
    sequences) and a mask.
    """
    if output == "token":
        return {"per token": (k, "")}
    if level == "sequence":
        sums, n = k[:, 0], np.maximum(m.sum(-1), 1)
    else:
        sums, n = _sums(k, m)
    if output == "sequence":
        rows = {"sum of each sequence": (sums, ""), "mean of each sequence": (sums / n, "")}
        return rows | {
            "mean of each sequence over the padded length": (sums / m.shape[1], "denominator")
        }
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
            "sum times the number of rows": (sums.sum() * len(m), "denominator"),
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
    "the mask a token behind": (slice(None, -1), slice(None, -1), slice(1, None)),
    "the mask a token ahead": (slice(1, None), slice(1, None), slice(None, -1)),
    "one token further": (slice(None), "roll -1", slice(None)),
    "one token back": (slice(None), "roll 1", slice(None)),
}
"""Alignments of logits and tokens: positions of logits, of tokens, and of the mask."""


def _moved(x: np.ndarray, by: slice | str) -> np.ndarray:
    return np.roll(x, int(by.split()[1]), axis=1) if isinstance(by, str) else x[:, by]


def aligned(batch: Batch, alignment: str, form: str) -> Batch:
    """Return the batch as a function sees it that pairs logits (or the policy) and tokens (or
    the reference) in another way.
    """
    if not alignment:
        return batch
    first, second, mask = SLICES[alignment]
    keep = _moved(batch.mask, mask)
    if form != "logits":
        q, p = _moved(batch.log_q, first), _moved(batch.log_p, second)
        rest: dict[str, Any] = {
            n: _moved(getattr(batch, n), first)
            for n in ("rest_q", "rest_p", "token", "offset", "log_mu")
        }
        return replace(batch, log_q=q, log_p=p, mask=keep, **rest)
    token = _moved(batch.token, second)
    full = (
        _moved(batch.full("q"), first),
        _moved(batch.full("p"), first),
        _moved(batch.full("mu"), first),
    )
    chosen = [np.take_along_axis(each, token[..., None], axis=-1)[..., 0] for each in full]
    other: dict[str, Any] = {
        n: _moved(getattr(batch, n), first) for n in ("rest_q", "rest_p", "offset")
    }
    return replace(
        batch,
        log_q=chosen[0],
        log_p=chosen[1],
        log_mu=chosen[2],
        token=token,
        mask=keep,
        given_logits=full,
        **other,
    )


def reduce(probe: Probe, identity: Identity) -> Reduced | None:
    """Return the reduction; None where none explains the outputs."""
    assert identity.form is not None
    form = identity.form if identity.clamp is None else forms.clamped(identity.form, identity.clamp)
    masked = probe.plan.has("mask")
    batches = [
        random(f"reduction {k}", *shape, masked=masked)
        for k, shape in enumerate(((3, 5), (3, 9), (6, 5), (4, 7)))
    ]
    outputs = [probe.part(batch) for batch in batches]
    relative = (1e-5, 2e-3, 0.1)[identity.tolerance]
    for alignment in SLICES:
        found: dict[str, list[float]] = {}
        faults: dict[str, str] = {}
        for batch, output in zip(batches, outputs, strict=True):
            seen = aligned(batch, alignment, probe.plan.form)
            terms = form.at_level(identity.level)(seen)
            for name, (fitted, fault) in _reductions(
                terms, seen.mask, probe.output, identity.level
            ).items():
                ratio = _ratio(output, fitted, seen.mask, relative)
                found.setdefault(name, []).append(ratio)
                faults[name] = fault
        for name, ratios in found.items():
            scale = ratios[0]
            if (
                all(
                    math.isfinite(each) and abs(each - scale) <= relative * abs(scale)
                    for each in ratios
                )
                and scale
            ):
                wrong = alignment in (
                    "one token further",
                    "one token back",
                    "token before its logits",
                    "without the last",
                    "the mask a token behind",
                    "the mask a token ahead",
                )
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


LAGS = (-0.4, 0.3, 0.9, 3.0)


def weight_of(probe: Probe) -> str:
    """Return the weight by the policy that sampled, in words.

    Empty where its log-probabilities change nothing.
    """
    if probe.plan.sides.get("old") != "mu":
        return ""
    base = at(0.5)
    whole = probe.one(base)
    if not whole or not math.isfinite(whole):
        return ""
    found = [probe.one(replace(base, log_mu=base.log_q - lag)) / whole for lag in LAGS]
    exponents = np.array([math.log(each) if each > 0.0 else math.nan for each in found])
    tokens = float(SHAPE[1])
    for name, power in (
        ("q/mu", 1.0),
        ("mu/q", -1.0),
        ("q/mu of the sequence", tokens),
        ("mu/q of the sequence", -tokens),
    ):
        fitted = power * np.array(LAGS)
        near = np.abs(exponents - fitted) < 1e-3
        if near.all():
            return name
        if near[:3].all() and exponents[3] < fitted[3]:
            return f"{name}, cut off at {math.exp(exponents[3]):.3g}"
    return "" if np.abs(exponents).max() < 1e-6 else "a function of q/mu"
