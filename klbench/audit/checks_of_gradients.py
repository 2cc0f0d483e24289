"""Checks of the gradient: where it flows, where it ends, and where it is no number."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from klbench.audit.adapter import CallError
from klbench.audit.batches import SHAPE, random
from klbench.audit.case import Case, check
from klbench.audit.expected import DIFFERENCE
from klbench.audit.findings import Finding, beyond
from klbench.audit.identify import GRID, at

NEAREST = 2.0
"""A clamp with zero gradient is an error from within this log-ratio."""
FAR = (-1e4, -200.0, -100.0, -50.0, -25.0, 25.0, 50.0, 80.0, 100.0, 200.0, 1e4)


def _flow(case: Case) -> dict[str, float]:
    """Return the largest absolute gradient of each array of log-probabilities.

    0 where none flows.
    """
    probe = case.probe
    roles = tuple(
        r for r in probe.plan.roles.values() if r not in ("mask", "advantages", "beta", "tokens")
    )
    batch = random("flow", masked=probe.plan.has("mask"))
    result = {}
    for role in roles:
        found = probe.function(batch, gradients=roles).gradients[role]
        size = 0.0 if found is None else np.nan_to_num(np.abs(found), nan=np.inf)
        result[role] = float(np.max(size, initial=0.0))
    return result


def _unmoved(case: Case) -> bool:
    """Return whether the KL part has no gradient for the policy."""
    # Not of equal tokens: a baseline from other rows would leave nothing of them.
    slopes = (
        [case.probe.slope(random(name)) for name in ("moved", "moved again")]
        if case.grid.points
        else []
    )
    return bool(slopes) and all(each is None or np.abs(each).max() < 1e-12 for each in slopes)


@check("detached")
def detached(case: Case) -> Iterator[Finding]:
    """Look for a policy that gets no gradient."""
    if not case.differentiable:
        return
    probe = case.probe
    flow = _flow(case)
    learned = probe.plan.learned
    policy = probe.plan.parameter("log_ratio" if learned == "log_ratio" else "policy")
    if flow[learned] == 0.0:
        others = [
            probe.plan.parameter(role) for role, size in flow.items() if size and role != learned
        ]
        where = f"; it flows into {', '.join(others)}" if others else ""
        yield case.finding(
            "detached", "error", f"no gradient flows into {policy}, the policy{where}"
        )
        return
    if not probe.compares:
        return
    if (
        _unmoved(case)
        and np.nanmax(np.abs(case.grid.values[np.abs(GRID) < 2.0]), initial=0.0) > 0.0
    ):
        yield case.finding(
            "detached",
            "error",
            f"the KL part has no gradient for {policy}: it is a constant of the loss",
        )


@check("reference-gradient")
def reference_gradient(case: Case) -> Iterator[Finding]:
    """Look for a gradient into the reference."""
    if not case.differentiable:
        return
    plan = case.probe.plan
    role = next((r for r in ("reference", "reference_logits") if plan.has(r)), "")
    if not role:
        return
    flow = _flow(case)
    if flow[role] > 0.0:
        alone = flow[plan.learned] == 0.0 or (_unmoved(case) and bool(np.any(case.grid.values)))
        words = "and none into the policy" if alone else "if it requires one"
        yield case.finding(
            "reference-gradient",
            "error" if alone else "note",
            f"a gradient flows into {plan.parameter('reference')}, {words}",
        )


@check("old-policy-gradient")
def old_policy_gradient(case: Case) -> Iterator[Finding]:
    """Look for a gradient into the policy that sampled."""
    if not case.differentiable:
        return
    plan = case.probe.plan
    roles = [role for role in ("old", "old_logits", "rollout") if plan.has(role)]
    if not roles:
        return
    flow = _flow(case)
    for role in roles:
        if flow[role] > 0.0:
            alone = flow[plan.learned] == 0.0
            words = "and none into the policy" if alone else "if it requires one"
            yield case.finding(
                "old-policy-gradient",
                "error" if alone else "note",
                f"a gradient flows into {plan.parameter(role)}, {words}",
            )


@check("non-finite-gradient")
def non_finite_gradient(case: Case) -> Iterator[Finding]:
    """Look for NaN gradients, within log-ratios of 1e4."""
    if not case.differentiable:
        return
    probe = case.probe
    # Through a softmax the gradient of what overflows honestly is inf - inf.
    far = (
        FAR if probe.plan.form != "logits" else tuple(each for each in FAR if -300.0 < each <= 80.0)
    )
    for log_ratio in (*(far if probe.compares else ()), 0.0):
        batch = random("far", 1, 1).with_ratio(np.array([[log_ratio]])).repeated(*SHAPE)
        for kind in ("float32", "float64"):
            try:
                found = probe.function(batch, kind, gradients=(probe.plan.learned,))
            except (CallError, RuntimeError):
                continue
            gradient = found.gradients[probe.plan.learned]
            if gradient is not None and np.isnan(gradient).any():
                value = float(np.median(found.value))
                yield case.finding(
                    "non-finite-gradient",
                    "error",
                    f"the gradient is NaN at a log-ratio of {log_ratio:g} in {kind}, where the"
                    f" value is {value:g}",
                    log_ratio=log_ratio,
                    dtype=kind,
                    value=value,
                )
                return


@check("dead-gradient")
def dead_gradient(case: Case) -> Iterator[Finding]:
    """Look for log-ratios from which on the gradient is 0, and for one whose mean is 0."""
    probe = case.probe
    if not case.differentiable or not probe.compares or case.form is None:
        return
    slopes = {}
    for k, log_ratio in enumerate(GRID):
        if abs(log_ratio) < 0.3:
            continue
        found = probe.slope(at(float(log_ratio), k))
        slopes[float(log_ratio)] = 0.0 if found is None else float(np.nanmax(np.abs(found)))
    if not any(slopes.values()):
        return  # that is detached
    lost = case.form.name in ("k2", "k3") or probe.used_as == "loss"
    if lost and case.gradient is not None and case.gradient.matches == "0":
        yield case.finding(
            "dead-gradient",
            "error",
            f"the expected gradient of this {case.form.name} is 0: in a loss it adds noise and no"
            " penalty",
        )
    elif probe.used_as == "loss" and case.gradient and case.gradient.matches == DIFFERENCE:
        yield case.finding(
            "dead-gradient",
            "warning",
            f"its expected gradient is that of {DIFFERENCE}, which vanishes near the reference: its"
            f" value, {case.form.name}, weighs the score, as if it were a reward",
            rel_bias={f"{kl:g}": value for kl, value in case.gradient.rel_bias.items()},
        )
    dead = _ends(case, slopes)
    if not dead:
        return
    nearest = min(abs(each) for each in dead.values())
    yield case.finding(
        "dead-gradient",
        "error" if nearest <= NEAREST else "warning",
        f"the gradient is 0 for log-ratios {beyond(dead)}: the penalty does not pull there",
        begins=nearest,
        where=dead,
    )


def _ends(case: Case, slopes: dict[float, float]) -> dict[str, float]:
    """Return where the gradient has become 0 and stays so, by bisection.

    A slope that only decays is none.
    """
    result = {}
    for name, points in (
        ("high", sorted(x for x in slopes if x > 0.0)),
        ("low", sorted((x for x in slopes if x < 0.0), reverse=True)),
    ):
        if slopes[points[-1]] != 0.0:
            continue
        alive = [x for x in points if slopes[x] != 0.0]
        inside = alive[-1] if alive else 0.0
        outside = next(x for x in points if abs(x) > abs(inside))
        if slopes.get(inside, 1.0) < 1e-9:
            continue
        for _ in range(12):
            middle = 0.5 * (inside + outside)
            found = case.probe.slope(at(middle))
            live = found is not None and bool(np.abs(found).max() > 0.0)
            inside, outside = (middle, outside) if live else (inside, middle)
        if math.isfinite(inside):
            result[name] = inside
    return result
