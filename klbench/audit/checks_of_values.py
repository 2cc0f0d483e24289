"""Checks of what is computed: sign, direction, scale, logarithm, clamps."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from klbench.audit import forms
from klbench.audit.batches import VOCABULARY
from klbench.audit.case import Case, check
from klbench.audit.findings import Finding, Severity, beyond
from klbench.audit.identify import GRID, LN

LEVELS = (0.05, 0.5, 2.0, 8.0)
"""KL in nats at which biases are given."""
MOST_BIAS = 0.1
"""The relative bias at 0.05 nats beyond which a value is no KL."""
_BASES = {1.0 / ln: base for base, ln in LN.items()} | {
    1.0 / ln**2: base for base, ln in LN.items()
}


def evidence(case: Case, expected: str | float | None = None) -> dict[str, float]:
    """Return the value at a log-ratio of 0.5, and what it should have been.

    An estimator's term, or a multiple of the value.
    """
    index = int(np.argmin(np.abs(GRID - 0.5)))
    log_ratio, got = float(GRID[index]), float(case.grid.values[index])
    found = {"log_ratio": log_ratio, "got": got}
    if isinstance(expected, float):
        found["expected"] = expected * got
    elif expected is not None:
        found["expected"] = float(forms.terms_of(expected)(np.array([log_ratio]))[0])
    return found


def _base(scale: float) -> str:
    return next(
        (base for factor, base in _BASES.items() if abs(abs(scale) - factor) < 1e-3 * factor), ""
    )


@check("sign")
def sign(case: Case) -> Iterator[Finding]:
    """Look for the negative of an estimator."""
    form = case.form
    if case.scale > 0.0 and case.gradient is not None and case.gradient.matches.startswith("-"):
        yield case.finding(
            "sign",
            "error",
            f"its expected gradient is that of {case.gradient.matches}: a step increases the KL",
        )
    if form is None or (form.fault and form.fault != "sign"):
        return
    if form.fault == "sign" or case.scale < 0.0:
        name = form.name.removeprefix("minus ")
        swapped = " (log p - log q, where log q - log p is meant)" if name == "k1" else ""
        yield case.finding(
            "sign",
            "error",
            f"it is minus {name}{swapped}: adding it rewards distance",
            **evidence(case, -1.0),
        )


@check("direction")
def direction(case: Case) -> Iterator[Finding]:
    """Look for the estimator of the other divergence."""
    form, plan = case.form, case.probe.plan
    if case.weight == "mu/q":
        yield case.finding(
            "direction", "error", "it is weighted by mu/q: samples of mu are weighted by q/mu"
        )
    if form is None:
        return
    if form.fault == "direction":
        yield case.finding(
            "direction",
            "error",
            f"it is {form.name}: with samples of q it estimates neither KL(q‖p) nor KL(p‖q);"
            " log_ratio is log p - log q",
            **evidence(case, "k3" if form.name.startswith("k3") else None),
        )
    elif form.divergence == forms.PQ and not case.expect and case.expect_gradient != forms.PQ:
        if not form.full:
            yield case.finding(
                "direction",
                "warning",
                f"it is {form.name}, which estimates KL(p‖q) from samples of q",
                **evidence(case),
            )
        elif plan.distilled or "forward" in case.probe.function.name.lower():
            yield case.finding(
                "direction", "note", "it is KL(p‖q), p the teacher or reference", **evidence(case)
            )
        else:
            yield case.finding(
                "direction",
                "error",
                "it is KL(p‖q), the reference's; KL(q‖p) was expected: are two arguments swapped?",
                **evidence(case),
            )


@check("scale")
def scale(case: Case) -> Iterator[Finding]:
    """Look for a factor that no argument explains."""
    form, size = case.form, abs(case.scale)
    if (
        case.reduced is None
        or form is None
        or form.fault not in ("", "sign", "direction")
        or abs(size - 1.0) < 1e-3
        or _base(size)
        or case.explained
    ):
        return
    missing = ": the half is missing" if form.name == "k2" and abs(size - 2.0) < 1e-3 else ""
    if abs(size * VOCABULARY - 1.0) < 1e-3:
        missing = f": it is a mean over the vocabulary, of {VOCABULARY} tokens here"
    severity: Severity = "error" if form.divergence in (forms.QP, forms.PQ) else "warning"
    yield case.finding(
        "scale",
        severity,
        f"it is {size:.6g} times {form.name}, which no argument explains{missing}",
        **evidence(case, 1.0 / size),
    )


@check("log-base")
def log_base(case: Case) -> Iterator[Finding]:
    """Look for logarithms, or powers, of a base other than e."""
    form = case.form
    if form is None:
        return
    base = _base(case.scale) if not form.fault and not case.explained else ""
    if form.fault == "log-base" or base:
        words = form.name if form.fault else f"{form.name} with a logarithm of base {base}"
        yield case.finding(
            "log-base",
            "error",
            f"it is {words}: log-probabilities are in nats",
            **evidence(case, "k3" if form.fault else 1.0 / case.scale),
        )


def relative_bias(case: Case, kl: float, *, clamped: bool) -> float:
    """Return how far off the mean of the terms is, over the KL, where log r is normal.

    ``N(-kl, 2 kl)`` under q.
    """
    form, clamp = case.form, case.identity.clamp
    assert form is not None
    of = (forms.clamped(form, clamp) if clamped and clamp else form).of_ratio
    if of is None:
        return math.nan
    nodes = np.linspace(-10.0, 10.0 + math.sqrt(2.0 * kl), 40_001)
    weight = np.exp(-0.5 * nodes**2) / math.sqrt(2.0 * math.pi) * (nodes[1] - nodes[0])
    with np.errstate(all="ignore"):
        return float(np.sum(weight * of(-kl + math.sqrt(2.0 * kl) * nodes))) / kl - 1.0


@check("clamp-bias")
def clamp_bias(case: Case) -> Iterator[Finding]:
    """Look for what a clamp does to the mean."""
    clamp, form = case.identity.clamp, case.form
    if clamp is None or form is None or form.fault or not case.probe.compares:
        return
    extra = {
        kl: (
            round(relative_bias(case, kl, clamped=True) - relative_bias(case, kl, clamped=False), 9)
            + 0.0
        )
        for kl in LEVELS
    }
    words = ", ".join(f"{100 * extra[kl]:+.3g} % at {kl:g}" for kl in LEVELS)
    severity: Severity = "error" if abs(extra[0.05]) > MOST_BIAS else "note"
    yield case.finding(
        "clamp-bias",
        severity,
        f"constant for log-ratios {beyond(clamp)}: its mean is off by {words} nats",
        clamp=clamp,
        bias={f"{kl:g}": value for kl, value in extra.items()},
    )
