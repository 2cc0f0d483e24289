"""Defaults, choices and places in the code, as the installed packages have them.

Skipped where they are not installed.
"""

import ast
from collections.abc import Iterator

import pytest
import yaml

from klbench import trainers
from klbench.trainers import remedies
from klbench.trainers.installed import MissingError, module

CHECKED = [each for each in trainers.TRAINERS if each.package]
SPELLINGS = [
    each
    for each in trainers.spellings()
    if trainers.get(each.meaning.trainer).package and each.meaning.where
]
UNSET = object()


def source(distribution: str, file: str):
    try:
        return module(distribution, file)
    except MissingError as error:
        pytest.skip(str(error))


def fields(file: str, name: str) -> dict[str, object]:
    """The defaults of a dataclass's fields, in TRL."""
    (found,) = (
        each
        for each in source("trl", file).tree.body
        if isinstance(each, ast.ClassDef) and each.name == name
    )
    defaults = {}
    for each in found.body:
        if isinstance(each, ast.AnnAssign) and isinstance(each.value, ast.Call):
            defaults[each.target.id] = next(
                (
                    ast.literal_eval(key.value)
                    for key in each.value.keywords
                    if key.arg == "default"
                ),
                UNSET,
            )
    return defaults


def settings(file: str, prefix: str, *inner: str) -> dict[str, object]:
    """The leaves of a YAML file of verl, by path."""
    folder = source("verl", "verl/trainer/config/__init__.py").path.parent
    values = yaml.safe_load((folder / file).read_text(encoding="utf-8"))
    for key in inner:
        values = values[key]
    return dict(leaves(values, prefix))


def leaves(values: dict, prefix: str) -> Iterator[tuple[str, object]]:
    for key, value in values.items():
        if isinstance(value, dict):
            yield from leaves(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


def arguments() -> dict[str, tuple[object, tuple]]:
    """Default and choices of each option of OpenRLHF's command that are written out there."""
    found = {}
    for call in ast.walk(source("openrlhf", "openrlhf/cli/train_ppo_ray.py").tree):
        if (
            isinstance(call, ast.Call)
            and ast.unparse(call.func) == "parser.add_argument"
            and isinstance(call.args[0], ast.Constant)
        ):
            given = {each.arg: written(each.value) for each in call.keywords}
            found[call.args[0].value.removeprefix("--")] = (
                given.get("default", UNSET),
                tuple(given.get("choices", ())),
            )
    return found


def written(value: ast.expr) -> object:
    try:
        return ast.literal_eval(value)
    except ValueError:
        return UNSET


def defaults(name: str) -> dict[str, object]:
    if name == "trl_grpo":
        return fields("trl/trainer/grpo_config.py", "GRPOConfig")
    if name == "trl_rloo":
        return fields("trl/trainer/rloo_config.py", "RLOOConfig")
    if name.startswith("verl"):
        actor = settings("actor/actor.yaml", "actor_rollout_ref.actor.")
        algorithm = settings("ppo_trainer.yaml", "algorithm.", "algorithm")
        return {**actor, **algorithm, **settings("distillation/distillation.yaml", "distillation.")}
    if name == "openrlhf":
        return {path: default for path, (default, _) in arguments().items()}
    made = (
        source("liger-kernel", "liger_kernel/chunked_loss/grpo_loss.py")
        .find("LigerFusedLinearGRPOLoss.__init__")
        .args
    )
    return {
        arg.arg: ast.literal_eval(value)
        for arg, value in zip(made.args[1:], made.defaults, strict=True)
    }


@pytest.mark.parametrize("trainer", CHECKED, ids=lambda each: each.name)
def test_defaults_are_the_packages(trainer) -> None:
    theirs = defaults(trainer.name)
    for option in trainer.options:
        assert theirs[option.path] == option.default, option.path


@pytest.mark.parametrize("spelling", SPELLINGS, ids=lambda each: each.words)
def test_the_place_in_the_code_is_there(spelling) -> None:
    file, _, name = spelling.meaning.where.partition(":")
    assert (
        source(trainers.get(spelling.meaning.trainer).package, file).find(name).name
        == name.rpartition(".")[2]
    )


def test_choices_are_the_commands() -> None:
    theirs = arguments()
    for option in trainers.get("openrlhf").options:
        choices = theirs[option.path][1]
        assert not choices or choices == option.values


def attributes(distribution: str, file: str) -> set[str]:
    """The fields of all classes of a file."""
    return {
        each.target.id
        for each in ast.walk(source(distribution, file).tree)
        if isinstance(each, ast.AnnAssign) and isinstance(each.target, ast.Name)
    }


def names(trainer: str) -> set[str]:
    """All options of a trainer, whole where the package has them so."""
    if trainer == "verl":
        rollout = "actor_rollout_ref.rollout."
        correction = "algorithm.rollout_correction."
        return {
            *settings("rollout/rollout.yaml", rollout),
            *settings("algorithm/rollout_correction.yaml", correction),
        }
    if trainer == "skyrl":
        return attributes("skyrl", "skyrl/train/config/config.py")
    return set(defaults(trainer))


@pytest.mark.parametrize("trainer", ["trl_grpo", "verl", "openrlhf", "skyrl"])
def test_what_the_doctor_says_to_set_is_an_option_of_the_package(trainer) -> None:
    named, theirs = remedies.options(trainer), names(trainer)
    assert len(named) >= 3
    for option in named:
        parts = set(option.split(".")[2:]) if trainer == "skyrl" else {option}
        whole = any(f".{each}".endswith(f".{option}") for each in theirs)
        assert whole or (trainer == "skyrl" and parts <= theirs), option
