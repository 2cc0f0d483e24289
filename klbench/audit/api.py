"""An audit from a function to its findings."""

from __future__ import annotations

import contextlib
import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from klbench import estimators, gradients
from klbench.audit import (
    arguments,
    checks_of_divergences,
    checks_of_expectations,
    checks_of_gradients,
    checks_of_inputs,
    checks_of_padding,
    checks_of_policy_terms,
    checks_of_precision,
    checks_of_values,
    checks_of_weights,
    forms,
)
from klbench.audit.adapter import CallError, Function
from klbench.audit.arguments import Plan
from klbench.audit.batches import SHAPE, VOCABULARY, random
from klbench.audit.case import CHECKS, Case
from klbench.audit.checks_of_expectations import agree
from klbench.audit.curves import curve, right
from klbench.audit.expected import expected
from klbench.audit.findings import KINDS, SEVERITIES, Audit, Finding
from klbench.audit.generators import generators, refuse_seeding
from klbench.audit.identify import GRID, Grid, Identity, evaluate, identify
from klbench.audit.probe import Probe
from klbench.audit.reduction import Reduced, reduce, weight_of
from klbench.audit.sources import signature
from klbench.types import ConfigError

PARTS = (
    checks_of_policy_terms,
    checks_of_weights,
    checks_of_gradients,
    checks_of_inputs,
    checks_of_padding,
    checks_of_precision,
    checks_of_values,
    checks_of_divergences,
    checks_of_expectations,
)
"""The modules whose checks are made: importing them registers these."""
LEAST_DIVISOR = 8.0
"""A sum times 1/n is a sum with a constant divisor from this n on, not a wrong factor."""


def audit(
    function: Callable[..., Any],
    *,
    used_as: str = "kl",
    args: str | Sequence[str] | None = None,
    fixed: Mapping[str, Any] | None = None,
    sampled_by: str | None = None,
    output: str | int | None = None,
    expect: str | None = None,
    expect_gradient: str | None = None,
    allow: Sequence[str] = (),
    name: str | None = None,
    started: Callable[[float], None] = lambda _: None,
) -> Audit:
    """Find out what a function of log-probabilities computes, and whether it is right.

    Parameters
    ----------
    function
        Takes log-probabilities ``(B, T)`` of policy and reference, their log-ratio, or logits with
        tokens, as torch tensors or NumPy arrays; gives back one number, or one a sequence or a
        token.
    used_as
        ``kl``, ``reward`` (a value without gradient) or ``loss``.
    args
        The words for its arguments in order, where their names do not say it: ``logprobs,
        ref_logprobs, mask``.
    fixed
        Values of other arguments.
    sampled_by
        The argument of whoever sampled, where the names do not say it.
    output
        Entry of a tuple or dict that it gives back.
    expect, expect_gradient
        Estimator and divergence that it is meant to be, such as ``k3`` and ``KL(q‖p)``.
    allow
        Kinds of findings that are meant, and left out.

    Raises
    ------
    ConfigError
        The function cannot be audited: one line that says why.
    """
    if expect:
        forms.estimator(expect)
    expect_gradient = _divergence(expect_gradient)
    for kind in allow:
        if kind not in KINDS:
            raise ConfigError(
                f"allow {kind!r}: no such kind of finding; there are: {', '.join(KINDS)}"
            )
    if not callable(function):
        raise ConfigError(f"expected a function, got {type(function).__name__}")
    plan = arguments.plan(function, used_as, args, fixed, sampled_by)
    with generators(), np.errstate(all="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of overflows that are meant
        called = None
        try:
            called = Function(function, plan, output=output, started=started)
        except ConfigError:
            if not _default_coefficient(function, plan):
                raise
        if called is None or _no_coefficient(called):
            plan = plan.without("beta")
            called = Function(function, plan, output=output, started=started)
        case = _case(called, used_as, expect, expect_gradient)
        findings, count = _findings(case, allow)
    form = case.form
    clean = form is not None and form.fault in ("", "sign")
    return Audit(
        target=name or case.probe.function.name,
        used_as=used_as,
        arguments=plan.described(),
        identified=_named(case) if clean and form is not None else None,
        scale=float(f"{case.scale:.6g}"),
        divergence=form.divergence if form else "",
        clamp=case.identity.clamp,
        weight=case.weight,
        reduction=case.reduced.name if case.reduced else "",
        level=case.identity.level,
        same_as=_same_as(case),
        gradient=case.gradient,
        findings=findings,
        checks=count,
        curve=curve(case),
        right=right(case).name,
    )


def _divergence(symbol: str | None) -> str | None:
    if symbol is None:
        return None
    written = symbol.replace("||", "‖").replace(" ", "")
    known = {
        each.replace(" ", ""): each for each in ("KL(q‖p)", "KL(p‖q)", "KL(q‖p) - KL(p‖q)", "0")
    }
    if written not in known:
        raise ConfigError(
            f"expect-gradient {symbol!r}: expected one of {', '.join(known.values())}"
        )
    return known[written]


def _default_coefficient(function: Callable[..., Any], plan: Plan) -> bool:
    """Return whether there is a coefficient that has a default."""
    return bool(_defaults(function, plan, role="beta"))


def _no_coefficient(function: Function) -> bool:
    """Return whether what is called a coefficient is none: what it changes is no multiple of one
    thing, as with the share of a mixture. Such a parameter keeps its default, where it has one.
    """
    plan = function.plan
    if plan.has("advantages") or not _default_coefficient(function.function, plan):
        return False
    shares = []
    for name in ("one", "another", "a third"):
        batch = random(name, spread=1.2, masked=plan.has("mask"))
        try:
            none, half, whole = (
                float(np.sum(function(batch, beta=beta).value)) for beta in (0.0, 0.25, 0.5)
            )
        except CallError:
            return False
        none = none if math.isfinite(none) else 0.0
        shares.append((half - none) / (whole - none) if whole != none else math.nan)
    return bool(np.isfinite(shares).all()) and np.ptp(shares) > 1e-3 * np.abs(shares).max()


def _case(
    function: Function, used_as: str, expect: str | None, expect_gradient: str | None
) -> Case:
    refuse_seeding(function)
    probe = Probe(function, used_as)
    grid = evaluate(probe) if probe.compares and probe.output != "other" else None
    if grid is None:
        grid = Grid((), np.zeros(GRID.size))
    identity = identify(probe, grid) if grid.points else Identity(None, 0.0)
    reduced = reduce(probe, identity) if identity.form is not None else None
    if (
        reduced is None
        and identity.form is not None
        and identity.level == "token"
        and probe.output != "token"
    ):
        # A power of the log-ratio has the same shape at both levels.
        whole = replace(identity, level="sequence")
        reduced = reduce(probe, whole)
        identity = identity if reduced is None else whole
    case = Case(probe, grid, identity, reduced, expect=expect, expect_gradient=expect_gradient)
    case.scale, case.explained = _scale(case)
    case.weight = weight_of(probe) if identity.form is not None else ""
    if case.differentiable and grid.points:
        case.gradient = expected(
            probe, identity, reduced, case.scale if case.explained and case.scale else 1.0
        )
    return case


def _scale(case: Case) -> tuple[float, bool]:
    """Return the coefficient, and whether an argument explains it."""
    raw = case.reduced.scale if case.reduced else case.identity.scale
    if case.form is None or not raw:
        return 1.0, True
    if case.reduced is None and case.probe.output == "number":
        rows, tokens = SHAPE
        raw = min(
            (raw / each for each in (1.0, rows, tokens, rows * tokens)),
            key=lambda x: abs(math.log(abs(x))),
        )
    precise = (1e-6, 1e-3, 0.1)[case.identity.tolerance]
    scale = math.copysign(1.0, raw) if abs(abs(raw) - 1.0) <= precise else raw
    plan = case.probe.plan
    numbers = [
        float(x)
        for x in plan.fixed.values()
        if isinstance(x, int | float) and not isinstance(x, bool)
    ]
    numbers += _defaults(case.probe.function.function, plan)
    if any(x and abs(abs(scale) / abs(x) - 1.0) < 1e-3 for x in numbers):
        return scale, True
    if plan.form == "logits" and abs(abs(scale) * VOCABULARY - 1.0) < 1e-3:
        return scale, False  # a mean over the vocabulary
    sums = case.reduced is not None and "sum" in case.reduced.name
    if sums and abs(scale) <= 1.0 / LEAST_DIVISOR:
        return scale, True
    if case.probe.used_as == "loss" and not plan.has("beta"):
        return scale, True
    return scale, scale == 1.0


def _defaults(function: Callable[..., Any], plan: Plan, role: str | None = None) -> list[float]:
    """Return the defaults that are numbers, of the parameters with that role, or without any."""
    try:
        parameters = signature(function).parameters
    except (TypeError, ValueError):
        return []
    return [
        float(each.default)
        for name, each in parameters.items()
        if plan.roles.get(name) == role
        and isinstance(each.default, int | float)
        and not isinstance(each.default, bool)
    ]


def _findings(case: Case, allow: Sequence[str]) -> tuple[list[Finding], int]:
    found: list[Finding] = []
    count = 0
    # What is drawn anew in each call makes nonsense of all comparisons.
    order = ("nondeterministic", *(kind for kind in CHECKS if kind != "nondeterministic"))
    for kind in order:
        for each in CHECKS[kind]:
            count += 1
            if kind in allow or (found and found[0].kind == "nondeterministic"):
                continue
            try:
                found += each(case)
            except CallError as error:
                raise ConfigError(str(error)) from error
    return (
        sorted(found, key=lambda each: (SEVERITIES.index(each.severity), KINDS.index(each.kind))),
        count,
    )


def _named(case: Case) -> str:
    """Return the registered name of the form, its clamp included."""
    form, clamp = case.form, case.identity.clamp
    assert form is not None
    if clamp is None or form.of_ratio is None:
        return form.name
    plateaus = [clamp[key] for key in ("value_low", "value_high") if key in clamp]
    names = [f"{form.name}_clamped:{float(f'{plateaus[0]:.4g}'):g}"] if plateaus else []
    names += [name for name in estimators.names() if estimators.get(name).clamp is not None]
    clamped = forms.clamped(form, clamp)
    for name in names:
        with contextlib.suppress(ConfigError):
            if agree(clamped, forms.estimator(name)):
                return name
    return form.name


def _same_as(case: Case) -> list[str]:
    """Return other estimators with the same values, and the trainers' names of the combination
    with the same gradient.
    """
    form = case.form
    if form is None or form.fault:
        return []
    found = []
    if form.of_ratio is not None:
        mine = form if case.identity.clamp is None else forms.clamped(form, case.identity.clamp)
        for name in estimators.names():
            each = estimators.get(name)
            plain = not each.needs_weight and each.batch is None and name != _named(case)
            if plain and agree(mine, forms.estimator(name)):
                found.append(name)
    if case.gradient is not None and case.gradient.combination:
        combination = gradients.get(case.gradient.combination)
        found += [combination.name, *combination.aliases]
    return found


__all__ = ["Audit", "Finding", "Reduced", "audit"]
