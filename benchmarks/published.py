"""The findings of ``reports/published/``, made again by their own commands, and where a number has
moved: ``make published``.

A number with a standard error, ``x_se`` beside ``x``, has moved where the two differ by more than
three of their common errors; a text has where it is another, and so has what is gone or no number
any more. Of numbers without an uncertainty, columns that are off by more than 1 % are told; what is
other within all that is counted. ``--update`` takes the new folders.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pages

if TYPE_CHECKING:
    import pandas as pd

ROOT = Path(__file__).resolve().parents[1]
FOLDER = Path("reports") / "published"
TIMINGS = ("throughput", "cost", "peers_speed")
ERRORS, RELATIVE = 3.0, 0.01
ROUNDING, ABSOLUTE = 1e-9, 1e-10
SHOWN = 10
OTHERS = ("trainers",)
"""Findings that are made from wheels, by ``make trainers``."""
GONE = "gone"
"""The last word on a table, column or row that was published and is not there any more."""


@dataclass(frozen=True)
class Moved:
    """A number or text that is not what it was.

    Table, row in words, column, both values, and how far it moved.
    """

    table: str
    row: str
    column: str
    old: Any
    new: Any
    distance: str

    def __str__(self) -> str:
        return f"{self.table}, {self.row}: {self.column} {self.old} -> {self.new} ({self.distance})"


def key_columns(table: pd.DataFrame) -> list[str]:
    """Columns that say what a row is about.

    Its texts (but for verdicts on its numbers), and what is counted in it.
    """
    from pandas.api.types import is_bool_dtype, is_integer_dtype, is_numeric_dtype

    told = {"status", "evidence", "verdict", "matches", "outcome"}
    names = {
        "batch",
        "seed",
        "step",
        "tokens",
        "position",
        "decade",
        "sign",
        "beta",
        "staleness",
        "lag",
    }
    return [
        str(name)
        for name in table
        if name not in told
        and (
            not is_numeric_dtype(table[name])
            or is_bool_dtype(table[name])
            or (name in names and not table[name].hasnans)
        )
        and (name in names or not is_integer_dtype(table[name]))
    ]


def moved(name: str, old: pd.DataFrame, new: pd.DataFrame) -> tuple[list[Moved], int, list[str]]:
    """What moved, how many numbers are other but within their uncertainty, and what cannot be
    compared.
    """
    from pandas.api.types import is_numeric_dtype

    keys = [key for key in key_columns(old) if key in new]
    sides = [
        (
            table.assign(_n=table.groupby(keys, dropna=False).cumcount())
            if keys
            else table.assign(_n=range(len(table)))
        )
        for table in (old, new)
    ]
    both = sides[0].merge(
        sides[1], on=[*keys, "_n"], how="outer", suffixes=("", " new"), indicator=True
    )
    notes = [
        f"{name}: {count} rows {word}"
        for word, count in (
            (GONE, (both["_merge"] == "left_only").sum()),
            ("new", (both["_merge"] == "right_only").sum()),
        )
        if count
    ]
    gone = [column for column in old if column not in new]
    notes += [f"{name}: column {column} is {GONE}" for column in gone]
    common = both[both["_merge"] == "both"].reset_index(drop=True)
    found, within = [], 0
    for column in (each for each in old if each not in keys and each not in gone):
        a, b = common[column], common[f"{column} new"]
        if str(column).endswith("_se"):
            continue
        if not (is_numeric_dtype(a) and is_numeric_dtype(b)):
            other = (a.astype(str) != b.astype(str)).to_numpy()
            found += [
                Moved(name, _row(common, keys, k), column, a[k], b[k], "another")
                for k in np.flatnonzero(other)
            ]
            continue
        x, y = a.to_numpy(dtype=float), b.to_numpy(dtype=float)
        same = (x == y) | (np.isnan(x) & np.isnan(y))
        se = _se(common, column)
        with np.errstate(all="ignore"):
            distance = np.abs(x - y)
            errors, relative = distance / se, distance / np.maximum(np.abs(x), np.abs(y))
            certain = np.isfinite(se)
            far = np.where(certain, errors > ERRORS, relative > RELATIVE) & (
                distance > ROUNDING * np.abs(x) + ABSOLUTE
            )
        lost = ~np.isfinite(distance) & ~same
        told = far & ~certain & ~same & ~lost
        far = (far & certain & ~same) | lost
        within += int((~far & ~told & ~same).sum())
        if told.any():
            notes.append(
                f"{name}: {told.sum()} of {column}, without an uncertainty, are off by up to"
                f" {np.max(relative[told]):.0%}"
            )
        found += [
            Moved(name, _row(common, keys, k), column, x[k], y[k], f"{errors[k]:.2g} errors")
            for k in np.flatnonzero(far)
        ]
    return found, within, notes


def _se(table: pd.DataFrame, column: str) -> np.ndarray:
    """The common standard error of both, where it is known.

    Beside the number, or by what the number is. NaN elsewhere.
    """

    def beside(side: str) -> np.ndarray | None:
        if column.endswith("_z"):
            return np.ones(len(table))
        if f"{column}_se{side}" in table:
            return table[f"{column}_se{side}"].to_numpy(dtype=float)
        if column == "rel_std" and f"std_se{side}" in table:
            return (
                table[f"std_se{side}"] / table[f"std{side}"] * table[f"rel_std{side}"]
            ).to_numpy(dtype=float)
        return None

    old, new = beside(""), beside(" new")
    return np.full(len(table), np.nan) if old is None or new is None else np.hypot(old, new)


def _row(table: pd.DataFrame, keys: Sequence[str], k: int) -> str:
    return ", ".join(str(table[key][k]) for key in keys[:4])


def command(folder: Path) -> list[str]:
    """The words of a finding's command after ``klbench``, its folder where findings are.

    Raises
    ------
    ValueError
        It has none.
    """
    words = shlex.split(json.loads((folder / "run.json").read_text(encoding="utf-8"))["command"])
    if words[:3] != ["python", "-m", "klbench"]:
        raise ValueError(f"{folder.name}: expected a command of klbench, got {' '.join(words)}")
    place = str(FOLDER / folder.name)
    if words[3] == "audit":
        at = words.index("--out")
        return [*words[3 : at + 1], place, *words[at + 2 :]]
    return [word for word in words[3:] if not word.startswith("out=")] + [f"out={place}"]


def tables(folder: Path) -> dict[str, pd.DataFrame]:
    """The tables of a run folder, without those of timings."""
    import pandas as pd

    files = sorted((folder / "tables").glob("*.parquet"))
    return {file.stem: pd.read_parquet(file) for file in files if file.stem not in TIMINGS}


def compared(
    old: Mapping[str, pd.DataFrame], new: Mapping[str, pd.DataFrame]
) -> tuple[list[Moved], int, list[str]]:
    """:func:`moved` of all tables together."""
    found, within = [], 0
    notes = [
        f"table {name} is {GONE if name in old else 'new'}"
        for name in sorted(old.keys() ^ new.keys())
    ]
    for name in sorted(old.keys() & new.keys()):
        more = moved(name, old[name], new[name])
        found, within, notes = found + more[0], within + more[1], notes + more[2]
    return found, within, notes


def again(words: Sequence[str], place: Path) -> Path:
    """Run a command in another place; gives back the run folder there."""
    paths = os.pathsep.join(
        [
            str(ROOT),
            *(
                str(Path(p).resolve())
                for p in os.environ.get("PYTHONPATH", "").split(os.pathsep)
                if p
            ),
        ]
    )
    done = subprocess.run(
        [sys.executable, "-m", "klbench", *words],
        cwd=place,
        env=os.environ | {"PYTHONPATH": paths},
        capture_output=True,
        text=True,
    )
    alarm = words[0] == "audit" and done.returncode == 1  # an error that it found
    if done.returncode and not alarm:
        raise RuntimeError(
            f"{shlex.join(words)} ended with {done.returncode}:"
            f" {' '.join(done.stderr.split())[-300:]}"
        )
    return place / done.stdout.splitlines()[-1].removesuffix("/index.html")


def folders(names: Sequence[str]) -> Iterator[Path]:
    """The findings that are runs, all of them or those named."""
    for folder in sorted((ROOT / FOLDER).iterdir()):
        if (folder / "run.json").is_file() and (not names or folder.name in names):
            yield folder


def write_index() -> None:
    """Write the index of the findings, with a picture of each."""
    from klbench.report.gallery import index

    root = ROOT / FOLDER
    lines = index(list(folders(())), root)
    (root / "README.md").write_text("\n".join(lines) + "\n", encoding="utf-8")


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; gives back the exit code."""
    parser = argparse.ArgumentParser(
        description="Make the published findings again and say where a number has moved."
    )
    parser.add_argument("--update", action="store_true", help="take the new ones")
    parser.add_argument(
        "names", nargs="*", metavar="NAME", help="which; all of them if none is named"
    )
    given = parser.parse_args(arguments)
    chosen = [each for each in folders(given.names) if each.name not in OTHERS]
    unknown = set(given.names) - {folder.name for folder in chosen}
    if unknown:
        parser.error(
            f"no finding is named {', '.join(sorted(unknown))}; there are"
            f" {', '.join(f.name for f in folders(()))}"
        )
    any_moved = False
    for folder in chosen:
        with tempfile.TemporaryDirectory() as place:
            print(f"{folder.name}: python -m klbench {shlex.join(command(folder))}", flush=True)
            try:
                new = again(command(folder), Path(place))
            except RuntimeError as error:
                print(f"  {error}")
                any_moved = True
                continue
            found, within, notes = compared(tables(folder), tables(new))
            lost = any(note.endswith(GONE) for note in notes)
            any_moved |= bool(found) or lost
            said = (
                f"{len(found)} numbers moved"
                if found
                else "something is gone"
                if lost
                else "nothing moved"
            )
            print(f"  {said}, {within} are other within their uncertainty")
            print(
                "".join(f"  {line}\n" for line in [*notes, *map(str, found[:SHOWN])]),
                end="",
                flush=True,
            )
            if given.update:
                shutil.rmtree(folder)
                shutil.copytree(new, folder)
                pages.write_extract(folder / "index.html", folder)
    if given.update:
        write_index()
    return int(any_moved and not given.update)


if __name__ == "__main__":
    sys.exit(main())
