"""Combinations in words, and grids of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import product
from typing import Any, get_args

from klbench import estimators
from klbench.gradients import corrections
from klbench.gradients._combination import (
    CAP,
    DIFFERENTIATED,
    EXACT,
    MEAN,
    NORMALISED,
    Baseline,
    Combination,
    Level,
    Placement,
    Reference,
)
from klbench.registry import unknown
from klbench.types import ConfigError

OWN = "own_token"
"""The placement of a token's own term beside its own score."""


def parse(spec: str) -> Combination:
    """A combination from ``estimator/placement[/level[/correction[/baseline]]][/key=value...]``.

    ``k3@k2`` is a value of k3 and a gradient of k2; ``token:mean`` divides by the length;
    ``truncated_ratio:5`` is cut off at 5; ``token_ratio:differentiated`` is a weight that is
    differentiated too, ``token_ratio:normalised`` one over its mean in the group. Keys are
    ``gamma`` and ``reference``; ``own_token`` is the reward to go with gamma 0.

    Raises
    ------
    ConfigError
        A part is unknown, or the parts do not go together.
    """
    words = spec.split("/")
    given = [each for each in words if "=" not in each]
    if not 2 <= len(given) <= 5 or words[: len(given)] != given:
        raise ConfigError(
            f"combination {spec!r}: expected estimator/placement/level/correction/baseline"
        )
    more = _more(spec, words[len(given) :])
    value, placement, level, correction, baseline = (
        *given,
        *("", "", "token", "none", "none")[len(given) :],
    )
    if placement == OWN:
        placement, more = "reward_to_go", {"gamma": 0.0} | more
    estimator, _, gradient_of = value.partition("@")
    ratio_gradient, normalised = (
        correction.endswith(each) for each in (DIFFERENTIATED, NORMALISED)
    )
    correction, cap = _correction(correction.removesuffix(DIFFERENTIATED).removesuffix(NORMALISED))
    for name in filter(None, (estimator, gradient_of)):
        if name != EXACT:
            estimators.get(name)
    return Combination(
        spec,
        estimator,
        _word("placement", placement, Placement, OWN),
        _word("level", level.removesuffix(MEAN), Level),
        correction,
        _word("baseline", baseline, Baseline),
        ratio_gradient=ratio_gradient,
        normalised=normalised,
        gradient_of=gradient_of,
        length_mean=level.endswith(MEAN),
        cap=cap,
        **more,
    )


def _more(spec: str, words: Sequence[str]) -> dict[str, Any]:
    """Return what ``key=value`` says."""
    found: dict[str, Any] = {}
    for key, _, value in (each.partition("=") for each in words):
        if key in found:
            raise ConfigError(f"combination {spec!r}: {key} is given twice")
        if key not in ("gamma", "reference"):
            raise unknown("key of a combination", key, ("gamma", "reference"))
        if key == "reference":
            found[key] = _word("reference", value, Reference)
        else:
            found[key] = _number(spec, value)
    return found


def _correction(text: str) -> tuple[str, float]:
    """Return a correction, and the limit of a plain truncated ratio."""
    found = corrections.factors(text)
    if text.partition(":")[0] == "truncated_ratio" and "*" not in text and "@" not in text:
        return "truncated_ratio", found[0].high
    return text, CAP


def _number(spec: str, text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise ConfigError(
            f"combination {spec!r}: expected a number after gamma=, got {text!r}"
        ) from None


def _word(kind: str, word: str, words: Any, *more: str) -> Any:
    if word not in get_args(words):
        raise unknown(kind, word, (*get_args(words), *more))
    return word


def grid(
    names: Sequence[str],
    placements: Sequence[Placement],
    levels: Sequence[Level],
    weights: Sequence[str],
    baselines: Sequence[Baseline],
) -> Iterator[Combination]:
    """Return every combination of these parts that go together.

    A full placement comes once, whatever the estimators.

    Raises
    ------
    ConfigError
        An estimator is unknown, or has no gradient of its own.
    """
    for name in names:
        Combination(name, name, "loss")
    seen = set()
    for name, placement, level, correction, baseline in product(
        names, placements, levels, weights, baselines
    ):
        estimator = EXACT if placement in ("full", "full_with_score") else name
        if placement == "straight_through" and estimator == "k2":
            continue  # k2 in the loss
        value = f"{estimator}@k2" if placement == "straight_through" else estimator
        ratios: list[str] = [correction]
        if correction != "none" and placement in ("loss", "straight_through", "full"):
            ratios.append(correction + DIFFERENTIATED)
        for ratio in ratios:
            spec = f"{value}/{placement}/{level}/{ratio}/{baseline}"
            if spec in seen:
                continue
            seen.add(spec)
            try:
                yield parse(spec)
            except ConfigError:
                continue
