"""The page of every published run, built from its tables, has the committed text and figures.

The net under each change of the report.
"""

import re
import subprocess
from pathlib import Path

import pages
import pytest

from klbench.report.gallery import index

ROOT = Path(__file__).parents[2]
PUBLISHED = ROOT / "reports" / "published"
RUNS = sorted(path.parent.relative_to(PUBLISHED).as_posix() for path in PUBLISHED.rglob("run.json"))
CITED = re.compile(r"\]\(([^)#]*figures/[^)#]*\.svg)\)")
pytestmark = pytest.mark.skipif(not RUNS, reason="a distribution without the published findings")


@pytest.mark.parametrize("name", RUNS)
def test_the_page_built_from_the_tables_is_the_committed_one(name, tmp_path) -> None:
    page = pages.build(PUBLISHED / name, tmp_path / "built")
    committed = (PUBLISHED / name / pages.EXTRACT).read_text(encoding="utf-8")
    assert list(pages.extract(page)) == committed.splitlines()


def test_a_changed_cell_a_changed_figure_and_a_long_tables_end_show_in_the_extract(
    tmp_path,
) -> None:
    rows = "".join(f"<tr><td>{i}</td><td>x</td></tr>" for i in range(12))
    page = tmp_path / "index.html"
    (tmp_path / "figures").mkdir()

    def extract(figure: str, *changed: str) -> list[str]:
        (tmp_path / "figures" / "a.svg").write_text(figure)
        text = f"<h1>T</h1><svg><text>not this</text></svg><table>{rows}</table>"
        for old, new in zip(changed[::2], changed[1::2], strict=True):
            text = text.replace(old, new)
        page.write_text(text)
        return list(pages.extract(page))

    plain = extract("<svg/>")
    assert plain[:3] == ["T", "| 0 | x", "| 1 | x"]
    assert len(plain) == 1 + pages.ROWS + 1 + 1
    for other in (extract("<svg></svg>"), extract("<svg/>", "<td>11<", "<td>12<")):
        assert len(other) == len(plain)
        assert sum(a != b for a, b in zip(plain, other, strict=True)) == 1


def test_the_index_has_the_opening_of_every_finding() -> None:
    folders = [PUBLISHED / name for name in RUNS if "/" not in name]
    assert len(folders) >= 12
    assert (PUBLISHED / "README.md").read_text(encoding="utf-8").splitlines() == list(
        index(folders, PUBLISHED)
    )


def test_the_figures_that_are_cited_are_committed_and_no_others() -> None:
    files = subprocess.run(
        ["git", "ls-files", "*.md", "reports/published"], cwd=ROOT, capture_output=True, text=True
    )
    if files.returncode or not files.stdout:
        pytest.skip("not a git checkout")
    names = files.stdout.splitlines()
    cited = {
        (ROOT / name).parent.joinpath(link).resolve().relative_to(ROOT).as_posix()
        for name in names
        if name.endswith(".md")
        for link in CITED.findall((ROOT / name).read_text(encoding="utf-8"))
    }
    kept = {name for name in names if name.startswith("reports/") and name.endswith(".svg")}
    assert kept == cited, "git add -f those cited, git rm --cached the others"
    assert not [name for name in names if name.endswith(("index.html", ".csv"))]
