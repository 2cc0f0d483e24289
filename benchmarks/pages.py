"""The pages of the published findings, which are built from their tables and not committed.

Committed are a finding's tables, the figures that Markdown cites, and an extract of its page: the
text line by line, and a digest of each figure. A change of the report shows in the extract.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterator
from html.parser import HTMLParser
from itertools import groupby
from pathlib import Path

from klbench.report import render
from klbench.runs import RunFolder

EXTRACT = "page.txt"
COPIED = shutil.ignore_patterns("index.html", "*.csv", "figures", EXTRACT)
SILENT = {"script", "style", "svg"}
OWN_LINE = set("h1 h2 h3 h4 p li tr dt dd summary figcaption caption title section div".split())
TIME_TAKEN = "time taken"
ROWS = 8


def build(folder: Path, place: Path) -> Path:
    """Build a finding in another place, with its page, figures and CSV tables.

    Returns
    -------
    Path
        Of the page.
    """
    shutil.copytree(folder, place, ignore=COPIED)
    run = RunFolder(place)
    for name, table in run.tables.items():
        run.write_csv(name, table)
    return render(place)


class _Text(HTMLParser):
    """The words of a page, a line for each block or row of a table."""

    def __init__(self) -> None:
        super().__init__()
        self.lines = [""]
        self.silent = 0

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.silent += tag in SILENT
        if tag in OWN_LINE:
            self.lines.append("")
        elif tag in ("td", "th"):
            self.lines[-1] += " | "

    def handle_endtag(self, tag: str) -> None:
        self.silent -= tag in SILENT
        if tag in OWN_LINE:
            self.lines.append("")

    def handle_data(self, data: str) -> None:
        if not self.silent:
            self.lines[-1] += data


def _text(page: Path) -> Iterator[str]:
    """Yield the lines of a page's text, but for the time it took."""
    parser = _Text()
    parser.feed(page.read_text(encoding="utf-8"))
    parser.close()
    before = ""
    for line in (" ".join(line.split()) for line in parser.lines):
        if line and before != TIME_TAKEN:
            yield line
        before = line or before


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]


def extract(page: Path) -> Iterator[str]:
    """Yield the text of a page, of long tables the first rows, and digests of the rest.

    The time that the page took is left out.
    """
    for is_row, group in groupby(_text(page), key=lambda line: line.startswith("|")):
        lines = list(group)
        yield from lines[:ROWS] if is_row else lines
        if is_row and len(lines) > ROWS:
            more = "\n".join(lines[ROWS:])
            yield f"and {len(lines) - ROWS} more rows, {_digest(more.encode())}"
    for figure in sorted((page.parent / "figures").glob("*.svg")):
        yield f"figure {figure.name} {_digest(figure.read_bytes())}"


def write_extract(page: Path, folder: Path) -> None:
    """Write the extract of a page into the folder of its finding."""
    (folder / EXTRACT).write_text("\n".join(extract(page)) + "\n", encoding="utf-8")
