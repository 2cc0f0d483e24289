"""A function under audit with all that is known of it, and the checks that are made of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from klbench.audit.batches import Batch
from klbench.audit.findings import KINDS, Finding, Gradient, Severity
from klbench.audit.forms import Form
from klbench.audit.identify import Grid, Identity
from klbench.audit.probe import Probe
from klbench.audit.reduction import Reduced
from klbench.audit.sources import first_line

SAME = 1e-6
"""Relative change that is none."""


@dataclass
class Case:
    """All that checks look at.

    Parameters
    ----------
    probe, grid, identity, reduced
        The function, its values over the grid, what they fit, and how tokens become what is
        returned.
    gradient
        Its expected gradient; None where it has none, or is not differentiated.
    expect, expect_gradient
        What the caller says that it is.
    """

    probe: Probe
    grid: Grid
    identity: Identity
    reduced: Reduced | None
    gradient: Gradient | None = None
    expect: str | None = None
    expect_gradient: str | None = None
    scale: float = 1.0
    explained: bool = True
    weight: str = ""

    @property
    def form(self) -> Form | None:
        """The estimator that the values fit."""
        return self.identity.form

    @property
    def differentiable(self) -> bool:
        """Return whether a gradient is asked of it."""
        return self.probe.used_as != "reward" and self.probe.function.library == "torch"

    @property
    def line(self) -> int | None:
        """The line on which the function begins."""
        return first_line(self.probe.function.function)

    @property
    def arrays(self) -> list[str]:
        """The roles of what is given token by token, masks and ids aside."""
        return [
            role
            for role in self.probe.plan.roles.values()
            if role not in ("mask", "advantages", "beta", "tokens")
        ]

    @property
    def tolerance(self) -> float:
        """The relative change of a value that is none, however exactly the function computes."""
        return (SAME, 1e-4, 0.05)[self.identity.tolerance]

    def value(self, batch: Batch, changed: Mapping[str, np.ndarray] | None = None) -> np.ndarray:
        """Return what the function gives back."""
        return self.probe.function(batch, changed=changed).value

    def finding(self, kind: str, severity: Severity, message: str, **evidence: Any) -> Finding:
        """Return a finding at the function's line."""
        plain = {
            key: value.tolist() if isinstance(value, np.ndarray) else value
            for key, value in evidence.items()
        }
        return Finding(kind, severity, message, plain, self.line)


def differs(one: np.ndarray, other: np.ndarray, tolerance: float = SAME) -> bool:
    """Return whether two outputs are not the same."""
    if one.shape != other.shape:
        return True
    size = max(float(np.nanmax(np.abs(other), initial=0.0)), 1e-3)
    return not np.allclose(one, other, rtol=tolerance, atol=tolerance * size, equal_nan=True)


Check = Callable[[Case], Iterator[Finding]]
CHECKS: dict[str, list[Check]] = {kind: [] for kind in KINDS}


def check(kind: str) -> Callable[[Check], Check]:
    """Register a check: a function that yields findings of that kind."""

    def add(function: Check) -> Check:
        CHECKS[kind].append(function)
        return function

    return add
