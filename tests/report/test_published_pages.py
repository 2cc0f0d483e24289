"""Every published run, rendered again, gives the committed page and figures.

The net under each change of the report.
"""

import re
import shutil
from pathlib import Path

import pytest

from klbench.report import render
from klbench.report.gallery import index

PUBLISHED = Path(__file__).parents[2] / "reports" / "published"
RUNS = sorted(path.parent.name for path in PUBLISHED.glob("*/run.json"))
TIME_TAKEN = re.compile(r"(<dt>time taken</dt><dd>)[^<]*")
"""Rendering again takes time of its own, and is told."""


def page(folder: Path) -> list[str]:
    text = (folder / "index.html").read_text(encoding="utf-8")
    assert len(TIME_TAKEN.findall(text)) == 1
    return TIME_TAKEN.sub(r"\1", text).replace("><", ">\n<").splitlines()


def figures(folder: Path) -> dict[str, str]:
    return {
        path.name: path.read_text(encoding="utf-8")
        for path in sorted((folder / "figures").glob("*"))
    }


@pytest.mark.parametrize("name", RUNS)
def test_a_published_run_rendered_again_is_the_committed_page(name, tmp_path) -> None:
    folder = tmp_path / name
    shutil.copytree(PUBLISHED / name, folder)
    (folder / "index.html").unlink()
    shutil.rmtree(folder / "figures", ignore_errors=True)
    render(folder)
    assert page(folder) == page(PUBLISHED / name)
    assert figures(folder) == figures(PUBLISHED / name)


def test_there_are_published_runs() -> None:
    assert len(RUNS) >= 12


def test_the_index_has_the_opening_of_every_finding() -> None:
    folders = [PUBLISHED / name for name in RUNS]
    assert (PUBLISHED / "README.md").read_text(encoding="utf-8").splitlines() == list(
        index(folders, PUBLISHED)
    )
