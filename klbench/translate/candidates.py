"""The settings that a trainer can have: every row of its data, with every average that it has."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import product

from klbench import gradients, trainers
from klbench.trainers import NONE, Meaning, Row, Trainer, Value
from klbench.types import ConfigError

PLACES = re.compile(r"{(\w+?)(?:_inverse)?}")
NUMBERS = re.compile(r"(?<=[:=-])[0-9.]+(?:e-?\d+)?")


@dataclass(frozen=True)
class Candidate:
    """A setting of a trainer.

    Parameters
    ----------
    row
        The row of the trainer's data.
    options
        What is set, by path.
    meaning
        What it computes.
    """

    row: Row
    options: Mapping[str, Value]
    meaning: Meaning

    def others(self) -> int:
        """Return how many options are not at their defaults."""
        trainer, version = trainers.get(self.meaning.trainer), self.meaning.version
        known = {each.path: each.default_at(version) for each in trainer.known(version)}
        return sum(known[path] != value for path, value in self.options.items())


def candidates(trainer: Trainer, version: str, source: Meaning) -> Iterator[Candidate]:
    """Yield the settings of a version that have a combination; numbers are those of ``source``."""
    known = {each.path: each for each in trainer.known(version)}
    given = source.options if source.trainer == trainer.name else {}
    for row in trainer.rows:
        if row.combination in ("", NONE) or not row.when.keys() <= known.keys():
            continue
        chosen = {
            path: _pick(values, given.get(path, known[path].default_at(version)))
            for path, values in row.when.items()
        }
        for more in _more(trainer, version, row, source):
            found = _candidate(trainer, version, row, chosen | more)
            if found:
                yield found


def _candidate(
    trainer: Trainer, version: str, row: Row, options: Mapping[str, Value]
) -> Candidate | None:
    """Return the setting; None where its options lead to another row, or a number fits no place."""
    meaning = trainer.meaning(version, options)
    if trainer.row(version, meaning.options) is not row:
        return None
    try:
        gradients.get(meaning.combination)
    except ConfigError:
        return None
    return Candidate(row, options, meaning)


def off(trainer: Trainer, version: str) -> Candidate:
    """Return the setting without a penalty: switches that are off, or a coefficient of 0."""
    settings = trainer.settings({}, version)
    silent = (
        {path: _pick(values, settings[path]) for path, values in row.when.items()}
        for row in trainer.rows
        if row.combination == NONE and row.when.keys() <= settings.keys()
    )
    options: dict[str, Value] = next(silent, {})
    row = trainer.row(version, trainer.settings(options, version))
    if row.combination != NONE:
        options = {path: settings[path] for path in row.when}
        if row.coefficient:
            options[row.coefficient] = 0.0
    return Candidate(row, options, trainer.meaning(version, options))


def switches(candidate: Candidate) -> dict[str, Value]:
    """Return the switches that other rows ask for first, whose defaults change with versions."""
    meaning = candidate.meaning
    trainer = trainers.get(meaning.trainer)
    known = {each.path: each for each in trainer.known(meaning.version)}
    return {
        path: meaning.options[path]
        for row in trainer.rows[: trainer.rows.index(candidate.row)]
        for path in row.when
        if path in known
        and path not in candidate.options
        and isinstance(meaning.options[path], bool)
        and not known[path].switch
    }


def _pick(values: tuple[Value, ...], preferred: Value) -> Value:
    return preferred if preferred in values else values[0]


def _more(trainer: Trainer, version: str, row: Row, source: Meaning) -> Iterator[dict[str, Value]]:
    """Yield the averages and the numbers that a row may have besides."""
    known = {each.path: each for each in trainer.known(version)}
    axes: dict[str, list[Value]] = {}
    option = known.get(trainer.normaliser)
    if option and option.path not in row.when:
        default = option.default_at(version)
        if source.trainer == trainer.name:
            default = source.options.get(option.path, default)
        values = {trainer.normalisations[str(default)]: default}
        for name, meant in trainer.normalisations.items():
            values.setdefault(meant, option.taken(trainer.name, name))
        axes[option.path] = list(values.values())
    numbers = {float(each) for each in NUMBERS.findall(source.combination)} - {0.0}
    if "reward_to_go" in source.combination and "gamma" not in source.combination:
        numbers.add(1.0)
    for name in set(PLACES.findall(row.combination)):
        path = trainer.option(name, version).path
        if known[path].unset:
            continue  # off by default: a number more a row would multiply what is tried
        axes[path] = [known[path].default_at(version), *sorted(numbers)]
    for values_of in product(*axes.values()):
        yield dict(zip(axes, values_of, strict=True))
