"""Formulas in TeX as drawings, by matplotlib's mathtext, so that a page needs no script to show them."""

from __future__ import annotations

import re
from functools import cache
from html import escape

from markupsafe import Markup

from klbench.report.figures import path_data

SIZE = 15.0


def _mathtext(tex: str) -> str:
    """TeX in the dialect that mathtext reads."""
    tex = re.sub(r"\\[td]?frac(\w)(\w)", r"\\frac{\1}{\2}", tex)
    return re.sub(r"\\[td]frac", r"\\frac", tex).replace(r"\left(", "(").replace(r"\right)", ")")


@cache
def formula(tex: str) -> Markup:
    """The formula as an ``svg`` element of one path, or as code where mathtext cannot read it."""
    if not tex.strip():
        return Markup("")
    import matplotlib as mpl
    from matplotlib.font_manager import FontProperties
    from matplotlib.path import Path
    from matplotlib.textpath import TextToPath

    try:
        with mpl.rc_context({"mathtext.fontset": "stix"}):
            size = FontProperties(size=SIZE)
            width, height, depth = TextToPath().get_text_width_height_descent(f"${_mathtext(tex)}$", size, ismath=True)
            vertices, codes = TextToPath().get_text_path(size, f"${_mathtext(tex)}$", ismath=True)
    except ValueError:
        return Markup("<code>{}</code>").format(tex)
    return Markup(
        f'<svg class="formula" role="img" aria-label="{escape(tex)}" viewBox="-1 {-height + depth - 1:.1f} {width + 2:.1f} {height + 2:.1f}" '
        f'style="width:{(width + 2) / SIZE:.2f}em;height:{(height + 2) / SIZE:.2f}em;vertical-align:{-(depth + 1) / SIZE:.2f}em">'
        f'<path d="{path_data(Path(vertices, codes))}" fill="currentColor"/></svg>'
    )
