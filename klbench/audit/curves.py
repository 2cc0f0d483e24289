"""The value of a function over log-ratios, beside that of the estimator that it is meant to be."""

from __future__ import annotations

import numpy as np

from klbench import estimators
from klbench.audit import forms
from klbench.audit.case import Case
from klbench.audit.identify import GRID
from klbench.gradients import EXACT
from klbench.types import ConfigError

FARTHEST = 5.0
"""The largest log-ratio, in nats, of the curve."""


def right(case: Case) -> forms.Form:
    """Return the estimator that a function is, or is a fault of; ``k3`` where none can be told."""
    if case.expect:
        return forms.estimator(case.expect)
    form = case.form
    if form is None:
        return forms.estimator("k3" if case.probe.plan.form != "logits" else EXACT)
    if form.divergence and not form.fault:
        return form
    if form.full:
        return forms.estimator(EXACT)
    word = form.name.removeprefix("minus ").split()[0]
    try:
        return forms.estimator(word if word in estimators.names() else "k3")
    except ConfigError:  # one that is no function of the log-ratio alone
        return forms.estimator("k3")


def curve(case: Case) -> list[tuple[float, float, float]]:
    """Return log-ratio, value of a token, and the right one; nothing where there is no KL."""
    if not case.grid.points:
        return []
    identity = case.identity
    factor = case.scale / identity.scale if case.form is not None and identity.scale else 1.0
    meant = case.scale if case.explained and case.scale > 0.0 else 1.0
    with np.errstate(all="ignore"):
        exact = meant * case.grid.terms(right(case), identity.level)
        got = factor * case.grid.values
    near = np.abs(GRID) <= FARTHEST
    return [
        (float(x), float(value), float(other))
        for x, value, other in zip(GRID[near], got[near], exact[near], strict=True)
    ]
