"""The parts of the page: one module for each kind of table, found by importing all whose names have no leading underscore."""

from __future__ import annotations

import importlib
import pkgutil

from klbench.report.blocks import Section


def discover() -> list[Section]:
    """The ``SECTION`` of every module of this package, in the page's order."""
    names = [module.name for module in pkgutil.iter_modules(__path__) if not module.name.startswith("_")]
    found: list[Section] = [importlib.import_module(f"{__name__}.{name}").SECTION for name in names]
    return sorted(found, key=lambda section: (section.order, section.title))
