"""The verb ``report`` of the command line, which is ``python -m klbench.report`` as well."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Sequence
from pathlib import Path

from klbench import inputs, processes
from klbench.inputs import VerbParser
from klbench.report import answers, combine, history, render
from klbench.types import ConfigError
from klbench.workers import cores

DONE, WRONG = 0, 2
EXAMPLES = """\
examples:
  klbench report reports/gaussian-20261130-101500
  klbench report runs/a runs/b --out comparison.html --json answers.json

The last line printed is the path of the page.
exit code: 0 done, 2 no page can be made of these
"""


def _parser() -> VerbParser:
    parser = VerbParser(
        "report", "Render a run again, one page from several, or a history of timings.", EXAMPLES
    )
    add = parser.add_argument
    add(
        "runs",
        nargs="*",
        type=Path,
        metavar="RUN",
        help="a run folder, or a folder that holds run folders (a sweep)",
    )
    add(
        "--history",
        nargs="+",
        type=Path,
        metavar="FILE",
        help="Parquet files that make bench wrote",
    )
    add(
        "--out",
        type=Path,
        metavar="FILE",
        help="where the page goes (of several runs comparison.html, of a history history.html)",
    )
    add("--json", metavar="FILE", help="write the question and the answer of the page to this file")
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
            print(f"klbench: {each} has no tables and is left out", file=sys.stderr)
    if below and not kept:
        raise ConfigError(f"{path}: holds {len(below)} run folders, none of them with tables")
    return kept or [path]


def write(runs: Sequence[Path], out: Path | None, json: Path | None = None) -> Path:
    """Write the page, and its answers to ``json``.

    Raises
    ------
    ConfigError
        A run is missing or broken, or the page would replace a file that klbench did not make.
    """
    folders, workers = [each for run in runs for each in _expanded(run)], cores()
    if len(runs) == 1 and out is None:
        alone = folders == list(runs)
        page = (
            render(runs[0], workers=workers)
            if alone
            else combine(folders, runs[0] / "index.html", workers=workers)
        )
    else:
        page = combine(folders, out or Path("comparison.html"), workers=workers)
    if json is not None:
        inputs.write_json(json, {"schema_version": 1, "page": str(page), **answers(folders)})
    return page


def _unexpected(error: Exception) -> str:
    """Return one line on the error and its place in klbench, so that a mistake in klbench can be
    told from one in the input.
    """
    places = traceback.extract_tb(error.__traceback__)
    place = [
        each for each in places if Path(each.filename).is_relative_to(Path(__file__).parents[1])
    ][-1]
    why = f"{type(error).__name__} in {Path(place.filename).name}, line {place.lineno}: {error}"
    return (
        "no page can be made of its tables and run.json; are they as klbench wrote them?"
        f" ({why:.300})"
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Write a page, print its path, and return the exit code."""
    parser, given = _parser(), None
    words = sys.argv[1:] if arguments is None else list(arguments)
    if {"-h", "--help"} & set(words):
        print(parser.format_help())
        return DONE
    try:
        given = parser.parse_args(words)
        if bool(given.runs) == bool(given.history):
            parser.error("name run folders, or a history with --history FILE, and not both")
        if given.history and given.json is not None:
            parser.error("--json: a history has no answer; name run folders")
        json = None if given.json is None else inputs.new_json(given.json)
        page = (
            history(given.history, given.out or Path("history.html"))
            if given.history
            else write(given.runs, given.out, json)
        )
    except ConfigError as error:
        wrong = str(error)
    except OSError as error:
        wrong = f"{error.filename or 'the page'}: {error.strerror or error}"
    except Exception as error:  # noqa: BLE001  # files may hold anything
        named = (given.history or given.runs) if given else []
        wrong = f"{', '.join(map(str, named))}: {_unexpected(error)}"
    else:
        print(page)
        return DONE
    print("klbench:", *wrong.split(), file=sys.stderr)
    return WRONG


if __name__ == "__main__":
    processes.own = True
    sys.exit(processes.exit_code(main, "klbench.report"))
