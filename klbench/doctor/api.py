"""``klbench.doctor(frame_or_path)``: read, measure, check, and name the cause."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from klbench.doctor import advice, corrections, steps
from klbench.doctor.checks import RATIO, percent_below
from klbench.doctor.checks import checks as checked
from klbench.doctor.findings import Cause, Check, Diagnosis
from klbench.doctor.measures import Found, Measured, measures
from klbench.doctor.ranking import ranked
from klbench.doctor.reading import Gathered, gather, ratios
from klbench.doctor.series import LIMIT
from klbench.doctor.statistics import Number
from klbench.doctor.tables import differences
from klbench.rollouts.batches import Reading, read
from klbench.types import ConfigError


def doctor(
    source: pd.DataFrame | str | Path | Sequence[str | Path],
    mapping: Mapping[str, str] | None = None,
    *,
    text: bool = False,
    trainer: str = "",
    workers: int = 0,
) -> Diagnosis:
    """Return what is going on in recorded rollouts.

    Parameters
    ----------
    source
        A frame with a rollout a row, a file, or several files.
    mapping
        The columns of roles: ``{"policy": "prev_logprobs"}``.
    text
        Whether texts of tokens may be shown.
    trainer
        Whose options the advice names.
    workers
        Processes for several large files; 0: as many as there are cores.

    Raises
    ------
    ConfigError
        No two columns of log-probabilities can be had.
    """
    advice.check(trainer)
    reading = read(source, mapping or {}, text)
    return diagnosed(reading, gather(reading, workers or os.cpu_count() or 1), trainer)


def diagnosed(reading: Reading, gathered: Gathered, trainer: str = "") -> Diagnosis:
    """Return the diagnosis of what one pass has gathered.

    Raises
    ------
    ConfigError
        There is no token that counts.
    """
    if not gathered.tokens:
        rows = f"{gathered.rows:,} rows" if gathered.rows else "no rows"
        why = next(iter((*reading.findings, *gathered.said)), "")
        raise ConfigError(
            f"{', '.join(reading.files)}: no token counts; there are {rows}{why and f'; {why}'}"
        )
    found = measures(gathered)
    if not found and not gathered.pairs.n:
        raise ConfigError(
            f"{', '.join(reading.files)}: no token has numbers in two columns of "
            f"{', '.join(gathered.columns)}"
        )
    checks = [
        each
        for each in checked(gathered, found)
        if not reading.paired or each.name.startswith(("identical", "support"))
    ]  # of completions that nobody here has sampled, no mean ratio is 1
    causes = ranked(gathered, found, checks)
    curves, left = steps.curves(gathered)
    counted, names = gathered.kept.counted, ratios(frozenset(gathered.columns))
    return Diagnosis(
        files=reading.files,
        columns=dict(reading.columns),
        layout=reading.layout,
        rollouts=gathered.rollouts,
        empty=gathered.empty,
        tokens=gathered.tokens,
        sampler=_sampler(found["sampler"]) if "sampler" in found else None,
        lag=_sampler(found["lag"]) if "lag" in found else None,
        reference=_reference(found)
        if not reading.paired and found.keys() & {"penalty", "reference"}
        else None,
        corrections=corrections.rows(found["sampler"]) if "sampler" in found else [],
        checks=checks,
        cause=causes,
        findings=_findings(reading, gathered, checks),
        steps=curves,
        left=left,
        alarms=alarms(checks, causes),
        advice=advice.sentences(causes, trainer, alarm=bool(alarms(checks, causes))),
        preferences=gathered.pairs.plain() if gathered.pairs.n else None,
        differences=[
            row
            for name, shown in (("sampler", "sampler"), ("penalty", "reference"))
            if name in found
            for row in differences(counted, shown, names[name])
        ],
    )


def alarms(checks: Sequence[Check], causes: Sequence[Cause]) -> list[str]:
    """Return why it alarms: checks that fail with consequences, and faults of the columns."""
    failed = [each.message for each in checks if each.ok is False and each.alarm]
    return failed + [f"{each.name}: {each.evidence}" for each in causes if each.fault]


def _put(name: str, number: Number) -> dict[str, float]:
    return {
        name: number.value,
        f"{name}_se": number.se,
        f"{name}_low": number.low,
        f"{name}_high": number.high,
    }


def _sampler(m: Measured) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name in (
        "kl_token",
        "kl_sequence",
        "gap_token",
        "gap_sequence",
        "ess_token",
        "ess_sequence",
        "chi2_token",
        "chi2_sequence",
    ):
        found |= _put(name.replace("gap", "k3"), m[name])
    excess = m["excess"].less(-1.0)
    largest = m.series.places["size"]
    return {
        **found,
        **_put("mean_ratio", excess),
        "max_abs_difference": largest.size,
        "khat": m.khat,
        "khat_token": m.khat_token,
        "ess_theory": math.exp(-2.0 * max(m["kl_sequence"].value, 0.0)),
        "largest": {
            "file": largest.file,
            "row": largest.row + 1,
            "token": largest.position + 1,
            "id": largest.token,
        },
        "mean_ratio_holds": m.holds,
        "rollouts": m.rollouts,
        "tokens": m.tokens,
    }


def _reference(found: Found) -> dict[str, Any]:
    m = found.get("penalty") or found["reference"]
    source = found.get("reference") or m
    result: dict[str, Any] = {}
    for name in ("kl_token", "kl_sequence", "gap_token", "gap_sequence", "k2_token", "size_token"):
        result |= _put(name.replace("gap", "k3").replace("size", "abs"), m[name])
    off = "sampler" in found and not found["sampler"]["ess_sequence"].value >= 0.9
    return {
        **result,
        **_put("mean_ratio", source["excess"].less(-1.0)),
        "mean_ratio_holds": source.holds,
        "max_abs_difference": m.series.places["size"].size,
        "khat": m.khat,
        "khat_token": m.khat_token,
        "estimator": _recommended(m, source, off),
        "negative_batches": percent_below(m) / 100.0,
        "kl_sampler_token": found["reference"]["kl_token"].value
        if "reference" in found
        else math.nan,
        "rollouts": m.rollouts,
        "tokens": m.tokens,
    }


def _recommended(m: Measured, source: Measured, off: bool) -> str:
    """Return the estimator that is fit for these data; empty where the checks do not pass."""
    if source.holds == "fails" or m.negative or off:
        return ""
    heavy = not m.khat_token < 0.5 and m.khat_token == m.khat_token
    if source.holds == "cannot tell" or heavy:
        return "k1"
    return "k3" if m["gap_token"].se < m["kl_token"].se else "k1"


def _findings(reading: Reading, gathered: Gathered, checks: Sequence[Check]) -> list[str]:
    found = [*reading.notes, *reading.findings, *gathered.said]
    if gathered.empty:
        found.append(f"{gathered.empty:,} rollouts have no token that counts; they are left out")
    for role, column in gathered.columns.items():
        if column.missing:
            found.append(
                f"{column.missing:,} counted tokens have no number in "
                f"{reading.columns.get(role, role)}"
            )
    found += [
        f"{series.cut:,} log-ratios of {RATIO[name]} beyond {LIMIT:g} nats are cut to it"
        for name, series in gathered.series.items()
        if series.cut
    ]
    if not gathered.kept.whole:
        found.append(f"signs of causes are taken from one rollout in {gathered.kept.stride:,}")
    return list(dict.fromkeys([*found, *(each.message for each in checks if each.ok is False)]))
