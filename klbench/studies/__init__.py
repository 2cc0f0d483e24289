"""Studies: one file a kind of experiment; settings in, tidy tables out."""

from __future__ import annotations

from klbench.registry import Registry
from klbench.studies import _lm_trained
from klbench.studies._base import Context, Study, Summary

registry: Registry[Study] = Registry("study", __name__)
_lm_trained.add_all()  # here, so that workers know them too


def register(study: Study) -> Study:
    """Register a study under its name."""
    return registry.add(study.name, study)


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


__all__ = ["Context", "Study", "Summary", "get", "names", "register", "registry"]
