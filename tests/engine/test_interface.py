"""What a run prints, gives back and leaves behind."""

import csv
import datetime as dt
import io
import json
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import yaml
from hydra.core.config_store import ConfigStore

import klbench
from klbench import estimators, pairs, studies
from klbench.engine import app, progress
from klbench.engine.cli import command_line
from klbench.engine.conf import experiments
from klbench.pairs.laplace import Laplace, LaplacePair
from klbench.runs import RunFolder
from klbench.types import ConfigError

ONE = ("pair=gaussian", "samples=1_000", "workers=1")

COLUMNS = """pair, estimator, target, batch, samples, truth, truth_error, truth_method, mean,
mean_se, bias, bias_se, variance, std, rmse, rel_bias, rel_std, exact_bias, exact_std,
frac_negative, n_nonfinite, khat, status"""


@pytest.fixture(scope="module")
def finished(call, tmp_path_factory):
    """A run with its report, and the folder it was started from."""
    folder = tmp_path_factory.mktemp("finished")
    called = call("+exp=value", *ONE, folder=folder, pages=True)
    return folder, called


@pytest.fixture(scope="module")
def path(finished) -> Path:
    folder, _ = finished
    (found,) = (folder / "reports").iterdir()
    return found


def test_it_ends_well_and_says_nothing_on_stderr(finished) -> None:
    _, called = finished
    assert (called.code, called.err) == (0, "")


def test_the_last_line_is_the_path_of_the_report(finished, path) -> None:
    folder, called = finished
    assert folder / called.last_line == path / "index.html"
    page = (path / "index.html").read_text(encoding="utf-8")
    assert "<html" in page
    assert "k_lambda" in page


def test_the_summary_has_a_line_for_each_estimator(finished, path) -> None:
    _, called = finished
    table = pd.read_parquet(path / "tables" / "values.parquet")
    for name in table["estimator"].unique():
        assert re.search(rf"\b{name}\b", called.out), name
    row = table[(table["estimator"] == "k3") & (table["batch"] == 4)].iloc[
        0
    ]  # k_fitted has none at 1
    (line,) = (line for line in called.out.splitlines() if line.split()[:1] == ["k3"])
    assert f"{row['truth']:.4g}" in line
    assert f"{row['std']:.4g}" in line


def test_the_run_folder_holds_what_it_should(path) -> None:
    names = {each.name for each in path.iterdir()}
    assert names == {"config.yaml", "run.json", "tables", "figures", "index.html", "log.txt"}
    assert {each.suffix for each in (path / "figures").iterdir()} == {".svg"}
    tables = {each.name for each in (path / "tables").iterdir()}
    stems = {schema.table for schema in studies.get("value").tables}
    assert {"values", "differences", "errors", "pairs", "estimators"} < stems
    assert tables == {f"{stem}.{kind}" for stem in stems for kind in ("parquet", "csv")}


def test_nothing_is_written_outside_the_run_folder(finished, path) -> None:
    folder, _ = finished
    assert list(folder.iterdir()) == [folder / "reports"]
    assert re.fullmatch(r"value-\d{8}-\d{6}", path.name)


def test_run_json_says_how_the_run_came_about(path) -> None:
    info = json.loads((path / "run.json").read_text())
    assert info["status"] == "done"
    assert (info["experiment"], info["study"], info["seed"], info["workers"], info["device"]) == (
        "value",
        "value",
        0,
        1,
        "cpu",
    )
    assert info["command"] == "python -m klbench +exp=value pair=gaussian samples=1_000 workers=1"
    assert info["versions"]["numpy"] == np.__version__
    assert {"python", "numpy", "scipy", "torch", "pandas", "hydra-core"} <= set(info["versions"])
    assert {"system", "cpu", "cores", "memory_gib"} <= set(info["machine"])
    assert set(info["seconds"]) == {"study", "report"}
    assert min(info["seconds"].values()) > 0
    started, ended = (dt.datetime.fromisoformat(info[key]) for key in ("started", "finished"))
    assert dt.timedelta() <= ended - started < dt.timedelta(minutes=5)
    assert "git" in info
    git = Path(klbench.__file__).parents[1] / ".git"
    if git.exists() and info["git"] is not None:
        assert re.fullmatch("[0-9a-f]{40}", info["git"]["revision"])
        assert isinstance(info["git"]["dirty"], bool)


def test_the_log_has_the_time_and_the_end(path) -> None:
    lines = (path / "log.txt").read_text().splitlines()
    assert lines[0].endswith("started: +exp=value pair=gaussian samples=1_000 workers=1")
    assert " done: " in lines[-1]
    for line in lines:
        dt.datetime.fromisoformat(line.split()[0])


@pytest.fixture
def clock(monkeypatch) -> SimpleNamespace:
    """The time that progress is measured by; ``clock.seconds`` sets it."""
    clock = SimpleNamespace(seconds=0.0)
    monkeypatch.setattr(progress, "time", SimpleNamespace(monotonic=lambda: clock.seconds))
    return clock


def test_without_a_terminal_progress_is_a_line_every_half_minute_at_most(clock, capsys) -> None:
    log = []
    with progress.progress_bar(log.append) as show:
        for done in range(1, 101):  # a task takes seven seconds
            clock.seconds = 7.0 * done
            show(done, 100, f"task {done}")
    # At 35, 70, ... seconds: the fifth, tenth, ... task, each with seven seconds for each that is
    # left.
    assert len(log) == 20
    assert log[0] == "5 of 100 done, about 0:11:05 left: task 5"
    assert log[1] == "10 of 100 done, about 0:10:30 left: task 10"
    assert log[-1] == "100 of 100 done, about 0:00:00 left: task 100"
    assert capsys.readouterr() == ("", "".join(f"klbench: {line}\n" for line in log))


@pytest.mark.parametrize("kept", [0, 1, 60])
def test_what_was_kept_does_not_shorten_the_time_that_is_left(clock, capsys, kept: int) -> None:
    log = []
    with progress.progress_bar(log.append) as show:
        for done in range(1, kept + 1):
            clock.seconds = 0.01 * done
            show(done, 100, "kept")
        clock.seconds = 100.0
        show(kept + 1, 100, "new")
        clock.seconds = 129.9
        show(kept + 2, 100, "too soon")
        clock.seconds = 7300.0
        show(kept + 3, 100, "newer")
    assert log == [
        f"{kept + 1} of 100 done, about {dt.timedelta(seconds=100 * (99 - kept))} left: new",
        (
            f"{kept + 3} of 100 done, about {dt.timedelta(seconds=round(7300 / 3 * (97 - kept)))}"
            " left: newer"
        ),
    ]


def test_progress_is_in_the_log_of_a_run(call, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(progress, "LINE_SECONDS", 0.0)
    monkeypatch.setattr(progress, "KEPT_SECONDS", -1.0)
    called = call("exp=value", *ONE, "out=run", folder=tmp_path)
    assert called.code == 0
    said = [
        line.partition(" ")[2]
        for line in (tmp_path / "run" / "log.txt").read_text().splitlines()[1:-1]
    ]
    assert [line.partition(", about")[0] for line in said] == [
        f"{done} of 22 done" for done in range(1, 23)
    ]
    assert called.err == "".join(f"klbench: {line}\n" for line in said)


def test_the_configuration_is_kept_and_says_all(call, path, tmp_path) -> None:
    config = yaml.safe_load((path / "config.yaml").read_text())
    assert config["samples"] == 1000
    assert config["pair"]["kind"] == "gaussian"
    assert (config["pair"]["q"]["mean"], config["pair"]["p"]["mean"]) == (0.0, 1.0)
    assert config["batches"] == [1, 4, 16, 64, 256, 1024, 4096]  # not typed
    assert config["estimators"] == estimators.names()
    assert "out" not in config
    # It is enough to make the same tables again.
    (tmp_path / "again").mkdir()
    for name in ("config.yaml", "run.json"):
        text = (path / name).read_text().replace('"done"', '"interrupted"')
        (tmp_path / "again" / name).write_text(text)
    assert call("resume=again", folder=tmp_path).code == 0
    for table in (path / "tables").iterdir():
        assert (tmp_path / "again" / "tables" / table.name).read_bytes() == table.read_bytes()


def test_a_run_goes_on_with_the_options_that_it_began_with(call, path, tmp_path) -> None:
    """Those of its ``config.yaml``; what an older one does not hold is what it is by default."""
    typed = {
        "study": "value",
        "samples": 1000,
        "workers": 1,
        "pair": {"kind": "gaussian", "q": {"mean": 0}, "p": {"mean": 1}},
    }
    for name, config in (
        ("older", typed),
        ("other", typed | {"batches": [1, 8], "estimators": ["k3"]}),
    ):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.yaml").write_text(yaml.safe_dump(config))
        info = json.loads((path / "run.json").read_text()) | {"status": "interrupted"}
        (tmp_path / name / "run.json").write_text(json.dumps(info))
        assert call(f"resume={name}", folder=tmp_path).code == 0
        assert yaml.safe_load((tmp_path / name / "config.yaml").read_text()) == config
    exact = (path / "tables" / "values.parquet").read_bytes()
    assert (tmp_path / "older" / "tables" / "values.parquet").read_bytes() == exact
    table = pd.read_parquet(tmp_path / "other" / "tables" / "values.parquet")
    assert (set(table["estimator"]), set(table["batch"])) == ({"k3"}, {1, 8})


def test_runs_of_earlier_versions_go_on(call, tmp_path) -> None:
    """They wrote only what was typed.

    Or all, names of preset and algorithm among it, in which case files change nothing.
    """
    tiny = {
        "vocabulary": 2,
        "horizon": 2,
        "prompts": 2,
        "width": 4,
        "seeds": 2,
        "updates": 2,
        "group": 2,
        "model": "table",
        "combinations": ["k1_reward", "k3_loss"],
        "frontier": [],
        "recovery": [],
        "noise_free_seeds": 0,
    }
    typed = {
        "study": "ppo",
        "seed": 0,
        "workers": 1,
        "preset": "thorough",
        "algorithm": "grpo",
    } | tiny
    info = json.dumps(
        {"experiment": "ppo", "study": "ppo", "status": "interrupted", "seed": 0, "workers": 1}
    )
    whole = (
        app.check(app.normalized(["exp=ppo", "preset=thorough", "algorithm=grpo"])).config
        | typed
        | {"clip": 0.3}
    )
    for name, config, clip in (("typed", typed, 0.2), ("whole", whole, 0.3)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "run.json").write_text(info)
        (tmp_path / name / "config.yaml").write_text(yaml.safe_dump(config))
        experiment, found, _ = app._resumed([f"++resume={tmp_path / name}"], {"resume"})
        options = app.checked(found, experiment).options
        assert (options.clip, options.baseline, options.betas[0], options.seeds) == (
            clip,
            "batch_mean",
            0.025,
            2,
        )
        assert call(f"resume={tmp_path / name}", folder=tmp_path).code == 0
        assert set(
            pd.read_parquet(tmp_path / name / "tables" / "training.parquet")["algorithm"]
        ) == {"grpo"}


def test_the_values_table_has_its_columns(path) -> None:
    table = pd.read_parquet(path / "tables" / "values.parquet")
    assert {name.strip() for name in COLUMNS.split(",")} <= set(table.columns)
    assert len(table) == len(estimators.names()) * 7
    assert not table.duplicated(["pair", "estimator", "batch"]).any()
    assert (table["samples"] == 1000).all()
    at_one = table[(table["estimator"] == "k1") & (table["batch"] == 1)].iloc[0]
    assert at_one["truth"] == 0.5
    assert at_one["exact_std"] == 1.0
    assert at_one["std"] == pytest.approx(1.0, abs=5 * at_one["std_se"])


@pytest.mark.parametrize("name", ["values", "differences", "errors", "pairs", "estimators"])
def test_parquet_and_csv_are_equal(path, name: str) -> None:
    exact = pd.read_parquet(path / "tables" / f"{name}.parquet")
    with (path / "tables" / f"{name}.csv").open(encoding="utf-8", newline="") as file:
        header, *rows = csv.reader(file)
    assert header == list(exact.columns)
    assert len(rows) == len(exact) > 0
    for k, column in enumerate(exact.columns):
        written = [row[k] for row in rows]
        if pd.api.types.is_float_dtype(exact[column]):
            np.testing.assert_array_equal([float(text or "nan") for text in written], exact[column])
        else:
            texts = ["" if pd.isna(value) else str(value) for value in exact[column]]
            assert written == [
                (
                    f"'{text}"
                    if text[:1] in {"=", "+", "-", "@"} and exact[column].dtype.kind not in "iu"
                    else text
                )
                for text in texts
            ]


@pytest.mark.parametrize("dtype", ["object", "string"])
def test_no_text_of_a_csv_is_a_formula(tmp_path, dtype: str) -> None:
    texts = ["=1+1", "+a", "-a", "@a", "\t=1", "a\r=1", "a=1", " -a", "", None, "'=1", "−1"]
    numbers = [-float(k) for k in range(len(texts))]
    table = pd.DataFrame(
        {
            "label": pd.Series(texts, dtype=dtype),
            "x": numbers,
            "n": range(-12, 0),
            "yes": [True] * 12,
        }
    )
    folder = RunFolder(tmp_path)
    folder.write_tables({"mine": table})
    assert [None if pd.isna(text) else text for text in folder.tables["mine"]["label"]] == texts
    with (tmp_path / "tables" / "mine.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["label"] for row in rows] == [
        "'=1+1",
        "'+a",
        "'-a",
        "'@a",
        "'\t=1",
        "a\n=1",
        "a=1",
        " -a",
        "",
        "",
        "'=1",
        "−1",
    ]
    assert [float(row["x"]) for row in rows] == numbers
    assert [int(row["n"]) for row in rows] == list(range(-12, 0))


def test_a_label_that_is_a_formula(call, tmp_path) -> None:
    called = call(
        "exp=value",
        *ONE,
        "pair.label='=HYPERLINK(1)'",
        "estimators=[k1]",
        "out=run",
        folder=tmp_path,
    )
    assert called.code == 0
    assert set(pd.read_parquet(tmp_path / "run" / "tables" / "values.parquet")["pair"]) == {
        "=HYPERLINK(1)"
    }
    assert set(pd.read_csv(tmp_path / "run" / "tables" / "values.csv")["pair"]) == {
        "'=HYPERLINK(1)"
    }


def test_python_gives_the_path_and_the_tables(call, path, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(
        "klbench.report.render",
        lambda folder, outcome, **_: (folder / "index.html").write_text("blank"),
    )
    run = klbench.run("value", *ONE)
    assert run.status == "done"
    assert run.path.resolve().parent == tmp_path / "reports"
    assert set(run.tables) > {"values", "differences", "errors", "pairs", "estimators"}
    for name, table in run.tables.items():
        pd.testing.assert_frame_equal(
            table, pd.read_parquet(path / "tables" / f"{name}.parquet"), check_exact=True
        )


def test_a_key_that_only_the_pair_knows_needs_no_prefix() -> None:
    def checked(*arguments: str):
        return app.check(app.normalized(["+exp=lm", *arguments]))

    bare = checked(
        "pair=lm",
        "policy=embedded:finetuned-far",
        "reference=embedded:finetuned-near",
        "kernel=cpu",
        "samples=9",
    )
    long = (
        "pair.policy=embedded:finetuned-far",
        "pair.reference=embedded:finetuned-near",
        "pair.kernel=cpu",
        "samples=9",
    )
    assert bare.options == checked("pair=lm", *long).options
    assert (
        bare.config == checked("pair=lm", *long).config
    )  # what the run folder says, and resume= reads
    assert checked("pair=sequence", "kl=2").options.pairs[0].kl == 2.0


@pytest.mark.parametrize(
    "arguments",
    [
        ["exp=value", "pair=gaussian"],
        ["+exp=value", "+pair=gaussian"],
        ["pair=gaussian", "exp=value"],
        ["+exp=value", "pair=gaussian", "+pair.p.mean=1"],
        ["+exp=value", "pair=gaussian", "++pair.p.mean=1.0"],
    ],
)
def test_ways_to_say_the_same(call, path, tmp_path, arguments: list[str]) -> None:
    assert (
        call(
            *arguments, "samples=1e3", "workers=1", "estimators=[k1,k3]", "out=run", folder=tmp_path
        ).code
        == 0
    )
    found = pd.read_parquet(tmp_path / "run" / "tables" / "values.parquet")
    expected = pd.read_parquet(path / "tables" / "values.parquet")
    expected = expected[expected["estimator"].isin(["k1", "k3"])].reset_index(drop=True)
    # Where there are rows without counts, the counts of the others are floats.
    pd.testing.assert_frame_equal(found, expected, check_exact=True, check_dtype=False)


def test_a_named_set_and_one_name_pick_the_estimators(call, tmp_path) -> None:
    for number, (value, names) in enumerate(
        {"schulman": ["k1", "k2", "k3"], "k3": ["k3"], "kl": ["k1"]}.items()
    ):
        out = tmp_path / str(number)
        assert (
            call(
                "exp=value",
                *ONE,
                "batches=[1]",
                f"estimators={value}",
                f"out={out}",
                folder=tmp_path,
            ).code
            == 0
        )
        assert list(pd.read_parquet(out / "tables" / "values.parquet")["estimator"]) == names


def test_out_may_be_deep_empty_or_odd(call, tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("KLBENCH_TEST", "by-variable")
    (tmp_path / "empty").mkdir()
    for out in (
        "out=a/b/c",
        "out=empty",
        "out='with space, and comma'",
        "out='ünïcode'",
        "out=${oc.env:KLBENCH_TEST}/d",
    ):
        called = call("exp=value", *ONE, "batches=[1]", "estimators=[k1]", out, folder=tmp_path)
        assert called.code == 0, called
        assert (tmp_path / called.last_line).is_file()


def test_two_runs_in_one_second_have_two_folders(call, tmp_path) -> None:
    short = ("exp=value", *ONE, "batches=[1]", "estimators=[k1]")
    lines = {call(*short, folder=tmp_path).last_line for _ in range(3)}
    assert len(lines) == 3
    assert all((tmp_path / line).is_file() for line in lines)


@pytest.mark.parametrize("samples", [2, 3, 17, 33, 1009])
def test_few_samples_are_enough_for_a_report(call, tmp_path, samples: int) -> None:
    """However little there is to say, it is said in rows and not in a crash."""
    called = call(
        "exp=value",
        "pair=gaussian",
        f"samples={samples}",
        "workers=1",
        "out=run",
        folder=tmp_path,
        pages=samples == 2,
    )
    assert called.code == 0, called
    table = pd.read_parquet(tmp_path / "run" / "tables" / "values.parquet")
    k1 = table[table["estimator"] == "k1"]
    assert not k1["status"].str.startswith("skipped").any()
    assert k1["batches"].iloc[0] == samples
    assert (k1["batches"] <= samples // k1["batch"]).all()
    assert k1[["mean", "std", "rmse"]].notna().all(axis=None)
    for name in table.loc[table["mean"].isna(), "status"]:
        assert name.startswith("skipped: needs ")


def test_help_names_everything_there_is(call, tmp_path) -> None:
    for arguments in ([], ["--help"], ["+exp=value", "-h"]):
        called = call(*arguments, folder=tmp_path)
        assert (called.code, called.err) == (0, "")
        first_words = {line.split()[0] for line in called.out.splitlines() if line.startswith("  ")}
        assert {*experiments(), *pairs.names(), *estimators.names()} <= first_words
        assert {"seed", "samples", "estimators", "workers", "device", "out"} <= first_words
    assert list(tmp_path.iterdir()) == []


def test_version(call, tmp_path) -> None:
    assert call("--version", folder=tmp_path).out == f"{klbench.__version__}\n"


def test_help_loads_nothing_heavy(tmp_path) -> None:
    ended = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "klbench", "--help"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert ended.returncode == 0
    assert "gaussian" in ended.stdout
    loaded = {
        line.rpartition("|")[2].strip().partition(".")[0] for line in ended.stderr.splitlines()
    }
    assert "klbench" in loaded
    assert not loaded & {
        "torch",
        "pandas",
        "hydra",
        "omegaconf",
        "matplotlib",
        "scipy",
        "joblib",
        "pyarrow",
    }


def test_an_experiment_from_a_folder_of_the_users_own(call, tmp_path) -> None:
    (tmp_path / "mine" / "exp").mkdir(parents=True)
    (tmp_path / "mine" / "exp" / "coin.yaml").write_text(
        "# @package _global_\n"
        "study: value\nsamples: 100\nbatches: [1]\nestimators: [k1]\n"
        "pairs: [{kind: categorical, q: {probs: [0.5, 0.5]}, p: {probs: [0.6, 0.4]}}]\n"
    )
    where = f"hydra.searchpath=[file://{tmp_path / 'mine'}]"
    assert call("exp=coin", where, "workers=1", "out=one", folder=tmp_path).code == 0
    assert (
        call("-m", "exp=coin", where, "workers=1", "seed=1,2", "out=two", folder=tmp_path).code == 0
    )
    for run in ("one", "two/0", "two/1"):
        assert pd.read_parquet(tmp_path / run / "tables" / "pairs.parquet")["kind"].tolist() == [
            "categorical"
        ]


def test_presets_and_algorithms_in_experiments_of_the_users_own(tmp_path) -> None:
    def checked(text: str, *typed: str):
        (tmp_path / "exp").mkdir(exist_ok=True)
        (tmp_path / "exp" / "mine.yaml").write_text(f"# @package _global_\n{text}\n")
        options = app.check(
            app.normalized(["exp=mine", f"hydra.searchpath=[file://{tmp_path}]", *typed])
        ).options
        return options.algorithm, options.preset, options.baseline, options.seeds, options.updates

    built_on = "defaults: [ppo, override /algorithm: grpo, _self_]\nupdates: 3"
    assert checked(built_on) == ("grpo", "default", "batch_mean", 8, 3)
    assert checked(built_on, "preset=thorough") == ("grpo", "thorough", "batch_mean", 16, 3)
    assert checked(built_on, "algorithm=ppo", "seeds=2") == (
        "ppo",
        "default",
        "leave_one_out",
        2,
        3,
    )
    assert checked("study: ppo\nupdates: 3") == (
        "ppo",
        "default",
        "leave_one_out",
        8,
        3,
    )  # the rest is the study's
    assert checked("study: ppo\nalgorithm: grpo\nupdates: 3", "preset=thorough") == (
        "grpo",
        "thorough",
        "batch_mean",
        16,
        3,
    )
    with pytest.raises(
        ConfigError,
        match=r"algorithm='grpo': .* 'defaults: \[ppo, override /algorithm: grpo, _self_\]'",
    ):
        checked("defaults: [ppo, _self_]\nalgorithm: grpo")


@pytest.fixture
def plugin(monkeypatch) -> type[LaplacePair]:
    """A pair of somebody else's: a class, registered while the test lasts, and nothing else."""
    monkeypatch.setattr(pairs.registry, "_makers", dict(pairs.registry._makers))
    stored = ConfigStore.instance().repo  # what Hydra knows of outlives a command, too
    monkeypatch.setitem(stored, "pair", dict(stored.get("pair", {})))

    @pairs.register
    class OtherLaplacePair(LaplacePair):
        kind = "plugin_laplace"
        summary = "Laplace densities (loc, scale) from outside"
        q: Laplace = Laplace(loc=0.25)
        p: Laplace = Laplace(loc=1.0, scale=2.0)
        wide: bool = False

    return OtherLaplacePair


def test_a_pair_that_is_only_a_class(call, plugin, tmp_path) -> None:
    short = ("samples=1_000", "workers=1", "batches=[1]", "estimators=[k1]")
    called = call(
        "+exp=value",
        "pair=plugin_laplace",
        "pair.p.scale=3",
        "wide=true",
        *short,
        "out=run",
        folder=tmp_path,
    )
    assert (called.code, called.err) == (0, "")
    node = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())["pair"]
    assert node == {
        "kind": "plugin_laplace",
        "label": "",
        "series": "",
        "q": {"loc": 0.25, "scale": 1.0},
        "p": {"loc": 1.0, "scale": 3.0},
        "mu": None,
        "wide": True,
    }
    assert set(pd.read_parquet(tmp_path / "run" / "tables" / "pairs.parquet")["kind"]) == {
        "plugin_laplace"
    }
    assert (
        call(
            "-m", "+exp=value", "pair=plugin_laplace,gaussian", *short, "out=both", folder=tmp_path
        ).code
        == 0
    )
    assert "vailable: " in (wrong := call("+exp=value", "pair=plugin_laplac", folder=tmp_path).err)
    assert "did you mean 'plugin_laplace'?" in wrong
    assert ", plugin_laplace" in wrong
    assert "plugin_laplace" in call("+exp=value", folder=tmp_path).err
    wrong = call("+exp=value", "pair=plugin_laplace", "pair.p.scael=3", folder=tmp_path).err
    assert (
        wrong
        == "klbench: unknown key 'pair.p.scael'; did you mean 'pair.p.scale'? available here: loc,"
        " scale\n"
    )
    assert "  plugin_laplace " in call("--help", folder=tmp_path).out


def test_a_terminal_without_unicode_is_no_reason_to_fail(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(
        "klbench.report.render",
        lambda folder, outcome, **_: (folder / "index.html").write_text("blank"),
    )
    monkeypatch.chdir(tmp_path)
    for encoding in ("ascii", "cp1252"):
        stream = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
        monkeypatch.setattr("sys.stdout", stream)
        assert command_line(["exp=value", *ONE, "batches=[1]", "estimators=[k1]"]) == 0
        stream.flush()
        lines = stream.buffer.getvalue().decode(encoding).splitlines()
        assert lines[0].startswith(
            "N(0, 1?) ? N(1, 1?)" if encoding == "ascii" else "N(0, 1²) ? N(1, 1²)"
        )
        assert (tmp_path / lines[-1]).is_file()


def test_of_two_runs_that_begin_in_one_folder_at_once_one_is_refused(tmp_path) -> None:
    """Both have found the folder to be new, and only one makes it."""
    first, second = RunFolder(tmp_path / "run", new=True), RunFolder(tmp_path / "run", new=True)
    RunFolder.check_new(tmp_path / "run")
    first.create()
    with pytest.raises(ConfigError, match="another run has just begun there"):
        second.create()
