"""``-m``: one run for each combination of values, and one report over all of them."""

import dataclasses
import gc
import importlib.util
import json
import os
import shlex
import sys
from pathlib import Path

import pandas as pd
import pytest
import yaml

from klbench import studies
from klbench.studies.value import run as value_run

SHORT = ("samples=1000", "estimators=[k1,k3]", "batches=[1]", "workers=1")
SWEEP = ("-m", "+exp=value", "pair=gaussian", "pair.p.mean=0.1,0.5", *SHORT)


def status(folder: Path) -> str:
    return json.loads((folder / "run.json").read_text())["status"]


def table(folder: Path) -> pd.DataFrame:
    return pd.read_parquet(folder / "tables" / "values.parquet")


def test_each_value_is_a_run_of_its_own_and_one_report_is_over_all(call, tmp_path) -> None:
    called = call(*SWEEP, folder=tmp_path, pages=True)
    assert (called.code, called.err) == (0, ""), called
    (root,) = (tmp_path / "reports").iterdir()
    assert root.name.startswith("value-sweep-")
    assert list(tmp_path.iterdir()) == [tmp_path / "reports"]
    assert tmp_path / called.last_line == root / "index.html"
    assert "<html" in (root / "index.html").read_text(encoding="utf-8")
    assert sorted(each.name for each in root.iterdir() if each.is_dir()) == ["0", "1"]
    for number, mean in (("0", 0.1), ("1", 0.5)):
        assert status(root / number) == "done"
        assert {each.name for each in (root / number).iterdir()} == {
            "config.yaml",
            "run.json",
            "tables",
            "figures",
            "index.html",
            "log.txt",
        }
        assert (
            yaml.safe_load((root / number / "config.yaml").read_text())["pair"]["p"]["mean"] == mean
        )
        # The same bits as by itself.
        out = f"out=alone{number}"
        assert (
            call(
                "exp=value", "pair=gaussian", f"pair.p.mean={mean}", *SHORT, out, folder=tmp_path
            ).code
            == 0
        )
        pd.testing.assert_frame_equal(
            table(root / number), table(tmp_path / f"alone{number}"), check_exact=True
        )


def test_the_command_in_run_json_makes_the_job_again(call, tmp_path) -> None:
    assert call(*SWEEP, "out=sweep", folder=tmp_path).code == 0
    command = json.loads((tmp_path / "sweep" / "1" / "run.json").read_text())["command"]
    python, minus_m, name, *arguments = shlex.split(command)
    assert (python, minus_m, name) == ("python", "-m", "klbench")
    assert call(*arguments, "out=again", folder=tmp_path).code == 0
    pd.testing.assert_frame_equal(
        table(tmp_path / "again"), table(tmp_path / "sweep" / "1"), check_exact=True
    )


@pytest.mark.parametrize("out", ["'with space, and comma'", '"it\'s"', "${oc.env:KLBENCH_TEST}/er"])
def test_out_is_the_root_of_the_sweep(call, tmp_path, monkeypatch, out: str) -> None:
    monkeypatch.setenv("KLBENCH_TEST", "deep")
    called = call(*SWEEP[:-1], "workers=1", f"out={out}", "estimators=[k1]", folder=tmp_path)
    assert (called.code, called.err) == (0, ""), called
    root = (tmp_path / called.last_line).parent
    assert sorted(each.name for each in root.iterdir()) == ["0", "1", "index.html", "multirun.yaml"]
    assert (status(root / "0"), status(root / "1")) == ("done", "done")
    assert len(list(tmp_path.iterdir())) == 1


def test_over_two_experiments(call, tmp_path) -> None:
    few = ("samples=200", "batches=[1]", "estimators=[k1]", "workers=1")
    called = call("-m", "exp=schulman,categorical", *few, "out=sweep", folder=tmp_path)
    assert (called.code, called.err) == (0, ""), called
    assert called.last_line == "sweep/index.html"
    infos = [json.loads((tmp_path / "sweep" / number / "run.json").read_text()) for number in "01"]
    assert [each["experiment"] for each in infos] == ["schulman", "categorical"]
    assert len(table(tmp_path / "sweep" / "0")) == 2
    assert len(table(tmp_path / "sweep" / "1")) == 12


def test_over_pairs_and_ranges(call, tmp_path) -> None:
    called = call(
        "--multirun",
        "exp=value",
        "pair=gaussian,laplace",
        "estimators=[k1]",
        "seed=range(0,2)",
        "samples=100",
        "batches=[1]",
        "workers=1",
        "out=sweep",
        folder=tmp_path,
    )
    assert (called.code, called.err) == (0, ""), called
    assert len(list((tmp_path / "sweep").glob("*/run.json"))) == 4
    seen = set()
    for number in range(4):
        config = yaml.safe_load((tmp_path / "sweep" / str(number) / "config.yaml").read_text())
        seen.add((config["pair"]["kind"], config["seed"]))
    assert seen == {(kind, seed) for kind in ("gaussian", "laplace") for seed in (0, 1)}


def experiment(folder: Path, text: str) -> str:
    """An experiment of the user's own, ``mine``, and where it is to be found."""
    (folder / "mine" / "exp").mkdir(parents=True)
    pair = "pairs: [{kind: categorical, q: {probs: [0.5, 0.5]}, p: {probs: [0.6, 0.4]}}]"
    (folder / "mine" / "exp" / "mine.yaml").write_text(
        f"# @package _global_\nstudy: value\nsamples: 100\n{pair}\n{text}\n"
    )
    return f"hydra.searchpath=[file://{folder / 'mine'}]"


def test_no_two_jobs_share_a_folder_whatever_an_experiment_says(call, tmp_path) -> None:
    where = experiment(tmp_path, "hydra: {sweep: {dir: elsewhere, subdir: x}}")
    called = call(
        "-m",
        "exp=mine",
        where,
        "seed=range(2)",
        "batches=[1]",
        "estimators=[k1]",
        "workers=1",
        "out=s",
        folder=tmp_path,
    )
    assert (called.code, called.err) == (0, ""), called
    assert [json.loads((tmp_path / "s" / k / "run.json").read_text())["seed"] for k in "01"] == [
        0,
        1,
    ]
    assert sorted(each.name for each in tmp_path.iterdir()) == ["mine", "s"]


def test_a_sweep_that_cannot_start_leaves_nothing(call, tmp_path) -> None:
    where = experiment(tmp_path, "hydra: {launcher: {_target_: os.getcwd}}")
    called = call("-m", "exp=mine", where, "seed=1,2", "workers=1", "out=a/b", folder=tmp_path)
    assert (called.code, called.out) == (1, "")
    assert called.err.startswith("klbench: the sweep failed: ")
    assert called.err.count("\n") == 1
    assert [each.name for each in tmp_path.iterdir()] == ["mine"]


def test_one_job_that_fails_leaves_the_others_and_is_named(call, tmp_path, monkeypatch) -> None:
    def draw(self: object, stream: object, n: int) -> None:
        raise ArithmeticError("the dog ate\nthe draws")

    monkeypatch.setattr("klbench.pairs.laplace.LaplacePair.draw", draw)
    sweep = ("-m", "exp=value", "pair=gaussian,laplace", *SHORT)
    called = call(*sweep, "out=sweep", folder=tmp_path)
    assert called.code == 1
    assert (status(tmp_path / "sweep" / "0"), status(tmp_path / "sweep" / "1")) == (
        "done",
        "failed",
    )
    assert called.last_line == "sweep/index.html"
    assert "sweep/1/log.txt" in called.err
    assert "1 of 2 jobs failed" in called.err
    assert "Traceback" not in called.err

    called = call(
        "-m", "exp=value", "pair=laplace", "seed=1,2", *SHORT, "out=none", folder=tmp_path
    )
    assert (called.code, called.out) == (1, "")
    assert "all 2 jobs failed" in called.err
    assert "Traceback" not in called.err


def test_ctrl_c_stops_the_sweep_and_its_jobs_can_be_continued(call, tmp_path, monkeypatch) -> None:
    def measure_shard(*arguments: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(value_run, "measure_shard", measure_shard)
        called = call(*SWEEP, "out=sweep", folder=tmp_path)
    assert called.code == 130
    assert (
        called.err
        == "klbench: interrupted; continue a job with: python -m klbench resume=sweep/NUMBER\n"
    )
    assert status(tmp_path / "sweep" / "0") == "interrupted"
    assert not (tmp_path / "sweep" / "1" / "run.json").exists()
    assert call("resume=sweep/0", "workers=1", folder=tmp_path).code == 0


def test_a_sweep_leaves_the_process_as_it_was(call, tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("HYDRA_FULL_ERROR", "0")
    before = list(sys.argv), Path.cwd(), dict(os.environ)
    assert call(*SWEEP, "out=sweep", folder=tmp_path).code == 0
    assert (list(sys.argv), Path.cwd(), dict(os.environ)) == before
    assert gc.get_freeze_count() == 0  # what one run leaves behind is collected


@pytest.mark.parametrize(
    ("launcher", "module"),
    [
        ("submitit_local", "hydra_submitit_launcher"),
        ("joblib", "hydra_joblib_launcher"),
    ],
)
def test_on_other_launchers(start, tmp_path, launcher: str, module: str) -> None:
    """Each job in a process of its own, as on a cluster."""
    if importlib.util.find_spec(f"hydra_plugins.{module}") is None:
        pytest.skip(f"{module} is not installed")
    process = start(
        *SWEEP, "estimators=[k1]", f"hydra/launcher={launcher}", "out=sweep", folder=tmp_path
    )
    out, err = process.communicate(timeout=240)
    assert process.returncode == 0, err
    assert out.splitlines()[-1] == "sweep/index.html"
    assert (status(tmp_path / "sweep" / "0"), status(tmp_path / "sweep" / "1")) == ("done", "done")
    assert (
        tmp_path / "sweep" / "0" / "index.html"
    ).stat().st_size > 1000  # the jobs' own process draws it
    assert "Traceback" not in err
    assert list(tmp_path.iterdir()) == [tmp_path / "sweep"]


def seen(options, context) -> dict[str, pd.DataFrame]:
    """A study that writes down its settings."""
    return {"seen": pd.DataFrame([options.plain()])}


def test_over_presets_and_algorithms(call, tmp_path, monkeypatch) -> None:
    seen = dataclasses.replace(
        studies.get("ppo"), run_at=f"{__name__}:seen", tables_at="", section_at="", summarize_at=""
    )
    monkeypatch.setattr(studies, "get", lambda name: seen)
    called = call(
        "-m",
        "exp=ppo",
        "preset=default,thorough",
        "algorithm=grpo,reinforce",
        "workers=1",
        "out=s",
        folder=tmp_path,
    )
    assert (called.code, called.err) == (0, ""), called
    found = [
        yaml.safe_load((tmp_path / "s" / number / "config.yaml").read_text()) for number in "0123"
    ]
    assert [(each["preset"], each["algorithm"], each["seeds"], each["clip"]) for each in found] == [
        ("default", "grpo", 8, 0.2),
        ("default", "reinforce", 8, None),
        ("thorough", "grpo", 16, 0.2),
        ("thorough", "reinforce", 16, None),
    ]
