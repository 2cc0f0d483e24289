"""The ranking of causes, and whether they are an alarm."""

from __future__ import annotations

from collections.abc import Sequence

from klbench.doctor import causes_of_columns, causes_of_reference, causes_of_sampler
from klbench.doctor.findings import Cause, Check
from klbench.doctor.measures import Found
from klbench.doctor.reading import Gathered

LEAST = 0.05
"""Causes below are not named."""
KEPT = 6
HEALTHY, SICK, UNKNOWN = 0.5, 0.05, 0.3
"""Scores of ``healthy`` where nothing alarms and where something does, and of ``unknown``."""


def ranked(gathered: Gathered, found: Found, checks: Sequence[Check]) -> list[Cause]:
    """Return the causes, the likeliest first; never empty."""
    if gathered.longest > 1:
        of_columns = list(causes_of_columns.causes(gathered, found))
    else:  # sums of whole completions, in which no cause of tokens shows
        of_columns = list(causes_of_columns.not_logprobs(gathered))
    all_causes = list(of_columns)
    if gathered.longest > 1 and not any(each.fault and each.score > 0.8 for each in of_columns):
        all_causes += causes_of_sampler.causes(gathered, found)
        all_causes += causes_of_reference.causes(gathered, found)
    alarm = any(each.ok is False and each.alarm for each in checks) or any(
        each.fault for each in all_causes
    )
    best: dict[str, Cause] = {}
    for each in all_causes:
        if each.score >= LEAST and each.score > best.get(each.name, Cause("", 0.0, "")).score:
            best[each.name] = each
    noise = _noise(found)
    healthy = Cause(
        "healthy",
        SICK if alarm else HEALTHY,
        f"nothing that must hold fails{noise}" if not alarm else f"but something alarms{noise}",
    )
    unknown = Cause("unknown", UNKNOWN if alarm else 0.0, "no cause that is known fits better")
    everything = [*best.values(), healthy, *([unknown] if alarm else [])]
    return sorted(everything, key=lambda each: -each.score)[:KEPT]


def _noise(found: Found) -> str:
    if "sampler" not in found:
        return ""
    m = found["sampler"]
    spread = (m.series.of("x2") / m.tokens) ** 0.5
    return f"; trainer and sampler differ by {spread:.2g} a token"
