"""Checks of the policy term of a loss: its sign, its size, and that it has a gradient."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from klbench.audit.batches import random, uniform
from klbench.audit.case import Case, check
from klbench.audit.findings import Finding
from klbench.audit.identify import at

ADVANTAGES = np.array([1.0, -1.5, 2.0])
"""The rows' advantages: of both signs also where the function takes their mean off."""


def has_term(case: Case) -> bool:
    """Return whether there is a policy term whose gradient can be looked at."""
    plan = case.probe.plan
    return (
        case.probe.used_as == "loss"
        and plan.has("advantages")
        and plan.form == "logprobs"
        and case.differentiable
    )


def change(
    case: Case,
    ratio: float,
    advantages: np.ndarray,
    name: str = "clip",
    off: float = 0.0,
    rollout: float | None = None,
    even: float = 0.0,
    rest: bool = True,
) -> tuple[np.ndarray, float]:
    """Return what advantages add to each token's gradient, and to the sum of the outputs.

    ``ratio`` is pi over the older policy, and ``rollout`` pi over the rollout's, the same where
    nothing is said. With ``even`` all tokens have that log-probability. Without ``rest``
    what is there without advantages is left in: a penalty that is normalised with them is no part.
    """
    probe = case.probe
    rows = len(advantages)
    tokens = uniform(0.0, rows, log_q=even) if even else random(name, rows)
    batch = tokens.same()
    old, reference = batch.log_q - math.log(ratio), batch.log_q - off
    batch = replace(batch, log_mu=old, log_p=reference, advantages=advantages)
    changed = {} if rollout is None else {"rollout": batch.log_q - math.log(rollout)}
    beta = 0.0 if probe.plan.has("beta") else None
    parts = []
    for each in (batch, replace(batch, advantages=0.0 * advantages)):
        found = probe.function(each, gradients=("policy",), beta=beta, changed=changed)
        slope = found.gradients["policy"]
        parts.append((np.zeros(batch.shape) if slope is None else slope, found.value.sum()))
    (slope, value), (other, nothing) = parts
    return (slope - other if rest else slope), float(value - nothing)


@check("sign")
def ascent(case: Case) -> Iterator[Finding]:
    """Look for a loss that falls where what had an advantage becomes less likely."""
    if not has_term(case):
        return
    rows = change(case, 1.0, ADVANTAGES)[0].sum(-1)
    uphill = rows * ADVANTAGES > 1e-9 * np.abs(rows).max()
    if np.isfinite(rows).all() and uphill.any():
        word = "positive" if (ADVANTAGES[uphill] > 0.0).any() else "negative"
        way = "less" if word == "positive" else "more"
        yield case.finding(
            "sign",
            "error",
            f"the loss falls where tokens with a {word} advantage become {way} likely: "
            "the policy term's sign",
            advantages=ADVANTAGES,
            gradient=rows,
        )


@check("detached")
def unmoved(case: Case) -> Iterator[Finding]:
    """Look for a policy term without a gradient."""
    plan = case.probe.plan
    if case.probe.used_as != "loss" or not plan.has("advantages") or not case.differentiable:
        return
    slopes = []
    for sign in (1.0, -1.0):
        batch = random("policy term").same()
        batch = replace(batch, advantages=sign * batch.advantages)
        beta = 0.0 if plan.has("beta") else None
        slopes.append(
            case.probe.function(batch, gradients=(plan.learned,), beta=beta).gradients[plan.learned]
        )
    one, two = slopes
    if one is None or two is None or np.array_equal(one, two):
        policy = plan.parameter("policy")
        yield case.finding(
            "detached",
            "error",
            f"the policy term has no gradient for {policy}: advantages change nothing",
        )


@check("scale")
def weight(case: Case) -> Iterator[Finding]:
    """Look for tokens weighted by their probability where policy and sampler agree."""
    if not has_term(case):
        return
    one, two = (change(case, 1.0, ADVANTAGES, name)[0] for name in ("clip", "other tokens"))
    size = np.abs(one).max()
    both = (one != 0.0) & (two != 0.0)  # a token may be left out
    if math.isfinite(size) and np.abs((one - two)[both]).max(initial=0.0) > 1e-3 * size:
        yield case.finding(
            "scale",
            "error",
            "where policy and sampler agree, the gradient of a token depends on its probability: "
            "it is weighted by no ratio",
            gradient=one,
            of_other_tokens=two,
        )


@check("broadcast")
def other_rows(case: Case) -> Iterator[Finding]:
    """Look for advantages that act on other rows: on one whose own is 0.

    A function that takes the mean off them, which it shows where all are equal, may do so.
    """
    if not has_term(case):
        return
    even = change(case, 1.0, np.ones_like(ADVANTAGES))[0]
    rows = np.abs(change(case, 1.0, np.array([1.0, 0.0, 0.0]))[0]).sum(-1)
    if not np.isfinite(rows).all() or np.abs(even).max() < 1e-9:
        return
    if rows[1:].max() > 1e-3 * max(rows[0], 1e-9):
        yield case.finding(
            "broadcast",
            "error",
            f"{case.probe.plan.parameter('advantages')} of one row act on the tokens of another,"
            " whose own is 0: do (B, 1) and (B,) make (B, B), or has a baseline the wrong sign?",
            advantages=[1.0, 0.0, 0.0],
            pull=rows,
        )


@check("non-finite-value")
def no_number(case: Case) -> Iterator[Finding]:
    """Look for a loss, or its gradient, that is no number on ordinary inputs."""
    if not has_term(case):
        return
    name = case.probe.plan.parameter("advantages")
    zero, equal = np.array([1.0, 0.0, -1.5]), np.ones_like(ADVANTAGES)
    for advantages, ratio, where in (
        (ADVANTAGES, 1.0, "on ordinary inputs"),
        (ADVANTAGES, 0.5, "at a ratio of 0.5: is a mask divided by?"),
        (ADVANTAGES, 1.9, "at a ratio of 1.9: is a mask divided by?"),
        (zero, 1.0, f"where one advantage is 0: is it divided by {name}?"),
        (equal, 1.0, f"where all advantages are equal: by the deviation of {name}, which is 0?"),
    ):
        batch = random("no number").same()
        batch = replace(batch, log_mu=batch.log_mu - math.log(ratio), advantages=advantages)
        found = case.probe.function(batch, gradients=("policy",))
        slope = found.gradients["policy"]
        if not (np.isfinite(found.value).all() and (slope is None or np.isfinite(slope).all())):
            yield case.finding(
                "non-finite-value",
                "error",
                f"it or its gradient is no finite number {where}",
                advantages=advantages,
                ratio=ratio,
                got=found.value,
            )
            return


@check("scale")
def coefficient(case: Case) -> Iterator[Finding]:
    """Look for a coefficient that is applied twice, or that is divided by."""
    probe = case.probe
    if not probe.plan.has("beta") or not probe.compares or not case.grid.points:
        return
    with np.errstate(all="ignore"):
        grown = [
            float(np.median(probe.part(at(x), beta=2.0)) / probe.one(at(x)))
            for x in (-0.7, 0.5, 1.3)
        ]
    for factor, words in ((4.0, "applied twice"), (0.5, "divided by")):
        if np.allclose(grown, factor, rtol=1e-3):
            yield case.finding(
                "scale",
                "error",
                f"{probe.plan.parameter('beta')} is {words}: the KL part is {factor:g} times as"
                " large where it is doubled",
                coefficients=[1.0, 2.0],
                expected=2.0,
                got=factor,
            )


@check("old-policy-gradient")
def unused(case: Case) -> Iterator[Finding]:
    """Look for an older policy that is given and changes nothing."""
    plan, function = case.probe.plan, case.probe.function
    if plan.sides.get("old") != "mu" or not plan.has("old") or case.probe.used_as == "reward":
        return
    batch = random("unused")
    attached = (plan.learned,) if case.differentiable else ()
    one, two = (
        function(each, gradients=attached)
        for each in (batch, replace(batch, log_mu=batch.log_mu - 0.4))
    )
    same = all(
        np.array_equal(np.asarray(one.gradients[role]), np.asarray(two.gradients[role]))
        for role in attached
    )
    if not same or not np.array_equal(one.value, two.value):
        return
    if has_term(case) and plan.has("reference") and _of_the_reference(case):
        yield case.finding(
            "old-policy-gradient",
            "error",
            f"the policy term is weighted by {plan.parameter('reference')}, "
            f"not by {plan.parameter('old')}, which sampled",
        )
    else:
        yield case.finding(
            "old-policy-gradient",
            "warning",
            f"{plan.parameter('old')} changes neither value nor gradient: it weighs nothing",
        )


def _of_the_reference(case: Case) -> bool:
    """Return whether the weight of the policy term depends on the reference."""
    one = change(case, 1.0, ADVANTAGES)[0]
    two = change(case, 1.0, ADVANTAGES, off=0.3)[0]
    return bool(np.abs(one - two).max() > 1e-6 * np.abs(one).max())
