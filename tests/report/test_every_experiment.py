"""The smallest run of every experiment.

Its tables are as declared, its page is whole, and no column can be renamed unseen.
"""

import importlib.util
import re
import sys
from pathlib import Path

import pandas as pd
import pytest
from audited import audited
from smallest import RUNS

import klbench
from klbench import schema, studies
from klbench.report import render
from klbench.report.sections import part
from klbench.runs import RunFolder
from klbench.schema import SchemaError

ROOT = Path(__file__).parents[2]
LACKS = re.compile(r"lacks the columns? ")


def golden():
    """benchmarks/golden.py, which writes rollouts as trainers leave them."""
    spec = importlib.util.spec_from_file_location("golden", ROOT / "benchmarks" / "golden.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules["golden"] = module
    spec.loader.exec_module(module)
    return module


def words(line: str) -> list[str]:
    """A line of overrides, cut at its spaces outside brackets."""
    found, depth = [""], 0
    for letter in line:
        depth += (letter in "[{") - (letter in "]}")
        if letter == " " and not depth:
            found.append("")
        else:
            found[-1] += letter
    return [word for word in found if word]


@pytest.fixture(scope="module", params=RUNS)
def run(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    golden().rollouts(folder / "rollouts.jsonl")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KLBENCH_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))
        patch.setenv("KLBENCH_EMBEDDED", "tiny")
        patch.setenv("HF_HUB_OFFLINE", "1")
        line = RUNS[request.param].replace("ROLLOUTS", str(folder / "rollouts.jsonl"))
        line = line.replace("AUDITED", str(audited(folder / "audited")))
        yield klbench.run(request.param, *words(line), f"out={folder / 'run'}")


def test_every_experiment_has_a_smallest_run() -> None:
    assert sorted(RUNS) == sorted(path.stem for path in (ROOT / "conf" / "exp").glob("*.yaml"))


def test_its_page_is_whole(run) -> None:
    page = (run.path / "index.html").read_text(encoding="utf-8")
    headings = re.findall(r'<h2 id="([\w-]+)">', page)
    assert "other" not in headings
    assert {"terms", "made"} < set(headings)
    assert not re.search(r"</h2>\s*(<h2|</main>)", page), "a part is empty"
    assert not LACKS.search(page)
    assert "has no table" not in page


def test_no_column_can_be_renamed_unseen(run, tmp_path) -> None:
    study = studies.get(RunFolder(run.path).info["study"])
    declared = schema.by_table(study.tables)
    seen = 0
    for name, table in run.tables.items():
        for column in declared[name].columns:
            if column.name not in table:
                continue
            renamed = {
                **run.tables,
                name: table.rename(columns={column.name: f"{column.name}_renamed"}),
            }
            with pytest.raises(
                SchemaError, match=f"table {name} .*has {re.escape(column.name)}_renamed"
            ):
                schema.check(study.tables, renamed)
            seen += 1
            if not column.optional:
                (warning,) = part(study.name, renamed).warnings
                assert re.search(
                    rf"Table {name} lacks the column {re.escape(column.name)}\.", warning
                )
    assert seen == sum(table.shape[1] for table in run.tables.values())


def test_a_missing_column_is_a_warning_on_the_page(run, tmp_path) -> None:
    study = studies.get(RunFolder(run.path).info["study"])
    name = study.section.main.table
    column = next(each.name for each in study.section.main.columns if not each.optional)
    altered = RunFolder(tmp_path / "altered")
    altered.create()
    for file in ("run.json", "config.yaml"):
        (altered.path / file).write_bytes((run.path / file).read_bytes())
    tables: dict[str, pd.DataFrame] = {**run.tables, name: run.tables[name].drop(columns=[column])}
    altered.write_tables(tables)
    page = render(altered.path).read_text(encoding="utf-8")
    assert f"Table {name} lacks the column {column}." in page
    assert 'id="other"' in page
