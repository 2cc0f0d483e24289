"""Recorded rollouts: one content in every format gives one table, big files are read in pieces."""

import json
import math
import pickle
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from rollout_files import (
    GOOD,
    as_flat_npz,
    as_jsonl,
    as_npz,
    as_parquet,
    holed,
    nan_ended,
    padded,
    rollouts,
    tables,
)

from klbench.context import Context
from klbench.pairs import recorded
from klbench.pairs.recorded import RecordedPair
from klbench.studies import get
from klbench.studies.lm.options import LmOptions


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> dict[str, Path]:
    folder, rows = tmp_path_factory.mktemp("rollouts"), rollouts()
    return {
        "jsonl": as_jsonl(folder / "ragged.jsonl", rows),
        "jsonl, padded": as_jsonl(folder / "padded.ndjson", padded(rows, 5.0)),
        "jsonl, null": as_jsonl(
            folder / "null.jsonl",
            [json.dumps(row).replace("NaN", "null") for row in nan_ended(rows)],
        ),
        "jsonl, holes": as_jsonl(folder / "holes.jsonl", holed(rows)),
        "parquet": as_parquet(folder / "ragged.parquet", rows),
        "parquet, one group": as_parquet(folder / "group.pq", padded(rows, 5.0), 10**6),
        "npz": as_npz(folder / "padded.npz", padded(rows, 5.0)),
        "npz, nan": as_npz(folder / "nan.npz", nan_ended(rows)),
        "npz, flat": as_flat_npz(folder / "flat.npz", rows),
    }


KINDS = [
    "jsonl",
    "jsonl, padded",
    "jsonl, null",
    "jsonl, holes",
    "parquet",
    "parquet, one group",
    "npz",
    "npz, nan",
    "npz, flat",
]


@pytest.mark.parametrize("kind", KINDS)
def test_one_content_in_every_format_is_one_table(files, kind) -> None:
    expected, found = tables(files["jsonl"]), tables(files[kind])
    assert (
        set(found)
        == set(expected)
        > {
            "values",
            "tokens",
            "top_tokens",
            "largest_ratios",
            "sampling",
            "prompts",
            "checks",
            "pairs",
            "estimators",
        }
    )
    for name, table in expected.items():
        if name not in {"causes", "must_hold"}:  # which name the file, and look at padding too
            pd.testing.assert_frame_equal(found[name], table, check_exact=True, obj=name)


def test_the_tables_say_what_the_rows_say(files) -> None:
    rows, found = rollouts(), tables(files["jsonl"])
    table = found["values"].set_index(["estimator", "level", "per"])
    k1 = [
        sum(q - p for q, p in zip(row["logprobs"], row["ref_logprobs"], strict=True))
        for row in rows
    ]
    assert table.loc[("k1", "sequence", "sequence"), "mean"] == pytest.approx(np.mean(k1))
    assert table.loc[("k1", "token", "sequence"), "mean_se"] == pytest.approx(
        np.std(k1, ddof=1) / np.sqrt(300)
    )
    tokens = sum(len(row["logprobs"]) for row in rows)
    assert table.loc[("k1", "token", "token"), "mean"] == pytest.approx(sum(k1) / tokens)
    exact = [sum(row["kl"]) for row in rows]
    assert table.loc[("rao_blackwell", "token", "sequence"), "mean"] == pytest.approx(
        np.mean(exact)
    )
    assert found["pairs"]["off_policy"].tolist() == [True]
    assert (found["tokens"]["n"].iloc[0], found["pairs"]["completions"].iloc[0]) == (300, 300)


@pytest.mark.parametrize("kind", ["jsonl", "parquet", "parquet, one group", "npz"])
def test_rows_come_in_any_order(files, kind) -> None:
    pair = RecordedPair(path=str(files[kind]))
    assert pair.available == 300
    forward = [pair.completions(0, k, 64) for k in range(5)]
    for k in (4, 0, 2, 2, 1, 3):
        found = pickle.loads(pickle.dumps(pair)).completions(1, k, 64)
        for name, array in vars(forward[k]).items():
            np.testing.assert_array_equal(getattr(found, name), array)
    assert [len(each.log_q) for each in forward] == [64, 64, 64, 64, 44]
    assert len(pair.completions(0, 5, 64).log_q) == len(pair.completions(0, 99, 64).log_q) == 0


@pytest.mark.usefixtures("workers_at_once")
@pytest.mark.parametrize("kind", ["jsonl", "parquet, one group"])
def test_workers_change_nothing(files, kind) -> None:
    alone, shared = (tables(files[kind], workers=n) for n in (1, 2))
    for name, table in alone.items():
        pd.testing.assert_frame_equal(shared[name], table, check_exact=True, obj=name)


def drawn(
    mean: float, sd: float, n: int = 400, tokens: int = 12, between: float = 0.0
) -> list[dict]:
    """Rows whose tokens' log p/q is normal with this mean and sd, and a part of it, ``between``, is a whole row's own."""
    stream, rows = np.random.default_rng(11), []
    for _ in range(n):
        size = int(stream.integers(2, tokens + 1))
        log_ratio = stream.normal(mean, sd, size) + between * stream.standard_normal()
        log_q = -10.0 - stream.gamma(1.0, 1.0, size)
        rows.append({"logprobs": log_q.tolist(), "ref_logprobs": (log_q + log_ratio).tolist()})
    return rows


def checked(path: Path, rows: list[dict], **options) -> dict:
    (row,) = tables(as_jsonl(path, rows), **options)["checks"].to_dict("records")
    return row


def test_the_check_of_the_ratio_is_that_of_the_jackknife(tmp_path) -> None:
    """Leave out one rollout at a time: standard errors are clustered by rollout, whose tokens have something in common."""
    rows = drawn(-0.02, 0.2, between=0.3)
    found = checked(tmp_path / "r.jsonl", rows)
    ratios = [np.exp(np.subtract(row["ref_logprobs"], row["logprobs"])) for row in rows]
    sums, sizes = (
        np.array([each.sum() for each in ratios]),
        np.array([each.size for each in ratios]),
    )
    left = (sums.sum() - sums) / (sizes.sum() - sizes)
    n, every = len(rows), np.concatenate(ratios)
    assert found["mean"] == pytest.approx(every.mean(), rel=1e-12)
    assert found["mean_se"] == pytest.approx(
        math.sqrt((n - 1) / n * ((left - left.mean()) ** 2).sum()), rel=0.01
    )
    assert found["mean_se"] > 1.5 * every.std() / math.sqrt(every.size)
    assert found["ess"] == pytest.approx(every.sum() ** 2 / (every**2).sum(), rel=1e-12)
    assert found["z"] == pytest.approx((every.mean() - 1.0) / found["mean_se"])


@pytest.mark.parametrize(
    ("rows", "verdict"),
    [
        (drawn(-0.02, 0.2), "holds"),  # exp(-0.02 + 0.2^2/2) = 1
        (drawn(-0.16, 0.05), "fails"),  # k1 of 12 tokens: 1.9, k3: 0.1
        (drawn(-2.0, 2.0), "cannot tell"),  # exp(-2 + 2^2/2) = 1, of which few tokens carry most
        (drawn(-0.16, 0.05, n=29), "cannot tell"),
        (drawn(0.0, 0.0), "holds"),  # policy and reference are one
    ],
)
def test_a_ratio_whose_mean_must_be_1_holds_fails_or_cannot_be_told(
    tmp_path, rows, verdict
) -> None:
    assert checked(tmp_path / "r.jsonl", rows)["verdict"] == verdict


def test_ratios_to_another_sampler_are_those_to_its_own_log_probabilities(tmp_path) -> None:
    """Samples of mu: w = q/mu has the mean 1 and p/mu has, while p/q has not."""
    rows = [
        {
            "logprobs": row["ref_logprobs"],
            "ref_logprobs": row["ref_logprobs"],
            "old_logprobs": row["logprobs"],
        }
        for row in drawn(-0.02, 0.2)
    ]
    found = tables(as_jsonl(tmp_path / "r.jsonl", rows))["checks"]
    assert found["ratio"].tolist() == ["q/μ", "p/μ"]
    assert found["verdict"].tolist() == ["holds", "holds"]
    moved = [row | {"old_logprobs": (np.array(row["old_logprobs"]) + 0.1).tolist()} for row in rows]
    assert set(tables(as_jsonl(tmp_path / "r.jsonl", moved))["checks"]["verdict"]) == {"fails"}


def test_log_probabilities_above_0_are_taken_and_counted(tmp_path) -> None:
    """As bfloat16 leaves them: k1 of 0.03 - (-0.25), of -0.5 - 0.125 and of -1 + 1.5."""
    rows = [{"logprobs": [0.03, -0.5, -1.0], "ref_logprobs": [-0.25, 0.125, -1.5]}] * 40
    found = tables(as_jsonl(tmp_path / "r.jsonl", rows), samples=30)
    assert found["pairs"]["above_zero"].tolist() == [60]
    k1 = found["values"].query("estimator == 'k1' and level == 'token' and per == 'sequence'")[
        "mean"
    ]
    assert k1.tolist() == pytest.approx([0.28 - 0.625 + 0.5])
    assert tables(as_jsonl(tmp_path / "s.jsonl", [GOOD] * 40))["pairs"]["above_zero"].tolist() == [
        0
    ]


def test_columns_that_are_not_read_are_named(tmp_path) -> None:
    found = tables(as_jsonl(tmp_path / "r.jsonl", [GOOD | {"reward": 1.0, "log_mu": [0.0]}] * 40))
    assert found["pairs"]["unread"].tolist() == ["reward, log_mu"]


def test_samples_cut_the_file_short(files) -> None:
    assert tables(files["parquet"], samples=100)["values"]["samples"].unique().tolist() == [100]
    assert tables(files["parquet"], samples=10_000)["values"]["samples"].unique().tolist() == [300]


def test_what_it_took_to_sample_somebody_elses_rollouts_is_not_known(files) -> None:
    cost = dict(
        get("lm").run(LmOptions(pairs=(RecordedPair(path=str(files["jsonl"])),)), Context(0))
    )["cost"]
    assert cost["completions_needed"].notna().any()
    assert cost["seconds_needed"].isna().all()


def test_rollouts_without_the_exact_divergence_have_rows_without_a_truth(tmp_path) -> None:
    rows = [{name: row[name] for name in ("logprobs", "ref_logprobs")} for row in rollouts()]
    found = tables(as_jsonl(tmp_path / "bare.jsonl", rows))
    table = found["values"]
    assert set(table["truth_method"]) == {"unknown"}
    assert table["truth"].isna().all()
    exact = table["estimator"] == "rao_blackwell"
    assert set(table[exact]["status"]) == {"skipped: the rollouts have no exact divergence (kl)"}
    assert table[~exact]["mean"].notna().all()
    assert not {"sampling", "prompts", "top_tokens"} & set(found)
    assert set(found["tokens"]["share_of"]) == {"k1"}


def test_a_file_that_changes_is_read_again(tmp_path) -> None:
    path = as_jsonl(tmp_path / "r.jsonl", [GOOD] * 3)
    pair = RecordedPair(path=str(path))
    before = pair.fingerprint
    as_jsonl(path, [GOOD] * 5)
    assert pair.available == 5
    assert pair.fingerprint != before


def test_long_files_are_read_a_piece_at_a_time(tmp_path, monkeypatch) -> None:
    path = as_parquet(tmp_path / "long.parquet", [GOOD] * 5_000, group=500)
    recorded.read(str(path), 0, 1)
    groups, opened = [], pq.ParquetFile

    class Watched(opened):
        def iter_batches(self, size, row_groups, columns):
            groups.append(row_groups)
            return super().iter_batches(size, row_groups=row_groups, columns=columns)

    monkeypatch.setattr(pq, "ParquetFile", Watched)
    assert len(recorded.read(str(path), 4_000, 100).log_q) == 100
    assert groups == []  # it goes on
    assert len(recorded.read(str(path), 3_000, 100).log_q) == 100
    assert groups == [[6, 7, 8, 9]]
    assert len(recorded.read(str(path), 3_100, 100).log_q) == 100
    assert len(groups) == 1  # goes on from where it was
