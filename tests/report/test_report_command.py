"""The verb ``report`` and pages over several runs."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from markupsafe import Markup
from report_runs import tables

from klbench.engine.cli import command_line
from klbench.report import combine
from klbench.report.__main__ import main
from klbench.runs import RunFolder
from klbench.types import ConfigError

MakeRun = Callable[..., Path]


def test_one_run_is_rendered_in_place(
    make_run: MakeRun, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = make_run()
    assert main([str(folder)]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == str(folder / "index.html")
    assert (folder / "figures" / "noise.svg").exists()


def _broken_parquet(folder: Path) -> None:
    (folder / "tables" / "values.parquet").write_bytes(b"not parquet")


def _no_tables(folder: Path) -> None:
    for path in (folder / "tables").iterdir():
        path.unlink()


def _broken_json(folder: Path) -> None:
    (folder / "run.json").write_text("{")


def _text_for_numbers(folder: Path) -> None:
    table = tables()["values"].assign(batch="abc")
    table.to_parquet(folder / "tables" / "values.parquet", index=False)


def _nothing_but_nan(folder: Path) -> None:
    table = tables()["values"]
    table = table.assign(**dict.fromkeys(table.select_dtypes("number"), float("nan")))
    table.to_parquet(folder / "tables" / "values.parquet", index=False)


def _wrong_types(folder: Path) -> None:
    (folder / "run.json").write_text(json.dumps({"status": "done", "seconds": {"study": "long"}}))


def _lone_surrogate(folder: Path) -> None:
    (folder / "run.json").write_text(json.dumps({"status": "done", "experiment": chr(0xD800)}))


def _list_for_status(folder: Path) -> None:
    (folder / "run.json").write_text(json.dumps({"status": [1]}))


def _file_for_figures(folder: Path) -> None:
    (folder / "figures").write_text("")


def _figures_elsewhere(folder: Path) -> None:
    (folder / "figures").symlink_to(folder.parent)


def _log_elsewhere(folder: Path) -> None:
    (folder / "log.txt").symlink_to("/usr/../nowhere/log.txt")


def _no_json(folder: Path) -> None:
    (folder / "run.json").unlink()


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (_broken_parquet, "expected a Parquet table"),
        (_no_tables, "expected tables/*.parquet, found none"),
        (_text_for_numbers, "no page can be made of its tables"),
        (_nothing_but_nan, "ValueError in ranking.py"),
        (_wrong_types, "could not convert string to float: 'long'"),
        (_lone_surrogate, "run.json is not one that klbench wrote"),
        (_list_for_status, "its run.json says status=[1], where klbench writes a str"),
        (_file_for_figures, "figures: File exists"),
        (_figures_elsewhere, "figures: leads out of the run folder, to "),
        (_log_elsewhere, "log.txt: leads out of the run folder, to /nowhere/log.txt"),
        (_broken_json, "run.json is not one that klbench wrote"),
        (_no_json, "expected a run folder with a run.json"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(
    make_run: MakeRun, capsys: pytest.CaptureFixture[str], damage: Callable[[Path], None], said: str
) -> None:
    folder = make_run()
    damage(folder)
    assert main([str(folder)]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.startswith("klbench: ")
    assert len(error.splitlines()) == 1
    assert not (folder / "index.html").exists()


def test_a_link_out_of_the_run_folder_is_never_followed(make_run: MakeRun, tmp_path: Path) -> None:
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs" / "drawing.svg").write_text("<svg/>")
    folder = make_run()
    (folder / "figures").symlink_to("../theirs")
    assert main([str(folder)]) == 2
    with pytest.raises(ConfigError, match="leads out of the run folder"):
        RunFolder(folder).check_free()  # what resume asks first
    assert [path.name for path in (tmp_path / "theirs").iterdir()] == ["drawing.svg"]
    (folder / "figures").unlink()
    (folder / "drawings").mkdir()
    (folder / "figures").symlink_to("drawings")  # inside, links are the owner's business
    assert main([str(folder)]) == 0
    assert (folder / "drawings" / "noise.svg").is_file()


def test_a_folder_that_does_not_exist(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path / "nowhere")]) == 2
    assert "no such folder" in capsys.readouterr().err


def test_a_sweep_is_combined_in_its_root(
    make_run: MakeRun, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for seed in (0, 1):
        make_run(
            f"sweep/{seed}",
            tables([0.02, 0.5]),
            config=f"seed: {seed}\nworkers: {seed + 1}\n",
            seed=seed,
        )
    failed = make_run("sweep/2", {}, status="failed")
    assert main([str(tmp_path / "sweep")]) == 0
    out, err = capsys.readouterr()
    assert out.splitlines()[-1] == str(tmp_path / "sweep" / "index.html")
    assert str(failed) in err
    page = (tmp_path / "sweep" / "index.html").read_text(encoding="utf-8")
    assert "shift, seed=0" in page
    assert "shift, seed=1" in page
    assert "workers=" not in page
    links = re.findall(r'href="([^"#]+)"', page)
    assert len(links) == 10
    assert all((tmp_path / "sweep" / link).is_file() for link in links)


def test_several_runs_go_where_they_are_told(make_run: MakeRun, tmp_path: Path) -> None:
    # Different pairs: nothing needs a label to be told apart.
    a, b = (
        make_run("a", tables([0.02]), config="x: 1\n"),
        make_run("b", tables([0.5]), config="x: 2\n"),
    )
    for folder in (a, b):
        assert "from mu" in (folder / "tables" / "values.csv").read_text(encoding="utf-8")
    out = tmp_path / "pages" / "both.html"
    assert main([str(a), str(b), "--out", str(out)]) == 0
    page = out.read_text(encoding="utf-8")
    assert "x=1" in page
    assert "x=2" in page
    assert main([str(a), str(b), "--out", str(out)]) == 0  # its own page may be replaced


def test_runs_of_different_pairs_keep_their_names(make_run: MakeRun, tmp_path: Path) -> None:
    folders = []
    for i, kl in enumerate((0.02, 0.5)):
        content = {
            name: table[table["pair"] != "from mu"] if "pair" in table else table
            for name, table in tables([kl]).items()
        }
        folders.append(make_run(f"run{i}", content, config=f"pair: {{q: {{mean: {i}}}}}\n"))
    page = combine(folders, tmp_path / "both.html").read_text(encoding="utf-8")
    assert "[pair.q.mean" not in page
    assert "on both pairs" in page


def test_the_default_page_is_in_the_current_folder(
    make_run: MakeRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    a, b = make_run("a"), make_run("b")
    monkeypatch.chdir(tmp_path)
    assert main([str(a), str(b)]) == 0
    assert (tmp_path / "comparison.html").exists()


def test_a_file_of_someone_else_is_not_replaced(
    make_run: MakeRun, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    theirs = tmp_path / "theirs.html"
    theirs.write_text("<p>mine</p>")
    assert main([str(make_run("a")), str(make_run("b")), "--out", str(theirs)]) == 2
    assert "was not made by klbench" in capsys.readouterr().err
    assert theirs.read_text() == "<p>mine</p>"


def test_a_folder_cannot_be_the_page(make_run: MakeRun, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="got a folder"):
        combine([make_run("a"), make_run("b")], tmp_path)


def test_equal_configurations_are_told_apart_by_their_folders(
    make_run: MakeRun, tmp_path: Path
) -> None:
    page = combine([make_run("first"), make_run("second")], tmp_path / "both.html").read_text(
        encoding="utf-8"
    )
    assert "shift, first" in page
    assert "shift, second" in page


def test_the_verb_writes_question_and_answer_for_other_programs(
    make_run: MakeRun, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    folder, file = make_run(), tmp_path / "answers.json"
    assert command_line(["report", str(folder), "--json", str(file)]) == 0
    assert capsys.readouterr().out == f"{folder / 'index.html'}\n"
    written = json.loads(file.read_text(encoding="utf-8"))
    assert {key: written[key] for key in ("schema_version", "page", "runs")} == {
        "schema_version": 1,
        "page": str(folder / "index.html"),
        "runs": [str(folder)],
    }
    (found,) = written["answers"]
    assert (found["study"], found["question"]) == (
        "value",
        "Which estimator of KL(q‖p) has the least error on Gaussian pairs?",
    )
    page = (folder / "index.html").read_text(encoding="utf-8")
    assert found["question"] in page
    assert found["answer"].endswith(".")
    assert "<" not in found["answer"]
    assert found["answer"] in Markup(page).striptags()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "report: name run folders, or a history with --history FILE, and not both"),
        (["run", "--json", "no/such/x.json"], "--json no/such/x.json: expected a file in a folder"),
        (["--history", "x.parquet", "--json", "x.json"], "report: --json: a history has no answer"),
        (["run", "--ot", "x.html"], "report: unrecognized arguments: --ot"),
    ],
)
def test_wrong_arguments_are_one_line(
    capsys: pytest.CaptureFixture[str], arguments: list[str], said: str
) -> None:
    assert command_line(["report", *arguments]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    (line,) = printed.err.splitlines()
    assert line.startswith(f"klbench: {said}")
