"""The parts of the page: the ``SECTION`` of every study that has one."""

from __future__ import annotations

import importlib
import importlib.util
import pkgutil

from klbench.report.blocks import Section

STUDIES = "klbench.studies"
"""Where sections are found, by name as plugins are: nothing here is imported from above."""


def discover() -> list[Section]:
    """Return the sections of all studies, in the page's order."""
    studies = [each.name for each in pkgutil.iter_modules(importlib.import_module(STUDIES).__path__) if each.ispkg]
    places = [f"{STUDIES}.{name}.section" for name in studies if importlib.util.find_spec(f"{STUDIES}.{name}.section")]
    found: list[Section] = [importlib.import_module(place).SECTION for place in places]
    return sorted(found, key=lambda section: (section.order, section.title))
