"""Checks of what rounding and overflow leave of a value.

Near the reference, in 16 bits, and far away.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from klbench.audit import forms
from klbench.audit.batches import SHAPE, Batch, random
from klbench.audit.case import Case, check
from klbench.audit.findings import Finding, Severity
from klbench.audit.identify import GRID

NEAR = 0.01
"""The log-ratio at which precision is judged."""


def _near(dtype: str) -> Batch:
    """Return tokens with log-probabilities over [-12, -0.05], as the dtype holds them, of
    log-ratios near 0.01.
    """
    count = 40
    log_q = np.linspace(-12.0, -0.05, count)
    sign = np.where(np.arange(count) % 2, 1.0, -1.0)
    log_p = np.minimum(log_q + NEAR * sign, -1e-3)
    batch = random("near", 1, count)
    if dtype == "float32":
        log_q, log_p = (x.astype(np.float32).astype(np.float64) for x in (log_q, log_p))
    return replace(
        batch, log_q=log_q[None], log_p=log_p[None], log_mu=log_q[None], rest_p=batch.rest_q
    )


@check("cancellation")
def cancellation(case: Case) -> Iterator[Finding]:
    """Judge the worst token near the reference, in float32."""
    form, probe = case.form or case.identity.near, case.probe
    if (
        form is None
        or form.fault
        or form.full
        or not probe.compares
        or case.identity.level != "token"
        or not case.scale
    ):
        return
    batch = _near("float32")
    terms = (forms.clamped(form, case.identity.clamp) if case.identity.clamp else form).terms
    worst, where = 0.0, 0
    for t in range(batch.shape[1]):
        one = batch.take(slice(None), slice(t, t + 1)).repeated(*SHAPE)
        if probe.plan.form == "log_ratio":
            log_ratio = one.log_ratio.astype(np.float32).astype(np.float64)
            one = replace(one, log_p=one.log_q + log_ratio)
        exact = case.identity.scale * float(terms(one)[0, 0])
        if (probe.plan.form == "logits" and t % 4) or not exact:
            continue
        off = abs(float(np.median(probe.part(one, "float32"))) - exact) / abs(exact)
        if off > worst:
            worst, where = off, t
    if probe.plan.form == "logits":
        worst /= 50.0  # the logits themselves are rounded: their differences lose so much at best
    if worst > 1e-3:
        severity: Severity = "error" if worst > 0.1 else "warning"
        yield case.finding(
            "cancellation",
            severity,
            f"{100 * worst:.3g} % of {form.name} is lost in float32 at a log-ratio of {NEAR:g}",
            log_q=float(batch.log_q[0, where]),
            log_p=float(batch.log_p[0, where]),
            relative_error=worst,
        )


@check("dtype")
def dtype(case: Case) -> Iterator[Finding]:
    """Compare 16-bit inputs with the exact value of the same inputs, at log-ratios that both
    hold.
    """
    form, probe = case.form, case.probe
    if case.identity.tolerance == 2:
        yield case.finding(
            "dtype", "error", "its values are as coarse as those of 16 bits, whatever it is given"
        )
        return
    if (
        form is None
        or form.fault
        or not probe.compares
        or case.identity.level != "token"
        or probe.plan.form == "logits"
    ):
        return
    of = form.of_ratio
    if of is None:
        return
    kept = forms.clamped(form, case.identity.clamp).of_ratio if case.identity.clamp else of
    assert kept is not None
    kinds = ("float16",) if probe.function.library == "numpy" else ("bfloat16", "float16")
    for kind in kinds:
        for log_ratio in (-8.0, -4.0, -2.0, -1.0, 1.0, 2.0, 4.0, 8.0):
            one = random("16 bits", 1, 1)
            one = replace(
                one,
                log_q=np.full((1, 1), -9.0),
                log_p=np.full((1, 1), -9.0 + log_ratio),
                log_mu=np.full((1, 1), -9.0),
            )
            try:
                got = float(np.median(probe.part(one.repeated(*SHAPE), kind)))
            except Exception:  # noqa: BLE001  # an operation that has no such dtype is no finding
                break
            exact = case.identity.scale * float(kept(np.array([log_ratio]))[0])
            size = abs(exact)
            if not 1e-3 < size < 6e4 or abs(got - exact) <= 0.05 * size:
                continue
            wrong = (
                np.isnan(got) or got == 0.0 or (np.isfinite(got) and abs(got - exact) > 0.5 * size)
            )
            words = f"in {kind} it is {got:.4g} at a log-ratio of {log_ratio:g}, exact {exact:.4g}"
            yield case.finding(
                "dtype",
                "error" if wrong else "warning",
                words,
                dtype=kind,
                log_ratio=log_ratio,
                got=got,
                expected=exact,
            )
            break


@check("non-finite-value")
def non_finite_value(case: Case) -> Iterator[Finding]:
    """Look for NaN, and for inf where the exact value is a float."""
    form, probe = case.form, case.probe
    if case.grid.points and not np.isfinite(case.grid.values).any():
        yield case.finding(
            "non-finite-value",
            "error",
            f"it is {case.grid.values[GRID.size // 2]:g} on ordinary inputs, at every log-ratio",
            got=case.grid.values[GRID.size // 2],
        )
        return
    if not probe.compares or probe.plan.form == "logits":
        return
    of = None
    if form is not None and form.of_ratio is not None and case.identity.level == "token":
        of = (
            forms.clamped(form, case.identity.clamp).of_ratio
            if case.identity.clamp
            else form.of_ratio
        )
    for log_ratio in (-1e4, -200.0, -100.0, -50.0, 50.0, 80.0, 100.0, 200.0, 1e4):
        batch = random("extreme", 1, 1).with_ratio(np.array([[log_ratio]])).repeated(*SHAPE)
        for kind in ("float32", "float64"):
            try:
                got = float(np.median(probe.function(batch, kind).value))
            except Exception:  # noqa: BLE001  # it refuses
                continue
            if np.isfinite(got):
                continue
            with np.errstate(all="ignore"):
                exact = (
                    np.nan
                    if of is None
                    else float(of(np.array([log_ratio]))[0]) * case.identity.scale
                )
            words = f"it is {got:g} in {kind} at a log-ratio of {log_ratio:g}"
            severity: Severity = (
                "error"
                if np.isnan(got) or (of is not None and probe.used_as != "loss")
                else "warning"
            )
            if of is not None and np.isinf(got) and abs(exact) > float(np.finfo(kind).max) * 1e-3:
                severity, words = "note", f"{words}, which is too large for a float"
            yield case.finding(
                "non-finite-value",
                severity,
                words,
                log_ratio=log_ratio,
                dtype=kind,
                got=got,
                expected=exact,
            )
            return
