"""The ways to a policy gradient from an estimator.

Where a trainer puts it, at which level, with which correction.

A combination is written once, as the surrogate loss that a trainer would differentiate
(:mod:`klbench.gradients.surrogate`); its expected gradient and its variance follow by enumeration,
in closed form, or from samples.
"""

from __future__ import annotations

from dataclasses import replace

from klbench import trainers
from klbench.gradients._combination import (
    EXACT,
    SCORED,
    Baseline,
    Combination,
    Level,
    Placement,
)
from klbench.gradients.spec import grid, parse
from klbench.registry import Registry

registry: Registry[Combination] = Registry("combination", __name__, modules=("named",))


def register(combination: Combination) -> Combination:
    """Register a combination under its name, what trainers call it, and its other aliases."""
    combination = replace(
        combination, aliases=(*trainers.aliases(combination.name), *combination.aliases)
    )
    return registry.add(combination.name, combination, combination.aliases)


def names() -> list[str]:
    """The names of all combinations that have one: those that some trainer uses."""
    return registry.names()


def get(name: str) -> Combination:
    """The combination of that name or alias, or the one that
    ``estimator/placement/level/correction/baseline`` spells out.

    Raises
    ------
    klbench.types.ConfigError
        No such name, or the parts do not go together.
    """
    return parse(name) if "/" in name else registry.get(name)


__all__ = [
    "EXACT",
    "SCORED",
    "Baseline",
    "Combination",
    "Level",
    "Placement",
    "get",
    "grid",
    "names",
    "register",
    "registry",
]
