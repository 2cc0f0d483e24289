"""Translation of a setting: the nearest one of another trainer, and what is lost with it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from klbench import gradients, trainers
from klbench.trainers import (
    CONSTANT,
    LENGTH,
    NONE,
    RETURNS,
    Meaning,
    Trainer,
    Value,
)
from klbench.translate.averages import PER_LENGTH, alone, apart, average, distance, mixed, policy
from klbench.translate.candidates import Candidate, candidates, off, switches
from klbench.translate.likeness import (
    MEAN,
    NEAR,
    NEAREST,
    NOTHING,
    OTHER,
    OWN,
    SAME,
    Gradient,
    gradient,
)
from klbench.types import ConfigError

SCHEMA_VERSION = 1
MOST = 1e9
"""The largest coefficient, length and KL: above it products overflow, and nobody means it."""
MEASURE = "weight of a sequence's KL against its reward"
ORDER = (SAME, MEAN, NEAR, NEAREST, OTHER, NOTHING)
SAID = {
    MEAN: (
        "the gradient is the same on average; single sequences have another, and under a strong"
        " penalty the noisier of the two ends at a higher KL"
    ),
    NEAR: "the gradient agrees only near the reference: it is that of another divergence",
    NEAREST: "a token's score is paid for {to}, not for {source}",
    OTHER: "the gradient is another one: no coefficient makes the two equal",
}
UNEQUAL = {
    True: (
        "at unequal lengths tokens of short and long sequences weigh otherwise, which moves lengths"
        " and KL (of sequence means in place of token means: 18 ± 8 to 24 ± 7 % higher where"
        " measured)"
    ),
    False: (
        "at unequal lengths the penalty of short sequences weighs otherwise (4 ± 6 % of the KL"
        " where measured)"
    ),
}
"""By whether the policy's term is averaged otherwise, what lengths do."""


@dataclass(frozen=True)
class Scale:
    """The numbers that a strength is stated at.

    Parameters
    ----------
    length
        Tokens of a sequence; None: not known.
    kl_token
        KL(q‖p), nats a token; None: not known.
    """

    length: int | None = None
    kl_token: float | None = None


def translate(text: str, to: str, scale: Scale | None = None) -> dict[str, Any]:
    """Return the translation as data that JSON can hold, as ``schema.json`` describes it.

    The coefficient holds the weight of a sequence's KL against its reward, which decides the KL
    that a training reaches. The average is that of the policy's term too, and cancels out of it;
    ``penalty_alone`` has what would hold the length of the penalty's own gradient.

    Raises
    ------
    ConfigError
        A trainer, version or option is unknown, or it is not known what the setting computes.
    """
    scale = scale or Scale()
    source = trainers.parse(text)
    name, _, version = to.replace("==", "@").partition("@")
    trainer = trainers.get(name)
    version = trainer.meaning(version).version
    if not source.combination:
        why = source.note or "klbench has no combination for it"
        raise ConfigError(f"translate: {source.trainer}: this setting has no translation: {why}")
    if not 0.0 <= source.coefficient <= MOST:
        raise ConfigError(
            f"translate: {source.trainer}: coefficient {source.coefficient:g}: expected a number"
            f" from 0 to {MOST:g}"
        )
    found = _nearest(source, trainer, version)
    target = found.meaning
    options = switches(found) | dict(found.options)
    words = {trainers.short(trainer, path): _number(value) for path, value in options.items()}
    return {
        "schema_version": SCHEMA_VERSION,
        "from": _shown(source),
        "to": _shown(target) | {"setting": _words(target, words)},
        "options": words,
        "lost": list(dict.fromkeys(_lost(source, target))),
        "changes": list(dict.fromkeys(_changes(source, found))),
        "equal_strength": _strength(source, found, scale),
    }


def _number(value: Value) -> Value:
    """Return 2 for 2.0 and the like, which JSON and a configuration write so."""
    whole = isinstance(value, float) and value.is_integer() and abs(value) < 2**53 and value != 0.0
    return int(value) if whole and isinstance(value, float) else value


def _shown(meaning: Meaning) -> dict[str, Any]:
    return {
        "trainer": meaning.trainer,
        "version": meaning.version,
        "combination": meaning.combination,
        "average": meaning.normalisation,
        "clamp": meaning.clamp,
        "coefficient": meaning.coefficient,
        "checked": meaning.checked,
    }


def _words(meaning: Meaning, options: Mapping[str, Value]) -> str:
    shown = (f"{name}={_text(value)}" for name, value in options.items())
    return " ".join((f"{meaning.trainer}@{meaning.version}", *shown))


def _text(value: Value) -> str:
    return f"{value:.12g}" if isinstance(value, float) else trainers.text_of(value)


def _gradient(meaning: Meaning) -> Gradient | None:
    """Return what a setting does; None without a penalty."""
    return None if meaning.combination in ("", NONE) else gradient(meaning.combination)


def likeness(source: Meaning, target: Meaning) -> str:
    """Return how alike the gradients of two settings are."""
    a, b = _gradient(source), _gradient(target)
    if a is None or b is None:
        return SAME if a is b else NOTHING
    return a.likeness(b)


def _nearest(source: Meaning, trainer: Trainer, version: str) -> Candidate:
    """Return the setting that is most alike, with its coefficient set."""
    mine = _gradient(source)
    if mine is None:
        return off(trainer, version)
    ranked = sorted(
        candidates(trainer, version, source), key=lambda each: _rank(source, mine, each)
    )
    if not ranked or likeness(source, ranked[0].meaning) == NOTHING:
        return off(trainer, version)
    best = ranked[0]
    if not best.row.coefficient:
        return best
    options = dict(best.options) | {best.row.coefficient: source.coefficient}
    return replace(best, options=options, meaning=trainer.meaning(version, options))


def _rank(source: Meaning, mine: Gradient, each: Candidate) -> tuple[int | bool, ...]:
    target = each.meaning
    theirs = gradient(target.combination)
    return (
        ORDER.index(mine.likeness(theirs)),
        mine.mean != theirs.mean,
        mine.correction != theirs.correction,
        mine.polynomial != theirs.polynomial,
        mine.baseline != theirs.baseline,
        distance(source, target),
        (source.normalisation == RETURNS) != (target.normalisation == RETURNS),
        mine.value != theirs.value,
        source.clamp != target.clamp,
        each.others,
    )


def _strength(source: Meaning, found: Candidate, scale: Scale) -> dict[str, Any]:
    target, alike = found.meaning, likeness(source, found.meaning)
    computed = _gradient(source) is not None and alike != NOTHING
    factor = alone(source, target, scale.length) if computed else None
    coefficient = target.coefficient
    length, kl = scale.length, scale.kl_token
    return {
        "measure": MEASURE,
        "gradient": alike,
        "option": (
            trainers.short(trainers.get(target.trainer), found.row.coefficient)
            if found.row.coefficient
            else ""
        ),
        "coefficient": coefficient,
        "factor": 1.0 if computed else 0.0,
        "penalty_alone": {
            "factor": factor,
            "coefficient": None if factor is None else factor * source.coefficient,
        },
        "length": length,
        "kl_token": kl,
        "reward_paid": None if length is None or kl is None else coefficient * length * kl,
    }


def _lost(source: Meaning, target: Meaning) -> Iterator[str]:
    """Yield what the source has and the target cannot."""
    mine, theirs = _gradient(source), _gradient(target)
    if mine is None:
        return
    if likeness(source, target) == NOTHING:
        if mine.reference == "sampler":
            yield "the pull to the sampler: there the penalty is to a reference"
        elif mine.nothing:
            yield "the noise of a penalty that pulls to no reference: its mean gradient is 0"
        else:
            yield "the penalty: nothing there pulls the policy to the reference"
        return
    assert theirs is not None
    if source.clamp and source.clamp != target.clamp:
        yield f"clamp: {source.clamp}"
    if mine.correction not in ("none", theirs.correction):
        yield f"weight: {mine.correction}"
    if mine.baseline not in ("none", theirs.baseline):
        yield f"baseline: {mine.baseline}"
    if mine.value != theirs.value:
        yield f"the value of {mine.value}, which is logged"
    if source.normalisation != RETURNS and apart(average(source), average(target)):
        yield f"average: {average(source)}"
    if (source.normalisation == RETURNS) != (target.normalisation == RETURNS):
        yield f"place: {_place(source)}"
    if likeness(source, target) in (NEAR, NEAREST, OTHER):
        yield f"the gradient of {source.named or source.combination}"


def _place(meaning: Meaning) -> str:
    return "in the reward" if meaning.normalisation == RETURNS else "in the loss"


def _cut(meaning: Meaning) -> bool:
    """Return whether a clamp ends the gradient, and not only the value."""
    return bool(meaning.clamp) and gradients.get(meaning.combination).placement == "loss"


def _scope(found: Gradient) -> str:
    if found.scope == OWN:
        return "its own KL alone"
    if found.scope.startswith("gamma="):
        discount = "" if found.scope == "gamma=1" else f", discounted ({found.scope})"
        return f"its own KL and that of later tokens{discount}"
    return f"its own KL and its part of a weight that is differentiated ({found.scope})"


def _averaged(source: Meaning, target: Meaning) -> Iterator[str]:
    """Yield what changes with the averages."""
    pairs = {
        "penalty": (average(source), average(target)),
        "policy's term": (policy(source), policy(target)),
    }
    other = {what: (a, b) for what, (a, b) in pairs.items() if apart(a, b)}
    if len(other) == 2 and len(set(pairs.values())) == 1:
        (a, b) = pairs["penalty"]
        yield f"average: {b}, not {a}; it is that of the policy's term too"
    else:
        for what, (a, b) in other.items():
            yield f"average of the {what}: {b}, not {a}"
    if other and all({*pair} <= {*PER_LENGTH} for pair in pairs.values()):
        yield UNEQUAL["policy's term" in other]
    for each in (source, target):
        if mixed(each) and distance(source, target):
            yield (
                f"{each.trainer} divides the penalty's sums by lengths, the policy's by a constant:"
                " its coefficient counts times that constant over the mean length"
            )
    if pairs["penalty"] == (CONSTANT, CONSTANT):
        yield "the constant that sums are divided by must be set alike"
    if not all(pairs["policy's term"]):
        yield "how the policy's term is averaged is not known of both"


def _changes(source: Meaning, found: Candidate) -> Iterator[str]:
    """Yield what is otherwise there."""
    target = found.meaning
    mine, theirs, alike = _gradient(source), _gradient(target), likeness(source, found.meaning)
    if mine is None:
        return
    if alike == NOTHING or theirs is None:
        yield "no penalty there"
        if mine.nothing and source.normalisation == LENGTH:
            yield "its mean is 0 at equal lengths: at unequal ones it moved the lengths"
        return
    if alike == MEAN and (mine.polynomial, mine.baseline) == (theirs.polynomial, theirs.baseline):
        yield "the gradient is the same while the policy itself samples, another once it has moved"
    elif alike in SAID:
        yield SAID[alike].format(source=_scope(mine), to=_scope(theirs))
    yield from _averaged(source, target)
    if (source.normalisation == RETURNS) != (target.normalisation == RETURNS):
        way = "divide" if source.normalisation == RETURNS else "multiply"
        yield (
            f"the penalty is {_place(target)}: where advantages are divided by their spread, {way}"
            " the coefficient by that spread, and by G/(G - 1) where they are less the mean of"
            " their own group of G"
        )
    if target.clamp and target.clamp != source.clamp:
        yield f"clamp: {target.clamp}"
    if _cut(target) and not _cut(source):
        yield "beyond its clamp no token is pulled back: far from the reference the KL ends higher"
    if _cut(source) and not _cut(target):
        yield "without the clamp all tokens are pulled back: far away the KL ends lower"
    if theirs.correction not in ("none", mine.correction):
        yield f"weight: {theirs.correction}"
    if theirs.baseline not in ("none", mine.baseline):
        yield f"baseline: {theirs.baseline}"
    if target.note and target.note != source.note:
        yield target.note
