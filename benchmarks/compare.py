"""Is this revision slower than another one? ``python benchmarks/compare.py main``, or ``make
bench-compare BASE=main``.

The other revision is checked out beside this one, and two processes run the benchmarks of this one
in step, A B A B: of each benchmark one block of a few milliseconds there, one here, and so on. Both
have the same environment; ``PYTHONPATH`` decides whose klbench is timed. Exits with 1 where a
benchmark has become slower beyond doubt, with 2 where it cannot compare.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from lockstep import Channel
from verdicts import THRESHOLD, Row, Sessions, judged, markdown

HERE = Path(__file__).resolve().parents[1]
SESSIONS = 3
"""Pairs of processes.

What a process's layout in memory does to its times, the next one's does not.
"""
MORE_SESSIONS = 3
"""For the benchmarks that are not decided by then."""
FEWEST, MOST, SECONDS = 5, 15, 0.3
"""Turns of a benchmark in a session: so many, as long as they do not take longer than this."""

Pairs = dict[str, list[tuple[float, float]]]
"""Of each benchmark, seconds of a call in a turn there, and in the turn here that came next."""


class CannotCompareError(Exception):
    """One line that says why."""


class Side:
    """A process that runs the benchmarks against the klbench of one tree."""

    def __init__(self, tree: Path, folder: Path, arguments: Sequence[str]) -> None:
        ours, theirs = socket.socketpair()
        self.tree, self.log = tree, folder / f"{len(list(folder.iterdir()))}.log"
        command = [
            sys.executable,
            "-P",
            "-m",
            "pytest",
            str(HERE / "benchmarks"),
            "-c",
            str(HERE / "pyproject.toml"),
        ]
        command += [
            "--rootdir",
            str(HERE),
            "-q",
            "-p",
            "no:benchmark",
            "-p",
            "no:cacheprovider",
            "-p",
            "no:xdist",
        ]
        command += [
            "-p",
            "lockstep",
            "--lockstep",
            str(theirs.fileno()),
            "--continue-on-collection-errors",
            *arguments,
        ]
        paths = os.pathsep.join(map(str, (tree, HERE / "benchmarks")))
        environment = os.environ | {
            "PYTHONPATH": paths,
            "OMP_NUM_THREADS": "1",
            "PYTHONHASHSEED": "0",
        }
        with self.log.open("w", encoding="utf-8") as log:
            self._process = subprocess.Popen(
                command,
                cwd=folder,
                env=environment,
                stdout=log,
                stderr=log,
                pass_fds=[theirs.fileno()],
            )
        theirs.close()
        self._channel = Channel(ours)
        self.name = ""

    def names(self) -> list[str]:
        """Wait until it knows its benchmarks, see that it is the right klbench's, and tell them."""
        names = []
        while (words := self._channel.hear()).startswith("has "):
            names.append(words.removeprefix("has "))
        if words != f"hello {self.tree}":
            tail = " ".join(self.log.read_text(encoding="utf-8").split())[-300:]
            raise CannotCompareError(
                f"expected the benchmarks of {self.tree}, got {words or 'none'}: {tail}"
            )
        return names

    def start(self, names: Sequence[str]) -> None:
        """Run these, in this order."""
        self._channel.say(*names, "")
        self.advance()

    def advance(self) -> None:
        """On to the next benchmark; its name is empty when there are no more."""
        if self.name:
            self._channel.say("next")
        self.name = self._channel.hear().removeprefix("ready ")

    def turn(self) -> float:
        """Time a block."""
        self._channel.say("go")
        answer = self._channel.hear()
        if not answer:
            raise CannotCompareError(
                f"the process of {self.tree} ended in {self.name}; see {self.log}"
            )
        return float(answer)

    def end(self) -> None:
        """Let it end; one that is not at its end is stopped."""
        self._channel.close()
        try:
            self._process.wait(0 if self.name else 30)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        if not self.name and self._process.returncode < 0:
            raise CannotCompareError(
                f"the process of {self.tree} was killed by signal {-self._process.returncode}"
            )


def session(
    base: Path, here: Path, folder: Path, arguments: Sequence[str], wanted: set[str] | None = None
) -> tuple[Pairs, set[str]]:
    """Both sides in step; and the names of the benchmarks that only one of them has, or can run."""
    sides = (Side(base, folder, arguments), Side(here, folder, arguments))
    found: Pairs = {}
    try:
        there, now = (side.names() for side in sides)
        names = [name for name in now if name in set(there) and (wanted is None or name in wanted)]
        for side in sides:
            side.start(names)
        order = {name: k for k, name in enumerate(names)} | {"": len(names)}
        while any(side.name for side in sides):
            first = min(sides, key=lambda side: order[side.name])
            if sides[0].name == sides[1].name:
                found[first.name] = _turns(*sides)
                sides[1].advance()
                sides[0].advance()
            else:  # the other one skipped it, or failed
                first.advance()
    finally:
        for side in sides:
            side.end()
    return found, (set(there) | set(now) if wanted is None else wanted) - found.keys()


def _turns(base: Side, here: Side) -> list[tuple[float, float]]:
    pairs: list[tuple[float, float]] = []
    start = time.monotonic()
    while len(pairs) < FEWEST or (len(pairs) < MOST and time.monotonic() - start < SECONDS):
        pairs.append((base.turn(), here.turn()))
    return pairs


@contextlib.contextmanager
def worktree(revision: str) -> Iterator[Path]:
    """A checkout of another revision, for a while."""

    def git(*arguments: str) -> str:
        done = subprocess.run(["git", "-C", str(HERE), *arguments], capture_output=True, text=True)
        if done.returncode:
            raise CannotCompareError(f"git {' '.join(arguments)}: {' '.join(done.stderr.split())}")
        return done.stdout.strip()

    commit = git("rev-parse", "--verify", "--end-of-options", f"{revision}^{{commit}}")
    with tempfile.TemporaryDirectory() as folder:
        tree = Path(folder).resolve() / "base"
        git("worktree", "add", "--detach", str(tree), commit)
        try:
            yield tree
        finally:
            git("worktree", "remove", "--force", str(tree))


def compare(
    base: Path, here: Path, arguments: Sequence[str], threshold: float, times: Path | None
) -> list[Row]:
    """Sessions until everything is decided, or there are no more.

    What is undecided goes on in sessions of its own.
    """
    found: dict[str, list[list[tuple[float, float]]]] = {}
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as folder:
        for k in range(SESSIONS + MORE_SESSIONS):
            wanted = (
                None if k < SESSIONS else {row.name for row in rows if row.undecided(threshold)}
            )
            if wanted is not None and not wanted:
                break
            print(
                f"session {k + 1}{f', {len(wanted)} benchmarks undecided' if wanted else ''}",
                file=sys.stderr,
                flush=True,
            )
            timed, left = session(base, here, Path(folder), arguments, wanted)
            if left and k == 0:
                print(
                    f"not compared, since they ran on one side at most: {', '.join(sorted(left))}",
                    file=sys.stderr,
                )
            for name, pairs in timed.items():
                found.setdefault(name, []).append(pairs)
            rows = judged(found, threshold)
    if not rows:
        raise CannotCompareError("the two revisions have no benchmark in common that runs on both")
    if times:
        _write(times, found)
    return rows


def _write(file: Path, found: Mapping[str, Sessions]) -> None:
    import pandas as pd

    rows = [
        {"benchmark": name, "session": k, "base": base, "here": here}
        for name, sessions in found.items()
        for k, turns in enumerate(sessions)
        for base, here in turns
    ]
    pd.DataFrame(rows).to_parquet(file, index=False)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; gives back the exit code."""
    parser = argparse.ArgumentParser(
        description=(
            "Compare the speed of this revision with another one's. What else is given, such as -k"
            " k3, is pytest's."
        ),
        allow_abbrev=False,
    )
    parser.add_argument("base", help="a revision, such as main")
    parser.add_argument(
        "--threshold",
        type=float,
        default=THRESHOLD,
        help=f"ratio that counts as slower ({THRESHOLD})",
    )
    parser.add_argument(
        "--summary", type=Path, metavar="FILE", help="append the table to this file, as Markdown"
    )
    parser.add_argument(
        "--times",
        type=Path,
        metavar="FILE",
        help="write the times of all turns to this Parquet file",
    )
    given, rest = parser.parse_known_args(arguments)
    if not given.threshold > 1.0:
        parser.error(f"--threshold must be above 1, got {given.threshold}")
    try:
        with worktree(given.base) as base:
            rows = compare(base, HERE, rest, given.threshold, given.times)
    except CannotCompareError as error:
        print(f"compare: {error}", file=sys.stderr)
        return 2
    text = markdown(rows, given.base, given.threshold)
    print(text)
    if given.summary:
        with given.summary.open("a", encoding="utf-8") as file:
            file.write(text + "\n")
    return int(any(row.verdict == "slower" for row in rows))


if __name__ == "__main__":
    sys.exit(main())
