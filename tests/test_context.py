"""Work that is handed out: in order, whoever does it, and ended without noise."""

import itertools
import math
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from klbench import context
from klbench.context import Context
from klbench.runs import RunFolder


def power(base: int, exponent: int) -> int:
    if base == 0:
        time.sleep(0.2)  # the first of all is the last to be ready
    return base**exponent


def process_and_what_it_waits_with(number: int) -> tuple[int, bool]:
    time.sleep(0.02)
    return os.getpid(), signal.SIGINT in signal.pthread_sigmask(signal.SIG_BLOCK, ())


def process_that_waits_for_another(folder: Path) -> int:
    (folder / str(os.getpid())).touch()
    for _ in range(6000):
        if len(list(folder.iterdir())) > 1:
            break
        time.sleep(0.01)
    return os.getpid()


def slow(number: int) -> int:
    time.sleep(0.02)
    return number


def fail(number: int) -> int:
    if number == 2:
        raise ArithmeticError("the dog ate the draws")
    return number


@pytest.mark.parametrize("workers", [1, 2])
def test_results_come_in_the_order_of_the_tasks(workers: int) -> None:
    tasks = [(base, 2) for base in range(40)]
    assert list(Context(0, workers).map(power, tasks)) == [base**2 for base in range(40)]
    assert list(Context(0, workers).map(power, [])) == []


def test_one_worker_is_this_process_and_two_are_others(tmp_path) -> None:
    (alone,) = {process for process, _ in Context(0, 1).map(process_and_what_it_waits_with, [(0,)])}
    assert alone == os.getpid()
    others = set(Context(0, 2).map(process_that_waits_for_another, [(tmp_path,)] * 2))
    assert len(others) == 2
    assert os.getpid() not in others


@pytest.mark.skipif(not hasattr(signal, "pthread_sigmask"), reason="no signal masks here")
def test_ctrl_c_is_for_this_process_and_not_for_its_workers() -> None:
    results = Context(0, 2).map(process_and_what_it_waits_with, [(k,) for k in range(20)])
    assert all(blocked for _, blocked in results)
    assert signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, ())


@pytest.mark.parametrize("workers", [1, 2])
def test_tasks_without_end_are_taken_as_they_are_needed(workers: int) -> None:
    taken = []

    def tasks() -> Iterator[tuple[int, int]]:
        for base in itertools.count(1):
            taken.append(base)
            yield base, 3

    results = Context(0, workers).map(power, tasks())
    assert [next(results) for _ in range(5)] == [1, 8, 27, 64, 125]
    results.close()  # in the middle of it, and without a warning
    assert len(taken) < 25


def test_ctrl_c_while_workers_are_busy_is_raised_between_results_and_the_next_map_works() -> None:
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        results = Context(0, 2).map(slow, [(k,) for k in range(1000)])
        assert next(results) == 0
        os.kill(os.getpid(), signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            list(results)
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, before)
    assert list(Context(0, 2).map(power, [(3, 2)])) == [9]


def test_work_is_cut_short_at_any_moment_without_a_word() -> None:
    for count in range(1, 8):
        results = Context(0, 2).map(power, ((base, 2) for base in range(1, 1000)))
        assert [next(results) for _ in range(count)] == [base**2 for base in range(1, count + 1)]
        results.close()


@pytest.mark.parametrize("workers", [1, 2])
def test_what_a_task_raises_is_raised_here(workers: int) -> None:
    results = Context(0, workers).map(fail, [(k,) for k in range(5)])
    with pytest.raises(ArithmeticError, match="the dog ate the draws"):
        list(results)
    assert list(Context(0, workers).map(fail, [(0,)])) == [0]


@pytest.mark.parametrize("tasks", [0, 1])
def test_less_than_two_tasks_are_done_here_whatever_the_number_of_workers(tasks: int) -> None:
    assert list(Context(0, 150).map(os.getpid, [()] * tasks)) == [os.getpid()] * tasks


def test_there_are_no_more_workers_than_tasks(monkeypatch) -> None:
    asked = []

    def on_processes(function, tasks, workers):
        asked.append(workers)
        return (function(*task) for task in tasks)

    monkeypatch.setattr(context, "on_processes", on_processes)
    for workers, tasks in ((150, 2), (150, 7), (3, 7), (3, 3)):
        assert list(Context(0, workers).map(slow, ((k,) for k in range(tasks)))) == list(
            range(tasks)
        )
    assert asked == [2, 7, 3, 3]


# The first task takes the imports too. What a second one takes, times those that are left, is to be
# worth two workers' start.
@pytest.mark.parametrize(
    ("seconds", "start_seconds", "here", "workers"),
    [
        ([9.0] + [1.0] * 9, 4.0, 2, 2),  # 8 seconds left, as two workers take to start
        ([9.0] + [1.0] * 9, 4.1, 10, None),
        ([9.0] + [1.0] * 9, 2.0, 2, 4),
        ([9.0] + [1.0] * 9, 0.1, 2, 5),  # as many as there are to have
        ([9.0] + [1.0] * 9, 0.0, 0, 5),
        (
            [0.0] + [1.0] * 4 + [16.0] * 5,
            4.1,
            6,
            3,
        ),  # it turns out to be more: 4 x the mean of four ones and a sixteen
        ([9.0], 1.0, 1, None),
        ([], 1.0, 0, None),
    ],
)
def test_short_tasks_are_done_here_unless_they_are_worth_the_start_of_workers(
    monkeypatch, seconds, start_seconds, here, workers
) -> None:
    clock, asked = SimpleNamespace(now=0.0), []

    def task(number: int) -> tuple[str, int]:
        clock.now += seconds[number]
        return "here", number

    def on_processes(function, tasks, workers):
        asked.append(workers)
        return (("worker", *task) for task in tasks)

    monkeypatch.setattr(context, "time", SimpleNamespace(process_time=lambda: clock.now))
    monkeypatch.setattr(context, "START_SECONDS", start_seconds)
    monkeypatch.setattr(context, "on_processes", on_processes)
    found = []
    for each in Context(0, 5).map(task, ((k,) for k in range(len(seconds))), short=True):
        clock.now += 100.0  # what is done with a result is no work of theirs
        found.append(each)
    assert found == [("here", k) for k in range(here)] + [
        ("worker", k) for k in range(here, len(seconds))
    ]
    assert asked == ([] if workers is None else [workers])


def test_tasks_that_are_not_short_are_handed_out_at_once(monkeypatch) -> None:
    monkeypatch.setattr(
        context, "on_processes", lambda function, tasks, workers: ("worker" for _ in tasks)
    )
    assert list(Context(0, 2).map(lambda: "here", [()] * 2)) == ["worker", "worker"]


def rows_of(name: str, number: int) -> list[dict[str, float | str]]:
    with Path(name).open("a", encoding="utf-8") as file:
        file.write(f"{number}\n")
    return [
        {
            "third": number / 3,
            "endless": math.inf,
            "nothing": math.nan,
            "number": number,
            "what": "zwölf",
        }
    ]


@pytest.mark.parametrize("workers", [1, 2])
def test_what_is_finished_is_kept_and_not_done_again(workers: int, tmp_path: Path) -> None:
    folder, log = RunFolder(tmp_path / "run"), tmp_path / "log"
    folder.create()
    tasks = {f"task-{number}": (str(log), number) for number in range(6)}
    first = Context(0, workers, folder=folder).map_kept(rows_of, tasks)
    early = [next(first) for _ in range(3)]
    first.close()
    kept = {path.stem for path in (folder.path / "parts").iterdir()}
    assert kept >= {"task-0", "task-1"}
    before = log.read_text(encoding="utf-8").split()
    every = list(Context(0, workers, folder=folder).map_kept(rows_of, tasks))
    again = log.read_text(encoding="utf-8").split()[len(before) :]
    assert sorted(again) == sorted(
        str(number) for number in range(6) if f"task-{number}" not in kept
    )
    assert [name for name, _ in every] == list(tasks)
    assert repr(every[:3]) == repr(early)  # the same numbers to the last bit, NaN too
    assert every[2][1][0]["third"] == 2 / 3
    folder.drop_parts()
    assert not (folder.path / "parts").exists()


def test_without_a_folder_nothing_is_kept(tmp_path: Path) -> None:
    tasks = {"one": (str(tmp_path / "log"), 1)}
    assert [name for name, _ in Context(0).map_kept(rows_of, tasks)] == ["one"]
    assert {path.name for path in tmp_path.iterdir()} == {"log"}
