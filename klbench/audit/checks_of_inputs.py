"""Checks of how inputs are treated.

Neighbours, other rows, and what a call leaves behind.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from klbench.audit.adapter import CallError, numbers
from klbench.audit.batches import SHAPE, VOCABULARY, random, uniform
from klbench.audit.case import Case, check, differs
from klbench.audit.findings import Finding


def influence(case: Case, role: str) -> np.ndarray | None:
    """Return which outputs, one a token, change with each token of an input.

    Booleans ``(B, T, B', T')``; None if it raises.
    """
    batch = random("influence")
    arrays = batch.arrays(case.probe.plan)
    rows, tokens = SHAPE
    try:
        base = case.value(batch)
        if base.ndim < 2:
            return None
        base = base.reshape(base.shape[0], base.shape[1], -1)
        result = np.zeros((rows, tokens, *base.shape[:2]), bool)
        for b in range(rows):
            for t in range(tokens):
                changed = arrays[role].copy()
                each = changed[b, t]
                if role == "tokens":
                    changed[b, t] = (each + 7) % VOCABULARY
                else:
                    changed[b, t] = each - 0.3 * np.arange(1, 1 + each.size).reshape(each.shape)
                found = case.value(batch, {role: changed}).reshape(base.shape)
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
    for role in case.arrays:
        found = influence(case, role)
        if found is None:
            continue
        own, near = _diagonal(found, 0), max(_diagonal(found, 1), _diagonal(found, -1))
        if near > 0.5 and own < 0.5:
            yield case.finding(
                "shift",
                "error",
                f"the value of a token depends on {case.probe.plan.parameter(role)} of its"
                " neighbour, not its own",
            )
            return
    tokens = influence(case, "tokens") if case.probe.plan.has("tokens") else None
    if tokens is not None and sum(_diagonal(tokens, by) > 0.5 for by in (-1, 0, 1)) > 1:
        yield case.finding(
            "shift",
            "error",
            "the value of a token depends on the id of its neighbour too: policy and reference are"
            " asked for different tokens",
        )


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
        for role in case.arrays:
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
    if case.form is None:
        return
    words = (
        f"where all tokens are equal it is {case.form.name}; where they differ no reduction of its"
        " terms gives the value"
    )
    if probe.output == "token":
        yield case.finding("token-mixing", "warning", words)
    elif _uneven(case):
        yield case.finding("token-mixing", "error", "tokens of one sequence have different weights")
    else:
        yield case.finding("token-mixing", "error" if _interact(case) else "warning", words)


def _uneven(case: Case) -> bool:
    """Return whether the same change of a token counts differently by its place, or nowhere.

    With a mask: also in a row that is longer than others.
    """
    batch = uniform(0.4, tokens=SHAPE[1] + 2)
    masks = [batch.mask]
    if case.probe.plan.has("mask"):
        masks.append(np.arange(batch.shape[1]) < np.array([[batch.shape[1]], [4], [3]]))
    for mask in masks:
        batch = replace(batch, mask=mask)
        base, parts = float(case.probe.part(batch).sum()), []
        for t in range(1, batch.shape[1] - 1):  # the ends may go lost in a shift by one
            log_ratio = batch.log_ratio.copy()
            log_ratio[0, t] = 0.9
            parts.append(float(case.probe.part(batch.with_ratio(log_ratio)).sum()))
        least = 1e-4 * max(abs(parts[0]), 1e-3)
        if max(parts) - min(parts) > least or max(abs(part - base) for part in parts) == 0.0:
            return True
    return False


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
    """Compare a square batch with one whose rows are worth the same, where (B,) could have met
    (T,).
    """
    batch = random("square", 4, 4, masked=True)
    order = np.array([1, 2, 3, 0])
    try:
        one, two = case.probe.part(batch), case.probe.part(batch.take(order))
    except Exception:  # noqa: BLE001  # whatever a user's function raises
        return
    if differs(one, two, 1e-5):
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
        if base.shape == found.shape and differs(found[row], base[row], case.tolerance):
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
    values = [case.value(batch) for _ in range(3)]
    if any(differs(each, values[0], 1e-9) for each in values[1:]):
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
