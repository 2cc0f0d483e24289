"""The page as a whole.

What it holds, that it is escaped, self-contained, small and the same each time.
"""

from __future__ import annotations

import html
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
from report_runs import LABEL, tables

from klbench.report import render
from klbench.report.blocks import Paragraph
from klbench.report.writing import made

MakeRun = Callable[..., Path]


def test_a_page_and_its_figures_are_written(rendered: Path) -> None:
    page = (rendered / "index.html").read_text(encoding="utf-8")
    assert page.startswith("<!DOCTYPE html>")
    for heading in (
        "Which estimator of KL(q‖p)",
        "Tables",
        "Claimed and measured",
        "Terms",
        "How it was made",
    ):
        assert heading in page
    written = {path.stem for path in (rendered / "figures").glob("*.svg")}
    assert written == {
        "error",
        "winners",
        "noise",
        "bias",
        "error-by-batch",
        "errors",
        "coverage",
        "tails",
        "third-sampler",
    }
    assert not list(rendered.rglob("*.partial"))


def test_what_users_name_is_escaped(rendered: Path) -> None:
    page = (rendered / "index.html").read_text(encoding="utf-8")
    assert "alert(1)" in page
    assert "alert(2)" in page
    assert page.count("<script>") == 1
    assert html.escape(LABEL) in page
    for figure in (rendered / "figures").glob("*.svg"):
        assert "<script" not in figure.read_text(encoding="utf-8")


def test_the_page_needs_nothing_beyond_itself(rendered: Path) -> None:
    page = (rendered / "index.html").read_text(encoding="utf-8")
    assert re.findall(r"""(?:src|url)\s*[=(]\s*["']?(?!#)[^)\s]{4,}""", page) == []
    links = re.findall(r'href="([^"#]+)"', page)
    assert links
    assert all((rendered / link).is_file() for link in links)


def test_ids_are_unique_and_found(rendered: Path) -> None:
    page = (rendered / "index.html").read_text(encoding="utf-8")
    ids = re.findall(r'\bid="([^"]+)"', page)
    assert len(ids) == len(set(ids))
    assert set(re.findall(r'(?:href="|url\()#([\w.-]+)', page)) <= set(ids)


def test_every_drawing_has_words(rendered: Path) -> None:
    page = (rendered / "index.html").read_text(encoding="utf-8")
    for opening in re.findall(r"<svg [^>]*>", page):
        assert 'aria-hidden="true"' in opening or re.search(
            r'role="img" aria-label="[^"]+"', opening
        )


def test_figure_files_stand_alone(rendered: Path) -> None:
    import xml.etree.ElementTree as ET

    for figure in (rendered / "figures").glob("*.svg"):
        root = ET.parse(figure).getroot()
        assert root.tag.endswith("svg")
        text = figure.read_text(encoding="utf-8")
        ids = re.findall(r'\bid="([^"]+)"', text)
        assert len(ids) == len(set(ids))
        assert set(re.findall(r"var\((--[\w-]+)\)", text)) <= set(re.findall(r"(--[\w-]+):", text))


def test_the_same_bytes_again(make_run: MakeRun) -> None:
    folder = make_run()

    def written() -> dict[str, bytes]:
        render(folder)
        return {
            path.name: path.read_bytes()
            for path in [folder / "index.html", *(folder / "figures").glob("*")]
        }

    assert written() == written()


def test_the_same_bytes_from_another_process(make_run: MakeRun) -> None:
    folder = make_run()
    pages = []
    for seed in ("1", "2"):
        environment = {
            "PYTHONHASHSEED": seed,
            "PYTHONPATH": str(Path(__file__).parents[2]),
            "MPLBACKEND": "svg",
        }
        subprocess.run(
            [sys.executable, "-m", "klbench.report", str(folder)],
            check=True,
            env=os.environ | environment,
        )
        pages.append((folder / "index.html").read_bytes())
    assert pages[0] == pages[1]


COPIES = """\
import os, sys, traceback
from pathlib import Path
from klbench import context, processes
from klbench.report import render
from klbench.report.blocks import Paragraph
from klbench.report.writing import made

def here(): return Paragraph(str(os.getpid()))
def fail(): raise ArithmeticError("the dog ate the figure")

processes.own, context.COPY_SECONDS = True, 0.0
render(Path(sys.argv[1]), workers=2)
first, *makers = made([Paragraph("first"), here, lambda: None, lambda: [here(), here()]], 2)
assert first.text == "first" and len(makers) == 3
assert str(os.getpid()) not in {each.text for each in makers}
try:
    made([here, fail, here], 2)
except ArithmeticError as error:
    assert traceback.extract_tb(error.__traceback__)[-1].name == "fail"
else:
    raise AssertionError("it did not fail")
"""


@pytest.mark.skipif(sys.platform != "linux", reason="copies are made on Linux")
def test_copies_of_klbenchs_own_process_draw_the_same_bytes_and_fail_as_it_does(
    make_run: MakeRun,
) -> None:
    folder = make_run()
    files = [render(folder), *(folder / "figures").glob("*")]
    before = [file.read_bytes() for file in files]
    subprocess.run([sys.executable, "-c", COPIES, str(folder)], check=True)
    assert [file.read_bytes() for file in files] == before


def test_a_process_of_somebody_else_draws_alone(monkeypatch) -> None:
    monkeypatch.setattr("klbench.context.START_SECONDS", 0.0)
    drawn = made([lambda: Paragraph(str(os.getpid()))] * 3, workers=2)
    assert drawn == [Paragraph(str(os.getpid()))] * 3


def test_a_large_run_stays_small(make_run: MakeRun) -> None:
    names = [f"clamp_{i:02d}" for i in range(21)]
    content = tables(
        [0.005 * 1.3**i for i in range(21)], {name: lambda t: (0.0, t**0.5) for name in names}
    )
    page = render(make_run(content=content))
    assert page.stat().st_size < 3_000_000


def test_figures_of_an_earlier_rendering_are_removed(make_run: MakeRun) -> None:
    folder = make_run()
    (folder / "figures").mkdir()
    (folder / "figures" / "old.svg").write_text("<svg/>")
    render(folder)
    assert not (folder / "figures" / "old.svg").exists()


@pytest.mark.parametrize(
    ("status", "said"),
    [
        ("interrupted", "was interrupted"),
        ("failed", "failed"),
        ("running", "was still going"),
    ],
)
def test_a_run_that_was_not_finished_says_so_on_top(
    make_run: MakeRun, status: str, said: str
) -> None:
    page = render(make_run(status=status)).read_text(encoding="utf-8")
    assert 0 < page.index(said) < page.index('class="opening"')


def test_a_finished_run_warns_of_nothing(rendered: Path) -> None:
    page = (rendered / "index.html").read_text(encoding="utf-8")
    assert 'class="warning"' not in page[: page.index('class="opening"')]


def test_a_table_that_no_section_knows_is_shown_as_it_is(make_run: MakeRun) -> None:
    odd = pd.DataFrame(
        {
            "thing": ["<b>a</b>", None],
            "speed": [1234.5678, float("nan")],
            "count": [3, 4],
            "good": [True, False],
        }
    )
    page = render(make_run(content={"oddity": odd})).read_text(encoding="utf-8")
    assert "Table oddity, 2 rows" in page
    assert "&lt;b&gt;a&lt;/b&gt;" in page
    assert "1,235" in page
    assert "The run has no table values." in page


def test_a_values_table_without_the_needed_columns_is_shown_as_it_is(make_run: MakeRun) -> None:
    page = render(
        make_run(content={"values": tables()["values"][["pair", "estimator", "rmse"]]})
    ).read_text(encoding="utf-8")
    assert "Table values, 51 rows" in page


@pytest.mark.parametrize("missing", ["differences", "errors", "pairs", "estimators"])
def test_a_table_beside_may_be_missing(make_run: MakeRun, missing: str) -> None:
    content = tables()
    del content[missing]
    assert "k3" in render(make_run(content=content)).read_text(encoding="utf-8")


def test_nothing_measured_is_said(make_run: MakeRun) -> None:
    content = tables()
    values = content["values"]
    content["values"] = values[values["status"].str.startswith("skipped")]
    content["differences"] = content["differences"].head(0)
    content["errors"] = content["errors"].head(0)
    assert "Nothing was measured" in render(make_run(content=content)).read_text(encoding="utf-8")


def test_one_pair_of_a_user(make_run: MakeRun) -> None:
    content = {
        name: table[table["pair"] != "from mu"] if "pair" in table else table
        for name, table in tables([0.5]).items()
    }
    content["values"] = content["values"].assign(series=None)
    for name, table in content.items():
        content[name] = table.assign(pair="mine & <yours>") if "pair" in table else table
    page = render(make_run(content=content)).read_text(encoding="utf-8")
    assert "has the least error on mine &amp; &lt;yours&gt;?</h1>" in page
    assert "1 pair of distributions" in page


def test_an_unknown_truth_and_equal_distributions(make_run: MakeRun) -> None:
    content = tables()
    odd = content["values"]["pair"] == content["values"]["pair"].iloc[0]
    content["values"].loc[odd, ["truth", "bias", "rmse", "rel_bias"]] = float("nan")
    content["pairs"].loc[0, "kl_qp"] = float("nan")
    content["pairs"].loc[1, "kl_qp"] = 0.0
    assert "k1" in render(make_run(content=content)).read_text(encoding="utf-8")


def test_importing_the_report_is_cheap() -> None:
    heavy = ("matplotlib", "pandas", "jinja2", "numpy")
    code = f"import sys, klbench.report; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
