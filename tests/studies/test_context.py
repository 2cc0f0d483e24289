"""Work that is handed out: in order, whoever does it, and ended without noise."""

import itertools
import os
import signal
import time
from collections.abc import Iterator

import pytest

from klbench.studies import Context


def power(base: int, exponent: int) -> int:
    if base == 0:
        time.sleep(0.2)  # the first of all is the last to be ready
    return base**exponent


def process_and_what_it_waits_with(number: int) -> tuple[int, bool]:
    time.sleep(0.02)
    return os.getpid(), signal.SIGINT in signal.pthread_sigmask(signal.SIG_BLOCK, ())


def fail(number: int) -> int:
    if number == 2:
        raise ArithmeticError("the dog ate the draws")
    return number


@pytest.mark.parametrize("workers", [1, 2])
def test_results_come_in_the_order_of_the_tasks(workers: int) -> None:
    tasks = [(base, 2) for base in range(40)]
    assert list(Context(0, workers).map(power, tasks)) == [base**2 for base in range(40)]
    assert list(Context(0, workers).map(power, [])) == []


def test_one_worker_is_this_process_and_two_are_others() -> None:
    (alone,) = {process for process, _ in Context(0, 1).map(process_and_what_it_waits_with, [(0,)])}
    assert alone == os.getpid()
    others = {process for process, _ in Context(0, 2).map(process_and_what_it_waits_with, [(k,) for k in range(20)])}
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
    assert len(taken) < 1000


@pytest.mark.parametrize("workers", [1, 2])
def test_what_a_task_raises_is_raised_here(workers: int) -> None:
    results = Context(0, workers).map(fail, [(k,) for k in range(5)])
    with pytest.raises(ArithmeticError, match="the dog ate the draws"):
        list(results)
    assert list(Context(0, workers).map(fail, [(0,)])) == [0]
