"""Studies: one folder a kind of experiment; settings in, tidy tables out, and their part of the page."""

from __future__ import annotations

import importlib
import pkgutil
from functools import cache

from klbench.registry import Registry
from klbench.study import Study

registry: Registry[Study] = Registry("study", __name__)


def register(study: Study) -> Study:
    """Register a study under its name."""
    return registry.add(study.name, study, study.aliases)


@cache
def _discover() -> None:
    """Register the ``STUDY`` of every folder that has one; nothing else of them is imported."""
    for module in pkgutil.iter_modules(__path__):
        if not module.ispkg:
            continue
        study = getattr(importlib.import_module(f"{__name__}.{module.name}"), "STUDY", None)
        if study is not None:
            register(study)


def names() -> list[str]:
    """Return the names of all studies."""
    _discover()
    return registry.names()


def get(name: str) -> Study:
    """Return the study of that name.

    Raises
    ------
    klbench.types.ConfigError
        No such name.
    """
    _discover()
    return registry.get(name)
