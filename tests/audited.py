"""The tables of one audited release, as ``benchmarks/conformance.py`` leaves them."""

import math
from pathlib import Path

import pandas as pd

from klbench import schema
from klbench.studies.audit.columns import AUDIT, FINDINGS
from klbench.studies.trainers.columns import DEFAULTS

GRPO = "GRPOTrainer._compute_loss"
CORRECTED = "loss_type=dapo use_bias_correction_kl=True"
PLAIN = "loss_type=dapo use_bias_correction_kl=False"


def empty(columns) -> dict:
    return {column.name: schema.MISSING[column.type] for column in columns}


def audited(folder: Path, version: str = "1.16.0", corrected: str = "true", **changes) -> Path:
    """Write them: GRPO's loss with and without the ratio, of which one is the default."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for options, combination, matches in (
        (CORRECTED, "k3_ratio_loss", "KL(q‖p)"),
        (PLAIN, "k3_loss", "KL(p‖q)"),
    ):
        found = {
            "target": options,
            "library": "trl",
            "version": version,
            "function": GRPO,
            "options": options,
            "identified": "k3",
            "combination": combination,
            "matches": matches,
            "gradient_level": "token",
            "rel_bias_near": 0.1,
            "rel_bias_far": math.nan,
            "status": "ok",
        }
        rows.append(empty(AUDIT.columns) | found | changes)
    finding = {
        "target": PLAIN,
        "kind": "dead-gradient",
        "severity": "warning",
        "message": f"dead in {version}",
    }
    defaults = {"library": "trl", "version": version, "trainer": "trl_grpo"}
    options = {"loss_type": '"dapo"', "use_bias_correction_kl": corrected, "beta": "0.0"}
    tables = {
        AUDIT.table: rows,
        FINDINGS.table: [empty(FINDINGS.columns) | finding],
        DEFAULTS.table: [
            defaults | {"option": name, "default": value} for name, value in options.items()
        ],
    }
    for name, each in tables.items():
        pd.DataFrame(each).to_parquet(folder / f"{name}.parquet", index=False)
    return folder
