"""The command for a GPU, on this machine's processor and small: its parts, tables and refusals."""

import contextlib
import importlib
import io
import json
from pathlib import Path

import gpu
import pandas as pd
import plain_trl
import pytest


def test_a_part_that_fails_or_takes_too_long_is_said(tmp_path, monkeypatch) -> None:
    (tmp_path / "fails.py").write_text("raise ValueError('no such thing')")
    (tmp_path / "slow.py").write_text("print('{}', flush=True)\nimport time\ntime.sleep(60)")
    (tmp_path / "above.py").write_text("import sys\nprint('{\"ratio\": 2}')\nsys.exit(1)")
    monkeypatch.setattr(gpu, "HERE", tmp_path)
    assert gpu.performed(["fails.py"], 60)["status"] == "failed: ValueError: no such thing"
    late = gpu.performed(["slow.py"], 3)
    assert late["status"] == "took more than 3 s"
    assert gpu.rows_in(late["said"]) == [{}]
    above = gpu.performed(["above.py"], 60)
    assert (above["status"], gpu.rows_in(above["said"])) == ("above its limit", [{"ratio": 2}])


def test_all_parts_fit_into_six_minutes() -> None:
    assert sum(gpu.SECONDS.values()) < 6 * 60


@pytest.mark.timeout(900)  # on cores that others use too
@pytest.mark.filterwarnings("ignore")  # TRL's own
def test_lm_and_training_run_small(tmp_path, monkeypatch) -> None:
    pytest.importorskip("trl")

    def said(script: str, words: list[str]) -> str:
        """What a script prints, here and not in a process that has all to import."""
        with contextlib.redirect_stdout(io.StringIO()) as out:
            importlib.import_module(Path(script).stem).main(words)
        return out.getvalue()

    def performed(words, limit):
        return {"status": "done", "seconds": limit, "said": said(words[0], words[1:])}

    def process(words):
        return 0.0, 0.0, 1.0, said(words[0], words[1:]).splitlines()[-1]

    monkeypatch.setattr(gpu, "performed", performed)
    monkeypatch.setattr(plain_trl, "process", process)
    monkeypatch.setenv("KLBENCH_EMBEDDED", "tiny")
    monkeypatch.setenv("KLBENCH_CACHE", str(tmp_path / "cache"))
    small = ["--device", "cpu", "--small", "--models", "embedded", "--out", str(tmp_path)]
    assert gpu.main([*small, "--parts", "lm", "training"]) == 0
    assert set(json.loads((tmp_path / "gpu.json").read_text())["parts"]) == {"lm", "training"}
    for name in ("lm", "training"):
        table = pd.read_parquet(tmp_path / f"{name}.parquet")
        assert list(table.columns) == list(pd.read_csv(tmp_path / f"{name}.csv").columns)
        assert (table["ratio"] > 0).all()
    assert set(pd.read_parquet(tmp_path / "training.parquet")["kind"]) == {"ppo", "dpo"}
