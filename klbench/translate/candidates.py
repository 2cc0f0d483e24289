"""The settings that a trainer can have: every row of its data, with every average that it has."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache, cached_property
from itertools import product

from klbench import gradients, trainers
from klbench.trainers import NONE, Meaning, Row, Trainer, Value
from klbench.translate.likeness import gradient
from klbench.types import ConfigError

PLACES = re.compile(r"{(\w+?)(?:_inverse)?}")
NUMBERS = re.compile(r"(?<=[:=-])[0-9.]+(?:e-?\d+)?")
SET = re.compile(r"[:-](?:inf|[0-9.]+(?:e-?\d+)?)")
"""A number of a factor; one that is the default is left out."""


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

    @cached_property
    def others(self) -> int:
        """The number of options that are not at their defaults."""
        trainer, version = trainers.get(self.meaning.trainer), self.meaning.version
        known = {each.path: each.default_at(version) for each in trainer.known(version)}
        return sum(known[path] != value for path, value in self.options.items())


def candidates(trainer: Trainer, version: str, source: Meaning) -> list[Candidate]:
    """Return the settings of a version that have a combination; numbers are those of ``source``."""
    numbers = {float(each) for each in NUMBERS.findall(source.combination)} - {0.0}
    if "reward_to_go" in source.combination and "gamma" not in source.combination:
        numbers.add(1.0)
    own = source.options if source.trainer == trainer.name else {}
    found: list[Candidate] = []
    for k, row in enumerate(trainer.rows):
        if row.combination in ("", NONE):
            continue
        given = tuple((path, own[path]) for path in (*row.when, trainer.normaliser) if path in own)
        plain = _of_row(trainer.name, version, k, (), given)
        numbered = numbers and PLACES.search(row.combination)
        if numbered and (not plain or _may_equal(row, plain[0], source)):
            found += _of_row(trainer.name, version, k, tuple(sorted(numbers)), given)
        else:
            found += plain
    return found


def _may_equal(row: Row, plain: Candidate, source: Meaning) -> bool:
    """Return whether other numbers may bring a row nearer to the source.

    Those of a discount, of the same factors, or of any where the source's weigh on-policy, too.
    """
    if "gamma={" in row.combination or gradient(source.combination).weighted:
        return True
    return _factors(plain.meaning.combination) == _factors(source.combination)


@cache
def _factors(combination: str) -> str:
    """Return the weight of a combination without its numbers."""
    return SET.sub("", gradients.get(combination).spec.split("/")[3])


@cache
def _of_row(
    name: str,
    version: str,
    k: int,
    numbers: tuple[float, ...],
    given: tuple[tuple[str, Value], ...],
) -> tuple[Candidate, ...]:
    trainer = trainers.get(name)
    row, known = trainer.rows[k], trainer.settings({}, version)
    if not row.when.keys() <= known.keys():
        return ()
    preferred = known | {path: value for path, value in given if path in known}
    chosen = {path: _pick(values, preferred[path]) for path, values in row.when.items()}
    found = (
        _candidate(trainer, version, row, chosen | more)
        for more in _more(trainer, version, row, preferred, numbers)
    )
    return tuple(filter(None, found))


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


def _more(
    trainer: Trainer,
    version: str,
    row: Row,
    preferred: Mapping[str, Value],
    numbers: tuple[float, ...],
) -> Iterator[dict[str, Value]]:
    """Yield the averages and the numbers that a row may have besides."""
    known = {each.path: each for each in trainer.known(version)}
    axes: dict[str, list[Value]] = {}
    option = known.get(trainer.normaliser)
    if option and option.path not in row.when:
        default = preferred[option.path]
        values = {trainer.normalisations[str(default)]: default}
        for name, meant in trainer.normalisations.items():
            values.setdefault(meant, option.taken(trainer.name, name))
        axes[option.path] = list(values.values())
    for name in dict.fromkeys(PLACES.findall(row.combination)):
        path = trainer.option(name, version).path
        if known[path].unset:
            continue  # off by default: a number more a row would multiply what is tried
        axes[path] = [known[path].default_at(version), *numbers]
    for values_of in product(*axes.values()):
        yield dict(zip(axes, values_of, strict=True))
