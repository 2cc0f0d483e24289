"""Calls of the command line, in this process and in one of its own."""

import contextlib
import io
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from klbench import report
from klbench.engine.cli import command_line

# As from an interactive shell: SIGINT interrupts, even where the tests themselves run in the
# background.
LISTENING = "import runpy, signal; signal.signal(signal.SIGINT, signal.default_int_handler); "
# For tests that look at tables: drawing the figures takes longer than all else.
BLANK_PAGES = (
    "import klbench.report as r; r.render = lambda folder, outcome, **_: (folder /"
    " 'index.html').write_text('blank'); "
)
WORKERS_AT_ONCE = (  # as the fixture of that name
    "import klbench.context as b; b.START_SECONDS = 0.0; "
)
RUN = "runpy.run_module('klbench', run_name='__main__', alter_sys=True)"


@dataclass(frozen=True)
class Called:
    """What a call of the command line left behind."""

    code: int
    out: str
    err: str

    @property
    def last_line(self) -> str:
        return self.out.splitlines()[-1]


def _blank_page(path: Path) -> Path:
    path.write_text("blank", encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def call() -> Callable[..., Called]:
    """``call(*arguments, folder=..., pages=False)`` runs the command line in a folder, in this
    process.
    """

    def call(*arguments: str, folder: Path | None, pages: bool = False) -> Called:
        out, err = io.StringIO(), io.StringIO()
        with (
            pytest.MonkeyPatch.context() as patch,
            contextlib.chdir(folder) if folder else contextlib.nullcontext(),
        ):
            if not pages:
                patch.setattr(
                    report,
                    "render",
                    lambda run, outcome, **_: _blank_page(Path(run) / "index.html"),
                )
                patch.setattr(report, "combine", lambda runs, page: _blank_page(Path(page)))
            with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
                code = command_line(list(arguments))
        return Called(code, out.getvalue(), err.getvalue())

    return call


@pytest.fixture
def start() -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """``start(*arguments, folder=..., pages=False)`` starts the command line in a process group
    of its own.
    """
    started = []

    def start(*arguments: str, folder: Path, pages: bool = False) -> subprocess.Popen[str]:
        program = LISTENING + WORKERS_AT_ONCE + ("" if pages else BLANK_PAGES) + RUN
        process = subprocess.Popen(
            [sys.executable, "-c", program, *arguments],
            cwd=folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            encoding="utf-8",
            start_new_session=True,
            env=os.environ | {"PYTHONIOENCODING": "utf-8"},
        )
        started.append(process)
        return process

    yield start
    for process in started:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, 9)
        process.communicate()


@pytest.fixture(scope="session")
def contents() -> Callable[[Path], dict[str, tuple[int, int]]]:
    """Everything below a folder, with its size and the time it was changed."""

    def contents(folder: Path) -> dict[str, tuple[int, int]]:
        found = {}
        for path in sorted(folder.rglob("*")):
            status = path.lstat()
            found[str(path.relative_to(folder))] = (
                0 if path.is_dir() else status.st_size,
                status.st_mtime_ns,
            )
        return found

    return contents
