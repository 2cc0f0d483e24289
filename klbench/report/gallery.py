"""An index of findings, in Markdown.

The question, the answer, the picture and the command of each run.
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from klbench.report import sources
from klbench.report.sections import part

TITLE = """\
# Findings

Each is a run folder: its tables, the text of its page (`page.txt`), and the command that makes it \
again (`make published`). `make docs` builds the pages.
"""


def _plain(text: object) -> str:
    """Return a text of the page as Markdown: names as code, everything else without tags."""
    coded = re.sub(r"</?code>", "`", str(text).replace("<wbr>", ""))
    return " ".join(html.unescape(re.sub(r"<[^>]+>", "", coded)).split())


def index(folders: Sequence[Path], root: Path) -> Iterator[str]:
    """Yield the lines of an index that stands in ``root``; runs without an opening are left out.

    Raises
    ------
    ConfigError
        One of the folders holds no run that can be read.
    """
    yield from TITLE.splitlines()
    for folder in folders:
        source = sources.read(folder)
        lead = part(source.study, source.tables).lead
        if lead is None:
            continue
        place = folder.relative_to(root).as_posix()
        yield ""
        yield f"## [{lead.question}]({place}/)"
        yield ""
        yield _plain(lead.verdict)
        if lead.figure is not None:
            yield ""
            yield f"![{lead.figure.title}]({place}/figures/{lead.figure.name}.svg)"
        yield ""
        yield f"`{source.info.get('command', '')}`"
