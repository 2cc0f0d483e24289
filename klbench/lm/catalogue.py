"""The names of the language models that come with klbench."""

from __future__ import annotations

from klbench.registry import unknown

PREFIX = "embedded:"
LEVELS = ("near", "midway", "far")
NAMES = ("reference", *(f"{how}-{level}" for how in ("finetuned", "sharpened") for level in LEVELS))
TRAINED = ("ppo-midway", "dpo-midway")
"""Policies that take more than this package to train: see :mod:`klbench.lm.embedded`."""
TRAINED_BY = "klbench.studies.language.trained"
"""The module that trains models for :mod:`klbench.lm`, by name: it is built on this package."""


def check_name(name: str) -> None:
    """Check that a name such as ``embedded:finetuned-near`` is one of ours.

    Raises
    ------
    ConfigError
        It is not; the nearest one is offered.
    """
    if name.removeprefix(PREFIX) not in (*NAMES, *TRAINED):
        raise unknown("embedded model", name.removeprefix(PREFIX), (*NAMES, *TRAINED))
