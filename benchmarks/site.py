"""What the site takes from elsewhere in the checkout: the published findings, at ``findings/``.

A hook of MkDocs (``make docs``). In the Markdown a finding is linked where it lies in the checkout,
so that the links hold on a forge too.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[1]
PUBLISHED = ROOT / "reports" / "published"
LINK = re.compile(r"\]\((?:\.\./)?reports/published/([\w-]+)(/[^)]*)?\)")
SHOWN = ("*/index.html", "*/figures/*.svg", "doctor/*/index.html", "doctor/recordings/*.parquet")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the gallery of the findings, and each finding's page and figures."""
    gallery = (PUBLISHED / "README.md").read_text(encoding="utf-8")
    gallery = re.sub(r"\]\((?!https?:)([\w-]+/)", r"](findings/\1", gallery)
    files.append(File.generated(config, "findings.md", content=gallery))
    diagnoses = PUBLISHED / "doctor" / "README.md"
    files.append(File.generated(config, "findings/doctor/index.md", abs_src_path=str(diagnoses)))
    for pattern in SHOWN:
        for path in sorted(PUBLISHED.glob(pattern)):
            place = f"findings/{path.relative_to(PUBLISHED).as_posix()}"
            files.append(File.generated(config, place, abs_src_path=str(path)))
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Return a page's text with its links to findings and to the checkout's root as the site has
    them.
    """
    markdown = LINK.sub(lambda m: f"](findings/{m[1]}{m[2] or '/index.html'})", markdown)
    markdown = markdown.replace("findings/doctor/README.md", "findings/doctor/index.md")
    return markdown.replace("](docs/", "](")
