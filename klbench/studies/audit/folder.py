"""Audits as tables, and as a run folder with its page."""

from __future__ import annotations

import json
import shlex
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from klbench import report, schema
from klbench.audit.findings import SEVERITIES
from klbench.audit.isolated import Record
from klbench.machine import describe
from klbench.runs import RunFolder, now, write_text
from klbench.studies.audit.columns import (
    AUDIT,
    FINDINGS,
    REFUSED,
    RIGHT,
    TABLES,
    VALUES,
    WARNED,
    WRONG,
)

STUDY = "audit"


def _number(value: Any) -> float:
    return float("nan") if value is None else float(value)


def _row(record: Record, used_as: str) -> dict[str, Any]:
    place, found = record.place, record.found
    own = record.target.rpartition(":")[2]
    row: dict[str, Any] = {column.name: schema.MISSING[column.type] for column in AUDIT.columns}
    row |= {
        "target": record.target,
        "library": place.library if place else "",
        "version": place.version if place else "",
        "function": place.function if place else own,
        "options": place.words if place else "",
        "used_as": place.used_as if place else used_as,
        "verdict": REFUSED,
        "status": record.refusal,
    }
    if found is None:
        return row
    plain = found.plain
    gradient: Mapping[str, Any] = plain["gradient"] or {}
    clamp: Mapping[str, Any] = plain["clamp"] or {}
    severities = [each["severity"] for each in plain["findings"]]
    counts = {each: severities.count(each) for each in SEVERITIES}
    bias = gradient.get("rel_bias", {})
    verdict = WRONG if counts["error"] else WARNED if counts["warning"] else RIGHT
    same = ("divergence", "weight", "reduction", "level", "identified")
    return (
        row
        | {name: plain[name] or "" for name in same}
        | {
            "taken": found.taken,
            "scale": _number(plain["scale"]),
            "checks": plain["checks"],
            "status": "ok",
            "arguments": "; ".join(f"{name}: {what}" for name, what in plain["arguments"].items()),
            "clamp_low": _number(clamp.get("low")),
            "clamp_high": _number(clamp.get("high")),
            "matches": gradient.get("matches", ""),
            "gradient_level": gradient.get("level", ""),
            "off_policy": gradient.get("off_policy") or "",
            "combination": gradient.get("combination") or "",
            "rel_bias_near": _number(bias.get("0.05")),
            "rel_bias_far": _number(bias.get("2")),
            "same_as": ", ".join(plain["same_as"]),
            "verdict": verdict,
            **{f"{each}s": count for each, count in counts.items()},
        }
    )


def tables(records: Sequence[Record], used_as: str = "kl") -> dict[str, pd.DataFrame]:
    """Return the tables of audits, as ``columns.py`` declares them."""
    made = [(record, record.found) for record in records if record.found is not None]
    findings = [
        {
            "target": record.target,
            **each,
            "evidence": json.dumps(each["evidence"], ensure_ascii=False),
        }
        for record, found in made
        for each in found.plain["findings"]
    ]
    values = [
        dict(zip(("log_ratio", "value", "right"), point, strict=True))
        | {"target": record.target, "right_name": found.right}
        for record, found in made
        for point in found.curve
    ]
    result = {
        AUDIT.table: pd.DataFrame([_row(record, used_as) for record in records]),
        FINDINGS.table: FINDINGS.frame(findings),
        VALUES.table: VALUES.frame(values),
    }
    schema.check(TABLES, result)
    return result


def write(
    out: Path,
    records: Sequence[Record],
    arguments: Sequence[str],
    settings: Mapping[str, Any],
    began: float,
) -> Path:
    """Write the run folder of audits that began at that time, and return its page.

    Raises
    ------
    ConfigError
        The folder is not new, or cannot be made.
    """
    RunFolder.check_new(out)
    folder = RunFolder(out, new=True)
    folder.create()
    config = {"study": STUDY, **settings}
    write_text(out / "config.yaml", yaml.safe_dump(config, sort_keys=False, allow_unicode=True))
    folder.begin(
        status="running",
        experiment=STUDY,
        study=STUDY,
        started=now(),
        **describe(),
        command=f"python -m klbench audit {shlex.join(arguments)}",
    )
    folder.log(f"audited: {len(records)}")
    folder.write_tables(tables(records, str(settings.get("as", "kl"))))
    outcome = {
        "status": "done",
        "finished": now(),
        "seconds": {"audit": round(time.monotonic() - began, 3)},
    }
    page = report.render(out, outcome)
    folder.update(**outcome)
    return page
