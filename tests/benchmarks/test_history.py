"""Rows of timings, kept in a file that grows, and the page that is drawn from it."""

import platform
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import history
import pandas as pd
import pytest

from klbench.machine import kind
from klbench.report import timings
from klbench.report.__main__ import main
from klbench.report.blocks import Figure

NAMES = ("bench_a.py::bench_terms[k1]", "bench_a.py::bench_terms[k3]", "bench_b.py::bench_page")


def timed(scale: float = 1.0) -> list[SimpleNamespace]:
    data = [scale * each for each in (1e-3, 1.1e-3, 1.2e-3, 1.3e-3, 1.4e-3)]
    return [
        SimpleNamespace(
            fullname=f"benchmarks/{name}", stats=SimpleNamespace(data=data), iterations=4
        )
        for name in NAMES
    ]


def at(commit: str, day: int, scale: dict[str, float], machine: str = "") -> pd.DataFrame:
    rows = history.rows(timed())
    factor = rows["benchmark"].map(scale).fillna(1.0)
    for column in ("seconds", "seconds_q25", "seconds_q75"):
        rows[column] *= factor
    made = {"commit": commit * 10, "committed": f"2026-01-{day:02d}T00:00:00+00:00", "dirty": False}
    return rows.assign(**made, machine=machine or rows["machine"])


@pytest.fixture
def file(tmp_path) -> Path:
    """Three commits, in another order than they were made.

    k3 became 1.5 times slower at the last, the page faster before.
    """
    path = tmp_path / "timings.parquet"
    for rows in (
        at("cccc", 3, {NAMES[1]: 1.5, NAMES[2]: 0.5}),
        at("aaaa", 1, {}),
        at("bbbb", 2, {NAMES[2]: 0.5}),
        at("aaaa", 1, {}, "another <machine>"),
    ):
        history.append(path, rows)
    return path


def test_a_row_says_what_was_timed_where_and_of_which_commit() -> None:
    rows = history.rows(timed())
    assert list(rows["benchmark"]) == list(NAMES)
    assert (
        rows[["seconds", "seconds_q25", "seconds_q75", "least"]] == [1.2e-3, 1.1e-3, 1.3e-3, 1e-3]
    ).all(axis=None)
    assert set(rows["machine"]) == {kind()}
    assert kind().startswith(f"{platform.system()} {platform.machine()}, ")
    assert (rows["rounds"] == 5).all()


def test_the_file_grows(file) -> None:
    assert len(pd.read_parquet(file)) == 12


def test_the_page_says_what_became_slower_and_faster(file, tmp_path, capsys) -> None:
    out = tmp_path / "page.html"
    assert main(["--history", str(file), "--out", str(out)]) == 0
    assert capsys.readouterr().out.strip() == str(out)
    page = out.read_text("utf-8")
    assert "3 commits, 2 kinds of machine" in page
    step = page[page.index("From <code>bbbbbbb</code> to <code>ccccccc</code>") :]
    assert (
        "1 is slower: <code>bench_a.py::bench_terms[k3]</code> (1.50 times). None is faster."
        in step
    )
    assert (
        "1 is faster: <code>bench_b.py::bench_page</code> (0.500 times)" in step
    )  # since the first
    assert "With one commit there is nothing to compare yet" in page
    assert "another &lt;machine&gt;" in page
    assert "<machine>" not in page
    assert (
        page.count('role="img"') == 2
    )  # a panel for each function, on the machine with several commits


def test_several_files_make_one_page(file, tmp_path) -> None:
    more = tmp_path / "more.parquet"
    history.append(more, at("dddd", 4, {}))
    assert main(["--history", str(file), str(more), "--out", str(tmp_path / "page.html")]) == 0
    assert "4 commits" in (tmp_path / "page.html").read_text("utf-8")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "found no such file"),
        (b"PAR1 or not", "cannot be read as Parquet"),
        (
            pd.DataFrame({"benchmark": ["a"], "seconds": [1.0]}),
            "it has no column commit, committed, dirty, machine, measured",
        ),
        (history.rows(timed()).iloc[:0], "holds no row"),
        (history.rows(timed()).assign(seconds=-1.0), "seconds must hold positive numbers"),
    ],
)
def test_what_is_no_history_is_said_in_a_line(content, said, tmp_path, capsys) -> None:
    path, out = tmp_path / "timings.parquet", tmp_path / "page.html"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None:
        content.to_parquet(path)
    assert main(["--history", str(path), "--out", str(out)]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert said in lines[0]
    assert not out.exists()


def test_a_file_of_somebody_else_stays_as_it_is(file, tmp_path, capsys) -> None:
    out = tmp_path / "mine.html"
    out.write_text("mine")
    assert main(["--history", str(file), "--out", str(out)]) == 2
    assert "was not made by klbench" in capsys.readouterr().err
    assert out.read_text() == "mine"


def test_what_was_timed_at_one_commit_alone_is_not_drawn() -> None:
    both, alone = (timings.Timing(1.0, 0.9, 1.1) for _ in range(2))
    tracks = [
        timings.Track("b.py::bench_both[x]", {0: both, 1: both}),
        timings.Track("b.py::bench_alone[x]", {1: alone}),
    ]
    machine = timings.Machine("a kind", ["one", "two"], tracks)
    assert [panel.title for panel in timings._figure(machine, 0).panels] == ["both"]
    said = [[cell.text for cell in row][-1] for row in timings._table(machine).rows]
    assert said == ["1.00", "–"]
    assert not any(
        isinstance(each, Figure) for each in timings.blocks([replace(machine, tracks=tracks[1:])])
    )


@pytest.mark.parametrize("arguments", [[], ["run", "--history", "file"]])
def test_either_runs_or_a_history(arguments, capsys) -> None:
    assert main(arguments) == 2
    assert "and not both" in capsys.readouterr().err
