"""Formulas in TeX as drawings, by matplotlib's mathtext, so that a page needs no script to show
them.
"""

from __future__ import annotations

import re
from functools import cache
from html import escape

import matplotlib as mpl
from markupsafe import Markup
from matplotlib.font_manager import FontProperties
from matplotlib.textpath import TextPath

from klbench.report.figures import path_data

SIZE = 15.0


def _mathtext(tex: str) -> str:
    """TeX in the dialect that mathtext reads."""
    tex = re.sub(r"\\[td]?frac(\w)(\w)", r"\\frac{\1}{\2}", tex)
    tex = re.sub(r"\\sqrt (\w)", r"\\sqrt{\1}", tex)
    return re.sub(r"\\[td]frac", r"\\frac", tex).replace(r"\left(", "(").replace(r"\right)", ")")


@cache
def formula(tex: str) -> Markup:
    """The formula as an ``svg`` element of one path, or as code where mathtext cannot read it."""
    if not tex.strip():
        return Markup("")
    try:
        with mpl.rc_context({"mathtext.fontset": "stix", "text.parse_math": True}):
            path = TextPath(
                (0, 0), f"${_mathtext(tex)}$", size=SIZE, prop=FontProperties(size=SIZE)
            )
        # that of its curves, since glyphs have points at their ends
        points = path.vertices[path.codes != path.CLOSEPOLY]
        (left, low), (right, high) = points.min(axis=0), points.max(axis=0)
    except ValueError:
        return Markup("<code>{}</code>").format(tex)
    width, height = right - left + 2, high - low + 2
    return Markup(
        f'<svg class="formula" role="img" aria-label="{escape(tex)}" viewBox="{left - 1:.1f}'
        f' {-high - 1:.1f} {width:.1f} {height:.1f}"'
        f' style="width:{width / SIZE:.2f}em;height:{height / SIZE:.2f}em;'
        f'vertical-align:{(low - 1) / SIZE:.2f}em"><path'
        f' d="{path_data(path)}" fill="currentColor"/></svg>'
    )
