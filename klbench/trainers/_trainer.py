"""A trainer: its options, and the rows that say what they compute."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from klbench.registry import unknown
from klbench.trainers._combinations import NONE, UNCLAMPED, Number, length_mean, set_factors
from klbench.trainers._options import Option, Value, numbers_of, within
from klbench.types import ConfigError

TOKENS = "mean over the batch's tokens"
SEQUENCES = "mean over sequences of sums over tokens"
CONSTANT = "sum over tokens, divided by a constant"
LENGTH = "mean over sequences of means over their tokens"
PROMPTS = "mean over prompts of means over all tokens of their sequences"
RETURNS = "part of the return"


@dataclass(frozen=True)
class Row:
    """A part of a trainer's settings, and what it computes.

    Parameters
    ----------
    when
        The values that options must have, by path; options that are not in it may have any.
    combination
        A combination's name, or its parts, of the penalty summed over tokens; ``none`` without a
        penalty, empty where klbench has none that computes it. A number of an option stands in it
        as ``{name}``, by the last word of its path, its inverse as ``{name_inverse}``, other shapes
        as :data:`klbench.trainers._combinations.SHAPES` has them.
    named
        The combination that has a name and is the same but for the clamp; empty where
        ``combination`` is it.
    coefficient
        Path of the option that weighs it.
    clamp, note
        What is cut off where, and what else is to be known, in words.
    where
        File and function in the trainer's code, ``file:function``.
    normalisation
        Where the option that says so does not: what is done with the tokens.
    since, until
        The versions of which it is true; empty: all that are known.
    """

    when: Mapping[str, tuple[Value, ...]]
    combination: str
    where: str = ""
    named: str = ""
    coefficient: str = ""
    clamp: str = ""
    note: str = ""
    normalisation: str = ""
    since: str = ""
    until: str = ""

    def holds(self, settings: Mapping[str, Value], version: str) -> bool:
        """Return whether it is about these settings of a version."""
        if not within(version, self.since, self.until):
            return False
        return all(settings[path] in values for path, values in self.when.items())


@dataclass(frozen=True)
class Meaning:
    """The computation of a trainer with given options.

    Parameters
    ----------
    trainer, version
        Whose, as the data names it.
    options
        Every option that matters, by its path, defaults included.
    combination
        For ``klbench.gradients.get``; ``none`` without a penalty, empty where klbench has none that
        computes it.
    named
        The combination with a name of its own that is the same but for the clamp; empty where there
        is none.
    clamp, normalisation
        What is cut off where, and how tokens and sequences are averaged, in words.
    coefficient
        The penalty's weight, as given or by default.
    where
        File and function in the trainer's code.
    checked
        How this is known: beside the functions of which package, or read in which revision.
    note
        What else is to be known.
    """

    trainer: str
    version: str
    options: Mapping[str, Value]
    combination: str
    named: str
    clamp: str
    normalisation: str
    coefficient: float
    where: str
    checked: str
    note: str


@dataclass(frozen=True)
class Trainer:
    """A trainer, and the meaning of its options.

    Parameters
    ----------
    name, title
        Its name here, and as people write it.
    since, until
        The versions (or the day of a revision) of which all this is known.
    read
        In what it was read: a package's versions, or a repository and its revision.
    options, rows
        The first row that holds for given settings says what they compute.
    package, checked
        The distribution beside whose functions the tests run every row, and its version; empty:
        only read.
    normaliser, normalisations
        Path of the option that says how the policy's term is averaged, and a penalty in the loss
        too unless its row says otherwise; and what its values mean. Without the option, the value
        ""; empty: not known.
    aliases
        Names of combinations, each with the words for :meth:`meaning` that say which one.
    also
        Other names of the trainer.
    """

    name: str
    title: str
    since: str
    until: str
    read: str
    options: tuple[Option, ...]
    rows: tuple[Row, ...]
    package: str = ""
    checked: str = ""
    normaliser: str = ""
    normalisations: Mapping[str, str] = field(default_factory=lambda: {"": ""})
    aliases: Mapping[str, str] = field(default_factory=dict)
    also: tuple[str, ...] = ()

    def known(self, version: str) -> tuple[Option, ...]:
        """The options that a version has."""
        return tuple(each for each in self.options if within(version, each.since, ""))

    def option(self, name: str, version: str) -> Option:
        """The option that a name, or the end of one, stands for.

        Raises
        ------
        ConfigError
            None or several are called so.
        """
        known = self.known(version)
        asked = "." + name.removeprefix("--").replace("-", "_")
        found = [
            each
            for each in known
            if any(f".{path}".endswith(asked) for path in (each.path, *each.formerly))
        ]
        exact = [each for each in found if f".{each.path}" == asked]
        if len(exact or found) == 1:
            return (exact or found)[0]
        if found:
            raise ConfigError(
                f"{self.name}: option {name!r} may be {' or '.join(each.path for each in found)}"
            )
        raise unknown(
            f"option of {self.name}",
            name,
            [each.path for each in known],
            [each.path.rpartition(".")[2] for each in known],
        )

    def settings(self, given: Mapping[str, Value], version: str) -> dict[str, Value]:
        """Every option's value, by path: those given, and defaults.

        Raises
        ------
        ConfigError
            An option is unknown, given twice, or cannot be what it is given.
        """
        chosen: dict[str, Value] = {}
        for name, value in given.items():
            option = self.option(name, version)
            if option.path in chosen:
                raise ConfigError(f"{self.name}: option {option.path} is given twice")
            chosen[option.path] = option.taken(self.name, value)
        on = {
            each.switch: True for each in self.known(version) if each.switch and each.path in chosen
        }
        found = {each.path: each.default_at(version) for each in self.known(version)} | on | chosen
        copied = {
            each.path: found[each.like]
            for each in self.known(version)
            if each.like and found[each.path] is None
        }
        return found | copied

    def row(self, version: str, settings: Mapping[str, Value]) -> Row:
        """The row that holds for all settings of a version.

        Raises
        ------
        ConfigError
            None does.
        """
        for each in self.rows:
            if each.holds(settings, version):
                return each
        shown = ", ".join(f"{path}={value}" for path, value in settings.items())
        raise ConfigError(f"{self.name} {version}: it is not known what {shown} compute together")

    def meaning(self, version: str = "", options: Mapping[str, Value] | None = None) -> Meaning:
        """Return what a version computes with these options.

        The newest one that is known, where none is named.

        Raises
        ------
        ConfigError
            The version or an option is unknown, or an option cannot be what it is given.
        """
        version = version or self.until
        if not numbers_of(version) or not within(version, self.since, self.until):
            raise ConfigError(
                f"{self.name}: expected a version from {self.since} to {self.until}, got"
                f" {version!r}"
            )
        settings = self.settings(options or {}, version)
        row = self.row(version, settings)
        numbers = {
            path.rpartition(".")[2]: Number(value)
            for path, value in settings.items()
            if isinstance(value, float)
        }
        numbers |= {
            f"{name}_inverse": Number(1.0 / x if x else math.inf) for name, x in numbers.items()
        }
        combination = set_factors(row.combination.format(**numbers))
        named, normalisation = row.named or combination, ""
        computed = combination not in ("", NONE)
        if computed:
            chosen = (
                str(settings[self.normaliser])
                if self.normaliser in settings
                else next(iter(self.normalisations))
            )
            normalisation = row.normalisation or self.normalisations[chosen]
        if normalisation == LENGTH:
            combination, named = length_mean(combination), length_mean(UNCLAMPED.get(named, named))
        beside = computed and bool(self.checked) and within(self.checked, version, version)
        return Meaning(
            self.name,
            version,
            settings,
            combination,
            "" if "/" in named else named,
            row.clamp,
            normalisation,
            float(settings[row.coefficient] or 0.0) if row.coefficient else 0.0,
            row.where,
            (
                f"beside the functions of {self.package} {self.checked}"
                if beside
                else f"read in {self.read}"
            ),
            row.note,
        )
