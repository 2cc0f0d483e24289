"""Value estimators: pure functions of the log-ratio, one family a file.

``names()`` lists them, ``get("k3")`` is one; ``get("k3").terms(log_ratio)`` are the terms whose mean estimates.
"""

from __future__ import annotations

from klbench.registry import Registry
from klbench.types import Estimator

registry: Registry[Estimator] = Registry("estimator", __name__)


def register(estimator: Estimator) -> Estimator:
    """Register an estimator under its name and aliases."""
    return registry.add(estimator.name, estimator, estimator.aliases)


def names() -> list[str]:
    """The names of all estimators."""
    return registry.names()


def get(name: str) -> Estimator:
    """The estimator of that name or alias; families take a number, as in ``k_lambda:0.3``.

    Raises
    ------
    klbench.types.ConfigError
        No such name.
    """
    return registry.get(name)
