"""Checks of padding: what the mask leaves out, what it leaves in, and how long rows are."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np

from klbench.audit.adapter import CallError
from klbench.audit.batches import Batch, random
from klbench.audit.case import Case, check, differs
from klbench.audit.findings import Finding

FINITE_PADS = (1.0, -100.0, -1e10)
PADS = (*FINITE_PADS, float("inf"), float("nan"))
NEAR_PADS = (0.0, 1.0)
"""Padding whose log-ratio is small."""


def _counted(case: Case, value: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Return what counts of an output: of one a token, the tokens that the mask leaves in."""
    if value.shape == mask.shape:
        return value[mask]
    if value.ndim == 3 and value.shape[:2] == mask.shape:
        return value[mask]
    return value


@check("padding-leak")
def padding_leak(case: Case) -> Iterator[Finding]:
    """Change what is masked out."""
    plan, function = case.probe.plan, case.probe.function
    if not plan.has("mask"):
        return
    batch = random("padding", masked=True)
    arrays = batch.arrays(plan)
    roles = case.arrays
    attached = (plan.learned,) if case.differentiable and plan.learned in arrays else ()
    base = function(batch, gradients=attached)
    kept = _counted(case, base.value, batch.mask)
    if not np.isfinite(kept).all() and np.isfinite(case.value(random("padding"))).all():
        yield case.finding(
            "padding-leak",
            "error",
            f"it is {kept[~np.isfinite(kept)].flat[0]:g} wherever the mask leaves a token out",
            got=kept,
        )
        return
    yield from _lost(case)
    sets = [*([role] for role in roles[:2]), roles]
    for pad in PADS:
        for which in sets:
            changed = {role: _padded(arrays[role], batch.mask, pad) for role in which}
            try:
                found = function(batch, gradients=attached, changed=changed)
            except (CallError, RuntimeError):
                continue  # it refuses such input
            where = ", ".join(plan.parameter(role) for role in which)
            got, expected = (_counted(case, each.value, batch.mask) for each in (found, base))
            if differs(got, expected, case.tolerance):
                yield case.finding(
                    "padding-leak",
                    "error",
                    f"what the mask leaves out changes the value: {pad:g} in {where}",
                    padding=pad,
                    arguments=which,
                    got=got,
                    expected=expected,
                )
                return
            for role in attached:
                one, two = found.gradients[role], base.gradients[role]
                if (
                    one is not None
                    and two is not None
                    and differs(one[batch.mask], two[batch.mask], case.tolerance)
                ):
                    yield case.finding(
                        "padding-leak",
                        "error",
                        f"what the mask leaves out changes the gradient: {pad:g} in {where}",
                        padding=pad,
                        arguments=which,
                    )
                    return
    yield from _spread(case, batch)


def _spread(case: Case, batch: Batch) -> Iterator[Finding]:
    """Look for a NaN in the gradient of what the mask leaves out: it goes on through a model.

    Beside far padding it is a warning, since an exponential that is masked afterwards overflows
    there; beside near padding nothing overflows.
    """
    plan, arrays = case.probe.plan, batch.arrays(case.probe.plan)
    if not case.differentiable or plan.learned not in arrays:
        return
    pads, kinds = (*NEAR_PADS, *FINITE_PADS[1:]), ("float32", "float64")
    for pad, role, kind in itertools.product(pads, case.arrays, kinds):
        changed = {role: _padded(arrays[role], batch.mask, pad)}
        try:
            found = case.probe.function(batch, kind, gradients=(plan.learned,), changed=changed)
        except (CallError, RuntimeError):
            continue  # it refuses such input
        gradient = found.gradients[plan.learned]
        if gradient is not None and np.isnan(gradient).any():
            yield case.finding(
                "padding-leak",
                "error" if pad in NEAR_PADS else "warning",
                f"the gradient of what the mask leaves out is NaN in {kind} with {pad:g} in"
                f" {plan.parameter(role)}: through a model it spreads",
                padding=pad,
                dtype=kind,
            )
            return


def _lost(case: Case) -> Iterator[Finding]:
    """Look for tokens that the mask leaves in and that change nothing.

    The ends of a row may go lost in a shift by one.
    """
    batch = random("lost", tokens=7, masked=True)
    batch = replace(batch, mask=np.arange(7) < np.array([[7], [5], [3]]))
    base = case.value(batch)
    if not case.probe.compares or not np.isfinite(base).all():
        return

    def moved(row: int, token: int, to: float) -> np.ndarray:
        log_ratio = batch.log_ratio.copy()
        log_ratio[row, token] = to
        return case.value(batch.with_ratio(log_ratio))

    for row, length in enumerate(batch.mask.sum(-1)):
        for token in range(1, length - 1):
            # Either may be beyond a clamp, not both.
            if all(np.array_equal(moved(row, token, to), base) for to in (0.0, -3.0)):
                yield case.finding(
                    "padding-leak",
                    "error",
                    f"token {token} of row {row}, which the mask leaves in, changes nothing",
                    mask=batch.mask,
                )
                return


def _padded(array: np.ndarray, mask: np.ndarray, pad: float) -> np.ndarray:
    result = array.copy()
    result[~mask] = pad
    return result


def _wider(batch: Batch, columns: int) -> Batch:
    """Return the batch with masked columns appended, where policy and reference are the same."""

    def wide(x: np.ndarray) -> np.ndarray:
        return np.concatenate([x, np.repeat(x[:, :1], columns, axis=1)], axis=1)

    names = ("log_q", "log_p", "log_mu", "rest_q", "rest_p", "token", "offset")
    grown: dict[str, Any] = {name: wide(getattr(batch, name)) for name in names}
    start = batch.shape[1]
    for name in ("log_p", "log_mu"):
        grown[name][:, start:] = grown["log_q"][:, start:]
    grown["rest_p"][:, start:] = grown["rest_q"][:, start:]
    mask = np.concatenate([batch.mask, np.zeros((batch.shape[0], columns), bool)], axis=1)
    return replace(batch, **grown, mask=mask)


@check("denominator")
def denominator(case: Case) -> Iterator[Finding]:
    """Append masked columns."""
    if not case.probe.plan.has("mask") or case.probe.output not in ("number", "sequence"):
        return
    batch = _wider(
        random("denominator", masked=True), 1
    )  # no row ends with the columns: some functions shift by one
    try:
        base, wide = case.value(batch), case.value(_wider(batch, 4))
    except CallError:
        return
    if differs(wide, base, max(case.tolerance, 1e-5)):
        yield case.finding(
            "denominator",
            "error",
            "masked columns that are appended change the value: it is divided by the padded length",
            columns=4,
            got=wide,
            expected=base,
        )
    elif case.reduced is not None and case.reduced.fault == "denominator":
        yield case.finding("denominator", "error", f"the reduction is: {case.reduced.name}")
