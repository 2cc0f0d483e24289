"""Prompts from every kind of file, and what is wrong with one."""

import json

import pandas as pd
import pytest

from klbench.lm import prompts, rows
from klbench.lm.corpus import corpus
from klbench.types import ConfigError

TEXTS = ["First prompt", "Second: naïve", " third "]


def write(folder, name: str, rows: list) -> str:
    path = folder / name
    if path.suffix == ".txt":
        path.write_text("\n".join(rows) + "\n\n", encoding="utf-8")
    elif path.suffix == ".jsonl":
        path.write_text(
            "".join(json.dumps({"id": 1, "prompt": row}) + "\n" for row in rows), encoding="utf-8"
        )
    elif path.suffix == ".parquet":
        pd.DataFrame({"id": range(len(rows)), "prompt": rows}).to_parquet(path)
    else:
        datasets = pytest.importorskip("datasets")
        datasets.disable_progress_bars()
        datasets.Dataset.from_dict({"id": list(range(len(rows))), "prompt": rows}).save_to_disk(
            path
        )
    return str(path)


FORMATS = ["some.txt", "some.jsonl", "some.parquet", "folder"]


def test_without_a_path_they_are_the_embedded_ones() -> None:
    assert prompts.load("", 5) == list(corpus().prompts[:5])
    assert prompts.load("", 10**6) == list(corpus().prompts)


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_holds_the_same(tmp_path, name) -> None:
    path = write(tmp_path, name, TEXTS)
    prompts.check_path(path)
    assert prompts.load(path, 99) == TEXTS
    assert prompts.load(path, 2) == TEXTS[:2]


def test_a_folder_with_splits(tmp_path, capfd) -> None:
    datasets = pytest.importorskip("datasets")
    datasets.disable_progress_bars()
    rows = datasets.Dataset.from_dict({"prompt": TEXTS})
    datasets.DatasetDict({"test": rows.select([0]), "train": rows}).save_to_disk(tmp_path / "both")
    datasets.DatasetDict({"one": rows}).save_to_disk(tmp_path / "single")
    datasets.DatasetDict({"one": rows, "two": rows}).save_to_disk(tmp_path / "neither")
    assert prompts.load(str(tmp_path / "both"), 9) == TEXTS
    assert prompts.load(str(tmp_path / "single"), 9) == TEXTS
    with pytest.raises(ConfigError, match="the splits one, two"):
        prompts.load(str(tmp_path / "neither"), 9)
    with pytest.raises(ConfigError, match=r"no folder that save_to_disk of datasets wrote"):
        prompts.load(str(tmp_path), 9)


@pytest.mark.parametrize("name", FORMATS[:3])
def test_an_empty_file(tmp_path, name) -> None:
    with pytest.raises(ConfigError, match=f"{name}: there is nothing in it, expected prompt"):
        prompts.load(write(tmp_path, name, []), 9)


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("{", "line 2: not JSON"),
        ("[1]", "line 2: expected an object with the key 'prompt', this is list"),
        (
            '{"text": "a", "id": 3}',
            "line 2: no key 'prompt'; expected prompt, this one has text, id",
        ),
        ("{}", "this one has none"),
        ('{"prompt": 3}', "line 2: 'prompt' must be text that is not empty, got 3"),
        ('{"prompt": ""}', "line 2: 'prompt' must be text that is not empty"),
    ],
)
def test_a_line_that_is_wrong_is_named(tmp_path, line, says) -> None:
    path = tmp_path / "some.jsonl"
    path.write_text(f'{{"prompt": "a"}}\n{line}\n')
    with pytest.raises(ConfigError) as error:
        prompts.load(str(path), 9)
    assert str(error.value).startswith(f"{path}, line 2: ")
    assert says in str(error.value)
    assert "\n" not in str(error.value)
    assert prompts.load(str(path), 1) == ["a"]


def test_a_column_that_is_missing_or_holds_something_else(tmp_path) -> None:
    pd.DataFrame({"text": ["a"], "n": [1]}).to_parquet(tmp_path / "a.parquet")
    with pytest.raises(ConfigError, match="expected a column 'prompt', this file has text, n"):
        prompts.load(str(tmp_path / "a.parquet"), 9)
    pd.DataFrame({"prompt": ["a", None]}).to_parquet(tmp_path / "b.parquet")
    with pytest.raises(ConfigError, match=r"b\.parquet, row 2: 'prompt' must be text"):
        prompts.load(str(tmp_path / "b.parquet"), 9)
    datasets = pytest.importorskip("datasets")
    datasets.disable_progress_bars()
    datasets.Dataset.from_dict({"text": ["a"]}).save_to_disk(tmp_path / "c")
    with pytest.raises(ConfigError, match="expected a column 'prompt', this one has text"):
        prompts.load(str(tmp_path / "c"), 9)


def test_a_file_that_is_not_what_its_name_says(tmp_path) -> None:
    (tmp_path / "a.parquet").write_text("no")
    with pytest.raises(ConfigError, match=r"a\.parquet: cannot be read as Parquet"):
        prompts.load(str(tmp_path / "a.parquet"), 9)
    (tmp_path / "a.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match=r"a\.txt: cannot be read as text in UTF-8"):
        prompts.load(str(tmp_path / "a.txt"), 9)


def test_a_path_is_checked_without_reading(tmp_path) -> None:
    (tmp_path / "a.csv").touch()
    with pytest.raises(ConfigError, match=r"unknown format '\.csv'; expected \.txt"):
        prompts.check_path(str(tmp_path / "a.csv"))
    with pytest.raises(ConfigError, match="nothing: no such file"):
        prompts.check_path(str(tmp_path / "nothing"))


def test_lines_end_where_json_lines_do(tmp_path) -> None:
    """And nowhere else: a line separator of Unicode, or a form feed, is a character of the text."""
    texts = ["one\u2028two", "three\x0cfour"]
    (tmp_path / "a.jsonl").write_text(
        "".join(json.dumps({"prompt": each}, ensure_ascii=False) + "\n" for each in texts)
    )
    assert prompts.load(str(tmp_path / "a.jsonl"), 9) == texts
    assert [row["prompt"] for row in rows.load(str(tmp_path / "a.jsonl"), ("prompt",))] == texts


def test_a_folder_without_datasets(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(prompts.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"pip install 'klbench\[lm\]'"):
        prompts.load(str(tmp_path), 9)
