"""Studies: one folder a kind of experiment.

Settings in, tidy tables out, and their part of the page.
"""

from __future__ import annotations

import pkgutil
from functools import cache

from klbench.registry import Registry, load, plugins
from klbench.study import Study

registry: Registry[Study] = Registry("study", __name__)


def register(study: Study) -> Study:
    """Register a study under its name."""
    return registry.add(study.name, study, study.aliases)


@cache
def _discover() -> None:
    """Register the ``STUDY`` of every folder and plugin that has one; nothing else is imported."""
    folders = [f"{__name__}.{part.name}" for part in pkgutil.iter_modules(__path__) if part.ispkg]
    for folder in (*folders, *plugins(__name__)):
        study = getattr(load(folder), "STUDY", None)
        if study is not None:
            register(study)


def names() -> list[str]:
    """Return the names of all studies."""
    _discover()
    return registry.names()


def known(name: str) -> bool:
    """Return whether there is a study of that name, or of that name in an earlier version."""
    _discover()
    return name in registry


def get(name: str) -> Study:
    """Return the study of that name.

    Raises
    ------
    klbench.types.ConfigError
        No such name.
    """
    _discover()
    return registry.get(name)
