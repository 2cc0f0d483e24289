"""The defaults and choices of trainers' options, read from their installed files."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from typing import Any

import yaml

from klbench.trainers.installed import module

UNSET = object()
"""Stands for a default that is not written out."""


def defaults(trainer: str) -> dict[str, Any]:
    """Return the default of each option of a trainer, by its path, as the installed package has it.

    Raises
    ------
    klbench.trainers.installed.MissingError
        The package is not installed, or has no such file.
    """
    if trainer in FIELDS:
        return _fields(*FIELDS[trainer])
    if trainer.startswith("verl"):
        actor = settings("actor/actor.yaml", "actor_rollout_ref.actor.")
        algorithm = settings("ppo_trainer.yaml", "algorithm.", "algorithm")
        more = settings("distillation/distillation.yaml", "distillation.")
        return {**actor, **algorithm, **more}
    if trainer == "openrlhf":
        return {path: default for path, (default, _) in arguments().items()}
    file = "liger_kernel/chunked_loss/grpo_loss.py"
    made = module("liger-kernel", file).find("LigerFusedLinearGRPOLoss.__init__").args
    values = (_written(each) for each in made.defaults)
    return {arg.arg: value for arg, value in zip(made.args[1:], values, strict=True)}


FIELDS = {
    "trl_grpo": ("trl/trainer/grpo_config.py", "GRPOConfig"),
    "trl_rloo": ("trl/trainer/rloo_config.py", "RLOOConfig"),
}
"""The file and the dataclass of TRL's trainers."""


def _fields(file: str, name: str) -> dict[str, Any]:
    """The defaults of a dataclass's fields."""
    (found,) = (
        each
        for each in module("trl", file).tree.body
        if isinstance(each, ast.ClassDef) and each.name == name
    )
    return {
        ast.unparse(each.target): next(
            (_written(key.value) for key in each.value.keywords if key.arg == "default"), UNSET
        )
        for each in found.body
        if isinstance(each, ast.AnnAssign) and isinstance(each.value, ast.Call)
    }


def settings(file: str, prefix: str, *inner: str) -> dict[str, Any]:
    """Return the leaves of a YAML file of verl, by path."""
    folder = module("verl", "verl/trainer/config/__init__.py").path.parent
    values = yaml.safe_load((folder / file).read_text(encoding="utf-8"))
    for key in inner:
        values = values[key]
    return dict(_leaves(values, prefix))


def _leaves(values: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, dict):
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


def arguments() -> dict[str, tuple[Any, tuple[Any, ...]]]:
    """Return default and choices of each option of OpenRLHF's command that are written out there.

    Raises
    ------
    klbench.trainers.installed.MissingError
        As in :func:`defaults`.
    """
    found = {}
    for call in ast.walk(module("openrlhf", "openrlhf/cli/train_ppo_ray.py").tree):
        if (
            isinstance(call, ast.Call)
            and ast.unparse(call.func) == "parser.add_argument"
            and isinstance(call.args[0], ast.Constant)
        ):
            given = {each.arg: _written(each.value) for each in call.keywords}
            choices = given.get("choices", ())
            found[str(call.args[0].value).removeprefix("--")] = (
                given.get("default", UNSET),
                () if choices is UNSET else tuple(choices),
            )
    return found


def _written(value: ast.expr) -> Any:
    try:
        return ast.literal_eval(value)
    except ValueError:
        return UNSET
