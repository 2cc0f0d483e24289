"""The verb ``audit`` of the command line."""

from __future__ import annotations

import argparse
import ast
import importlib
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from klbench import inputs
from klbench.audit import isolated
from klbench.audit.arguments import USES, WORDS
from klbench.audit.findings import IMPORTED, KINDS, SCHEMA_VERSION
from klbench.inputs import VerbParser
from klbench.runs import RunFolder
from klbench.types import ConfigError, RunError

RIGHT, WRONG, REFUSED, FAILED = 0, 1, 2, 3
ALONE = ("args", "fixed", "sampled_by", "output", "expect", "expect_gradient", "baseline")
"""Options that make no sense of several functions at once."""
EXAMPLES = """\
TARGET is package.module:function or path/file.py:function; file.py:make() is what make gives
back. Naming it imports it.

examples:
  klbench audit my/loss.py:kl_penalty
  klbench audit verl.trainer.ppo.core_algos:kl_penalty --with kl_penalty=low_var_kl
  klbench audit my/loss.py:grpo --as loss --args logprobs,ref_logprobs,old_logprobs,advantages,mask
  klbench audit my/loss.py:kl --expect k3 --expect-gradient "KL(q||p)" --json audit.json
  klbench audit --installed --out reports/trainers

q samples and p is the reference; where there is no reference but old_*, rollout_* or sampling_*,
that one is q.
exit code: 0 no error, 1 an error was found, 2 it cannot be audited, 3 the audit itself failed
"""


def _parser() -> argparse.ArgumentParser:
    parser = VerbParser("audit", "Is this KL function, this loss, right?", EXAMPLES)
    add = parser.add_argument
    add("target", metavar="TARGET", nargs="?")
    add(
        "--installed",
        action="store_true",
        help="in place of a target: the KL functions and losses of the trainers that are installed",
    )
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
    add("--out", metavar="DIR", help="write a page and the tables to this new folder")
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
        return _audit(_parser().parse_args(list(arguments)), arguments)
    except ConfigError as error:
        print("klbench:", *str(error).split("\n"), file=sys.stderr)
        return REFUSED
    except RunError as error:
        print("klbench: the audit failed:", *str(error).split("\n"), file=sys.stderr)
        return FAILED


def _audit(options: argparse.Namespace, arguments: Sequence[str]) -> int:
    began = time.monotonic()
    file, out = _checked(options)
    known = set() if options.baseline is None else _known(options.baseline)
    records = _installed(options) if options.installed else [_one(options)]
    made = [record.found.plain for record in records if record.found is not None]
    if file is not None:
        together = {"schema_version": SCHEMA_VERSION, "audits": made}
        inputs.write_json(file, together if options.installed else dict(made[0]))
    if out is not None:
        from klbench.studies.audit.folder import write  # the page, and what draws it

        print(write(out, records, arguments, _settings(options), began))
    counted = ("error", "warning") if options.strict else ("error",)
    new = [
        each
        for found in made
        for each in found["findings"]
        if each["severity"] in counted and each["kind"] not in known
    ]
    return WRONG if new else RIGHT


def _checked(options: argparse.Namespace) -> tuple[Path | None, Path | None]:
    """Return where JSON and page go, both of which can be written."""
    if bool(options.target) == options.installed:
        raise ConfigError("audit: expected a TARGET, or --installed in its place")
    if options.installed and (given := [name for name in ALONE if getattr(options, name)]):
        raise ConfigError(f"--{given[0].replace('_', '-')}: is of one target, not of --installed")
    if not options.time_limit > 0.0:
        raise ConfigError(f"--time-limit {options.time_limit:g}: expected a number above 0")
    file = None if options.json is None else inputs.new_json(options.json)
    if options.out is None:
        return file, None
    out = inputs.expanded(options.out)
    try:
        RunFolder.check_new(out)
    except ConfigError as error:
        raise ConfigError(
            str(error).replace("out=", "--out ").partition(", or continue")[0]
        ) from None
    return file, out


def _settings(options: argparse.Namespace) -> dict[str, Any]:
    """Return what was asked for, as ``config.yaml`` keeps it."""
    if options.installed:
        return {"installed": True, "as": "kl"}
    given = vars(options) | {"as": options.used_as, "with": options.fixed}
    names = ("target", "as", "args", "with", "sampled_by", "output", "expect", "expect_gradient")
    return {name: given[name] for name in (*names, "allow")}


def _one(options: argparse.Namespace) -> isolated.Record:
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
    print("\n".join(found.lines))
    return isolated.Record(options.target, found)


def _installed(options: argparse.Namespace) -> list[isolated.Record]:
    """Audit what is installed, one after the other, each library in a process of its own."""
    field = importlib.import_module("klbench.audit.field")  # which loads torch
    places = [place for place in field.places() if place.version]
    if not places:
        libraries = ", ".join(dict.fromkeys(place.library for place in field.places()))
        raise ConfigError(f"--installed: none of these is installed: {libraries}")
    allow = [kind for each in options.allow for kind in each.split(",")]
    records = []
    for library in dict.fromkeys(place.library for place in places):
        own = [place for place in places if place.library == library]
        requests = [(place.target, place.audited() | {"allow": allow}) for place in own]
        audits = isolated.several(requests, options.time_limit, field.load)
        for place, found in zip(own, audits, strict=True):
            if isinstance(found, isolated.Found):
                records.append(isolated.Record(place.target, found, "", place))
                taken = "" if found.taken == IMPORTED else f"  taken {found.taken}"
                print("\n".join(filter(None, (*found.lines, taken))), flush=True)
            else:
                records.append(isolated.Record(place.target, None, str(found), place))
                print(f"{place.target}: not audited: {found}", flush=True)
    return records


def _known(file: str) -> set[str]:
    data = inputs.read_json(Path(file))
    try:
        return {each["kind"] for each in data["findings"]}
    except (TypeError, KeyError):
        raise ConfigError(f"--baseline {file}: expected what --json wrote, with findings") from None
