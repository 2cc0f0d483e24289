"""The verb ``doctor`` of the command line."""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Sequence
from typing import Any

from klbench import inputs
from klbench.inputs import VerbParser
from klbench.trainers.remedies import REMEDIES
from klbench.types import ConfigError, RunError

WELL, ALARM, REFUSED, FAILED = 0, 1, 2, 3
EXAMPLES = """\
Needs log-probabilities a token of two of: the policy, whoever sampled (the engine), the
reference. Names of columns as trainers write them are known; --map names others. Roles: policy,
sampler, old, reference, mask, tokens, prompt, reward, step, version.

examples:
  klbench doctor rollouts.parquet
  klbench doctor runs/step_*.jsonl --json out.json --out reports/doctor
  klbench doctor dump.jsonl --map policy=prev_logprobs,sampler=generation_logprobs
  klbench doctor dump.jsonl --trainer nemo-rl

mu samples, q is the policy, p the reference; nats.
exit code: 0 no alarm, 1 an alarm, 2 it cannot be read, 3 the doctor itself failed
"""


def _parser() -> argparse.ArgumentParser:
    parser = VerbParser("doctor", "What is going on in my run?", EXAMPLES)
    add = parser.add_argument
    add("files", metavar="FILE", nargs="+", help="files of rollouts, in the order of steps")
    add(
        "--map", metavar="ROLE=COLUMN,...", action="append", default=[], help="the columns of roles"
    )
    add("--text", action="store_true", help="texts of tokens may be shown")
    known = ", ".join(REMEDIES)
    add("--trainer", metavar="NAME", default="", help=f"say what to do in its options: {known}")
    add("--json", metavar="FILE", help="write all of it to this file")
    add("--out", metavar="FOLDER", help="write a run folder with a page")
    return parser


def main(arguments: Sequence[str]) -> int:
    """Diagnose the files of the arguments, print what was found, return the exit code."""
    try:
        if {"-h", "--help"} & set(arguments):
            print(_parser().format_help())
            return WELL
        return _doctor(_parser().parse_args(list(arguments)))
    except ConfigError as error:
        print("klbench:", *str(error).split("\n"), file=sys.stderr)
        return REFUSED
    except Exception as error:  # noqa: BLE001  # a border: whatever fails is no alarm of the run
        what = str(error) if isinstance(error, RunError) else f"{type(error).__name__}: {error}"
        print("klbench: the doctor failed:", " ".join(what.split()), file=sys.stderr)
        return FAILED


def mapping(given: Sequence[str]) -> dict[str, str]:
    """Return roles and columns of ``--map``.

    Raises
    ------
    ConfigError
        Something in it is not ``ROLE=COLUMN``, or a role is there twice.
    """
    pairs = [each for text in given for each in text.split(",") if each]
    for pair in pairs:
        if not all(pair.partition("=")):
            raise ConfigError(
                f"--map {pair}: expected ROLE=COLUMN, such as sampler=rollout_log_probs"
            )
    result: dict[str, str] = {}
    for role, _, column in (each.partition("=") for each in pairs):
        if role.strip() in result:
            raise ConfigError(f"--map {role.strip()}={column}: the role has a column already")
        result[role.strip()] = column.strip()
    return result


def _doctor(options: argparse.Namespace) -> int:
    file = None if options.json is None else inputs.new_json(options.json)
    # What it needs is imported for a file alone, and not for --help.
    diagnosis = importlib.import_module("klbench.engine.diagnosis")
    found: dict[str, Any] = diagnosis.found(options, mapping(options.map))
    if file is not None:
        inputs.write_json(file, found)
    return ALARM if found["alarm"] else WELL
