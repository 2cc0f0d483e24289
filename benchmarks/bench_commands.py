"""What a command costs as a whole process, start and page included, beside its heaviest imports.

``python benchmarks/bench_commands.py`` runs each in turn with the imports and prints the table of
docs/results.md. As benchmarks, the short ones run with all others, the long ones where ``-m heavy``
asks for them.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pytest

IMPORTS = ("-c", "import numpy, pandas, matplotlib.pyplot")
KLBENCH = ("-m", "klbench")
VALUE = (
    *(*KLBENCH, "+exp=value", "pair=gaussian", "pair.q.mean=0", "pair.p.mean=1"),
    *("samples=1e5", "estimators=[k1,k2,k3]", "out=OUT"),
)
SHORT = {
    "imports": IMPORTS,
    "help": (*KLBENCH, "--help"),
    "error": (*KLBENCH, "+exp=gausian"),
    "value, 1e5 samples": (*VALUE, "workers=1"),
    "value, workers=2": (*VALUE, "workers=2"),
}
LONG = {
    **{name: (*KLBENCH, f"+exp={name}", "out=OUT") for name in ("gaussian", "claims", "gradient")},
    "ppo": (*KLBENCH, "+exp=ppo", "out=OUT"),
    "report of 50 runs": ("-m", "klbench.report", "RUNS", "--out", "OUT.html"),
}
RUNS = 50
WRONG = 2
"""The exit code of a user's mistake, as ``error`` makes one."""


class Cost(NamedTuple):
    """Seconds on the processor and by the clock, and the memory of the largest process in MiB."""

    processor: float
    clock: float
    memory: float


def runs(folder: Path) -> list[str]:
    """Make small runs of the value study, a seed each, and return their folders."""
    from klbench import pairs, studies
    from klbench.context import Context
    from klbench.runs import RunFolder

    study = studies.get("value")
    pair = pairs.get("gaussian")(q={"mean": 0.0}, p={"mean": 1.0})
    options = study.options(pairs=(pair,), estimators=("k1", "k2", "k3"), samples=10_000)
    for seed in range(RUNS):
        made = RunFolder(folder / f"run-{seed}")
        made.begin(status="done", experiment="value", study="value", seed=seed)
        made.write_tables(study.run(options, Context(seed=seed)))
    return [str(folder / f"run-{seed}") for seed in range(RUNS)]


def arguments(command: Sequence[str], folder: Path) -> Iterator[str]:
    """Yield a command's arguments, with a new output and the 50 runs in their places."""
    for word in command:
        if word == "RUNS":
            made = folder / "runs"
            yield from sorted(map(str, made.iterdir())) if made.exists() else runs(made)
        else:
            yield word.replace("OUT", str(folder / f"out-{time.monotonic_ns()}"))


def cost(command: Sequence[str], folder: Path) -> Cost:
    """Run a command and say what it took.

    Raises
    ------
    RuntimeError
        It ended otherwise than it should.
    """
    words = [sys.executable, *arguments(command, folder)]
    start = time.monotonic()
    nowhere = subprocess.DEVNULL
    process = subprocess.Popen(words, stdout=nowhere, stderr=nowhere, cwd=folder)
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode not in (0, WRONG if command == SHORT["error"] else 0):
        raise RuntimeError(f"{' '.join(command)} ended with {process.returncode}")
    taken = time.monotonic() - start
    return Cost(used.ru_utime + used.ru_stime, taken, used.ru_maxrss / 1024)


@pytest.mark.benchmark(min_rounds=3, warmup=False)
@pytest.mark.parametrize(
    "name", [*SHORT, *(pytest.param(x, marks=pytest.mark.heavy) for x in LONG)]
)
def bench_command(name: str, tmp_path: Path, benchmark: Any) -> None:
    command = (SHORT | LONG)[name]
    list(arguments(command, tmp_path))  # the runs to report on are no part of it
    assert benchmark(cost, command, tmp_path).processor > 0.0


def main() -> None:
    """Print the table: each command's medians, and its median ratio to the imports of its round."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(SHORT | LONG)}")
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    commands = {name: (SHORT | LONG)[name] for name in given.names or SHORT | LONG}
    print("| command | processor s | clock s | MiB | processor, of the imports' |")
    print("|---|---|---|---|---|")
    for name, command in commands.items():
        with tempfile.TemporaryDirectory() as place:
            folder = Path(place)
            cost(command, folder)  # compiled code is kept from here on
            rounds = [(cost(IMPORTS, folder), cost(command, folder)) for _ in range(given.rounds)]
        ratio = statistics.median(own.processor / base.processor for base, own in rounds)
        seconds, clock, memory = map(
            statistics.median, zip(*(own for _, own in rounds), strict=True)
        )
        print(f"| {name} | {seconds:.2f} | {clock:.2f} | {memory:.0f} | {ratio:.1f} |", flush=True)


if __name__ == "__main__":
    main()
