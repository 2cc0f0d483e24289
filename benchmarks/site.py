"""What the site takes from elsewhere in the checkout: the published findings, at ``findings/``.

A hook of MkDocs (``make docs``), which builds their pages. In the Markdown a finding is linked
where it lies in the checkout, so that the links hold on a forge too.
"""

from __future__ import annotations

import re
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

sys.path.insert(0, str(Path(__file__).parent))
import pages

ROOT = Path(__file__).parents[1]
PUBLISHED = ROOT / "reports" / "published"
LINK = re.compile(r"\]\((?:\.\./)?reports/published/([\w-]+)(/[^)]*)?\)")
FOLDER = re.compile(r"\]\((?!https?:)([\w./-]+)/\)")
BUILT: list[Path] = []
"""The folders in which pages have been built and not yet copied."""


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the gallery of the findings, and each finding's page, figures and tables."""
    for name, path in (
        ("findings.md", "README.md"),
        ("findings/doctor/index.md", "doctor/README.md"),
    ):
        text = FOLDER.sub(r"](\1/index.html)", (PUBLISHED / path).read_text(encoding="utf-8"))
        if name == "findings.md":
            text = re.sub(r"\]\((?!https?:)([\w-]+/)", r"](findings/\1", text)
        files.append(File.generated(config, name, content=text))
    built = Path(tempfile.mkdtemp(prefix="klbench-site-"))
    BUILT.append(built)
    for run in sorted(PUBLISHED.rglob("run.json")):
        pages.build(run.parent, built / run.parent.relative_to(PUBLISHED))
    recordings = built / "doctor" / "recordings"
    shutil.copytree(PUBLISHED / "doctor" / "recordings", recordings)
    for path in sorted(built.rglob("*")):
        if path.suffix in (".html", ".svg", ".csv") or path.parent == recordings:
            place = f"findings/{path.relative_to(built).as_posix()}"
            files.append(File.generated(config, place, abs_src_path=str(path)))
    return files


def on_post_build(config: MkDocsConfig) -> None:
    """Remove what was built, now that it has been copied."""
    while BUILT:
        shutil.rmtree(BUILT.pop())


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Return a page's text with its links to findings and to the checkout's root as the site has
    them.
    """
    markdown = LINK.sub(lambda m: f"](findings/{m[1]}{_page(m[2])})", markdown)
    markdown = markdown.replace("findings/doctor/README.md", "findings/doctor/index.md")
    return markdown.replace("](docs/", "](")


def _page(path: str | None) -> str:
    return "/index.html" if path in (None, "/") else path
