"""The site of docs/ builds strictly, asks nobody for anything, and no page is heavy."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
pytestmark = pytest.mark.skipif(
    not (ROOT / "reports" / "published").is_dir(), reason="a distribution without the findings"
)


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    pytest.importorskip("mkdocs")
    folder = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--quiet", "--strict", "--site-dir", str(folder)],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr  # broken links are among the errors
    return folder


def test_every_page_is_light_and_loads_nothing_from_elsewhere(site: Path) -> None:
    pages = sorted(site.rglob("*.html"))
    assert len(pages) > 20
    for page in pages:
        text = page.read_text(encoding="utf-8")
        assert len(text) < 3_000_000, page
        assert not re.search(
            r"<(?:script|img|link rel=.stylesheet)[^>]*(?:src|href)=.https?:", text
        ), page


def test_every_finding_is_in_the_gallery(site: Path) -> None:
    gallery = (site / "findings" / "index.html").read_text(encoding="utf-8")
    for folder in (ROOT / "reports" / "published").iterdir():
        if (folder / "run.json").is_file():
            assert f'href="{folder.name}/' in gallery
            assert (site / "findings" / folder.name / "index.html").is_file()


def test_the_api_page_shows_signatures(site: Path) -> None:
    text = (site / "api" / "index.html").read_text(encoding="utf-8")
    for name in ("klbench.run", "klbench.audit.api.audit", "klbench.trainers.parse"):
        assert f'id="{name}"' in text
