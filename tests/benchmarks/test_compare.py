"""The comparison of two revisions.

On recorded times it neither cries wolf nor sleeps, and both sides keep in step.
"""

from collections.abc import Iterator
from pathlib import Path

import compare
import numpy as np
import pandas as pd
import pytest
from verdicts import THRESHOLD, Row, Sessions, interval, judged, markdown

RECORDED = pd.read_parquet(Path(__file__).parent / "recorded" / "turns.parquet")
SUITE = 150
"""Benchmarks of a whole suite.

The intervals of the few recorded ones are as wide as they would be in it.
"""
SLOWED = {"bench_estimators.py::bench_numpy[k3]", "bench_estimators.py::bench_numpy[k3_weighted]"}


def comparison(name: str) -> dict[str, Sessions]:
    rows = RECORDED[RECORDED["comparison"] == name]
    found: dict[str, list[list[tuple[float, float]]]] = {}
    for (benchmark, _), turns in rows.groupby(["benchmark", "session"], observed=True):
        found.setdefault(benchmark, []).append(list(zip(turns["base"], turns["here"], strict=True)))
    return found


def slower(rows: list[Row]) -> set[str]:
    return {row.name for row in rows if row.verdict == "slower"}


def test_unchanged_code_raises_no_alarm_in_twenty_comparisons() -> None:
    """At the level of a small suite: its intervals are narrower, and would rather raise one."""
    for k in range(1, 21):
        assert slower(judged(comparison(f"same-{k:02d}"), THRESHOLD)) == set(), k


def test_three_tenths_more_work_are_caught_ten_times_of_ten_and_nothing_else_is() -> None:
    for k in range(1, 11):
        rows = judged(comparison(f"slow-{k:02d}"), THRESHOLD, family=SUITE)
        assert slower(rows) == SLOWED, k
        (k3,) = (row for row in rows if row.name.endswith("[k3]"))
        assert 1.2 < k3.ratio < 1.45


def test_the_other_way_round_it_is_faster() -> None:
    turned = {
        name: [[(here, base) for base, here in turns] for turns in sessions]
        for name, sessions in comparison("slow-01").items()
    }
    assert {row.name for row in judged(turned, THRESHOLD) if row.verdict == "faster"} == SLOWED


def turns(
    ratio: float, n: int = 15, noise: float = 0.02, seed: int = 0
) -> list[tuple[float, float]]:
    stream = np.random.Generator(np.random.Philox(key=seed))
    return [(1.0, float(ratio * np.exp(noise * stream.standard_normal()))) for _ in range(n)]


def test_one_pair_of_processes_that_is_slow_is_no_alarm() -> None:
    """Its layout in memory may be all there is to it."""
    sessions = [turns(1.5, seed=0), turns(1.0, seed=1), turns(1.5, seed=2)]
    (row,) = judged({"a": sessions}, THRESHOLD)
    assert row.verdict == ""
    assert row.undecided(THRESHOLD)
    assert slower(judged({"a": [turns(1.5, seed=k) for k in range(3)]}, THRESHOLD)) == {"a"}


def test_single_turns_that_went_wrong_move_nothing() -> None:
    clean = [turns(1.0, seed=k) for k in range(3)]
    spoiled = [[(1.0, 30.0), (1.0, 30.0), (30.0, 1.0), *each[3:]] for each in clean]
    assert abs(interval(spoiled, 0.95)[0] / interval(clean, 0.95)[0] - 1.0) < 0.02


def test_the_interval_covers_the_ratio() -> None:
    """Sessions differ by 3 %, turns by 5 %: of three sessions a nominal 99 % is rather 90 %.

    The threshold allows for that.
    """
    stream = np.random.Generator(np.random.Philox(key=1))
    covered = 0
    for k in range(60):
        offsets = np.exp(0.03 * stream.standard_normal(3))
        low, high = interval(
            [turns(1.1 * o, noise=0.05, seed=10 * k + i) for i, o in enumerate(offsets)], 0.99
        )[1:]
        covered += low <= 1.1 <= high
    assert covered >= 48


class Fake:
    """A side whose benchmarks take a second each, but for those that it cannot run."""

    def __init__(self, has: list[str], cannot: set[str] = frozenset()) -> None:
        self._has, self._cannot, self._left = has, cannot, iter(())
        self.name, self.ended = "", False

    def names(self) -> list[str]:
        return self._has

    def start(self, names: list[str]) -> None:
        self._left: Iterator[str] = iter([name for name in names if name not in self._cannot])
        self.advance()

    def advance(self) -> None:
        self.name = next(self._left, "")

    def turn(self) -> float:
        return 1.0

    def end(self) -> None:
        self.ended = True


@pytest.mark.parametrize(
    ("base", "here", "wanted", "common"),
    [
        (Fake(["a", "b", "c"]), Fake(["a", "b", "c"]), None, ["a", "b", "c"]),
        (Fake(["c", "a"]), Fake(["a", "b", "c"]), None, ["a", "c"]),
        (Fake(["a", "b", "c"], {"a"}), Fake(["a", "b", "c"], {"c"}), None, ["b"]),
        (Fake(["a", "b", "c"], {"b", "c"}), Fake(["a", "b", "c"]), None, ["a"]),
        (Fake(["a", "b", "c"]), Fake(["a", "b", "c"]), {"b"}, ["b"]),
        (Fake([]), Fake(["a"]), None, []),
    ],
)
def test_sides_that_differ_stay_in_step(base, here, wanted, common, tmp_path, monkeypatch) -> None:
    sides = iter((base, here))
    monkeypatch.setattr(compare, "Side", lambda *_: next(sides))
    found, left = compare.session(tmp_path, tmp_path, tmp_path, [], wanted)
    assert list(found) == common
    assert left == (wanted or {*base.names(), *here.names()}) - set(common)
    assert base.ended
    assert here.ended


def test_two_processes_take_turns(tmp_path) -> None:
    here = compare.HERE
    found, left = compare.session(here, here, tmp_path, ["-k", "bench_moments"])
    assert left == set()
    assert list(found) == ["bench_engine.py::bench_moments"]
    (pairs,) = found.values()
    assert compare.FEWEST <= len(pairs) <= compare.MOST
    assert all(0.0 < base < 1.0 and 0.0 < now < 1.0 for base, now in pairs)


def test_a_tree_that_is_not_the_one_is_refused(tmp_path) -> None:
    """Without a klbench of its own the environment's would be timed."""
    side = compare.Side(tmp_path, tmp_path, ["-k", "bench_moments"])
    with pytest.raises(compare.CannotCompareError, match="expected the benchmarks of"):
        side.names()
    side.end()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["no-such-revision"], "compare: git rev-parse"),
        (["HEAD", "--threshold", "0.9"], "--threshold must be above 1, got 0.9"),
    ],
)
def test_what_cannot_be_compared_is_said_in_a_line(arguments, said, capsys) -> None:
    try:
        code = compare.main(arguments)
    except SystemExit as error:
        code = error.code
    assert code == 2
    assert said in capsys.readouterr().err


def test_the_table_has_the_slowest_first() -> None:
    rows = judged(comparison("slow-01"), THRESHOLD)
    text = markdown(rows, "main", THRESHOLD)
    assert text.startswith("**2 of 12 benchmarks are slower than main** beyond 1.15x, 0 faster.")
    table = [line for line in text.splitlines() if line.startswith("| bench_")]
    assert len(table) == 12
    assert {line.split(" | ")[0].removeprefix("| ") for line in table[:2]} == SLOWED
    assert all(line.rstrip("| ").endswith("slower") for line in table[:2])
