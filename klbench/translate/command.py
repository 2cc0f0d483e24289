"""The verb ``translate`` of the command line."""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Sequence
from typing import Any

from klbench import inputs
from klbench.inputs import VerbParser
from klbench.translate.answer import MOST, Scale, translate
from klbench.types import ConfigError

DONE, REFUSED = 0, 2
EXAMPLES = """\
examples:
  klbench translate "verl kl_loss_type=low_var_kl kl_loss_coef=0.001" --to trl --length 800
  klbench translate "trl@1.9 beta=0.04 loss_type=grpo" --to openrlhf --json translation.json

The coefficient keeps the weight of a sequence's KL against its reward.
exit code: 0 done, 2 it cannot be translated
"""


def _parser() -> argparse.ArgumentParser:
    parser = VerbParser(
        "translate", "What is this trainer's KL setting in another trainer?", EXAMPLES
    )
    add = parser.add_argument
    add("setting", metavar="SETTING", help='"TRAINER[@VERSION] key=value ..."')
    add("--to", metavar="TRAINER[@VERSION]", required=True, help="the other trainer")
    add("--length", metavar="N", help="tokens of a sequence")
    add("--kl-token", metavar="NATS", help="KL(q‖p) a token, to say what the penalty costs")
    add("--json", metavar="FILE", help="write the translation to this file")
    return parser


def _positive(flag: str, text: str | None, *, whole: bool = False) -> float | None:
    if text is None:
        return None
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0.0 < value <= MOST or (whole and not value.is_integer()):
        kind = "a whole number" if whole else "a number"
        raise ConfigError(f"translate: {flag} {text}: expected {kind} above 0, {MOST:g} at most")
    return value


def main(arguments: Sequence[str]) -> int:
    """Answer, and return the exit code."""
    try:
        if {"-h", "--help"} & set(arguments):
            print(_parser().format_help())
            return DONE
        given = _parser().parse_args(list(arguments))
        length = _positive("--length", given.length, whole=True)
        scale = Scale(
            None if length is None else int(length), _positive("--kl-token", given.kl_token)
        )
        file = None if given.json is None else inputs.new_json(given.json)
        found = translate(given.setting, given.to, scale)
        if file is not None:
            inputs.write_json(file, found)
        print("\n".join(lines(found)))
        return DONE
    except ConfigError as error:
        print("klbench:", *str(error).splitlines(), file=sys.stderr)
        return REFUSED


def lines(found: dict[str, Any]) -> list[str]:
    """Return the translation for the terminal."""
    strength = found["equal_strength"]
    alone, paid = strength["penalty_alone"], strength["reward_paid"]
    combinations = f"{found['to']['combination']} for {found['from']['combination']}"
    weight = f"{strength['option'] or 'no coefficient'} {strength['coefficient']:g}"
    said = [
        f"set         {found['to']['setting']}",
        f"gradient    {strength['gradient']}: {combinations}",
        f"strength    {weight}: the {strength['measure']}",
    ]
    if alone["factor"] not in (None, 1.0):
        said.append(
            f"            the penalty's own gradient alone would need {alone['coefficient']:g}"
        )
    if paid is not None:
        said.append(f"            it costs a sequence {paid:.3g} of reward")
    said += (f"lost        {each}" for each in found["lost"])
    return said + [f"changes     {each}" for each in found["changes"]]
