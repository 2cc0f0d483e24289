"""Checks, causes, and the whole diagnosis, as objects and as plain data for JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from klbench.doctor.screen import lines
from klbench.inputs import for_json

SCHEMA_VERSION = 1
CAUSES = (
    "healthy",
    "temperature",
    "top_p",
    "top_k",
    "low_precision",
    "quantised",
    "stale_weights",
    "wrong_weights",
    "dropout",
    "adapter_not_merged",
    "padding_counted",
    "end_token_dropped",
    "shifted_by_one",
    "template_or_prefix",
    "columns_swapped",
    "not_logprobs",
    "wrong_log_base",
    "outlier_tokens",
    "reference_lacks_support",
    "unknown",
)


@dataclass(frozen=True)
class Check:
    """Something that must hold.

    Parameters
    ----------
    ok
        None where these data cannot tell.
    alarm
        Whether it has consequences where it does not hold.
    """

    name: str
    ok: bool | None
    message: str
    value: float | None = None
    se: float | None = None
    alarm: bool = True

    def plain(self) -> dict[str, Any]:
        """Return it as data that JSON can hold."""
        return {
            "name": self.name,
            "ok": self.ok,
            "value": for_json(self.value),
            "se": for_json(self.se),
            "message": self.message,
            "alarm": self.alarm,
        }


@dataclass(frozen=True)
class Cause:
    """A possible cause.

    Parameters
    ----------
    score
        Between 0 and 1; comparable within one file.
    evidence
        One sentence with the numbers that speak for it.
    fault
        Whether it is a fault of the columns themselves, which is an alarm by itself.
    about
        Numbers, such as the temperature.
    """

    name: str
    score: float
    evidence: str
    fault: bool = False
    about: Mapping[str, float] = field(default_factory=dict)

    def plain(self) -> dict[str, Any]:
        """Return it as data that JSON can hold."""
        return {
            "name": self.name,
            "score": round(self.score, 3),
            "evidence": self.evidence,
            **({"about": for_json(dict(self.about))} if self.about else {}),
        }


@dataclass(frozen=True)
class Diagnosis:
    """All that the doctor says of a file.

    Parameters
    ----------
    files, columns, layout
        What was read, and as what.
    rollouts, empty, tokens
        Rollouts with tokens that count, rollouts without, and tokens that count.
    sampler, lag, reference
        Statistics by name; None where the columns for them are not there.
    corrections
        What the usual corrections touch, and what they leave of the weight.
    steps
        The lines by step, and ``left``: the first step that leaves its band, by line.
    alarms
        Why it alarms; empty where it does not.
    advice
        What to do.
    differences
        How far columns differ, by the log-probability of whoever sampled.
    preferences
        Margins, accuracy and loss, where the file has sums of chosen and rejected completions.
    """

    files: Sequence[str]
    columns: Mapping[str, str]
    layout: str
    rollouts: int
    empty: int
    tokens: int
    sampler: Mapping[str, Any] | None
    lag: Mapping[str, Any] | None
    reference: Mapping[str, Any] | None
    corrections: Sequence[Mapping[str, Any]]
    checks: Sequence[Check]
    cause: Sequence[Cause]
    findings: Sequence[str]
    steps: Sequence[Mapping[str, Any]]
    left: Mapping[str, int]
    alarms: Sequence[str]
    advice: Sequence[str]
    differences: Sequence[Mapping[str, Any]] = ()
    preferences: Mapping[str, Any] | None = None

    @property
    def ok(self) -> bool:
        """Return whether there is no alarm."""
        return not self.alarms

    def plain(self) -> dict[str, Any]:
        """Return all of it as data that JSON can hold, as ``schema.json`` describes it."""
        return {
            "schema_version": SCHEMA_VERSION,
            "files": list(self.files),
            "layout": self.layout,
            "rollouts": self.rollouts,
            "empty": self.empty,
            "tokens": self.tokens,
            "columns": dict(self.columns),
            "alarm": not self.ok,
            "alarms": list(self.alarms),
            "sampler": for_json(self.sampler),
            "lag": for_json(self.lag),
            "reference": for_json(self.reference),
            "preferences": for_json(self.preferences),
            "corrections": for_json([dict(each) for each in self.corrections]),
            "checks": [each.plain() for each in self.checks],
            "cause": [each.plain() for each in self.cause],
            "findings": list(self.findings),
            "advice": list(self.advice),
            "steps": for_json([dict(each) for each in self.steps]),
            "left": dict(self.left),
        }

    def __str__(self) -> str:
        return "\n".join(lines(self.plain()))
