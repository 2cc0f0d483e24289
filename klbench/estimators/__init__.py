"""Value estimators: pure functions of the log-ratio, one family a file.

``names()`` lists them, ``get("k3")`` is one; ``get("k3").terms(log_ratio)`` are the terms whose
mean estimates.
"""

from __future__ import annotations

from functools import cache

from klbench import inputs
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


@cache
def _named_sets() -> dict[str, list[str]]:
    found: dict[str, list[str]] = inputs.read_yaml(inputs.conf_folder() / "estimator_sets.yaml")
    return found


def sets() -> dict[str, list[str]]:
    """The named sets of estimators, of ``conf/estimator_sets.yaml``.

    ``all`` is every registered one.
    """
    return {"all": names()} | _named_sets()
