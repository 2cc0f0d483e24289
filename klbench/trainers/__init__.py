"""The meaning of each trainer's options.

Options of a version to a combination, its clamp, its averages, its weight.

All of it is data, in a module a trainer. Combinations are named, not imported:
:mod:`klbench.gradients` takes the trainers' own names for its combinations from here. Rows of
trainers that name a package are checked by the tests beside the package's own functions, value and
gradient; the others were read, each in the revision that it names.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache

from klbench.registry import unknown
from klbench.trainers import (
    liger,
    nemo_rl,
    openrlhf,
    policy,
    read,
    rollout,
    rollout_areal,
    rollout_read,
    rollout_roll,
    skyrl,
    slime,
    tinker,
    trl,
    verl,
)
from klbench.trainers._combinations import NONE
from klbench.trainers._options import Option, Value, read_words
from klbench.trainers._trainer import (
    CONSTANT,
    LENGTH,
    PROMPTS,
    RETURNS,
    SEQUENCES,
    TOKENS,
    Meaning,
    Row,
    Trainer,
)
from klbench.types import ConfigError

TRAINERS: tuple[Trainer, ...] = (
    *trl.TRAINERS,
    *verl.TRAINERS,
    *openrlhf.TRAINERS,
    *liger.TRAINERS,
    *nemo_rl.TRAINERS,
    *slime.TRAINERS,
    *skyrl.TRAINERS,
    *read.TRAINERS,
    *tinker.TRAINERS,
    *policy.TRAINERS,
    *rollout.TRAINERS,
    *rollout_areal.TRAINERS,
    *rollout_read.TRAINERS,
    *rollout_roll.TRAINERS,
)


@dataclass(frozen=True)
class Spelling:
    """One of a trainer's settings, and the combination that it computes.

    Parameters
    ----------
    trainer
        The trainer's title.
    options
        What sets it, as the trainer spells it: ``key=value``, with the values that mean the same
        joined by ``|``; empty where the defaults are enough.
    words
        The same for :func:`parse`.
    meaning
        What it means.
    """

    trainer: str
    options: str
    words: str
    meaning: Meaning


def names() -> list[str]:
    """The names of all trainers."""
    return [each.name for each in TRAINERS]


def get(name: str) -> Trainer:
    """The trainer of that name, title or other name; case and dashes do not matter.

    Raises
    ------
    klbench.types.ConfigError
        No such trainer.
    """
    found = _by_key().get(_key(name))
    if found:
        return found
    raise unknown("trainer", name, names(), [other for each in TRAINERS for other in each.also])


@cache
def _by_key() -> dict[str, Trainer]:
    return {
        _key(name): each
        for each in reversed(TRAINERS)
        for name in (each.name, each.title, *each.also)
    }


def _key(name: str) -> str:
    return name.lower().replace("-", "_")


def meaning(trainer: str, version: str = "", options: Mapping[str, Value] | None = None) -> Meaning:
    """Return what a version of a trainer computes with these options.

    The newest one that is known, where none is named.

    An option's name is its path in the trainer's configuration, or the end of it that tells which
    one is meant; options that are not given have the trainer's defaults. An option that only
    matters with a switch on turns it on.

    Raises
    ------
    klbench.types.ConfigError
        The trainer, the version or an option is unknown, or an option cannot be what it is given.
    """
    return get(trainer).meaning(version, options)


def parse(text: str) -> Meaning:
    """Return what ``TRAINER[@VERSION] key=value ...`` means, such as ``verl@0.9
    kl_loss_type=low_var_kl kl_loss_coef=0.001``.

    Options may stand as in a shell, too: ``--kl-loss-type k3 --use-kl-loss``.

    Raises
    ------
    klbench.types.ConfigError
        As in :func:`meaning`, or the text is no such thing.
    """
    try:
        words = shlex.split(text)
    except ValueError as error:
        raise ConfigError(
            f"expected TRAINER[@VERSION] key=value ..., got {text!r}: {error}"
        ) from None
    if not words:
        raise ConfigError(
            f"expected TRAINER[@VERSION] key=value ..., got {text!r}; available:"
            f" {', '.join(names())}"
        )
    name, _, version = words[0].replace("==", "@").partition("@")
    return meaning(name, version, read_words(words[1:]))


def aliases(combination: str) -> tuple[str, ...]:
    """Return what trainers call a combination, clamps aside.

    Names that :func:`klbench.gradients.get` takes.
    """
    return _aliases().get(combination, ())


@cache
def _aliases() -> dict[str, tuple[str, ...]]:
    found: dict[str, tuple[str, ...]] = {}
    for trainer in TRAINERS:
        for alias, words in trainer.aliases.items():
            named = parse(
                trainer.name + words if words.startswith("@") else f"{trainer.name} {words}"
            ).named
            found[named] = (*found.get(named, ()), alias)
    return found


def spellings(*, averages: bool = False) -> Iterator[Spelling]:
    """Each row of each trainer, in its newest version and with its default averages, as one would
    set it.

    With ``averages`` a loss comes a second time: with a mean over each sequence's tokens instead of
    the batch's tokens, or the other way round.
    """
    for trainer in TRAINERS:
        known = {each.path: each for each in trainer.options}
        for row in trainer.rows:
            chosen = {
                path: values for path, values in row.when.items() if _set(known[path], values)
            }
            found = _spelled(trainer, row, chosen)
            if not found:
                continue
            yield found
            option = known.get(trainer.normaliser)
            if not averages or not option or row.normalisation:
                continue
            other = {TOKENS: LENGTH, LENGTH: TOKENS}.get(found.meaning.normalisation)
            values = tuple(
                option.taken(trainer.name, name)
                for name, each in trainer.normalisations.items()
                if each == other
            )
            again = _spelled(trainer, row, chosen | {option.path: values}) if values else None
            if again:
                yield again


@cache
def users() -> Mapping[str, tuple[str, ...]]:
    """By combination that has a name, who computes it and with which settings, as one would write
    them; what is cut off stands in brackets.
    """
    found: dict[str, tuple[str, ...]] = {}
    for each in spellings():
        clamp = f"({each.meaning.clamp})" if each.meaning.clamp else ""
        text = " ".join(filter(None, (each.trainer, each.options, clamp)))
        found[each.meaning.named] = (*found.get(each.meaning.named, ()), text)
    return found


def _spelled(
    trainer: Trainer, row: Row, chosen: Mapping[str, tuple[Value, ...]]
) -> Spelling | None:
    """The spelling of a row; None where these options do not lead to it."""
    shown = {
        short(trainer, path): [text_of(value) for value in values]
        for path, values in chosen.items()
    }
    words = " ".join((trainer.name, *(f"{name}={values[0]}" for name, values in shown.items())))
    found = parse(words)
    if trainer.row(found.version, found.options) is not row:
        return None
    return Spelling(
        trainer.title,
        " ".join(f"{name}={'|'.join(values)}" for name, values in shown.items()),
        words,
        found,
    )


def _set(option: Option, values: tuple[Value, ...]) -> bool:
    """Return whether one has to set an option.

    Its default is another, or it says which kind of penalty a switch turns on.
    """
    return option.default not in values or (
        bool(option.switch) and not isinstance(option.default, bool)
    )


def short(trainer: Trainer, path: str) -> str:
    """Return the shortest end of an option's path that is no other option's."""
    parts = path.split(".")
    ends = [".".join(parts[k:]) for k in reversed(range(len(parts)))]
    return next(
        end
        for end in ends
        if sum(f".{each.path}".endswith(f".{end}") for each in trainer.options) == 1
    )


def text_of(value: Value) -> str:
    """Return a value as one writes it in a setting."""
    return (
        str(value).lower()
        if isinstance(value, bool)
        else f"{value:g}"
        if isinstance(value, float)
        else str(value)
    )


__all__ = [
    "CONSTANT",
    "LENGTH",
    "NONE",
    "PROMPTS",
    "RETURNS",
    "SEQUENCES",
    "TOKENS",
    "TRAINERS",
    "Meaning",
    "Option",
    "Row",
    "Spelling",
    "Trainer",
    "Value",
    "aliases",
    "get",
    "meaning",
    "names",
    "parse",
    "short",
    "spellings",
    "text_of",
    "users",
]
