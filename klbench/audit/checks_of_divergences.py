"""Checks that what is computed is a KL at all."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from klbench.audit import forms
from klbench.audit.batches import VOCABULARY, random
from klbench.audit.case import Case, check
from klbench.audit.checks_of_values import LEVELS, MOST_BIAS, evidence
from klbench.audit.findings import Finding
from klbench.audit.identify import GRID, at


@check("not-a-kl")
def not_a_kl(case: Case) -> Iterator[Finding]:
    """Look for values that estimate no KL."""
    form = case.form
    if not case.probe.compares or not np.isfinite(case.grid.values).any() or not case.grid.points:
        return
    if form is None:
        if (
            case.probe.used_as == "loss"
            and case.gradient is not None
            and case.gradient.matches not in ("none", "0")
        ):
            return  # what counts of a loss is its gradient
        same = case.probe.part(at(0.0).same())
        values = np.abs(case.grid.values)
        if np.nanmax(values) == 0.0:
            yield case.finding(
                "not-a-kl",
                "error",
                "it does not depend on how far policy and reference are apart"
                + (", where advantages are 0" if case.probe.still else ""),
                **evidence(case),
            )
        elif np.abs(same).max() > 1e-3 * max(np.nanmedian(values), 1.0):
            yield case.finding(
                "not-a-kl",
                "error",
                f"it is {float(np.median(same)):.4g}, not 0, where policy and reference are the"
                " same",
                log_ratio=0.0,
                got=float(np.median(same)),
                expected=0.0,
            )
        elif _blind(case):
            yield case.finding("not-a-kl", "error", "it is the same whatever the tokens are")
        elif (below := _below_zero(case)) is not None:
            yield case.finding(
                "not-a-kl",
                "error",
                "it is not above 0 for two distributions that differ: is a part of the vocabulary"
                " left out?",
                got=below,
            )
        else:
            yield from _unknown(case)
        return
    if form.fault == "not-a-kl":
        yield case.finding(
            "not-a-kl", "error", f"it is {form.name}, which estimates no KL", **evidence(case)
        )
    elif form.name == "abs" and case.expect != "abs":
        yield case.finding(
            "not-a-kl",
            "error",
            "it is |log r|, of the order of the square root of the KL: no estimate of it",
            **evidence(case),
        )
    elif not form.divergence and not form.fault and form.name != case.expect:
        yield case.finding(
            "not-a-kl",
            "error",
            f"it is {form.name}, whose mean is no divergence",
            **evidence(case),
        )
    elif _gradient_of_none(case):
        assert case.gradient is not None
        bias = case.gradient.rel_bias[LEVELS[0]]
        how = f"weight {case.weight} is differentiated with" if case.weight else "it is not that of"
        yield case.finding(
            "not-a-kl",
            "error",
            f"its expected gradient is that of no KL, off by {100 * bias:.3g} % at {LEVELS[0]:g}"
            f" nats: {how} {form.name}",
            rel_bias=dict(case.gradient.rel_bias),
        )
    elif form.divergence not in (forms.QP, forms.PQ) and form.divergence and not case.expect:
        yield case.finding(
            "not-a-kl",
            "note",
            f"it is {form.name}: estimates {form.divergence}, no KL",
            **evidence(case),
        )


def _gradient_of_none(case: Case) -> bool:
    """Return whether the gradient is that of no KL though the value's own would be, or though a
    weight could not hide it.
    """
    gradient, form = case.gradient, case.form
    if (
        gradient is None
        or form is None
        or case.reduced is None
        or case.reduced.fault
        or not case.explained
    ):
        return False
    if gradient.combination or case.identity.tolerance == 2:
        return False
    own = form.name in ("k1", "k2", "k3") and (not case.weight or case.probe.used_as == "loss")
    return (
        own
        and gradient.matches == "none"
        and not case.identity.clamp
        and gradient.rel_bias[LEVELS[0]] > MOST_BIAS
    )


def _unknown(case: Case) -> Iterator[Finding]:
    """Say of values that fit nothing what their mean is near the reference."""
    near = {
        float(x): float(v)
        for x, v in zip(GRID, case.grid.values, strict=True)
        if abs(x) in (0.05, 0.1, 0.2)
    }
    close = case.identity.near
    yield case.finding(
        "not-a-kl",
        "error" if _linear_bias(case) > MOST_BIAS else "warning",
        "it fits no estimator that is known, nor a multiple or a sum of two"
        + (f"; the nearest is {close.name}" if close else ""),
        values=near,
    )


def _blind(case: Case) -> bool:
    """Return whether the tokens that were sampled change nothing, though it is given them."""
    if not case.probe.plan.has("tokens"):
        return False
    batch = random("blind")
    other = {"tokens": (batch.token + 7) % VOCABULARY}
    one, two = (case.probe.function(batch, changed=each).value for each in ({}, other))
    return bool(np.allclose(one, two, rtol=1e-9, atol=0.0))


def _below_zero(case: Case) -> float | None:
    """Return a value that is not above 0, of whole distributions of which one is the other,
    sharper or flatter.
    """
    plan = case.probe.plan
    if plan.form != "logits" or plan.has("tokens"):
        return None
    batch = random("below zero")
    q = batch.full("q")
    for power in (0.7, 1.4):
        p = power * q - np.log(np.exp(power * q).sum(-1, keepdims=True))
        least = float(case.probe.part(replace(batch, given_logits=(q, p, q))).min())
        if least <= 0.0:
            return least
    return None


def _linear_bias(case: Case) -> float:
    """Return the bias at 0.05 nats of values interpolated over the grid, up to the best of the
    multiples 1 and 1/tokens.
    """
    kl = 0.05
    nodes = np.linspace(-8.0, 8.0, 4_001)
    weight = np.exp(-0.5 * nodes**2) / math.sqrt(2.0 * math.pi) * (nodes[1] - nodes[0])
    values = np.interp(-kl + math.sqrt(2.0 * kl) * nodes, GRID, case.grid.values)
    mean = float(np.sum(weight * values)) / kl
    return min(abs(mean / factor - 1.0) for factor in (1.0, *case.probe.shape_factors))
