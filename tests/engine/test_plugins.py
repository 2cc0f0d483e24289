"""A package outside klbench adds an estimator, a pair and a study.

The examples of CONTRIBUTING.md, installed.
"""

import os
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from test_contributing import FILES

ROOT = Path(__file__).parents[2]
PROJECT = """
[build-system]
requires = ["hatchling"]
build-backend = "hatchling.build"

[project]
name = "klbench-example"
version = "1.0"

[project.entry-points."klbench.estimators"]
k1_pq = "klbench_example.k1_pq"

[project.entry-points."klbench.pairs"]
logistic = "klbench_example.logistic"

[project.entry-points."klbench.studies"]
sign = "klbench_example.sign"
"""


def place(name: str) -> str:
    """Where a file of the examples lies in the plugin.

    Modules side by side, the study in its folder.
    """
    parts = Path(name).parts
    return str(Path("klbench_example", *parts[2 if "sign" in parts else -1 :]))


@pytest.fixture(scope="module")
def plugin(tmp_path_factory) -> Path:
    pytest.importorskip("hatchling")
    source, installed = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("installed")
    modules = {
        place(name): code.replace("klbench.studies.sign", "klbench_example.sign")
        for name, code in FILES.items()
        if name.startswith("klbench/")
    }
    for name, code in (
        modules | {"pyproject.toml": PROJECT, "klbench_example/__init__.py": ""}
    ).items():
        (source / name).parent.mkdir(exist_ok=True)
        (source / name).write_text(code, encoding="utf-8")
    pip = "pip install --quiet --no-deps --no-build-isolation --disable-pip-version-check --target"
    subprocess.run([sys.executable, "-m", *pip.split(), installed, source], check=True)
    return installed


def run(plugin: Path, folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    paths = os.pathsep.join([str(plugin), str(ROOT)])
    return subprocess.run(
        [sys.executable, "-m", *words],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": paths},
        capture_output=True,
        text=True,
    )


def test_help_lists_the_estimator_and_the_pair(plugin, tmp_path) -> None:
    ended = run(plugin, tmp_path, "klbench", "--help")
    assert ended.returncode == 0, ended.stderr
    assert "k1_pq" in ended.stdout
    assert "logistic" in ended.stdout


def test_they_are_measured_and_drawn(plugin, tmp_path) -> None:
    words = "pair=logistic samples=4000 estimators=[k1,k1_pq] workers=2 out=run".split()
    ended = run(plugin, tmp_path, "klbench", "+exp=value", *words)
    assert ended.returncode == 0, ended.stderr
    values = pd.read_parquet(tmp_path / "run" / "tables" / "values.parquet")
    assert set(values["estimator"]) == {"k1", "k1_pq"}
    assert (values["bias"].abs() <= 5 * values["bias_se"]).all()
    assert "k1_pq" in (tmp_path / "run" / "index.html").read_text(encoding="utf-8")


def test_the_study_runs(plugin, tmp_path) -> None:
    (tmp_path / "exp").mkdir()
    (tmp_path / "exp" / "sign.yaml").write_text(FILES["conf/exp/sign.yaml"], encoding="utf-8")
    words = ["--config-dir", str(tmp_path), "+exp=sign", "samples=1000", "out=run"]
    ended = run(plugin, tmp_path, "klbench", *words)
    assert ended.returncode == 0, ended.stderr
    assert len(pd.read_parquet(tmp_path / "run" / "tables" / "sign.parquet"))
    assert (tmp_path / "run" / "index.html").stat().st_size > 1000


def test_the_contracts_cover_them(plugin) -> None:
    ended = run(
        plugin,
        ROOT,
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        "tests/contract",
        "-k",
        "k1_pq or logistic",
    )
    assert ended.returncode == 0, ended.stdout
    assert " passed" in ended.stdout


def test_a_plugin_that_fails_to_import_is_one_line(plugin, tmp_path) -> None:
    broken = tmp_path / "broken"
    (broken / "broken-1.0.dist-info").mkdir(parents=True)
    (broken / "broken-1.0.dist-info" / "METADATA").write_text("Name: broken\nVersion: 1.0\n")
    (broken / "broken-1.0.dist-info" / "entry_points.txt").write_text(
        "[klbench.estimators]\nbroken = broken_plugin\n"
    )
    (broken / "broken_plugin.py").write_text("raise RuntimeError('no luck')\n")
    ended = run(broken, tmp_path, "klbench", "+exp=value", "pair=gaussian")
    assert ended.returncode == 2
    assert "broken_plugin cannot be imported: RuntimeError: no luck" in ended.stderr
    assert "Traceback" not in ended.stderr
