"""Checks of what the caller says that it is."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache

import numpy as np

from klbench.audit import forms
from klbench.audit.batches import Batch, stacked
from klbench.audit.case import Case, check
from klbench.audit.checks_of_values import evidence
from klbench.audit.findings import Finding
from klbench.audit.identify import GRID, at


@check("expectation")
def expectation(case: Case) -> Iterator[Finding]:
    """Compare with what the caller says it is."""
    if case.expect:
        expected, form = forms.estimator(case.expect), case.form
        same = form is not None and abs(case.scale - 1.0) < 1e-3 and _same(case, expected)
        if not same:
            got = "no estimator that is known" if form is None else form.name
            factor = (
                f"{case.scale:.6g} times "
                if form is not None and abs(case.scale - 1.0) >= 1e-3
                else ""
            )
            yield case.finding(
                "expectation",
                "error",
                f"expected {case.expect}, it is {factor}{got}",
                expected=case.expect,
                **evidence(case),
            )
    if case.expect_gradient:
        got = "no gradient" if case.gradient is None else case.gradient.matches
        if got != case.expect_gradient:
            bias = (
                {}
                if case.gradient is None
                else {f"{kl:g}": value for kl, value in case.gradient.rel_bias.items()}
            )
            yield case.finding(
                "expectation",
                "error",
                f"expected the gradient of {case.expect_gradient}, it is that of {got}",
                expected=case.expect_gradient,
                got=got,
                rel_bias=bias,
            )


def _same(case: Case, expected: forms.Form) -> bool:
    assert case.form is not None
    got = (
        case.form if case.identity.clamp is None else forms.clamped(case.form, case.identity.clamp)
    )
    return agree(got, expected)


def agree(one: forms.Form, other: forms.Form) -> bool:
    """Return whether two forms have the same values up to log-ratios of 30."""
    near = _near()
    with np.errstate(all="ignore"):
        a, b = one.terms(near), other.terms(near)
    return bool(np.allclose(a, b, rtol=1e-3, atol=1e-6, equal_nan=True))


@cache
def _near() -> Batch:
    return stacked([at(float(x), k) for k, x in enumerate(GRID) if abs(x) <= 30.0])
