"""The parts of a page.

Plain strings are escaped when they are shown; only :class:`markupsafe.Markup` is not.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from markupsafe import Markup

from klbench.schema import Schema
from klbench.schema import Tables as Tables

Text = str | Markup


@dataclass(frozen=True)
class Heading:
    """A heading that the page's contents can lead to; level 2 opens a part, level 3 a paragraph."""

    text: Text
    level: int = 3
    anchor: str = ""
    kind: str = field(default="heading", init=False)


@dataclass(frozen=True)
class Paragraph:
    """A paragraph; ``tone`` is empty, ``lead``, ``note`` or ``warning``."""

    text: Text
    tone: str = ""
    kind: str = field(default="paragraph", init=False)


@dataclass(frozen=True)
class Bullets:
    """A list; ``cards``: side by side where there is room."""

    items: Sequence[Text]
    cards: bool = False
    kind: str = field(default="bullets", init=False)


@dataclass(frozen=True)
class Preformatted:
    """Text as it is."""

    text: str
    kind: str = field(default="preformatted", init=False)


@dataclass(frozen=True)
class Definitions:
    """Terms and what they mean."""

    items: Sequence[tuple[Text, Text]]
    kind: str = field(default="definitions", init=False)


@dataclass(frozen=True)
class Details:
    """Blocks that are folded away until they are asked for."""

    summary: Text
    blocks: Sequence[Block]
    kind: str = field(default="details", init=False)


@dataclass(frozen=True)
class LegendEntry:
    """The meaning of a colour and a marker.

    The colour is a slot of the palette, the marker a name of matplotlib's.
    """

    label: str
    slot: int
    marker: str
    dashed: bool = False


@dataclass(frozen=True)
class Panel:
    """One drawing of a figure.

    An ``svg`` element, the same in words, and a second line for its title.
    """

    title: str
    svg: str
    alt: str
    detail: str = ""


@dataclass(frozen=True)
class Figure:
    """Small multiples with one legend; ``name`` is the stem of its file in ``figures/``."""

    name: str
    title: str
    caption: Text
    panels: Sequence[Panel]
    legend: Sequence[LegendEntry] = ()
    kind: str = field(default="figure", init=False)


@dataclass(frozen=True)
class Cell:
    """A cell of a table: the text shown, and the number that sorts it (None: by its text)."""

    text: Text
    value: float | None = None
    tone: str = ""


@dataclass(frozen=True)
class Column:
    """A column of a table: its heading and what it holds, in words."""

    title: Text
    meaning: Text
    numeric: bool = False


@dataclass(frozen=True)
class Table:
    """A table that sorts by any of its columns.

    ``stacked``: on a narrow screen each row becomes a list of its cells with their headings, for
    tables that are too wide to be read by the column there.
    """

    caption: Text
    columns: Sequence[Column]
    rows: Sequence[Sequence[Cell]]
    stacked: bool = False
    kind: str = field(default="table", init=False)


@dataclass(frozen=True)
class Lead:
    """The opening of a page.

    Parameters
    ----------
    question
        The page's title, a question: "Which estimator has the least error on Gaussian pairs?"
    verdict
        One sentence that answers it, with the numbers that matter.
    figure
        The figure that shows it; None where there is nothing to draw.
    more
        Three sentences at most that a reader must not miss.
    """

    question: str
    verdict: Text
    figure: Figure | None
    more: Sequence[Text] = ()
    kind: str = field(default="lead", init=False)


Block = Heading | Paragraph | Bullets | Preformatted | Definitions | Details | Figure | Table | Lead
Maker = Callable[[], Block | Sequence[Block] | None]
"""A part of the page that is yet to be made, by whichever process has the time."""


@dataclass(frozen=True)
class Section:
    """The part of the page that a study has.

    It is given the run's tables, and computes no statistic that none of them holds.

    Parameters
    ----------
    title
        Its heading.
    main
        The table without which it has nothing to say.
    build
        Tables by name to the part's blocks, those that take long as their makers.
    lead
        Tables by name to what the page opens with.
    order
        Parts with smaller numbers come first.
    terms
        Keys of the glossary's terms that it uses.
    """

    title: str
    main: Schema
    build: Callable[[Tables], Sequence[Block | Maker]]
    lead: Callable[[Tables], Lead] | None = None
    order: int = 100
    terms: Sequence[str] = ()
