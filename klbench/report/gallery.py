"""An index of findings, in Markdown.

The question, the answer, the picture and the command of each run.
"""

from __future__ import annotations

import html
import re
from collections import Counter
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
    found = [sources.read(folder) for folder in folders]
    leads = [part(source.study, source.tables).lead for source in found]
    asked = Counter(lead.question for lead in leads if lead is not None)
    for source, lead in zip(found, leads, strict=True):
        if lead is None:
            continue
        place = source.path.relative_to(root).as_posix()
        which = f" ({place})" if asked[lead.question] > 1 else ""
        yield ""
        yield f"## [{lead.question}{which}]({place}/)"
        yield ""
        yield _plain(lead.verdict)
        if lead.figure is not None:
            yield ""
            yield f"![{lead.figure.title}]({place}/figures/{lead.figure.name}.svg)"
        yield ""
        yield f"`{source.info.get('command', '')}`"
