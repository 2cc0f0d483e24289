"""The script that checks and times on a GPU, in Triton's interpreter."""

import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "kernels_on_gpu.py"


def test_it_runs_without_a_gpu(tmp_path):
    pytest.importorskip("triton")
    command = [sys.executable, SCRIPT, "--device", "cpu", "--small", "--out", tmp_path / "out"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    table = pd.read_parquet(tmp_path / "out" / "kernels.parquet")
    assert list(table.columns) == list(pd.read_csv(tmp_path / "out" / "kernels.csv").columns)
    assert {"accuracy", "copy", "forward", "backward", "torch"} <= set(table["what"])
    assert (table["status"] == "ok").all()
    assert table[table["what"] == "accuracy"]["error"].max() < 2e-6
    assert {"machine", "python", "torch", "triton", "command"} <= set(table.columns)
    assert "share_of_copy" in done.stdout
