"""The verb ``advise`` of the command line."""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Sequence
from typing import Any

from klbench import inputs
from klbench.advise.answer import Setting, advise
from klbench.inputs import VerbParser
from klbench.types import ConfigError

DONE, REFUSED = 0, 2
EXAMPLES = """\
examples:
  klbench advise --tokens 1024 --batch 256 --kl-token 0.01 --lag-token 0.0005
  klbench advise --tokens 1024 --batch 256 --kl-token 0.01 --trainer trl --json advice.json

KL(q‖p) to the reference and KL(q‖μ) to the sampler are in nats a token. Errors are relative
to the truth.
exit code: 0 done, 2 it cannot be answered
"""


def _parser() -> argparse.ArgumentParser:
    parser = VerbParser("advise", "Which estimator, gradient and weight errs least here?", EXAMPLES)
    add = parser.add_argument
    add("--tokens", metavar="N", type=_whole, required=True, help="tokens of a sequence")
    add("--batch", metavar="N", type=_whole, required=True, help="sequences in a batch")
    add("--kl-token", metavar="NATS", type=float, required=True, help="KL(q‖p) a token")
    add(
        "--lag-token",
        metavar="NATS",
        type=float,
        default=0.0,
        help="KL(q‖μ) a token; 0, the default: the policy itself samples",
    )
    add("--trainer", metavar="NAME", default="", help="only what this trainer has")
    add("--logits", action="store_true", help="the distributions over the next token are at hand")
    add(
        "--error",
        metavar="SHARE",
        type=float,
        default=0.1,
        help="the relative error that a batch is asked for (%(default)g)",
    )
    add("--json", metavar="FILE", help="write the advice to this file")
    return parser


def _whole(text: str) -> int:
    value = float(text.replace("_", "").replace(",", ""))
    if not math.isfinite(value) or value != int(value):
        raise ValueError
    return int(value)


_whole.__name__ = "whole number"


def main(arguments: Sequence[str]) -> int:
    """Answer, and return the exit code."""
    try:
        if {"-h", "--help"} & set(arguments):
            print(_parser().format_help())
            return DONE
        options = vars(_parser().parse_args(list(arguments)))
        given = options.pop("json")
        file = None if given is None else inputs.new_json(given)
        found = advise(Setting(**options))
        if file is not None:
            inputs.write_json(file, found)
        print("\n".join(lines(found)))
        return DONE
    except ConfigError as error:
        print("klbench:", *str(error).splitlines(), file=sys.stderr)
        return REFUSED


def lines(found: dict[str, Any]) -> list[str]:
    """Return the advice for the terminal."""
    value, gradient, asked = found["value"], found["gradient"], found["batch_for"]
    options = f" ({gradient['options']})" if gradient["options"] else ""
    needed = f"{_batch(found['batch'])} for a relative error of {asked['error']:g}"
    said = [
        f"value       {value['estimator']}: {_errors(value)}",
        f"gradient    {gradient['combination']}{options}: {_errors(gradient)}",
        f"correction  {found['correction']}",
        f"batch       {needed}, with {asked['combination']}",
    ]
    said += (f"watch       {x['what']}: {x['expect']:.2g}; {x['why']}" for x in found["watch"])
    sources = dict.fromkeys(each["source"] for each in (value, gradient, *found["watch"]))
    return said + [f"source      {each}" for each in sources]


def _errors(found: dict[str, Any]) -> str:
    whole, bias, noise = (f"{found[each]:.2g}" for each in ("rel_rmse", "rel_bias", "rel_std"))
    return f"relative error {whole} (bias {bias}, noise of one sequence {noise})"


def _batch(size: int | None) -> str:
    return "none is enough" if size is None else f"{size:,} sequences"
