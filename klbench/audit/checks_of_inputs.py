"""Checks of how inputs are treated: padding, lengths, neighbours, other rows, and what a call leaves behind."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from klbench.audit.adapter import CallError, numbers
from klbench.audit.batches import SHAPE, Batch, random, uniform
from klbench.audit.case import Case, check
from klbench.audit.findings import Finding

PADS = (1.0, -100.0, -1e10, float("inf"), float("nan"))
SAME = 1e-6
"""Relative change that is none."""


def _value(case: Case, batch: Batch, changed: Mapping[str, np.ndarray] | None = None) -> np.ndarray:
    return case.probe.function(batch, changed=changed).value


def _differs(one: np.ndarray, other: np.ndarray, tolerance: float = SAME) -> bool:
    if one.shape != other.shape:
        return True
    size = max(float(np.nanmax(np.abs(other), initial=0.0)), 1e-3)
    return not np.allclose(one, other, rtol=tolerance, atol=tolerance * size, equal_nan=True)


def _tolerance(case: Case) -> float:
    return (SAME, 1e-4, 0.05)[case.identity.tolerance]


def _arrays(case: Case) -> list[str]:
    return [
        role
        for role in case.probe.plan.roles.values()
        if role not in ("mask", "advantages", "beta", "tokens")
    ]


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
    roles = _arrays(case)
    attached = (plan.learned,) if case.differentiable and plan.learned in arrays else ()
    base = function(batch, gradients=attached)
    kept = _counted(case, base.value, batch.mask)
    if not np.isfinite(kept).all() and np.isfinite(_value(case, random("padding"))).all():
        yield case.finding(
            "padding-leak",
            "error",
            f"it is {kept[~np.isfinite(kept)].flat[0]:g} wherever the mask leaves a token out",
            got=kept,
        )
        return
    yield from _lost(case, batch, base.value)
    spread: tuple[float, str] | None = None
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
            if _differs(got, expected, _tolerance(case)):
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
                    and _differs(one[batch.mask], two[batch.mask], _tolerance(case))
                ):
                    yield case.finding(
                        "padding-leak",
                        "error",
                        f"what the mask leaves out changes the gradient: {pad:g} in {where}",
                        padding=pad,
                        arguments=which,
                    )
                    return
                if spread is None and one is not None and np.isnan(one).any() and np.isfinite(pad):
                    spread = pad, where
    if spread is not None:
        yield case.finding(
            "padding-leak",
            "warning",
            f"the gradient of what the mask leaves out is NaN with {spread[0]:g} in {spread[1]}: through a model it spreads",
            padding=spread[0],
        )


def _lost(case: Case, batch: Batch, base: np.ndarray) -> Iterator[Finding]:
    """Look for tokens that the mask leaves in and that change nothing; the ends of a row may go lost in a shift by one."""
    if not case.probe.compares or not np.isfinite(base).all():
        return
    for row in range(1, batch.shape[0]):
        log_ratio = batch.log_ratio.copy()
        log_ratio[row, 1 : int(batch.mask[row].sum()) - 1] -= 0.7
        if np.array_equal(_value(case, batch.with_ratio(log_ratio)), base):
            yield case.finding(
                "padding-leak",
                "error",
                "tokens that the mask leaves in change nothing, in a row that is padded",
                mask=batch.mask[row],
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
        base, wide = _value(case, batch), _value(case, _wider(batch, 4))
    except CallError:
        return
    if _differs(wide, base, max(_tolerance(case), 1e-5)):
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


def influence(case: Case, role: str) -> np.ndarray | None:
    """Return which outputs, one a token, change with each token of an input: booleans ``(B, T, B', T')``; None if it raises."""
    batch = random("influence")
    arrays = batch.arrays(case.probe.plan)
    rows, tokens = SHAPE
    try:
        base = _value(case, batch)
        if base.ndim < 2:
            return None
        base = base.reshape(base.shape[0], base.shape[1], -1)
        result = np.zeros((rows, tokens, *base.shape[:2]), bool)
        for b in range(rows):
            for t in range(tokens):
                changed = arrays[role].copy()
                changed[b, t] = changed[b, t] - 0.3 * np.arange(1, 1 + changed[b, t].size).reshape(
                    changed[b, t].shape
                )
                found = _value(case, batch, {role: changed}).reshape(base.shape)
                result[b, t] = (np.abs(found - base) > 1e-7 * (1.0 + np.abs(base))).any(-1)
    except CallError:
        return None
    return result


@check("shift")
def shift(case: Case) -> Iterator[Finding]:
    """Look for tokens that are compared with their neighbours."""
    if case.reduced is not None:
        if case.reduced.fault == "shift":
            yield case.finding(
                "shift",
                "error",
                f"policy, reference and tokens are not aligned: {case.reduced.alignment}",
            )
        return
    if case.probe.output != "token":
        return
    for role in _arrays(case):
        found = influence(case, role)
        if found is None:
            continue
        own, near = _diagonal(found, 0), max(_diagonal(found, 1), _diagonal(found, -1))
        if near > 0.5 and own < 0.5:
            yield case.finding(
                "shift",
                "error",
                f"the value of a token depends on {case.probe.plan.parameter(role)} of its neighbour, not its own",
            )
            return


def _diagonal(found: np.ndarray, by: int) -> float:
    """Return the share of tokens whose output so many places further changes."""
    rows, tokens = found.shape[:2]
    last = found.shape[3]
    hits = [
        found[b, t, b, t + by] for b in range(rows) for t in range(tokens) if 0 <= t + by < last
    ]
    return float(np.mean(hits)) if hits else 0.0


@check("token-mixing")
def token_mixing(case: Case) -> Iterator[Finding]:
    """Look for values that mix tokens of a sequence."""
    reduced, probe = case.reduced, case.probe
    if reduced is not None or not probe.compares:
        return
    if (
        probe.used_as == "loss"
        and case.gradient is not None
        and case.gradient.matches not in ("none", "0")
    ):
        return  # a return of later tokens, say: what counts of a loss is its gradient
    if probe.output == "token":
        for role in _arrays(case):
            found = influence(case, role)
            if found is None:
                continue
            rows, tokens = found.shape[:2]
            last = found.shape[3]
            mixed = [
                found[b, t, b, s]
                for b in range(rows)
                for t in range(tokens)
                for s in range(last)
                if abs(s - t) > 1
            ]
            if any(mixed) and np.mean(mixed) > 0.1:
                yield case.finding(
                    "token-mixing",
                    "error",
                    f"the value of a token depends on {probe.plan.parameter(role)} of other tokens",
                    share=float(np.mean(mixed)),
                )
                return
        return
    if case.form is None:
        return
    words = f"where all tokens are equal it is {case.form.name}; where they differ no reduction of its terms gives the value"
    if _uneven(case):
        yield case.finding("token-mixing", "error", "tokens of one sequence have different weights")
    else:
        yield case.finding("token-mixing", "error" if _interact(case) else "warning", words)


def _uneven(case: Case) -> bool:
    """Return whether the same change of a token counts differently by its place."""
    batch = uniform(0.4)
    parts = []
    for t in range(1, batch.shape[1] - 1):  # the ends may go lost in a shift by one
        log_ratio = batch.log_ratio.copy()
        log_ratio[0, t] = 0.9
        parts.append(float(case.probe.part(batch.with_ratio(log_ratio)).sum()))
    return max(parts) - min(parts) > 1e-4 * max(abs(parts[0]), 1e-3)


def _interact(case: Case) -> bool:
    """Return whether what one token adds depends on another token of its row."""
    batch = random("interaction")
    base = batch.log_ratio
    parts = []
    for changes in ((), ((0, 0),), ((0, 3),), ((0, 0), (0, 3))):
        log_ratio = base.copy()
        for at in changes:
            log_ratio[at] -= 0.5
        parts.append(case.probe.part(batch.with_ratio(log_ratio - 0.0)).sum())
    return abs(parts[3] - parts[2] - parts[1] + parts[0]) > 1e-7 * max(abs(parts[0]), 1e-3)


@check("broadcast")
def broadcast(case: Case) -> Iterator[Finding]:
    """Look for shapes that grow into each other."""
    probe = case.probe
    if probe.shape in (SHAPE[1:], SHAPE[::-1]):
        yield case.finding(
            "broadcast",
            "error",
            f"inputs of shape {SHAPE} give an output of shape {probe.shape}: the axes are mixed up",
        )
    elif probe.output == "other":
        yield case.finding(
            "broadcast",
            "error",
            f"inputs of shape {SHAPE} give an output of shape {probe.shape}: dimensions were added",
            shape=list(probe.shape),
        )
    elif case.reduced is not None and case.reduced.fault == "broadcast":
        yield case.finding(
            "broadcast",
            "error",
            "sums of sequences meet the lengths of all others: (B, 1) and (B,) make (B, B)",
        )
    elif (
        case.reduced is None
        and probe.plan.has("mask")
        and probe.output == "number"
        and probe.compares
    ):
        yield from _square(case)


def _square(case: Case) -> Iterator[Finding]:
    """Compare a square batch with one whose rows are worth the same, where (B,) could have met (T,)."""
    batch = random("square", 4, 4, masked=True)
    order = np.array([1, 2, 3, 0])
    try:
        one, two = case.probe.part(batch), case.probe.part(batch.take(order))
    except Exception:  # noqa: BLE001  # whatever a user's function raises
        return
    if _differs(one, two, 1e-5):
        yield case.finding(
            "broadcast",
            "error",
            "the order of the rows changes the value of a square batch",
            got=two,
            expected=one,
        )


@check("batch-dependence")
def batch_dependence(case: Case) -> Iterator[Finding]:
    """Look for rows whose value depends on other rows."""
    probe = case.probe
    if probe.output not in ("token", "sequence"):
        return
    batch = random("rows", masked=probe.plan.has("mask"))
    base = probe.part(batch)
    if base.shape[0] != batch.shape[0]:
        return
    for row in (0, -1):
        other = 1.7 * batch.log_ratio
        other[row] = batch.log_ratio[row]
        found = probe.part(batch.with_ratio(other))
        if base.shape == found.shape and _differs(found[row], base[row], _tolerance(case)):
            yield case.finding(
                "batch-dependence",
                "error",
                "other rows change the value of a row",
                got=found[row],
                expected=base[row],
            )
            return


@check("nondeterministic")
def nondeterministic(case: Case) -> Iterator[Finding]:
    """Call twice with the same input."""
    batch = random("twice", masked=case.probe.plan.has("mask"))
    values = [_value(case, batch) for _ in range(3)]
    if any(_differs(each, values[0], 1e-9) for each in values[1:]):
        yield case.finding(
            "nondeterministic",
            "error",
            "the same input gives different values",
            got=values[1],
            expected=values[0],
        )


@check("mutates-input")
def mutates_input(case: Case) -> Iterator[Finding]:
    """Compare the inputs before and after a call."""
    function = case.probe.function
    batch = random("mutation", masked=case.probe.plan.has("mask"))
    given = function.given(batch)
    before = {role: numbers(each) for role, each in given.items()}
    try:
        function.raw(given)
    except CallError:
        return
    for role, each in given.items():
        if not np.array_equal(
            before[role], numbers(each), equal_nan=before[role].dtype.kind == "f"
        ):
            yield case.finding(
                "mutates-input",
                "error",
                f"it changes its argument {case.probe.plan.parameter(role)} in place",
            )
