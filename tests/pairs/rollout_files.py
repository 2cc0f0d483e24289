"""Recorded rollouts of one content in every format."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from klbench.context import Context
from klbench.pairs.recorded import RecordedPair
from klbench.studies import get
from klbench.studies.lm.options import LmOptions

PER_TOKEN = ("logprobs", "ref_logprobs", "old_logprobs", "kl", "kl_pq", "tokens")
TIMED = {"throughput", "cost"}
GOOD = {"logprobs": [-1.0, -2.0, -0.5], "ref_logprobs": [-1.1, -1.5, -0.6]}


def rollouts(n: int = 300) -> list[dict]:
    """Rows of 1 to 12 tokens."""
    stream, rows = np.random.default_rng(4), []
    for i in range(n):
        size = int(stream.integers(1, 13))
        row = {name: (-stream.gamma(1.0, 1.0, size)).round(6).tolist() for name in PER_TOKEN[:3]}
        row |= {name: stream.gamma(1.0, 0.1, size).round(6).tolist() for name in ("kl", "kl_pq")}
        rows.append(row | {"tokens": stream.integers(0, 50, size).tolist(), "prompt": i % 7})
    return rows


def padded(rows: list[dict], filler: float) -> list[dict]:
    """To one length, with a mask; what is filled in is nonsense."""
    longest = max(len(row["logprobs"]) for row in rows)
    return [
        {name: [*row[name], *[filler] * (longest - len(row[name]))] for name in PER_TOKEN}
        | {
            "mask": [1] * len(row["logprobs"]) + [0] * (longest - len(row["logprobs"])),
            "prompt": row["prompt"],
        }
        for row in rows
    ]


def holed(rows: list[dict]) -> list[dict]:
    """With a token that does not count before each that does, as of a prompt or a tool."""
    return [
        {name: [x for value in row[name] for x in (7.0, value)] for name in PER_TOKEN}
        | {"mask": [False, True] * len(row["logprobs"]), "prompt": row["prompt"]}
        for row in rows
    ]


def as_jsonl(path: Path, rows: list) -> Path:
    path.write_text(
        "".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows),
        encoding="utf-8",
    )
    return path


def as_parquet(path: Path, rows: list[dict], group: int = 64) -> Path:
    pq.write_table(pa.Table.from_pylist(rows), path, row_group_size=group)
    return path


def as_npz(path: Path, rows: list[dict]) -> Path:
    np.savez(path, **{name: np.array([row[name] for row in rows]) for name in rows[0]})
    return path


def as_flat_npz(path: Path, rows: list[dict]) -> Path:
    arrays = {
        name: np.concatenate([row[name] for row in rows])
        for name in rows[0]
        if isinstance(rows[0][name], list)
    }
    np.savez(
        path,
        **arrays,
        lengths=[len(row["logprobs"]) for row in rows],
        prompt=[row["prompt"] for row in rows],
    )
    return path


def nan_ended(rows: list[dict]) -> list[dict]:
    return [
        {name: values for name, values in row.items() if name != "mask"}
        for row in padded(rows, float("nan"))
    ]


def tables(path: Path, workers: int = 1, **options) -> dict[str, pd.DataFrame]:
    pair = RecordedPair(path=str(path), label="rollouts")
    found = get("lm").run(
        LmOptions(pairs=(pair,), **{"shard": 77} | options), Context(0, workers=workers)
    )
    return {
        name: table.drop(columns="parameters", errors="ignore")
        for name, table in found.items()
        if name not in TIMED
    }
