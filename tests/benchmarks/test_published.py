"""What was published comes out again, or it is said which number moved."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import published
import pytest

ROOT = Path(__file__).parents[2]
FINDINGS = sorted(path.parent.name for path in (ROOT / "reports" / "published").glob("*/run.json"))
pytestmark = pytest.mark.skipif(
    not FINDINGS, reason="a distribution without the published findings"
)
OLD = pd.DataFrame(
    {
        "pair": ["a", "a", "b"],
        "estimator": ["k1", "k3", "k1"],
        "batch": [1, 1, 1],
        "mean": [0.5, 0.5, 1.0],
        "mean_se": [0.01, 0.001, 0.01],
        "exact": [0.5, 0.5, 1.0],
        "bias_z": [0.1, -0.3, 1.0],
        "status": "ok",
    }
)


def changed(**columns: list) -> tuple[list[str], int, list[str]]:
    found, within, notes = published.moved("values", OLD, OLD.assign(**columns))
    return [str(each) for each in found], within, notes


def test_the_same_is_the_same() -> None:
    assert changed() == ([], 0, [])


def test_a_number_moves_beyond_three_common_errors() -> None:
    found, within, notes = changed(mean=[0.52, 0.52, 1.0])
    assert found == ["values, a, k3, 1: mean 0.5 -> 0.52 (14 errors)"]
    assert (within, notes) == (1, [])
    assert changed(bias_z=[4.5, -0.3, 1.0])[0] == [
        "values, a, k1, 1: bias_z 0.1 -> 4.5 (3.1 errors)"
    ]
    assert changed(mean=[np.nan, 0.5, 1.0])[0] == ["values, a, k1, 1: mean 0.5 -> nan (nan errors)"]


def test_an_enumerated_number_has_an_error_of_zero_and_moves_at_once() -> None:
    exact = OLD.assign(mean_se=0.0)
    other = exact.assign(mean=[0.5, 0.5, 1.0 + 1e-6])
    assert len(published.moved("values", exact, other)[0]) == 1
    assert published.moved("values", exact, exact.assign(mean=[0.5, 0.5, 1.0 + 1e-12]))[0] == []


def test_a_number_without_an_uncertainty_is_told_and_does_not_fail() -> None:
    assert changed(exact=[0.5, 0.504, 1.0]) == ([], 1, [])
    assert changed(exact=[0.5, 0.6, 1.0]) == (
        [],
        0,
        ["values: 1 of exact, without an uncertainty, are off by up to 17%"],
    )


def test_a_standard_error_that_is_none_hides_nothing() -> None:
    heavy = OLD.assign(mean_se=[np.nan, 0.001, 0.01])
    assert published.moved("values", heavy, heavy.assign(mean=[0.9, 0.5, 1.0])) == (
        [],
        0,
        ["values: 1 of mean, without an uncertainty, are off by up to 44%"],
    )
    assert len(published.moved("values", heavy, heavy.assign(mean=[np.nan, 0.5, 1.0]))[0]) == 1
    assert changed(exact=[np.inf, 0.5, 1.0])[0] == [
        "values, a, k1, 1: exact 0.5 -> inf (nan errors)"
    ]


def test_another_word_has_moved() -> None:
    assert changed(status=["ok", "heavy tail", "ok"])[0] == [
        "values, a, k3, 1: status ok -> heavy tail (another)"
    ]


def test_rows_are_found_whatever_their_order_and_those_that_come_or_go_are_told() -> None:
    assert published.moved("values", OLD, OLD.iloc[::-1].reset_index(drop=True)) == ([], 0, [])
    assert published.moved("values", OLD, OLD.iloc[:2])[2] == ["values: 1 rows gone"]
    assert published.moved("values", OLD.iloc[:2], OLD)[2] == ["values: 1 rows new"]
    assert published.moved("values", OLD, OLD.drop(columns="exact"))[2] == [
        "values: column exact is gone"
    ]
    assert published.compared({"values": OLD, "more": OLD}, {"values": OLD})[2] == [
        "table more is gone"
    ]
    assert published.compared({"values": OLD}, {"values": OLD, "more": OLD})[2] == [
        "table more is new"
    ]


@pytest.mark.parametrize(
    ("change", "code", "says"),
    [
        (lambda table: table, 0, "nothing moved, 0 are other within their uncertainty\n"),
        (lambda table: table.assign(mean_se=2.0), 0, "nothing moved"),
        (lambda table: table.assign(more=1.0), 0, "nothing moved"),
        (lambda table: table.assign(mean=2.0), 1, "3 numbers moved"),
        (
            lambda table: table.iloc[:2],
            1,
            "something is gone, 0 are other within their uncertainty\n  values: 1 rows gone",
        ),
        (lambda table: table.drop(columns="exact"), 1, "values: column exact is gone"),
    ],
)
def test_what_moved_or_is_gone_ends_with_1(
    tmp_path, monkeypatch, capsys, change, code, says
) -> None:
    def write(folder: Path, table: pd.DataFrame) -> Path:
        (folder / "tables").mkdir(parents=True)
        table.to_parquet(folder / "tables" / "values.parquet")
        (folder / "run.json").write_text(json.dumps({"command": "python -m klbench +exp=value"}))
        return folder

    monkeypatch.setattr(published, "ROOT", tmp_path)
    write(tmp_path / published.FOLDER / "one", OLD)
    monkeypatch.setattr(published, "again", lambda words, place: write(place / "new", change(OLD)))
    assert published.main([]) == code
    assert says in capsys.readouterr().out


@pytest.mark.parametrize("name", FINDINGS)
def test_every_finding_says_how_it_was_made_and_is_complete(name: str) -> None:
    folder = ROOT / "reports" / "published" / name
    words = published.command(folder)
    place = f"reports/published/{name}"
    assert words[0].startswith("+exp=") or words[0] == "audit"
    assert f"out={place}" in words or words[words.index("--out") + 1] == place
    info = json.loads((folder / "run.json").read_text("utf-8"))
    assert info["status"] == "done"
    assert {"python", "numpy", "torch"} <= set(info["versions"])
    assert info["machine"]["cpu"]
    assert (folder / published.pages.EXTRACT).is_file()
    found = published.tables(folder)
    assert found
    assert published.compared(found, found) == (
        [],
        0,
        [],
    )  # every table has rows that can be told apart


def test_the_readme_leads_with_a_figure_that_is_there() -> None:
    text = (ROOT / "README.md").read_text("utf-8")
    top = text[: text.index("## Two commands")]
    figures = [
        each.partition(")")[0]
        for each in top.split("](")
        if each.partition(")")[0].endswith(".svg")
    ]
    assert len(figures) == 1
    assert all((ROOT / each).is_file() for each in figures)


def test_a_finding_that_is_none_is_named(capsys) -> None:
    with pytest.raises(SystemExit) as error:
        published.main(["schulmann"])
    assert error.value.code == 2
    assert "no finding is named schulmann; there are audit" in capsys.readouterr().err


def test_a_folder_that_klbench_did_not_make_has_no_command(tmp_path) -> None:
    (tmp_path / "run.json").write_text(json.dumps({"command": "rm -rf everything"}))
    with pytest.raises(ValueError, match="expected a command of klbench"):
        published.command(tmp_path)
