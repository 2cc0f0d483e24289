"""Workers: processes that are used again, and what they know of where they are."""

import os
import subprocess
import sys
from types import SimpleNamespace

import pytest

from klbench import processes, workers
from klbench.context import Context


def told(name: str) -> str | None:
    return os.environ.get(name)


def test_workers_know_the_environment_of_now(monkeypatch) -> None:
    monkeypatch.delenv("KLBENCH_CACHE", raising=False)
    for value in (None, "here", "there", None):
        if value is None:
            monkeypatch.delenv("KLBENCH_CACHE", raising=False)
        else:
            monkeypatch.setenv("KLBENCH_CACHE", value)
        assert list(Context(0, workers=2).map(told, [("KLBENCH_CACHE",)] * 3)) == [value] * 3


def test_workers_are_in_the_folder_of_now(tmp_path, monkeypatch) -> None:
    for name in ("here", "there"):
        (tmp_path / name).mkdir()
        monkeypatch.chdir(tmp_path / name)
        assert list(Context(0, workers=2).map(os.getcwd, [()] * 3)) == [str(tmp_path / name)] * 3


def test_workers_are_used_again() -> None:
    first, second = (set(Context(0, workers=2).map(os.getpid, [()] * 8)) for _ in range(2))
    assert len(first | second) <= 2
    assert os.getpid() not in first


COPIES = """
import os, sys
from klbench import processes
from klbench.context import Context

processes.own = True
class Given:  # nothing that could be sent: a copy has it
    name = "only here"
    again = lambda self, k: (self.name, k, os.getpid())
given = Given()
found = [list(Context(0, workers=2).map(given.again, [(k,) for k in range(8)])) for _ in range(2)]
assert all([each[:2] for each in once] == [("only here", k) for k in range(8)] for once in found)
pids = [{each[2] for each in once} for once in found]
assert os.getpid() not in pids[0] | pids[1] and not pids[0] & pids[1]
def threads(k):
    import torch
    print("told", file=sys.stderr)
    return torch.get_num_threads(), os.environ["OMP_NUM_THREADS"]
assert set(Context(0, workers=2).map(threads, [(k,) for k in range(3)])) == {(1, "1")}
assert "torch" not in sys.modules
"""


@pytest.mark.skipif(sys.platform != "linux", reason="copies are made on Linux")
def test_workers_of_klbenchs_own_process_are_copies_with_one_thread_each() -> None:
    done = subprocess.run(
        [sys.executable, "-c", COPIES],
        capture_output=True,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "2"},
    )
    assert (done.returncode, done.stderr) == (0, "told\n" * 3)


def test_no_copies_of_a_process_of_somebody_else_or_where_an_accelerator_is(monkeypatch) -> None:
    assert not workers.copied()
    monkeypatch.setattr(processes, "own", True)
    monkeypatch.setattr(sys, "platform", "linux")
    for there in (False, True):
        accelerator = SimpleNamespace(is_available=lambda there=there: there)
        monkeypatch.setitem(sys.modules, "torch", SimpleNamespace(accelerator=accelerator))
        assert workers.copied() is not there
    monkeypatch.setattr(sys, "platform", "darwin")
    assert not workers.copied()
