"""The averages of losses: over tokens, over sequences, or by a constant."""

from __future__ import annotations

from klbench import trainers
from klbench.trainers import LENGTH, PROMPTS, RETURNS, SEQUENCES, TOKENS, Meaning

PER_LENGTH = (TOKENS, LENGTH, PROMPTS)
"""The averages that divide a sequence's sum by its length, where all lengths are equal."""


def average(meaning: Meaning) -> str:
    """Return how a penalty's tokens and sequences are averaged; of one in the reward, as the
    policy's term is. Empty where the data do not say.
    """
    return policy(meaning) if meaning.normalisation == RETURNS else meaning.normalisation


def policy(meaning: Meaning) -> str:
    """Return how the policy's term is averaged; empty where the data do not say."""
    trainer = trainers.get(meaning.trainer)
    value = meaning.options.get(trainer.normaliser) if trainer.normaliser else ""
    own = "" if meaning.normalisation == RETURNS else meaning.normalisation
    return trainer.normalisations.get(str(value), "") or own


def mixed(meaning: Meaning) -> bool:
    """Return whether penalty and policy are averaged so that lengths count in their proportion."""
    return apart(average(meaning), policy(meaning)) > 1


def distance(source: Meaning, target: Meaning) -> int:
    """Return how far the averages of two settings are apart, those of both terms: 0 the same."""
    here, there = ((average(each), policy(each)) for each in (source, target))
    if here == there:
        return 0
    return 4 * mixed(target) + sum(apart(a, b) for a, b in zip(here, there, strict=True))


def apart(a: str, b: str) -> int:
    """Return how far two averages are apart: 0 the same, 1 at equal lengths, 2 otherwise."""
    if a == b or not a or not b:
        return 0
    return 1 if a in PER_LENGTH and b in PER_LENGTH else 2


def share(meaning: Meaning, length: int | None) -> float | None:
    """Return what a sequence's sum is multiplied by in the mean over sequences, at equal lengths.

    None where the length, the constant or the average is not known.
    """
    how = average(meaning)
    if how in PER_LENGTH:
        return None if length is None else 1.0 / length
    return 1.0 if how == SEQUENCES else None


def alone(source: Meaning, target: Meaning, length: int | None) -> float | None:
    """Return the factor on the coefficient that keeps the length of the penalty's own gradient."""
    a, b = average(source), average(target)
    if a and (a == b or (a in PER_LENGTH and b in PER_LENGTH)):
        return 1.0
    before, after = share(source, length), share(target, length)
    return None if before is None or after is None else before / after
