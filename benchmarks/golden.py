"""Accuracy tables of small fixed runs, made again and held against the committed ones.

``make golden``.

A number that changed is a finding or a mistake, and somebody should say which: ``make golden
UPDATE=1`` takes the new ones. ``golden/NAME/`` holds a run's tables as CSV, every float with all
its digits, and ``made.json`` with the command, the versions and the machine that made them. Where
these are the same, numbers must be the same to the bit. Elsewhere sums may be taken in another
order and an ``exp`` may round the other way, so that they must agree as :func:`tolerated` says.
"""

from __future__ import annotations

import argparse
import csv
import io
import json
import math
import shlex
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

import numpy as np

if TYPE_CHECKING:
    import pandas as pd

FOLDER = Path(__file__).parent / "golden"
COMPUTING = ("python", "numpy", "numba", "scipy", "torch")
"""What decides the bits; the first two numbers of Python's version do."""
TIMINGS = ("throughput", "cost")
"""Tables of timings, which no two runs share."""
ROUNDING = ("precision",)
"""Tables of rounding errors, which are the machine's own."""
RELATIVE, OF_SE, ABSOLUTE = 1e-9, 1e-6, 1e-10
ROOT = 1e-9
"""How far from 0 a standard error of an exact 0 may come out.

It is the root of a variance that cancels to about 1e-19.
"""
SHOWN = 8

Tables = dict[str, "pd.DataFrame"]


@dataclass(frozen=True)
class Case:
    """A run: its name and the words of its command; a fast one is part of ``make test``.

    One that is ``iterated`` holds ends of an iteration, whose last bits have differed between two
    machines of one kind.
    """

    name: str
    words: tuple[str, ...]
    fast: bool = False
    iterated: bool = False

    @property
    def command(self) -> str:
        return f"python -m klbench {shlex.join(self.words)}"


PAIRS = (
    "{kind: gaussian, p: {mean: 0.5}}",
    "{kind: gaussian, p: {mean: 0.5, std: 1.1}, mu: {mean: -0.3}}",
    "{kind: exponential, q: {rate: 1.0}, p: {rate: 0.7}}",
    "{kind: categorical, random: {size: 10, kl: 0.5}}",
)
# By name, so that a new one changes nothing here.
ESTIMATORS = (
    "k1,k2,k3,abs,k_lambda,k_fitted,k3_clamped,k3_verl,k1_openrlhf,k2_openrlhf,k3_openrlhf,"
    "bregman_kl_qp,bregman_kl_pq,bregman_js,bregman_hellinger,bregman_chi2,bregman_alpha,"
    "k1_weighted,k2_weighted,k3_weighted,k1_self_normalized"
)
COMBINATIONS = (
    "k1_loss,k2_loss,k3_loss,k3_loss_length_mean,k3_plus,k3_ratio_loss,k3_verl_loss,k1_reward,"
    "k1_reward_to_go,k2_reward,k1_reward_leave_one_out,k1_reward_batch_mean,k2_sequence_loss,"
    "full_loss,full_with_score"
)
LAGGING = (
    "k1_reward,k1_reward_token_ratio,k1_reward_truncated_ratio,k1/reward_to_go/token/prefix_ratio,"
    "k1_reward_sequence_ratio,k1/reward/sequence/truncated_ratio,k1_prefix_ratio_loss,"
    "k2_sequence_loss,k3_loss,k3_plus,k3_ratio_loss,openrlhf_unbiased_gradient,"
    "k3_sequence_ratio_loss,full_loss,full_with_score,full_with_score_sequence_ratio"
)
SEQUENCE = "{kind: sequence, vocabulary: 3, horizon: 3, prompts: 2, width: 4, kl: 0.5%s}"
CASES = (
    Case(
        "value",
        (
            "+exp=value",
            f"pairs=[{','.join(PAIRS)}]",
            f"estimators=[{ESTIMATORS}]",
            "samples=5000",
            "batches=[1,64]",
        ),
        fast=True,
    ),
    Case(
        "far",
        (
            "+exp=value",
            "pair=gaussian",
            "pair.p.mean=6",
            f"estimators=[{ESTIMATORS}]",
            "samples=5000",
            "batches=[1]",
        ),
        fast=True,
    ),
    Case(
        "gradient",
        ("+exp=gradient", f"pairs=[{SEQUENCE % ''}]", f"combinations=[{COMBINATIONS}]"),
        fast=True,
    ),
    Case("recorded", ("+exp=recorded", "path=rollouts.jsonl"), fast=True),
    Case("claims", ("+exp=claims",)),
    Case(
        "staleness",
        (
            "+exp=staleness",
            f"pairs=[{SEQUENCE % ', behind: random'}]",
            f"combinations=[{LAGGING}]",
        ),
    ),
    Case(
        "lambda",
        (
            "+exp=lambda",
            f"pairs=[{SEQUENCE % ''},{{kind: categorical, random: {{size: 8, kl: 0.3}}}}]",
        ),
    ),
    Case("same_kl", ("+exp=same_kl",)),
    Case("precision", ("+exp=precision", "estimators=[k3]", "points=4", "smallest=-8")),
    Case(
        "tails",
        (
            "+exp=tails",
            "estimators=[k1,k3,bregman_kl_pq,k3_clamped]",
            "samples=20000",
            "batches=[256]",
        ),
    ),
    Case(
        "training",
        (
            "+exp=ppo",
            "vocabulary=3",
            "horizon=3",
            "prompts=2",
            "width=4",
            "updates=10",
            "seeds=2",
            "noise_free_seeds=1",
            "frontier_seeds=1",
        ),
    ),
    Case(
        "dpo",
        (
            "+exp=dpo",
            "vocabulary=3",
            "horizon=2",
            "prompts=2",
            "width=4",
            "divergences=[kl_qp,js]",
            "comparisons=[40]",
            "smoothings=[0.2]",
            "seeds=2",
            "steps=20",
            "every=10",
            "completions=16",
        ),
        iterated=True,
    ),
    Case(
        "reward_model",
        (
            "+exp=reward_model",
            "vocabulary=3",
            "horizon=2",
            "prompts=2",
            "width=4",
            "sizes=[40]",
            "model_steps=20",
            "seeds=2",
            "betas=[1.0,0.2]",
            "best_of=[1,4]",
            "updates=10",
        ),
    ),
)


def rollouts(file: Path) -> None:
    """Forty rollouts as trainers leave them.

    Padded, with a token masked within, another sampler, exact divergences.
    """
    from klbench import streams

    stream = streams.generator(0, "golden", "rollouts")
    lines = []
    for k in range(40):
        length = 6 + k % 5
        log_q = -stream.exponential(1.5, 12)
        steps = stream.normal(0.0, 0.3, (2, 12))
        mask = [t < length and t != 2 + k % 3 for t in range(12)]
        row = {
            "prompt": k // 4,
            "logprobs": log_q,
            "ref_logprobs": np.minimum(log_q + steps[0], 0.0),
            "old_logprobs": np.minimum(log_q + 0.3 * steps[1], 0.0),
            "kl": 0.5 * steps[0] ** 2,
            "mask": mask,
        }
        lines.append(
            json.dumps(
                {
                    key: value.tolist() if isinstance(value, np.ndarray) else value
                    for key, value in row.items()
                }
            )
        )
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")


def recompute(case: Case) -> Tables:
    """The tables of a run, made in this process by one worker, without those of timings."""
    from klbench.context import Context
    from klbench.engine import app

    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "rollouts.jsonl"
        rollouts(file)
        words = [f"path={file}" if word.startswith("path=") else word for word in case.words]
        settings = app.check(app.normalized(words))
        found = settings.study.run(settings.options, Context(seed=settings.common.seed))
    return {
        name: _read(io.StringIO(_text(table, folder)))
        for name, table in sorted(found.items())
        if name not in TIMINGS
    }


def _text(table: pd.DataFrame, folder: str = "") -> str:
    """All digits, without paths of this machine."""
    text: str = table.to_csv(index=False)
    return text.replace(f"{folder}/", "") if folder else text


def _read(file: TextIO) -> pd.DataFrame:
    """A table as it was written.

    Python reads a float's digits to the very bits, and an empty cell is a missing one.
    """
    import pandas as pd

    head, *rows = csv.reader(file)
    return pd.DataFrame({name: _column([row[k] for row in rows]) for k, name in enumerate(head)})


def _column(cells: list[str]) -> list[float] | list[str]:
    try:
        return [float(cell) if cell else math.nan for cell in cells]
    except ValueError:
        return cells


def made() -> dict[str, Any]:
    """What decides the bits of a number, here."""
    from klbench.machine import describe, kind

    versions = {
        name: version for name, version in describe()["versions"].items() if name in COMPUTING
    }
    versions["python"] = ".".join(versions["python"].split(".")[:2])
    return {"versions": versions, "machine": kind()}


def write(case: Case, tables: Mapping[str, pd.DataFrame], folder: Path = FOLDER) -> None:
    """Take these numbers for the right ones."""
    from klbench.runs import write_text

    for stale in (folder / case.name).glob("*.csv"):
        stale.unlink()
    for name, table in tables.items():
        write_text(folder / case.name / f"{name}.csv", _text(table))
    write_text(
        folder / case.name / "made.json",
        json.dumps({"command": case.command} | made(), indent=2) + "\n",
    )


def tolerated(
    old: np.ndarray, new: np.ndarray, se: np.ndarray | None, absolute: float = ABSOLUTE
) -> np.ndarray:
    """Whether numbers may stand for each other where the last bits cannot be the same.

    Within 1e-9 of their size, as what is summed over thousands of terms is, each a few units in the
    last place off. A bias or a difference is what is left of larger numbers, and no surer than
    that; but a millionth of its standard error, where there is one beside it, is no news. 1e-10 is
    how far from 0 an exact zero may come out: biases of exact gradients do by 3e-12. (Tried with
    NumPy's and torch's loops without AVX, and Numba's for any processor of 64 bits: all numbers
    stay within.)
    """
    same = (old == new) | (np.isnan(old) & np.isnan(new))
    with np.errstate(invalid="ignore"):
        close = np.abs(old - new) <= RELATIVE * np.maximum(np.abs(old), np.abs(new)) + absolute
        if se is not None:
            close |= np.abs(old - new) <= OF_SE * se
    return same | (close & np.isfinite(old) & np.isfinite(new))


def _table(where: str, old: pd.DataFrame, new: pd.DataFrame, *, exact: bool) -> list[str]:
    from pandas.api.types import is_numeric_dtype

    if list(old.columns) != list(new.columns) or len(old) != len(new):
        gone, come = (sorted(set(a) - set(b)) for a, b in ((old, new), (new, old)))
        return [f"{where}: {len(old)} rows, now {len(new)}; columns gone: {gone}, new: {come}"]
    lines: list[str] = []
    for column in old:
        a, b = old[column], new[column]
        if is_numeric_dtype(a) and is_numeric_dtype(b):
            x, y = a.to_numpy(dtype=float), b.to_numpy(dtype=float)
            se = old[f"{column}_se"].to_numpy(dtype=float) if f"{column}_se" in old else None
            absolute = ROOT if str(column).endswith("_se") else ABSOLUTE
            good = (
                (x == y) | (np.isnan(x) & np.isnan(y)) if exact else tolerated(x, y, se, absolute)
            )
        else:
            good = (a.astype(str) == b.astype(str)).to_numpy()
        lines += [
            f"{where}, {_place(old, row)}: {column} was {a[row]}, is {b[row]}"
            for row in np.flatnonzero(~good)
        ]
    return lines


def _place(table: pd.DataFrame, row: int) -> str:
    """The row in words: its first texts."""
    texts = [str(value) for value in table.iloc[row] if isinstance(value, str)]
    return f"row {row} ({', '.join(texts[:3])})"


def differences(
    case: Case, tables: Mapping[str, pd.DataFrame], folder: Path = FOLDER
) -> tuple[list[str], bool]:
    """A line for each number that is not what it was, and whether the bits themselves were
    compared.
    """
    file = folder / case.name / "made.json"
    if not file.is_file():
        return [
            f"{case.name}: has no committed numbers yet; make golden UPDATE=1 takes these"
        ], False
    before = json.loads(file.read_text(encoding="utf-8"))
    exact = not case.iterated and made().items() <= before.items()
    if before["command"] != case.command:
        return [
            f"{case.name}: the committed numbers are those of another command, {before['command']}"
        ], exact
    old = {
        path.stem: _read(io.StringIO(path.read_text("utf-8")))
        for path in sorted((folder / case.name).glob("*.csv"))
    }
    lines = [
        f"{case.name}: table {name} is in one of both only"
        for name in sorted(old.keys() ^ tables.keys())
    ]
    for name in sorted(old.keys() & tables.keys() - (set() if exact else set(ROUNDING))):
        lines += _table(f"{case.name}, table {name}", old[name], tables[name], exact=exact)
    return lines, exact


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; gives back the exit code."""
    parser = argparse.ArgumentParser(
        description="Make the accuracy tables of small fixed runs again and compare them."
    )
    parser.add_argument("--update", action="store_true", help="take the new numbers")
    parser.add_argument(
        "names",
        nargs="*",
        metavar="NAME",
        help=f"which runs: {', '.join(case.name for case in CASES)}",
    )
    given = parser.parse_args(arguments)
    unknown = set(given.names) - {case.name for case in CASES}
    if unknown:
        parser.error(
            f"no run is named {', '.join(sorted(unknown))}; available:"
            f" {', '.join(case.name for case in CASES)}"
        )
    wrong = 0
    for case in CASES:
        if given.names and case.name not in given.names:
            continue
        tables = recompute(case)
        lines, exact = differences(case, tables)
        wrong += bool(lines)
        numbers = sum(table.select_dtypes("number").size for table in tables.values())
        held = (
            "to the bit"
            if exact
            else "within tolerances: iterated, or made on another machine or with other versions"
        )
        print(
            f"{case.name}: {f'{len(lines)} differences' if lines else 'the same'}, {numbers:,}"
            f" numbers, {held}"
        )
        print("".join(f"  {line}\n" for line in lines[:SHOWN]), end="")
        if given.update:
            write(case, tables)
    return int(wrong > 0 and not given.update)


if __name__ == "__main__":
    sys.exit(main())
