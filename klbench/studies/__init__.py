"""Studies: one folder a kind of experiment; settings in, tidy tables out, and their part of the page."""

from __future__ import annotations

from klbench.context import Study
from klbench.registry import Registry
from klbench.studies.language import trained

registry: Registry[Study] = Registry("study", __name__)
trained.add_all(registry)  # here, so that workers know them too


def register(study: Study) -> Study:
    """Register a study under its name."""
    return registry.add(study.name, study, study.aliases)


def names() -> list[str]:
    """The names of all studies."""
    return registry.names()


def get(name: str) -> Study:
    """The study of that name.

    Raises
    ------
    klbench.types.ConfigError
        No such name.
    """
    return registry.get(name)
