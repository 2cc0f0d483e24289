"""The common claims about KL estimators in RLHF, each with a function that decides whether it
holds.

``names()`` lists them; ``get("k3_less_variance").check(seed)`` is a verdict and the numbers behind
it.
"""

from __future__ import annotations

from collections.abc import Callable

from klbench.claims._base import Check, Claim, Finding
from klbench.registry import Registry

registry: Registry[Claim] = Registry("claim", __name__)
TOPICS = ("values", "gradients", "alignment", "distillation", "sampling")
"""The subjects of claims, in the order in which they are read; others come after."""


def claim(
    name: str, statement: str, tex: str, source: str, *, topic: str
) -> Callable[[Check], Check]:
    """Register the decorated check under a name, with the statement in words and in TeX and who
    says it.
    """

    def add(check: Check) -> Check:
        registry.add(name, Claim(name, statement, tex, source, topic, check))
        return check

    return add


def names() -> list[str]:
    """The names of all claims, by topic."""
    order = {topic: k for k, topic in enumerate(TOPICS)}
    return sorted(
        registry.names(), key=lambda name: order.get(registry.get(name).topic, len(order))
    )


def get(name: str) -> Claim:
    """The claim of that name.

    Raises
    ------
    klbench.types.ConfigError
        No such name.
    """
    return registry.get(name)


__all__ = ["TOPICS", "Claim", "Finding", "claim", "get", "names", "registry"]
