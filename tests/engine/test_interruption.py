"""A run that is stopped: what stands, what is said, and that it is continued to the same bits."""

import contextlib
import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from klbench import context, report
from klbench.metrics.batches import Counts
from klbench.runs import RunFolder, start_of
from klbench.studies.value import run as value_run
from klbench.types import ConfigError, RunError

pytestmark = pytest.mark.usefixtures("workers_at_once")

QUICK = "{kind: gaussian, p: {mean: 0.5}, label: quick}"
SLOW = (
    f"{{kind: gaussian, q: {{mean: [{','.join(['0.0'] * 24)}]}}, p: {{mean: 0.1}}, mu: {{mean:"
    " 0.05}, label: slow}"
)
RUN = (
    "exp=value",
    f"pairs=[{QUICK},{SLOW}]",
    "estimators=[k1,k3,k_fitted,k1_weighted]",
    "samples=2e5",
    "out=run",
)


def parts(folder: Path) -> list[Path]:
    return list((folder / "run" / "parts").glob("*.npz"))


def wait_for(something: Callable[[], object], process: subprocess.Popen[str]) -> None:
    for _ in range(6000):
        if something():
            return
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)
    raise TimeoutError


def info(folder: Path) -> dict[str, object]:
    return json.loads((folder / "run" / "run.json").read_text())


def tables(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (folder / "run" / "tables").iterdir()}


def no_half_files(folder: Path) -> bool:
    return not [path for path in folder.rglob("*") if "partial" in path.name]


@pytest.fixture(scope="module")
def whole(call, tmp_path_factory) -> dict[str, bytes]:
    """The tables of the run that nobody stopped."""
    folder = tmp_path_factory.mktemp("whole")
    assert call(*RUN, "workers=1", folder=folder).code == 0
    assert not (folder / "run" / "parts").exists()
    return tables(folder)


def alive(group: int) -> list[str]:
    """The processes of a group that have not ended, as ``/proc`` has them.

    A parent may still have to take note of others.
    """
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            state, _, its_group = stat.read_text().rpartition(")")[2].split()[:3]
            if int(its_group) == group and state not in "ZX":
                found.append(stat.parent.name)
    return found


# Ctrl-C goes to every process of a terminal's foreground; ``kill PID`` to one, some schedulers'
# SIGTERM to all.
@pytest.mark.parametrize(
    ("workers", "send"),
    [
        (1, lambda pid: os.killpg(pid, signal.SIGINT)),
        (2, lambda pid: os.killpg(pid, signal.SIGINT)),
        (1, lambda pid: os.kill(pid, signal.SIGTERM)),
        (2, lambda pid: os.kill(pid, signal.SIGTERM)),
        (2, lambda pid: os.killpg(pid, signal.SIGTERM)),
        (2, lambda pid: os.kill(pid, signal.SIGHUP)),
    ],
    ids=["ctrl-c, 1", "ctrl-c, 2", "kill, 1", "kill, 2", "kill all, 2", "hang up, 2"],
)
def test_a_stop_keeps_what_is_finished_and_the_run_goes_on_from_there(
    call, start, whole, tmp_path, workers: int, send: Callable[[int], None]
) -> None:
    process = start(*RUN, f"workers={workers}", folder=tmp_path)
    wait_for(lambda: parts(tmp_path), process)
    send(process.pid)
    out, err = process.communicate(timeout=240)
    assert process.returncode == 130
    *progress, last = err.splitlines()  # a slow machine is told how long it will take
    assert last == "klbench: interrupted; continue with: python -m klbench resume=run"
    assert all(" done, about " in line for line in progress)
    assert out.splitlines()[-1] == "run/index.html"
    assert (tmp_path / "run" / "index.html").is_file()
    assert info(tmp_path)["status"] == "interrupted"
    assert "interrupted" in (tmp_path / "run" / "log.txt").read_text()

    # The pair that was finished stands; of the other there is nothing yet.
    found = pd.read_parquet(tmp_path / "run" / "tables" / "values.parquet")
    assert set(found["pair"]) == {"quick"}
    (tmp_path / "values.parquet").write_bytes(whole["values.parquet"])
    expected = pd.read_parquet(tmp_path / "values.parquet")
    pd.testing.assert_frame_equal(
        found, expected[expected["pair"] == "quick"], check_exact=True, check_dtype=False
    )

    called = call("resume=run", f"workers={3 - workers}", folder=tmp_path)
    assert called.code == 0, called
    assert tables(tmp_path) == whole
    assert not (tmp_path / "run" / "parts").exists()
    assert info(tmp_path)["status"] == "done"
    assert info(tmp_path)["workers"] == 3 - workers
    assert no_half_files(tmp_path)


@pytest.mark.skipif(
    not Path("/proc/self/stat").exists(), reason="no /proc/PID/stat here to see processes"
)
def test_workers_and_what_helps_them_end_with_a_run_that_is_killed(start, tmp_path) -> None:
    process = start(*RUN, "workers=2", folder=tmp_path)
    wait_for(lambda: parts(tmp_path), process)
    assert len(alive(process.pid)) >= 3
    process.kill()
    process.wait()
    for _ in range(3000):
        if not alive(process.pid):
            return
        time.sleep(0.01)
    raise AssertionError(alive(process.pid))


def test_ctrl_c_while_workers_start_is_quiet_too(start, tmp_path) -> None:
    """They get the signal as well, in the middle of their imports."""
    process = start(*RUN, "workers=2", folder=tmp_path)

    def children() -> list[str]:
        with contextlib.suppress(FileNotFoundError):
            return Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        return []

    if not Path(f"/proc/{process.pid}/task/{process.pid}/children").exists():
        pytest.skip("no /proc/PID/task/TID/children here to see workers start")
    wait_for(lambda: len(children()) >= 2 and not parts(tmp_path), process)
    time.sleep(0.2)
    os.killpg(process.pid, signal.SIGINT)
    out, err = process.communicate(timeout=240)
    assert process.returncode == 130
    assert err == "klbench: interrupted; continue with: python -m klbench resume=run\n"
    assert (tmp_path / out.splitlines()[-1]).exists()
    assert info(tmp_path)["status"] == "interrupted"


def test_a_killed_run_leaves_no_half_table_and_goes_on_once_it_is_dead(
    call, start, whole, tmp_path, contents
) -> None:
    process = start(*RUN, "workers=1", folder=tmp_path)
    wait_for(lambda: parts(tmp_path), process)
    os.kill(
        process.pid, signal.SIGSTOP
    )  # alive, and for the time of this test it stays where it is
    before = contents(tmp_path)
    called = call("resume=run", folder=tmp_path)
    assert (called.code, called.out) == (2, "")
    assert f"process {process.pid} is still writing it" in called.err
    assert contents(tmp_path) == before

    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert info(tmp_path)["status"] == "running"
    for path in (tmp_path / "run").glob("tables/*.parquet"):
        pd.read_parquet(path)
    assert call("resume=run", "workers=1", folder=tmp_path).code == 0
    assert tables(tmp_path) == whole
    assert info(tmp_path)["status"] == "done"
    assert not (tmp_path / "run" / "parts").exists()


@pytest.fixture
def interrupted_after(monkeypatch):
    """``interrupted_after(n)``: Ctrl-C comes with the n-th shard."""

    def interrupted_after(n: int) -> None:
        measure, calls = value_run.measure_shard, []

        def measure_shard(*arguments: object) -> value_run.Found:
            calls.append(1)
            if len(calls) > n:
                raise KeyboardInterrupt
            return measure(*arguments)

        monkeypatch.setattr(value_run, "measure_shard", measure_shard)

    return interrupted_after


SMALL = (
    "exp=value",
    f"pairs=[{QUICK},{{kind: laplace, q: {{loc: 0.0}}, p: {{loc: 1.0}}}}]",
    "estimators=[k1,k3,k_fitted]",
    "samples=3e4",
    "out=run",
    "workers=1",
)


# 20 shards a pair.
@pytest.mark.parametrize("shards", [0, 1, 7, 20, 22])
def test_it_goes_on_from_any_place(
    call, tmp_path, monkeypatch, interrupted_after, shards: int
) -> None:
    (tmp_path / "whole").mkdir()
    assert call(*SMALL, folder=tmp_path / "whole").code == 0
    with monkeypatch.context():
        interrupted_after(shards)
        called = call(*SMALL, folder=tmp_path, pages=shards in (0, 22))
    assert (called.code, len(called.err.splitlines())) == (130, 1), called
    assert (tmp_path / called.last_line).is_file()
    monkeypatch.undo()
    assert len(parts(tmp_path)) == -(-shards // 20)
    assert call("resume=run", "workers=1", folder=tmp_path).code == 0
    assert not (tmp_path / "run" / "parts").exists()
    assert tables(tmp_path) == tables(tmp_path / "whole")


@pytest.mark.parametrize(
    ("place", "name"),
    [
        (value_run.Moments, "merge"),
        (Counts, "merge"),
        (RunFolder, "save_part"),
    ],
)
def test_wherever_ctrl_c_comes_while_shards_are_merged_none_counts_twice(
    call, tmp_path, monkeypatch, place: type, name: str
) -> None:
    (tmp_path / "whole").mkdir()
    assert call(*SMALL, folder=tmp_path / "whole").code == 0
    original, add, merging = getattr(place, name), context.Checkpoint.add, []

    def interrupted(*arguments: object) -> object:
        if merging and merging[0].shards >= 7:
            raise KeyboardInterrupt
        return original(*arguments)

    def watched(
        self: context.Checkpoint[value_run.Found], *arguments: object, **more: object
    ) -> None:
        merging.append(self)
        try:
            add(self, *arguments, **more)
        finally:
            merging.clear()

    with monkeypatch.context() as patch:
        patch.setattr(context.Checkpoint, "add", watched)
        patch.setattr(place, name, interrupted)
        if name == "save_part":
            patch.setattr(context, "CHECKPOINT_SECONDS", 0.0)
        assert call(*SMALL, folder=tmp_path).code == 130
    assert call("resume=run", "workers=1", folder=tmp_path).code == 0
    assert tables(tmp_path) == tables(tmp_path / "whole")


def test_ctrl_c_while_the_report_is_drawn(call, tmp_path, monkeypatch) -> None:
    def render(folder: Path, outcome: dict[str, object], *, workers: int) -> None:
        raise KeyboardInterrupt

    (tmp_path / "whole").mkdir()
    assert call(*SMALL, folder=tmp_path / "whole").code == 0
    with monkeypatch.context() as patch:
        patch.setattr("klbench.report.render", render)
        called = call(*SMALL, folder=tmp_path, pages=True)
    assert called.code == 130
    assert info(tmp_path)["status"] == "interrupted"
    assert tables(tmp_path) == tables(tmp_path / "whole")
    assert call("resume=run", "workers=1", folder=tmp_path).code == 0
    assert tables(tmp_path) == tables(tmp_path / "whole")
    assert info(tmp_path)["status"] == "done"


def test_a_run_is_done_once_its_page_is_there_and_the_page_says_so(
    call, tmp_path, monkeypatch
) -> None:
    render, seen = report.render, []

    def watched(folder: Path, outcome: dict[str, object], *, workers: int) -> Path:
        seen.append(info(tmp_path)["status"])
        return render(folder, outcome, workers=workers)

    monkeypatch.setattr("klbench.report.render", watched)
    assert call(*SMALL, folder=tmp_path, pages=True).code == 0
    assert seen == ["running"]
    assert info(tmp_path)["status"] == "done"
    page = (tmp_path / "run" / "index.html").read_text()
    assert "was still going" not in page
    assert str(info(tmp_path)["finished"])[:16].replace("T", " ") in page


def test_a_page_that_cannot_be_made_costs_no_table(call, tmp_path, monkeypatch) -> None:
    def render(folder: Path, outcome: dict[str, object], *, workers: int) -> None:
        raise ConfigError(
            f"{folder / 'tables' / 'values.parquet'}: expected a Parquet table, could not read it"
        )

    with monkeypatch.context() as patch:
        patch.setattr("klbench.report.render", render)
        called = call(*SMALL, folder=tmp_path, pages=True)
    assert called.code == 1
    assert called.err.startswith(
        "klbench: the run failed: run/tables/values.parquet: expected a Parquet table"
    )
    before = tables(tmp_path)
    assert info(tmp_path)["status"] == "failed"
    assert call("resume=run", "workers=1", folder=tmp_path).code == 0
    assert tables(tmp_path) == before


def test_what_a_kill_left_half_written_is_removed(call, tmp_path) -> None:
    assert call(*SMALL, folder=tmp_path).code == 0
    left = [
        tmp_path / "run" / name
        for name in (".index.html.1.partial", "tables/.values.csv.77.partial")
    ]
    unfinished = tmp_path / "run" / "checkpoints" / ".k1-abc.partial"
    for status, clean in (
        ("interrupted", lambda: call("resume=run", "workers=1", folder=tmp_path)),
        ("done", lambda: report.render(tmp_path / "run")),
    ):
        (tmp_path / "run" / "run.json").write_text(json.dumps(info(tmp_path) | {"status": status}))
        unfinished.mkdir(parents=True)
        for path in (*left, unfinished / "model.safetensors"):
            path.write_text("half")
        clean()
        assert no_half_files(tmp_path)
    left[0].write_text("half")  # of a run that goes on elsewhere, which will need it
    (tmp_path / "run" / "run.json").write_text(json.dumps(info(tmp_path) | {"status": "running"}))
    report.render(tmp_path / "run")
    assert left[0].exists()


@pytest.mark.skipif(
    start_of(os.getpid()) is None, reason="this system does not say when a process started"
)
def test_a_number_that_another_process_has_now_does_not_hold_a_run_up(call, tmp_path) -> None:
    assert call(*SMALL, folder=tmp_path).code == 0
    other = os.getppid()  # it runs
    started = start_of(other)
    assert started is not None
    running = info(tmp_path) | {"status": "running", "pid": other}
    for known, code in (
        (started, 2),
        (None, 2),
        (f"{started}0", 0),
        (f"a boot before {started}", 0),
    ):
        (tmp_path / "run" / "run.json").write_text(json.dumps(running | {"pid_started": known}))
        called = call("resume=run", "workers=1", folder=tmp_path)
        assert called.code == code, called
    assert info(tmp_path)["pid_started"] == start_of(os.getpid())


def test_an_ended_process_that_nobody_has_taken_note_of_yet_is_no_process() -> None:
    child = subprocess.Popen([sys.executable, "-c", ""], stdout=subprocess.PIPE)
    assert child.stdout is not None
    child.stdout.read()  # until it ends
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    assert start_of(child.pid) is None
    child.communicate()


@pytest.mark.parametrize("pid", [None, "x", 2**80, 0.5])
def test_a_run_whose_process_has_no_number_may_be_continued(call, tmp_path, pid: object) -> None:
    assert call(*SMALL, folder=tmp_path).code == 0
    (tmp_path / "run" / "run.json").write_text(
        json.dumps(info(tmp_path) | {"status": "running", "pid": pid, "pid_started": None})
    )
    assert call("resume=run", "workers=1", folder=tmp_path).code == 0


def test_ctrl_c_before_anything_has_started(call, tmp_path, monkeypatch) -> None:
    def settings(*arguments: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("klbench.engine.app.settings", settings)
    called = call(*SMALL, folder=tmp_path)
    assert (called.code, called.out, called.err) == (130, "", "klbench: interrupted\n")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("workers", [1, 2])
def test_a_run_that_fails_says_so_in_one_line_and_the_rest_in_its_log(
    call, tmp_path, monkeypatch, workers: int
) -> None:
    def draw(self: object, stream: object, n: int) -> None:
        raise ArithmeticError("the dog ate\nthe draws")

    monkeypatch.setattr("klbench.pairs.laplace.LaplacePair.draw", draw)
    if workers == 2:  # the workers of other tests know nothing of this
        monkeypatch.setattr(
            "klbench.context.on_processes", lambda f, tasks, workers: (f(*task) for task in tasks)
        )
    arguments = [each for each in SMALL if not each.startswith("workers")]
    called = call(*arguments, f"workers={workers}", folder=tmp_path)
    assert (called.code, called.out) == (1, "")
    (line,) = called.err.splitlines()
    assert line.startswith(
        "klbench: the run failed: ArithmeticError: the dog ate the draws; see run"
    )
    assert line.endswith("log.txt")
    log = (tmp_path / "run" / "log.txt").read_text()
    assert "Traceback" in log
    assert "the dog ate" in log
    assert info(tmp_path)["status"] == "failed"
    assert "ArithmeticError" in info(tmp_path)["error"]
    assert not (tmp_path / "run" / "index.html").exists()

    monkeypatch.undo()
    assert len(parts(tmp_path)) == 1  # what was finished before is not lost
    (tmp_path / "whole").mkdir()
    assert call(*SMALL, folder=tmp_path / "whole").code == 0
    assert call("resume=run", "workers=1", folder=tmp_path).code == 0
    assert tables(tmp_path) == tables(tmp_path / "whole")
    assert "error" not in info(tmp_path)


def test_a_full_disk_leaves_no_half_table(call, tmp_path, monkeypatch) -> None:
    def write_table(table: object, path: Path, **options: object) -> None:
        Path(path).write_bytes(b"PAR1 and no more")
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("pyarrow.parquet.write_table", write_table)
        called = call(*SMALL, folder=tmp_path)
    assert (called.code, called.out) == (1, "")
    assert "No space left on device" in called.err
    assert info(tmp_path)["status"] == "failed"
    assert list((tmp_path / "run" / "tables").iterdir()) == []
    assert no_half_files(tmp_path)
    assert call("resume=run", "workers=1", folder=tmp_path).code == 0
    assert len(tables(tmp_path)) == 12


@pytest.fixture
def full_disk(monkeypatch) -> Callable[[], None]:
    """``full_disk()``: from then on a file gets no new block.

    What is written over what it has is written.
    """
    write, append = Path.write_text, RunFolder.log

    def full_disk() -> None:
        def write_text(path: Path, text: str, **options: object) -> int:
            write(path, text[:100], **options)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

        def log(folder: RunFolder, line: str) -> None:
            append(folder, line[:10])
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(folder.path / "log.txt"))

        monkeypatch.setattr(Path, "write_text", write_text)
        monkeypatch.setattr(RunFolder, "log", log)
        monkeypatch.setattr(
            RunFolder,
            "write_tables",
            lambda folder, tables: write_text(folder.path / "table", "x" * 200),
        )

    return full_disk


def test_a_disk_that_is_full_at_the_end_is_one_line_and_the_run_goes_on_later(
    call, tmp_path, monkeypatch, full_disk
) -> None:
    measure = value_run.measure_shard

    def measure_shard(*arguments: object) -> value_run.Found:
        full_disk()
        return measure(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(value_run, "measure_shard", measure_shard)
        patch.setattr(RunFolder, "save_part", lambda *arguments: None)
        called = call(*SMALL, folder=tmp_path)
    assert (called.code, called.out) == (1, "")
    assert called.err.startswith(
        "klbench: the run failed: OSError: [Errno 28] No space left on device"
    )
    assert called.err.count("\n") == 1
    assert info(tmp_path)["status"] == "failed"
    assert "No space left" in str(info(tmp_path)["error"])
    assert info(tmp_path)["versions"]  # the rest stands too
    assert no_half_files(tmp_path)
    monkeypatch.undo()
    assert call("resume=run", "workers=1", folder=tmp_path).code == 0


@pytest.mark.parametrize("name", ["config.yaml", "run.json"])
def test_a_disk_that_is_full_at_once_is_one_line_and_leaves_nothing(
    call, tmp_path, monkeypatch, name: str
) -> None:
    write = Path.write_text

    def write_text(path: Path, text: str, **options: object) -> int:
        if name in path.name:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        return write(path, text, **options)

    monkeypatch.setattr(Path, "write_text", write_text)
    called = call(*SMALL, folder=tmp_path)
    assert (called.code, called.out) == (1, "")
    assert called.err.endswith("cannot be written, No space left on device\n")
    assert called.err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_a_file_whose_blocks_do_not_suffice_stays_what_it_was(tmp_path, monkeypatch) -> None:
    folder = RunFolder(tmp_path)
    folder.begin(status="running", experiment="value")
    before = (tmp_path / "run.json").read_bytes()
    pwrite = os.pwrite
    monkeypatch.setattr(
        Path,
        "write_text",
        lambda *arguments, **options: (_ for _ in ()).throw(OSError(errno.ENOSPC, "full")),
    )
    monkeypatch.setattr(
        os, "pwrite", lambda file, data, place: pwrite(file, data[: len(before)], place)
    )
    with pytest.raises(OSError, match="No space left"):
        folder.update(status="failed", error="x" * 100)
    assert (tmp_path / "run.json").read_bytes() == before
    folder.update(status="failed")  # a letter less
    assert folder.info == {"status": "failed", "experiment": "value"}


@pytest.mark.parametrize("shards", [0, 7, 40])
def test_a_run_folder_that_is_removed_does_not_come_back(
    call, tmp_path, monkeypatch, shards: int
) -> None:
    measure, calls = value_run.measure_shard, []

    def measure_shard(*arguments: object) -> value_run.Found:
        calls.append(1)
        found = measure(*arguments)
        if len(calls) > min(shards, 39):
            shutil.rmtree(tmp_path / "run", ignore_errors=True)
        return found

    monkeypatch.setattr(value_run, "measure_shard", measure_shard)
    called = call(*SMALL, folder=tmp_path)
    assert (called.code, called.out) == (1, "")
    assert called.err == "klbench: the run failed: run was removed while the run was writing it\n"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
@pytest.mark.parametrize("program", ["klbench", "klbench.report"])
def test_output_that_cannot_be_written_is_one_line_or_none(program: str, tmp_path) -> None:
    arguments = (
        [sys.executable, "-m", program, "--help"]
        if program == "klbench"
        else [sys.executable, "-m", program, "run"]
    )
    made = RunFolder(tmp_path / "run")
    made.create()
    made.begin(status="done")
    made.write_tables({"mine": pd.DataFrame({"x": [1.0]})})
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            arguments, stdout=full, stderr=subprocess.PIPE, text=True, cwd=tmp_path
        )
    assert (done.returncode, done.stderr) == (
        1,
        f"{program}: the output: No space left on device\n",
    )
    reading, writing = os.pipe()
    os.close(reading)  # a reader that has gone
    done = subprocess.run(
        arguments, stdout=writing, stderr=subprocess.PIPE, text=True, cwd=tmp_path
    )
    os.close(writing)
    assert (done.returncode, done.stderr) == (128 + signal.SIGPIPE, "")


def test_tables_that_nobody_reads_are_no_failure(tmp_path) -> None:
    """After the run, rich prints, which would end the program by an exit code of its own."""
    reading, writing = os.pipe()
    os.close(reading)
    arguments = [sys.executable, "-m", "klbench", *SMALL]
    done = subprocess.run(
        arguments, stdout=writing, stderr=subprocess.PIPE, text=True, cwd=tmp_path
    )
    os.close(writing)
    assert (done.returncode, done.stderr) == (128 + signal.SIGPIPE, "")
    assert info(tmp_path)["status"] == "done"


def test_a_run_folder_that_is_removed_has_no_status_to_change(tmp_path) -> None:
    """Nor is that the user's mistake, as a file that is not there is elsewhere."""
    folder = RunFolder(tmp_path / "run")
    folder.create()
    folder.begin(status="running")
    shutil.rmtree(tmp_path / "run")
    with pytest.raises(RunError, match="was removed while the run was writing it"):
        folder.update(status="failed")


def test_a_table_that_cannot_be_replaced_stays_what_it_was(tmp_path, monkeypatch) -> None:
    folder = RunFolder(tmp_path / "run")
    folder.create()
    table = pd.DataFrame({"x": [1.0, 2.0]})
    folder.write_tables({"values": table})
    before = tables(tmp_path)

    def to_csv(table: pd.DataFrame, path: Path, **options: object) -> None:
        Path(path).write_text("x\n3")
        raise KeyboardInterrupt

    monkeypatch.setattr(pd.DataFrame, "to_csv", to_csv)
    with pytest.raises(KeyboardInterrupt):
        folder.write_tables({"values": table})
    assert tables(tmp_path) == before
    assert no_half_files(tmp_path)
    pd.testing.assert_frame_equal(folder.tables["values"], table)


def test_files_that_a_kill_left_half_written_are_not_taken_for_tables_or_parts(tmp_path) -> None:
    folder = RunFolder(tmp_path / "run")
    folder.create()
    folder.write_tables({"values": pd.DataFrame({"x": [1.0]})})
    (tmp_path / "run" / "tables" / ".values.parquet.1.partial").write_bytes(b"PAR1")
    (tmp_path / "run" / "parts").mkdir()
    (tmp_path / "run" / "parts" / ".value-x.npz.1.partial").write_bytes(b"PK")
    assert list(folder.tables) == ["values"]
    assert folder.load_part("value-x") is None


def damaged(content: bytes, how: str) -> bytes:
    if how == "overwritten":
        return content[:300] + b"\x7f" * 8 + content[308:]
    return content[: {"truncated": len(content) // 2, "empty": 0}[how]]


@pytest.mark.parametrize("how", ["overwritten", "truncated", "empty"])
def test_a_part_that_cannot_be_read_is_done_again(
    call, tmp_path, monkeypatch, interrupted_after, how: str
) -> None:
    (tmp_path / "whole").mkdir()
    assert call(*SMALL, folder=tmp_path / "whole").code == 0
    with monkeypatch.context():
        interrupted_after(22)
        assert call(*SMALL, folder=tmp_path).code == 130
    monkeypatch.undo()
    part = min(parts(tmp_path))
    part.write_bytes(damaged(part.read_bytes(), how))
    with warnings.catch_warnings():
        warnings.simplefilter("default")
        called = call("resume=run", "workers=1", folder=tmp_path)
    assert called.code == 0
    assert called.err.startswith(f"klbench: run/parts/{part.name}: cannot be read (")
    assert called.err.endswith("); that part is done again\n")
    assert called.err.count("\n") == 1
    assert tables(tmp_path) == tables(tmp_path / "whole")


@pytest.mark.parametrize("state", ["interrupted", "failed", "running"])
def test_a_run_on_another_machine_may_be_anything(call, tmp_path, state: str) -> None:
    """A process number says nothing of another machine's processes."""
    assert call(*SMALL, folder=tmp_path).code == 0
    text = json.dumps(info(tmp_path) | {"status": state, "host": "elsewhere", "pid": os.getppid()})
    (tmp_path / "run" / "run.json").write_text(text)
    assert call("resume=run", "workers=1", folder=tmp_path).code == 0
