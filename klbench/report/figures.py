"""Drawings as small SVG elements that follow the colours of the page they stand in, and the same as
files of their own.

matplotlib is used through its object interface alone. It draws with placeholder colours, one for
each slot of the palette; they become CSS variables, so that one drawing serves light and dark
pages, and paper.
"""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from html import escape
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure as Canvas
from matplotlib.markers import MarkerStyle
from matplotlib.path import Path as MarkerPath

from klbench.report.blocks import Figure, LegendEntry

WIDTH, HEIGHT = 360, 250
SMALLEST = 11.0
"""Size of all text in a drawing, which a phone shows as large as it is."""
TEXT, FAINT = "#010203", "#040506"
FONTS = (
    "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', 'Liberation Sans', Arial,"
    " sans-serif"
)

# After Okabe and Ito's set for colour-blind readers, darkened for white paper and lightened for
# dark screens.
LIGHT = ("#0072b2", "#c24a00", "#00795a", "#a3478a", "#9a6700", "#4a5260", "#2b8fc7", "#7a5cc4")
DARK = ("#4fb0ea", "#f5894a", "#2fc795", "#e290c6", "#e6b040", "#aab3c0", "#8fd0f5", "#b79df5")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "p")
_PLACEHOLDERS = tuple(f"#0a0b{slot:02x}" for slot in range(len(LIGHT)))


def colour(slot: int) -> str:
    """Return the colour that matplotlib is given for a slot of the palette."""
    return _PLACEHOLDERS[slot % len(_PLACEHOLDERS)]


def palette_css() -> str:
    """The palette as CSS variables, for pages and files alike."""

    def variables(colours: Sequence[str], text: str, faint: str, paper: str) -> str:
        slots = "".join(f"--slot-{i}:{each};" for i, each in enumerate(colours))
        return f"{slots}--ink:{text};--faint:{faint};--paper:{paper}"

    light = variables(LIGHT, "#1c2128", "#c9ced6", "#ffffff")
    dark = variables(DARK, "#e6e9ee", "#434b57", "#15181d")
    return f":root{{{light}}}@media screen and (prefers-color-scheme:dark){{:root{{{dark}}}}}"


@contextmanager
def _style() -> Iterator[None]:
    own: dict[Any, Any] = {
        "svg.fonttype": "none",
        "svg.hashsalt": "klbench",
        "font.family": "sans-serif",
        "font.sans-serif": ["DejaVu Sans"],
        "font.size": SMALLEST,
        "axes.labelsize": SMALLEST,
        "xtick.labelsize": SMALLEST,
        "ytick.labelsize": SMALLEST,
        "axes.unicode_minus": True,
        "text.parse_math": False,
        "text.color": TEXT,
        "axes.labelcolor": TEXT,
        "axes.edgecolor": TEXT,
        "xtick.color": TEXT,
        "ytick.color": TEXT,
        "axes.axisbelow": True,
        "axes.linewidth": 0.8,
        "axes.spines.right": False,
        "axes.spines.top": False,
        "grid.color": FAINT,
        "grid.linewidth": 0.6,
        "axes.grid": True,
        "lines.linewidth": 1.4,
        "lines.markersize": 5.5,
        "lines.solid_capstyle": "round",
        "patch.edgecolor": "w",
        "patch.force_edgecolor": True,
        "figure.facecolor": "none",
        "axes.facecolor": "none",
        "savefig.facecolor": "none",
    }
    # A user's label may hold characters that the measuring font lacks; the reader's own fonts show
    # them.
    with mpl.rc_context(own), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing")
        yield


@contextmanager
def drawing(
    left: float = 0.15, bottom: float = 0.18, height: int = HEIGHT
) -> Iterator[tuple[Axes, list[str]]]:
    """Axes to draw on; when the block ends, the list holds the ``svg`` element."""
    with _style():
        figure = Canvas(figsize=(WIDTH / 72, height / 72))
        FigureCanvasSVG(figure)
        axes = figure.add_axes((left, bottom, 0.97 - left, 0.96 - bottom))
        result: list[str] = []
        yield axes, result
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    result.append(_cleaned(buffer.getvalue(), height))


def _cleaned(svg: str, height: int) -> str:
    """Without header, comments, metadata and style of its own; colours and fonts are the page's."""
    body = svg[svg.index("<svg") :]
    body = body[body.index(">") + 1 : body.rindex("</svg>")]
    body = re.sub(
        r"<!--.*?-->|<metadata>.*?</metadata>|<defs>\s*<style.*?</style>\s*</defs>",
        "",
        body,
        flags=re.DOTALL,
    )
    body = re.sub(r"font-family: '[^;\"]*|font: ([0-9.]+px) '[^;\"]*", _font, body)
    for slot, placeholder in enumerate(_PLACEHOLDERS):
        body = body.replace(placeholder, f"var(--slot-{slot})")
    body = body.replace(TEXT, "var(--ink)").replace(FAINT, "var(--faint)")
    body = re.sub(
        r"<[^>]*>", lambda tag: re.sub(r"(\d+\.\d\d)\d+", r"\1", tag[0]), body
    )  # positions, not what is written
    body = re.sub(r' transform="rotate\(-0 [^)]*\)"', "", body)
    body = re.sub(r"\s*\n\s*", "\n", body)
    return f'<svg viewBox="0 0 {WIDTH} {height}" stroke-linejoin="round">{body}</svg>'


def _font(match: re.Match[str]) -> str:
    family = FONTS.replace('"', "'")
    return f"font: {match[1]} {family}" if match[1] else f"font-family: {family}"


def unique_ids(svg: str, prefix: str) -> str:
    """The element with ids that no other drawing on the page has.

    Groups, to which nothing refers, lose theirs.
    """
    used = set(re.findall(r'(?:href="|url\()#([\w.-]+)', svg))
    svg = re.sub(
        r' id="([\w.-]+)"', lambda m: f' id="{prefix}-{m[1]}"' if m[1] in used else "", svg
    )
    return re.sub(r'(href="|url\()#', rf"\1#{prefix}-", svg)


def labelled(svg: str, alt: str) -> str:
    """The element with its text alternative."""
    return svg.replace("<svg ", f'<svg role="img" aria-label="{escape(alt)}" ', 1)


def path_data(path: MarkerPath, scale: float = 1.0) -> str:
    """A path of matplotlib's as the ``d`` of an SVG path, upside down as SVG wants it."""
    out = []
    for points, code in path.iter_segments(curves=True):
        letter = {1: "M", 2: "L", 3: "Q", 4: "C", 79: "Z"}[int(code)]
        signs = (scale, -scale) * 3
        out.append(
            letter
            + (
                ""
                if letter == "Z"
                else " ".join(f"{s * v:.1f}" for v, s in zip(points, signs, strict=False))
            )
        )
    return "".join(out)


@cache
def _marker_path(marker: str) -> str:
    style = MarkerStyle(marker)
    return path_data(style.get_path().transformed(style.get_transform()), 10.0)


def marker_svg(entry: LegendEntry) -> str:
    """The marker of a legend entry, on a piece of its line."""
    fill = f"var(--slot-{entry.slot % len(LIGHT)})"
    dash = ' stroke-dasharray="5 3"' if entry.dashed else ""
    return (
        '<svg viewBox="-16 -8 32 16" width="32" height="16" aria-hidden="true"><path d="M-15 0H15"'
        f' stroke="{fill}" stroke-width="1.6"{dash}/><path d="{_marker_path(entry.marker)}"'
        f' fill="{fill}"/></svg>'
    )


def as_file(figure: Figure) -> str:
    """A figure as one SVG document: title, legend and all panels."""
    columns = 2 if len(figure.panels) > 1 else 1
    out, y = (
        [f'<text x="12" y="26" style="font: bold 15px {FONTS}">{escape(figure.title)}</text>'],
        40,
    )
    x, width = 12.0, columns * (WIDTH + 16)
    for entry in figure.legend:
        needed = 46 + 7.2 * len(entry.label)
        if x + needed > width:
            x, y = 12.0, y + 20
        out.append(f'<g transform="translate({x} {y})">{marker_svg(entry)}</g>')
        out.append(
            f'<text x="{x + 37}" y="{y + 12}" style="font: 12px'
            f' {FONTS}">{escape(entry.label)}</text>'
        )
        x += needed
    y += 28
    for row in range(0, len(figure.panels), columns):
        panels = figure.panels[row : row + columns]
        for i, panel in enumerate(panels):
            left = 8 + i * (WIDTH + 16)
            out.append(
                f'<text x="{left + 8}" y="{y + 14}" style="font: bold 12px'
                f' {FONTS}">{escape(panel.title)}</text>'
            )
            out.append(
                f'<text x="{left + 8}" y="{y + 29}" style="font: 11px'
                f' {FONTS}">{escape(panel.detail)}</text>'
            )
            height = _height(panel.svg)
            placed = unique_ids(panel.svg, f"{figure.name}-{row + i}")
            out.append(
                placed.replace(
                    "<svg ", f'<svg x="{left}" y="{y + 34}" width="{WIDTH}" height="{height}" ', 1
                )
            )
        y += 44 + max(_height(panel.svg) for panel in panels)
    alt = f"{figure.title}. " + " ".join(panel.alt for panel in figure.panels)
    return (
        '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"'
        f' width="{width}" height="{y}" '
        f'viewBox="0 0 {width} {y}" role="img"'
        f' aria-label="{escape(alt)}"><title>{escape(figure.title)}</title>'
        f"<style>{palette_css()}svg{{background:var(--paper)}}text{{fill:var(--ink)}}</style>"
        f"{''.join(out)}</svg>\n"
    )


def _height(svg: str) -> int:
    found = re.search(rf'viewBox="0 0 {WIDTH} (\d+)"', svg)
    return int(found[1]) if found else HEIGHT
