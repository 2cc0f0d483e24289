"""The findings of an audit, and the whole of what it says.

As objects, and as plain data for JSON.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from klbench.inputs import for_json

Severity = Literal["error", "warning", "note"]
SEVERITIES: tuple[Severity, ...] = ("error", "warning", "note")
SCHEMA_VERSION = 1
IMPORTED, FROM_FILE = "imported", "from its file"
"""The ways in which a function is had."""
KINDS = (
    "sign direction scale log-base not-a-kl padding-leak denominator detached reference-gradient "
    "old-policy-gradient dead-gradient non-finite-value non-finite-gradient cancellation dtype "
    "token-mixing shift broadcast clamp-bias nondeterministic mutates-input batch-dependence "
    "expectation"
).split()


@dataclass(frozen=True)
class Finding:
    """One fault, or one thing to know.

    Parameters
    ----------
    kind
        One of ``KINDS``.
    message
        One plain sentence.
    evidence
        The input, what came, and what should have: plain data.
    line
        The line of the function in its file, where that can be told.
    """

    kind: str
    severity: Severity
    message: str
    evidence: Mapping[str, Any] = field(default_factory=dict)
    line: int | None = None

    def __str__(self) -> str:
        at = f" (line {self.line})" if self.line else ""
        return f"{self.severity}: {self.kind}: {self.message}{at}"

    def plain(self) -> dict[str, Any]:
        """Return the finding as data that JSON can hold."""
        return {
            "kind": self.kind,
            "severity": self.severity,
            "message": self.message,
            "evidence": plain(dict(self.evidence)),
            "line": self.line,
        }


@dataclass(frozen=True)
class Gradient:
    """The expected gradient of a function, on sequences of several tokens that are all enumerated.

    Parameters
    ----------
    matches
        The divergence whose gradient it is, such as ``KL(q‖p)``; ``0``, or ``none``.
    level
        ``sequence``: it is the gradient of the whole sequence's divergence. ``token``: only of each
        token's own, given what precedes it; what a token does to later ones is left out.
    rel_bias
        Its distance from the gradient of KL(q‖p) over the length of that, by KL in nats.
    combination
        The combination of :mod:`klbench.gradients` that has the same gradient sample by sample;
        empty where none has.
    off_policy
        The same as ``matches`` where an older policy sampled; empty where the function does not
        know that policy.
    """

    matches: str
    level: str
    rel_bias: Mapping[float, float]
    combination: str = ""
    off_policy: str = ""

    def plain(self) -> dict[str, Any]:
        """Return it as data that JSON can hold."""
        return {
            "matches": self.matches,
            "level": self.level,
            "rel_bias": {f"{kl:g}": plain(bias) for kl, bias in self.rel_bias.items()},
            "combination": self.combination or None,
            "off_policy": self.off_policy or None,
        }


@dataclass(frozen=True)
class Audit:
    """The result of an audit.

    Parameters
    ----------
    target
        Name of the function.
    used_as
        ``kl``, ``reward`` or ``loss``.
    arguments
        What each parameter was taken for.
    identified
        Name of the estimator; ``full_kl`` where it is the sum over the vocabulary; None where it is
        none that is known.
    scale
        What it is multiplied by.
    divergence
        The divergence that it estimates, direction included; empty where it is not known.
    clamp
        Log-ratios ``low`` and ``high`` beyond which it is constant, and the constants; None where
        it is nowhere.
    weight
        The weight by an old policy, ``q/mu``; empty where there is none.
    reduction
        How tokens become what is returned.
    same_as
        Names of estimators with the same values, and of trainers' combinations with the same
        gradient.
    checks
        How many checks were made.
    curve
        Log-ratios where all tokens are equal, the value of a token there, and what ``right`` has.
    right
        The estimator that it is, or is taken to be meant to be.
    """

    target: str
    used_as: str
    arguments: Mapping[str, str]
    identified: str | None
    scale: float
    divergence: str
    clamp: Mapping[str, float] | None
    weight: str
    reduction: str
    level: str
    same_as: Sequence[str]
    gradient: Gradient | None
    findings: Sequence[Finding]
    checks: int
    curve: Sequence[tuple[float, float, float]] = ()
    right: str = ""

    def of(self, severity: Severity) -> list[Finding]:
        """Return the findings of that severity."""
        return [each for each in self.findings if each.severity == severity]

    @property
    def errors(self) -> list[Finding]:
        """The errors."""
        return self.of("error")

    @property
    def ok(self) -> bool:
        """Return whether there is no error."""
        return not self.errors

    def plain(self) -> dict[str, Any]:
        """Return all of it as data that JSON can hold, as ``schema.json`` describes it."""
        return {
            "schema_version": SCHEMA_VERSION,
            "target": self.target,
            "as": self.used_as,
            "arguments": dict(self.arguments),
            "identified": self.identified,
            "scale": plain(self.scale),
            "divergence": self.divergence or None,
            "clamp": plain(dict(self.clamp)) if self.clamp else None,
            "weight": self.weight or None,
            "reduction": self.reduction,
            "level": self.level,
            "same_as": list(self.same_as),
            "gradient": self.gradient.plain() if self.gradient else None,
            "findings": [each.plain() for each in self.findings],
            "checks": self.checks,
        }

    def __str__(self) -> str:
        return "\n".join(self.lines())

    def lines(self) -> list[str]:
        """Return what a terminal shows.

        What it is, what its gradient is, and the findings, the worst first.
        """
        name = self.identified or "no estimator that is known"
        scale = "" if self.scale == 1.0 or not self.identified else f" times {self.scale:.6g}"
        weight = f", weighted by {self.weight}" if self.weight else ""
        rows = [
            f"{self.target}: {name}{scale}{weight}"
            + (f", estimates {self.divergence}" if self.divergence else "")
        ]
        rows.append(
            f"  {self.reduction or 'reduction not known'}, level of the {self.level or 'token'}"
        )
        if self.clamp:
            rows.append(f"  constant for log-ratios {beyond(self.clamp)}")
        if self.gradient:
            bias = ", ".join(
                f"{100 * value:.3g} % at {kl:g} nats"
                for kl, value in self.gradient.rel_bias.items()
            )
            of = (
                f"{self.gradient.matches} of each token"
                if self.gradient.level == "token"
                else self.gradient.matches
            )
            rows.append(f"  expected gradient: {of}; relative bias against KL(q‖p) {bias}")
        if self.same_as:
            rows.append(f"  the same as {', '.join(self.same_as)}")
        return (
            rows
            + [f"  {each}" for severity in SEVERITIES for each in self.of(severity)]
            + [self._verdict()]
        )

    def _verdict(self) -> str:
        counts = [
            f"{len(found)} {severity}{'s' * (len(found) != 1)}"
            for severity in SEVERITIES
            if (found := self.of(severity))
        ]
        return f"  {self.checks} checks: {', '.join(counts) or 'nothing found'}"


def beyond(ends: Mapping[str, float]) -> str:
    """Return the log-ratios beyond the ends ``low`` and ``high`` that there are, in words."""
    return " and ".join(
        f"{word} {0.0 if abs(ends[end]) < 1e-6 else ends[end]:.4g}"
        for end, word in (("low", "below"), ("high", "above"))
        if math.isfinite(ends.get(end, math.inf))
    )


def plain(value: Any) -> Any:
    """Return the same as plain data; numbers that JSON cannot hold become words."""
    return for_json(value, "nan")
