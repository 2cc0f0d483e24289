"""The run of the trainers study: audits of releases, joined with what klbench knows of options."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from klbench import gradients, trainers
from klbench.advise.answer import plain
from klbench.advise.measured import gradient_errors, policies
from klbench.context import Context
from klbench.rows import Row, where
from klbench.schema import Schema
from klbench.studies.audit.columns import AUDIT, FINDINGS
from klbench.studies.trainers.changes import changes
from klbench.studies.trainers.columns import (
    CHANGES,
    DEFAULTS,
    LAW,
    LENGTHS,
    NO,
    SHOWN,
    TRAINERS,
    YES,
    version_key,
)
from klbench.studies.trainers.options import TrainersOptions
from klbench.study import Summary
from klbench.trainers import NONE, Meaning
from klbench.types import ConfigError

SETTINGS = {
    ("trl", "GRPOTrainer._compute_loss"): "trl_grpo@{version} {options}",
    ("trl", "RLOOTrainer._generate_and_score_completions: per_token_kl"): "trl_rloo@{version}",
    ("verl", "kl_penalty"): "verl@{version} kl_loss_type={value}",
    ("openrlhf", "compute_approx_kl"): "openrlhf@{version} use_loss=true {options}",
    ("liger-kernel", "LigerFusedLinearGRPOFunction.ppo_loss_fn"): "liger@{version} {options}",
}
"""The words for :func:`klbench.trainers.parse` of a function with its options."""
KINDS = {
    "clamp": ("clamp-bias",),
    "dead": ("dead-gradient",),
    "nonfinite": ("non-finite-value", "non-finite-gradient"),
    "precision": ("cancellation", "dtype"),
    "masking": ("padding-leak", "denominator"),
}
"""The kinds of findings that a column shows."""
KEPT = "less than 0.1 % is lost in float32 at a log-ratio of 0.01"
SAME = (
    "library version function options identified matches gradient_level off_policy rel_bias_near "
    "rel_bias_far status"
).split()


def run(options: TrainersOptions, context: Context) -> dict[str, pd.DataFrame]:
    """Return tables ``trainers``, ``trainers_law``, ``trainers_defaults`` and
    ``trainers_changes``.
    """
    folders = [Path(each) for each in options.audits]
    defaults = [row for each in folders for row in _read(each, DEFAULTS)]
    rows = [row for each in folders for row in _release(each, defaults)]
    rows.sort(key=lambda row: row["library"])
    names: dict[str, str] = {}
    for name in dict.fromkeys(row["combination"] for row in rows if row["combination"]):
        names.setdefault(_spec(name), _spec(name))
        if not gradients.get(name).length_mean:
            names[_spec(name)] = name
    law = _law(list(names.values()), options)
    at = {(row["combination"], row["tokens"]): row["rel_bias"] for row in law}
    for row in rows:
        name = names[_spec(row["combination"])] if row["combination"] else ""
        row |= {f"rel_bias_{t}": at.get((name, t), math.nan) for t in SHOWN}
    found = changes(rows, defaults)
    return {
        schema.table: pd.DataFrame(each, columns=[column.name for column in schema.columns])
        for schema, each in ((TRAINERS, rows), (LAW, law), (DEFAULTS, defaults), (CHANGES, found))
    }


def _read(folder: Path, schema: Schema) -> list[Row]:
    file = folder / f"{schema.table}.parquet"
    try:
        return schema.rows(pd.read_parquet(file))
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"audits has {folder}: no table {file.name} can be read there"
            f" ({' '.join(str(error).split())[:120]}); make trainers writes them"
        ) from None


def _release(folder: Path, defaults: Sequence[Row]) -> Iterable[Row]:
    """Yield the rows of one release."""
    findings = _read(folder, FINDINGS)
    for row in _read(folder, AUDIT):
        meaning = _meaning(row)
        said = [] if meaning is None else [meaning.combination, meaning.named]
        known = {gradients.get(name).spec for name in said if name not in ("", NONE)}
        seen = row["combination"]
        spec = gradients.get(seen).spec if seen else ""
        same = _key(spec) in map(_key, known)
        mine = where(findings, target=row["target"])
        told = {
            column: "; ".join(each["message"] for each in mine if each["kind"] in kinds)
            for column, kinds in KINDS.items()
        }
        if not told["precision"] and row["identified"] and not row["identified"].startswith("full"):
            told["precision"] = KEPT
        yield {
            **{name: row[name] for name in SAME},
            **told,
            "setting": "" if meaning is None else _words(row),
            "default": YES if meaning and _default(row, meaning, defaults) else "",
            "combination": next(filter(None, said), seen)
            if same and spec not in known
            else seen or next(filter(None, said), ""),
            "agrees": "" if not (known and seen) else YES if same else NO,
        }


def _key(spec: str) -> str:
    """Return what the audit can tell of a combination.

    Behind a value that is cut off at 10 a log-ratio's limit of 20 is out of reach; of a gradient of
    its own the value is no part.
    """
    own = "@k2/straight_through" in spec
    return plain(spec) if own else spec.replace("k3_openrlhf", "k3_verl")


def _words(row: Row) -> str:
    spelled = SETTINGS.get((row["library"], row["function"]), "")
    return spelled.format(**row, value=row["options"].partition("=")[2])


def _meaning(row: Row) -> Meaning | None:
    """Return what klbench knows of a function's options; None where it knows nothing."""
    words = _words(row)
    try:
        return trainers.parse(words) if words else None
    except ConfigError:  # a release or an option that it has no row for
        return None


def _default(row: Row, meaning: Meaning, defaults: Sequence[Row]) -> bool:
    """Return whether the options are the release's defaults."""
    trainer = trainers.get(meaning.trainer)
    release = {"library": row["library"], "version": row["version"], "trainer": trainer.name}
    own = {each["option"]: each["default"] for each in where(defaults, **release)}
    named = (pair.partition("=") for pair in _words(row).split()[1:])
    return all(
        own.get(trainer.option(name, meaning.version).path, "").strip('"').lower() == value.lower()
        for name, _, value in named
    )


def _spec(name: str) -> str:
    """Return the parts of a combination without its mean over a sequence's tokens."""
    return gradients.get(gradients.get(name).spec.replace("token:mean", "token")).spec


def _law(names: Sequence[str], options: TrainersOptions) -> list[Row]:
    made = [*policies(options.kl_token, 0.0, options.chains)]
    found = gradient_errors(names, made, LENGTHS)
    return [
        {
            "combination": name,
            "tokens": tokens,
            "kl_token": options.kl_token,
            "rel_bias": float(found[k, t, 0]),
        }
        for k, name in enumerate(names)
        for t, tokens in enumerate(LENGTHS)
    ]


def summarize(results: Mapping[str, pd.DataFrame]) -> list[Summary]:
    """Return what changed, release by release."""
    rows: list[dict[str, Any]] = CHANGES.rows(results[CHANGES.table])
    shown = [(each["library"], each["version"], each["before"], each["change"]) for each in rows]
    shown.sort(key=lambda each: (each[0], version_key(each[1])))
    columns = ("library", "version", "before", "difference")
    return [Summary("What changed", columns, shown)]
