"""Workers: processes that are used again, and what they know of where they are."""

import os

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
