"""The options of a trainer, and the reading of given ones."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache

from klbench.registry import unknown
from klbench.types import ConfigError

Value = bool | float | str | None

FAR = 700.0
"""The largest exponent that is a float's."""
SHAPES: Mapping[str, Callable[[float], float]] = {
    "": float,
    "exp": lambda x: math.exp(min(x, FAR)),
    "exp_inverse": lambda x: math.exp(min(-x, FAR)),
    "below": lambda x: max(1.0 - x, 0.0),
    "above": lambda x: 1.0 + x,
}
"""The shapes in which a number of an option stands in a combination, as in ``{name:exp}``."""
IDLE = re.compile(r"(dual_clip|every_ratio|vaco|opsm|token_k1|seq_\w+):(0-)?inf(@\w+:\w+)?")
"""A factor whose bounds are not set, which is 1."""
NONE = "none"
"""Stands where a combination would, if there is no penalty."""
TOKENS = "mean over the batch's tokens"
SEQUENCES = "mean over sequences of sums over tokens"
CONSTANT = "sum over tokens, divided by a constant"
LENGTH = "mean over sequences of means over their tokens"
PROMPTS = "mean over prompts of means over all tokens of their sequences"
RETURNS = "part of the return"
LENGTH_MEANS = {
    "k1_loss": "k1_loss_length_mean",
    "k2_loss": "k2/loss/token:mean",
    "k3_loss": "k3_loss_length_mean",
    "k3_verl_loss": "k3_verl/loss/token:mean",
    "k3_openrlhf_loss": "k3_openrlhf/loss/token:mean",
    "k1_plus": "k1@k2/straight_through/token:mean",
    "k3_plus": "k3@k2/straight_through/token:mean",
    "k3_ratio_loss": "k3_ratio_loss_length_mean",
    "k3_old_ratio_loss": "k3/loss/token:mean/token_ratio@q:old:differentiated",
    "k1_own_token_ratio": "k1/reward_to_go/token:mean/token_ratio/none/gamma=0",
    "k3_geometric_ratio_loss": "k3/loss/token:mean/geometric_ratio:differentiated",
    "openrlhf_unbiased_gradient": "k3@k2/straight_through/token:mean/truncated_ratio:10",
}
"""The same combinations divided by each sequence's length, of those that have a name."""
UNCLAMPED = {"k3_verl_loss": "k3_loss", "k3_openrlhf_loss": "k3_loss"}
"""Combinations that have no name once they are divided by each sequence's length, and what they
are but for the clamp.
"""
BASELINES = {
    "to go": "reward_to_go/token/none/none",
    "group": "reward/token/none/batch_mean",
    "others": "reward/token/none/leave_one_out",
}
"""The baselines of a penalty in the reward.

Of the return to go, less the group's mean, or less the mean of its others.
"""
RETURNED = {
    "to go": "k1_reward_to_go",
    "group": "k1_reward_batch_mean",
    "others": "k1_reward_leave_one_out",
}


@dataclass(frozen=True)
class Option:
    """An option of a trainer.

    Parameters
    ----------
    path
        Its name as the trainer spells it, dots and all; any end of it that is no other option's is
        enough.
    default, before
        Its default; and the ones it had before a version, as ``((version, default), ...)``, the
        oldest first.
    values
        What it may be; empty: any number.
    switch
        The option that must be on for this one to matter. Who gives this one and not the switch is
        taken to have it on.
    formerly
        Other names of it, those of earlier versions.
    since
        The version that brought it.
    unset
        The words, or numbers, that switch a number off, and the number that does as much.
    like
        The option whose number it has where it is none.
    """

    path: str
    default: Value
    values: tuple[Value, ...] = ()
    switch: str = ""
    formerly: tuple[str, ...] = ()
    before: tuple[tuple[str, Value], ...] = ()
    since: str = ""
    unset: Mapping[Value, Value] = field(default_factory=dict)
    like: str = ""

    def default_at(self, version: str) -> Value:
        """The default of a version."""
        return next(
            (value for bound, value in self.before if not _at_least(version, bound)), self.default
        )

    def taken(self, trainer: str, value: Value) -> Value:
        """The value as the trainer takes it: text is read, as a shell or a YAML file has it.

        Raises
        ------
        ConfigError
            The option cannot be this.
        """
        read = _read(value) if isinstance(value, str) else value
        if not self.values:
            if read in self.unset:
                return self.unset[read]
            if isinstance(read, bool) or not isinstance(read, int | float):
                raise ConfigError(f"{trainer}: {self.path} is a number, got {value!r}")
            return float(read)
        for allowed in self.values:
            if allowed == read and isinstance(allowed, bool) == isinstance(read, bool):
                return allowed
        raise unknown(f"{self.path} of {trainer}", str(value), map(str, self.values))


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
        as :data:`SHAPES` has them.
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
        if not _within(version, self.since, self.until):
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
        "".
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
    normalisations: Mapping[str, str] = field(default_factory=lambda: {"": TOKENS})
    aliases: Mapping[str, str] = field(default_factory=dict)
    also: tuple[str, ...] = ()

    def known(self, version: str) -> tuple[Option, ...]:
        """The options that a version has."""
        return tuple(each for each in self.options if _within(version, each.since, ""))

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
        if not _numbers(version) or not _within(version, self.since, self.until):
            raise ConfigError(
                f"{self.name}: expected a version from {self.since} to {self.until}, got"
                f" {version!r}"
            )
        settings = self.settings(options or {}, version)
        row = self.row(version, settings)
        numbers = {
            path.rpartition(".")[2]: _Number(value)
            for path, value in settings.items()
            if isinstance(value, float)
        }
        numbers |= {
            f"{name}_inverse": _Number(1.0 / x if x else math.inf) for name, x in numbers.items()
        }
        combination = _set_factors(row.combination.format(**numbers))
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
        beside = computed and bool(self.checked) and _within(self.checked, version, version)
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


class _Number(float):
    """A number that is written in one of several shapes."""

    def __format__(self, shape: str) -> str:
        return format(SHAPES[shape](self), ".12g")


def _set_factors(combination: str) -> str:
    """The combination without factors whose bounds are not set."""
    parts = combination.split("/")
    for k, correction in enumerate(parts[3:4], 3):
        kept = [each for each in correction.split("*") if not IDLE.fullmatch(each)]
        parts[k] = "*".join(kept) or NONE
    return "/".join(parts)


def length_mean(combination: str) -> str:
    """The combination that is divided by each sequence's length besides."""
    if "/" not in combination:
        return LENGTH_MEANS[combination]
    estimator, placement, *more = combination.split("/")
    level, *rest = more or ["token"]
    return "/".join((estimator, placement, f"{level}:mean", *rest))


def own_token(estimator: str, correction: str = "none") -> str:
    """The combination of a token's own value times its own score, with nothing of later ones."""
    return f"{estimator}/reward_to_go/token/{correction}/none/gamma=0"


def in_reward(estimator: str, baseline: str) -> str:
    """The combination of an estimator in the reward; ``baseline`` is a key of :data:`BASELINES`."""
    return RETURNED[baseline] if estimator == "k1" else f"{estimator}/{BASELINES[baseline]}"


def read_words(words: Sequence[str]) -> dict[str, Value]:
    """Options from the words of a command.

    ``key=value``, ``--key value``, ``--key=value`` or, for a switch, ``--key``.

    Raises
    ------
    ConfigError
        A word is none of these, or an option is given twice.
    """
    found: dict[str, Value] = {}
    rest = list(words)
    while rest:
        key, equals, value = rest.pop(0).partition("=")
        if not equals:
            if not key.startswith("--"):
                raise ConfigError(f"expected key=value or --key value, got {key!r}")
            value = (
                rest.pop(0)
                if rest and not rest[0].startswith("--") and "=" not in rest[0]
                else "true"
            )
        if key in found:
            raise ConfigError(f"option {key} is given twice")
        found[key] = value
    return found


def _read(text: str) -> Value:
    words: dict[str, Value] = {"true": True, "false": False, "none": None, "null": None}
    if text.lower() in words:
        return words[text.lower()]
    try:
        return float(text)
    except ValueError:
        return text


@cache
def _numbers(version: str) -> tuple[int, ...]:
    return tuple(map(int, re.findall(r"\d+", version)))


def _at_least(version: str, bound: str) -> bool:
    """Return whether a version is not below another.

    Only as many numbers count as both have: 0.9 may be 0.9.1.
    """
    a, b = _numbers(version), _numbers(bound)
    count = min(len(a), len(b))
    return a[:count] >= b[:count]


@cache
def _within(version: str, since: str, until: str) -> bool:
    return (not since or _at_least(version, since)) and (not until or _at_least(until, version))
