"""``python -m klbench.report RUN [RUN ...] [--out FILE]``, or ``--history FILE [FILE ...]``."""

from __future__ import annotations

import argparse
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path

from klbench.processes import exit_code
from klbench.report import combine, history, render
from klbench.types import ConfigError

DONE, WRONG = 0, 2


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m klbench.report",
        description="Render a run again, one page from several runs, or a history of timings. The last line printed is the "
        "path of the page.",
    )
    parser.add_argument(
        "runs",
        nargs="*",
        type=Path,
        metavar="RUN",
        help="a run folder, or a folder that holds run folders (a sweep)",
    )
    parser.add_argument(
        "--history",
        nargs="+",
        type=Path,
        metavar="FILE",
        help="Parquet files that make bench wrote",
    )
    parser.add_argument(
        "--out",
        type=Path,
        metavar="FILE",
        help="where the page goes (of several runs comparison.html, of a history history.html)",
    )
    return parser


def _runs_below(path: Path) -> list[Path]:
    def key(each: Path) -> tuple[bool, int, str]:
        return (not each.name.isdigit(), int(each.name) if each.name.isdigit() else 0, each.name)

    return sorted((found.parent for found in path.glob("*/run.json")), key=key)


def _expanded(path: Path) -> list[Path]:
    """A run stands for itself, a folder of runs for those of them that have tables."""
    below = [] if (path / "run.json").is_file() else _runs_below(path)
    kept = [each for each in below if any((each / "tables").glob("*.parquet"))]
    for each in below:
        if each not in kept:
            print(f"klbench.report: {each} has no tables and is left out", file=sys.stderr)
    if below and not kept:
        raise ConfigError(f"{path}: holds {len(below)} run folders, none of them with tables")
    return kept or [path]


def write(runs: Sequence[Path], out: Path | None) -> Path:
    """The page that these arguments ask for.

    Raises
    ------
    ConfigError
        A run is missing or broken, or the page would replace a file that klbench did not make.
    """
    if len(runs) == 1 and out is None:
        folders = _expanded(runs[0])
        return render(runs[0]) if folders == [runs[0]] else combine(folders, runs[0] / "index.html")
    return combine(
        [each for run in runs for each in _expanded(run)], out or Path("comparison.html")
    )


def _unexpected(error: Exception) -> str:
    """Return one line on the error and its place in klbench, so that a mistake in klbench can be told from one in the input."""
    places = traceback.extract_tb(error.__traceback__)
    place = [
        each for each in places if Path(each.filename).is_relative_to(Path(__file__).parents[1])
    ][-1]
    why = f"{type(error).__name__} in {Path(place.filename).name}, line {place.lineno}: {error}"
    return f"no page can be made of its tables and run.json; are they as klbench wrote them? ({why:.300})"


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; gives back the exit code."""
    parser = _parser()
    given = parser.parse_args(arguments)
    if bool(given.runs) == bool(given.history):
        parser.error("name run folders, or a history with --history FILE, and not both")
    try:
        page = (
            history(given.history, given.out or Path("history.html"))
            if given.history
            else write(given.runs, given.out)
        )
    except ConfigError as error:
        wrong = str(error)
    except OSError as error:
        wrong = f"{error.filename or 'the page'}: {error.strerror or error}"
    except Exception as error:  # noqa: BLE001  # files may hold anything
        wrong = f"{', '.join(map(str, given.history or given.runs))}: {_unexpected(error)}"
    else:
        print(page)
        return DONE
    print("klbench.report:", *wrong.split(), file=sys.stderr)
    return WRONG


if __name__ == "__main__":
    sys.exit(exit_code(main, "klbench.report"))
