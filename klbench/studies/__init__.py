"""Studies: one folder a kind of experiment; settings in, tidy tables out, and their part of the page."""

from __future__ import annotations

from klbench.registry import Registry
from klbench.studies.context import Context, Study, Summary

registry: Registry[Study] = Registry("study", __name__)


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


from klbench.studies.language import trained  # noqa: E402

trained.add_all()  # here, so that workers know them too

__all__ = ["Context", "Study", "Summary", "get", "names", "register", "registry"]
