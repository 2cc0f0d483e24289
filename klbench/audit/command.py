"""The verb ``audit`` of the command line."""

from __future__ import annotations

import argparse
import ast
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Never

from klbench import inputs
from klbench.audit import isolated
from klbench.audit.arguments import USES, WORDS
from klbench.audit.findings import KINDS
from klbench.types import ConfigError, RunError

RIGHT, WRONG, REFUSED, FAILED = 0, 1, 2, 3
EXAMPLES = """\
TARGET is package.module:function or path/file.py:function; file.py:make() is what make gives back. Naming it imports it.

examples:
  klbench audit my/loss.py:kl_penalty
  klbench audit verl.trainer.ppo.core_algos:kl_penalty --with kl_penalty=low_var_kl
  klbench audit my/loss.py:grpo_loss --as loss --args logprobs,ref_logprobs,old_logprobs,advantages,mask
  klbench audit my/loss.py:kl --expect k3 --expect-gradient "KL(q||p)" --json audit.json

q samples and p is the reference; where there is no reference but old_*, rollout_* or sampling_*, that one is q.
exit code: 0 no error, 1 an error was found, 2 it cannot be audited, 3 the audit itself failed
"""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> Never:
        raise ConfigError(f"audit: {message}")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="klbench audit",
        description="Is this KL function, this loss, right?",
        epilog=EXAMPLES,
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("target", metavar="TARGET")
    add(
        "--as",
        dest="used_as",
        choices=USES,
        default="kl",
        help="a KL (the default), a value without gradient, or a loss",
    )
    add("--args", metavar="WORDS", help=f"what its arguments are, in order: {WORDS}")
    add(
        "--with",
        dest="fixed",
        metavar="KEY=VALUE",
        action="append",
        default=[],
        help="an argument with a value of its own",
    )
    add("--sampled-by", metavar="NAME", help="the argument of whoever sampled")
    add("--output", metavar="KEY", help="the entry of a tuple or dict that it gives back")
    add("--expect", metavar="ESTIMATOR", help="what it is meant to be, such as k3")
    add(
        "--expect-gradient",
        metavar="DIVERGENCE",
        help="whose gradient it is meant to have, such as KL(q‖p)",
    )
    add(
        "--allow",
        metavar="KIND",
        action="append",
        default=[],
        help=f"findings that are meant: {', '.join(KINDS)}",
    )
    add(
        "--baseline",
        metavar="FILE",
        help="an earlier --json: what it holds is known and does not count",
    )
    add("--strict", action="store_true", help="a warning counts as an error")
    add(
        "--time-limit",
        metavar="SECONDS",
        type=float,
        default=isolated.LIMIT,
        help="for one call (%(default)g)",
    )
    add("--json", metavar="FILE", help="write the findings to this file")
    return parser


def _value(text: str) -> Any:
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return {"true": True, "false": False, "none": None}.get(text.lower(), text)


def _fixed(pairs: Sequence[str]) -> dict[str, Any]:
    wrong = [pair for pair in pairs if "=" not in pair]
    if wrong:
        raise ConfigError(f"--with {wrong[0]}: expected KEY=VALUE")
    return {key: _value(text) for key, _, text in (pair.partition("=") for pair in pairs)}


def main(arguments: Sequence[str]) -> int:
    """Audit what the arguments name, print what was found, and return the exit code."""
    try:
        if {"-h", "--help"} & set(arguments):
            print(_parser().format_help())
            return RIGHT
        return _audit(_parser().parse_args(list(arguments)))
    except ConfigError as error:
        print("klbench:", *str(error).split("\n"), file=sys.stderr)
        return REFUSED
    except RunError as error:
        print("klbench: the audit failed:", *str(error).split("\n"), file=sys.stderr)
        return FAILED


def _audit(options: argparse.Namespace) -> int:
    if not options.time_limit > 0.0:
        raise ConfigError(f"--time-limit {options.time_limit:g}: expected a number above 0")
    file = None if options.json is None else _writable(options.json)
    known = set() if options.baseline is None else _known(options.baseline)
    allow = [kind for each in options.allow for kind in each.split(",")]
    found = isolated.audit(
        options.target,
        {
            "used_as": options.used_as,
            "args": options.args,
            "fixed": _fixed(options.fixed),
            "sampled_by": options.sampled_by,
            "output": options.output,
            "expect": options.expect,
            "expect_gradient": options.expect_gradient,
            "allow": allow,
        },
        options.time_limit,
    )
    print("\n".join(found.pop("lines")))
    if file is not None:
        _write(file, found)
    counted = ("error", "warning") if options.strict else ("error",)
    new = [
        each
        for each in found["findings"]
        if each["severity"] in counted and each["kind"] not in known
    ]
    return WRONG if new else RIGHT


def _known(file: str) -> set[str]:
    data = inputs.read_json(Path(file))
    try:
        return {each["kind"] for each in data["findings"]}
    except (TypeError, KeyError):
        raise ConfigError(f"--baseline {file}: expected what --json wrote, with findings") from None


def _writable(file: str) -> Path:
    path = inputs.expanded(file)
    if not path.parent.is_dir() or path.is_dir():
        raise ConfigError(f"--json {file}: expected a file in a folder that exists")
    return path


def _write(path: Path, found: dict[str, Any]) -> None:
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        partial.write_text(json.dumps(found, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        partial.replace(path)
    except OSError as error:
        raise ConfigError(f"--json {path}: {inputs.reason(error)}") from None
