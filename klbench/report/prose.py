"""The sentences of a page.

Macros of a Jinja template that stands beside the study, ``answer.html.j2``.
"""

from __future__ import annotations

import math
from functools import cache
from importlib.resources import files
from typing import Any

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from klbench.report import cells, numbers


def _listing(items: Any, last: str = "and") -> Any:
    """Join texts, markup or not: ``a, b and c``."""
    parts = [Markup("{}").format(each) for each in items]
    return Markup(f" {last} ").join(
        part for part in (Markup(", ").join(parts[:-1]), *parts[-1:]) if part
    )


@cache
def prose(package: str, name: str = "answer.html.j2") -> Any:
    """Return the macros of a package's template as functions that return markup.

    What they are given is escaped.

    A macro may use the filters ``number``, ``short``, ``percent``, ``signed_percent``, ``count``,
    ``interval``, ``exact``, ``code`` and ``listing``, and the test ``is infinite``.

    Raises
    ------
    FileNotFoundError
        The package has no such template.
    """
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {
        "number": numbers.number,
        "short": numbers.short,
        "percent": numbers.percent,
        "count": numbers.count,
        "interval": numbers.interval,
        "percent_interval": numbers.percent_interval,
        "with_interval": numbers.with_interval,
        "signed_percent": numbers.signed_percent,
        "exact": numbers.exact,
        "code": cells.code,
        "listing": _listing,
    }
    environment.tests["infinite"] = math.isinf
    return environment.from_string(files(package).joinpath(name).read_text(encoding="utf-8")).module
