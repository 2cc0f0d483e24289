"""One self-contained page from blocks.

No network, readable without a script, everything escaped.
"""

from __future__ import annotations

import base64
import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template
from markupsafe import Markup

from klbench.report.blocks import Block, Cell, Heading, LegendEntry, Panel
from klbench.report.figures import labelled, marker_svg, palette_css, unique_ids

ASSETS = Path(__file__).parent / "assets"
GENERATOR = '<meta name="generator" content="klbench">'


@dataclass(frozen=True)
class Page:
    """A title, what stands below it, and the blocks."""

    title: str
    subtitle: str
    blocks: Sequence[Block]


@cache
def _template() -> Template:
    environment = Environment(
        loader=FileSystemLoader(ASSETS),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    return environment.get_template("page.html.j2")


def html(page: Page) -> str:
    """The page as text."""
    drawn = iter(range(10**6))

    def panel_svg(panel: Panel) -> Markup:
        return Markup(labelled(unique_ids(panel.svg, f"d{next(drawn)}"), panel.alt))

    def legend_svg(entry: LegendEntry) -> Markup:
        return Markup(marker_svg(entry))

    script = (ASSETS / "sort.js").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return _template().render(
        page=page,
        generator=Markup(GENERATOR),
        style=Markup(palette_css() + (ASSETS / "page.css").read_text(encoding="utf-8")),
        script=Markup(script),
        digest=digest,
        panel_svg=panel_svg,
        legend_svg=legend_svg,
        sort_value=_sort_value,
        contents=[
            block for block in page.blocks if isinstance(block, Heading) and block.level == 2
        ],
    )


def _sort_value(cell: Cell) -> Any:
    """Return the value that a script sorts the cell by.

    A number if there is one, empty if it is missing.
    """
    if cell.value is None:
        return None
    return "" if math.isnan(cell.value) else f"{float(cell.value):.6g}"
