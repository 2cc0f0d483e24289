"""Defaults, choices and places in the code, as the installed packages have them.

Skipped where they are not installed.
"""

import ast

import pytest

from klbench import trainers
from klbench.trainers import remedies
from klbench.trainers.defaults import arguments, defaults, settings
from klbench.trainers.installed import MissingError, module

CHECKED = [each for each in trainers.TRAINERS if each.package]
SPELLINGS = [
    each
    for each in trainers.spellings()
    if trainers.get(each.meaning.trainer).package and each.meaning.where
]


def read(function, *arguments):
    try:
        return function(*arguments)
    except MissingError as error:
        pytest.skip(str(error))


@pytest.mark.parametrize("trainer", CHECKED, ids=lambda each: each.name)
def test_defaults_are_the_packages(trainer) -> None:
    theirs = read(defaults, trainer.name)
    for option in trainer.options:
        assert theirs[option.path] == option.default, option.path


@pytest.mark.parametrize("spelling", SPELLINGS, ids=lambda each: each.words)
def test_the_place_in_the_code_is_there(spelling) -> None:
    file, _, name = spelling.meaning.where.partition(":")
    assert (
        read(module, trainers.get(spelling.meaning.trainer).package, file).find(name).name
        == name.rpartition(".")[2]
    )


def test_choices_are_the_commands() -> None:
    theirs = read(arguments)
    for option in trainers.get("openrlhf").options:
        choices = theirs[option.path][1]
        assert not choices or choices == option.values


def names(trainer: str) -> set[str]:
    """All options of a trainer, whole where the package has them so."""
    if trainer == "verl":
        return {
            *read(settings, "rollout/rollout.yaml", "actor_rollout_ref.rollout."),
            *read(settings, "algorithm/rollout_correction.yaml", "algorithm.rollout_correction."),
        }
    if trainer == "skyrl":
        file = read(module, "skyrl", "skyrl/train/config/config.py")
        fields = (each for each in ast.walk(file.tree) if isinstance(each, ast.AnnAssign))
        return {ast.unparse(each.target) for each in fields}
    return set(read(defaults, trainer))


@pytest.mark.parametrize("trainer", ["trl_grpo", "verl", "openrlhf", "skyrl"])
def test_what_the_doctor_says_to_set_is_an_option_of_the_package(trainer) -> None:
    named, theirs = remedies.options(trainer), names(trainer)
    assert len(named) >= 3
    for option in named:
        parts = set(option.split(".")[2:]) if trainer == "skyrl" else {option}
        whole = any(f".{each}".endswith(f".{option}") for each in theirs)
        assert whole or (trainer == "skyrl" and parts <= theirs), option
