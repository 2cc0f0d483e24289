"""Defaults, choices and places in the code, as the installed packages have them.

Skipped where they are not installed.
"""

import pytest

from klbench import trainers
from klbench.trainers.defaults import arguments, defaults
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
