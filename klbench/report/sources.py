"""The sources of a page: the tables of one run, or of several with a label in each row."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow.parquet as pq
import yaml

from klbench import inputs
from klbench.report.blocks import Tables
from klbench.report.sections import study
from klbench.runs import RunFolder
from klbench.schema import VERSION, version_of
from klbench.types import ConfigError

MAX_DIFFERENCES = 3
"""Runs whose configurations differ in more keys than this are labelled by their folders."""


@dataclass(frozen=True)
class Source:
    """One run: where it is, what ``run.json`` and ``config.yaml`` say, and its tables."""

    path: Path
    info: Mapping[str, Any]
    config: str
    tables: Tables
    label: str = ""

    @property
    def study(self) -> str:
        """The name of the run's study, as it is called today; empty where ``run.json`` has none."""
        name = str(self.info.get("study") or "")
        known = study(name)
        return known.name if known else name


@dataclass(frozen=True)
class Combined:
    """Several runs as one: the tables of all runs of a study together, by the study's name."""

    sources: Sequence[Source]
    tables: Mapping[str, Tables]


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]


def read(path: Path, outcome: Mapping[str, Any] | None = None) -> Source:
    """A run from its folder; ``outcome`` takes the place of what ``run.json`` says.

    Raises
    ------
    ConfigError
        There is none, it has no tables, or one of its files cannot be read.
    """
    folder = RunFolder.open(path)
    info = folder.info | dict(outcome or {})
    files = sorted((path / "tables").glob("*.parquet"))
    if not files:
        raise ConfigError(
            f"{path}: expected tables/*.parquet, found none; its status is"
            f" {info.get('status', 'unknown')}"
        )
    inputs.check_folder(path / "tables")
    tables: dict[str, pd.DataFrame] = {}
    version = VERSION
    for file in files:
        try:
            version = min(version, version_of(pq.read_schema(file).metadata))
            tables[file.stem] = pd.read_parquet(file)
        except ConfigError as error:
            raise ConfigError(f"{file}: {error}") from None
        except (OSError, ValueError) as error:
            raise ConfigError(
                f"{file}: expected a Parquet table, could not read it: {_one_line(error)}"
            ) from None
    known = study(str(info.get("study") or ""))
    completed = known.completed(tables, version) if known else tables
    config = path / "config.yaml"
    return Source(
        path,
        info,
        config.read_text(encoding="utf-8", errors="replace") if config.is_file() else "",
        completed,
    )


def _flat(node: Any, prefix: str = "") -> dict[str, Any]:
    if isinstance(node, dict) and node:
        pairs = [(f"{prefix}.{key}" if prefix else str(key), value) for key, value in node.items()]
    elif isinstance(node, list) and any(isinstance(each, dict | list) for each in node):
        pairs = [(f"{prefix}[{i}]", value) for i, value in enumerate(node)]
    else:
        return {prefix: node}
    return {key: value for name, each in pairs for key, value in _flat(each, name).items()}


def _plain(value: Any) -> str:
    if isinstance(value, list):
        return f"[{', '.join(map(_plain, value))}]"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _settings(source: Source) -> dict[str, Any]:
    try:
        flat = _flat(yaml.safe_load(source.config) or {})
    except yaml.YAMLError:
        flat = {}
    ignored = {"out", "workers", "cluster", "address"}  # they change no number
    return {"exp": source.info.get("experiment")} | {
        key: value for key, value in flat.items() if key not in ignored
    }


def labels(sources: Sequence[Source]) -> list[str]:
    """Return a label for each run.

    The settings that differ, or its folder if these are none, too many, or not enough.
    """
    settings = [_settings(source) for source in sources]
    keys = list(dict.fromkeys(key for each in settings for key in each))
    differing = [
        key for key in keys if any(each.get(key) != settings[0].get(key) for each in settings)
    ]
    folders = [source.path.name for source in sources]
    if len(set(folders)) < len(folders):
        folders = [str(source.path) for source in sources]
    if not 1 <= len(differing) <= MAX_DIFFERENCES:
        return folders
    named = [
        ", ".join(f"{key}={_plain(each[key])}" for key in differing if key in each)
        for each in settings
    ]
    if len(set(named)) < len(named) or not all(named):
        return [
            f"{name} ({folder})" if name else folder
            for name, folder in zip(named, folders, strict=True)
        ]
    return named


def _labelled(source: Source, shared: bool) -> Tables:
    """The run's tables with its label.

    Where another run has the same pairs, the label tells their rows apart.
    """
    result = {}
    for name, table in source.tables.items():
        copy = table.copy()
        copy.insert(0, "run", source.label)
        if shared:
            if "pair" in copy:
                copy["pair"] = copy["pair"].astype(str) + f" [{source.label}]"
            if "series" in copy:
                series = copy["series"].fillna("").astype(str)
                copy["series"] = series.map(
                    lambda each: f"{each}, {source.label}" if each else source.label
                )
        result[name] = copy
    return result


def combined(folders: Sequence[Path]) -> Combined:
    """Several runs as one.

    Raises
    ------
    ConfigError
        One of them cannot be read.
    """
    found = [read(path) for path in folders]
    if not found:
        raise ConfigError("expected run folders, got none")
    if len(found) == 1:
        return Combined(found, {found[0].study: found[0].tables})
    named = [
        Source(s.path, s.info, s.config, s.tables, label)
        for s, label in zip(found, labels(found), strict=True)
    ]
    seen = [
        {str(pair) for table in s.tables.values() if "pair" in table for pair in table["pair"]}
        for s in named
    ]
    shared = sum(map(len, seen)) > len(set().union(*seen))
    studies = dict.fromkeys(source.study for source in named)
    return Combined(
        named,
        {
            study: _together([_labelled(s, shared) for s in named if s.study == study])
            for study in studies
        },
    )


def _together(parts: Sequence[Tables]) -> Tables:
    """Return the tables of several runs, each with the rows of all."""
    tables = {}
    for name in dict.fromkeys(name for part in parts for name in part):
        present = [part[name] for part in parts if name in part]
        # A column that is empty everywhere in one run must not decide its type for all.
        tables[name] = pd.concat(
            [each.dropna(axis=1, how="all") for each in present], ignore_index=True
        )
        columns = list(dict.fromkeys(column for each in present for column in each.columns))
        tables[name] = tables[name].reindex(columns=columns)
    return tables
