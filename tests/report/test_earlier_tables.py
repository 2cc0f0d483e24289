"""Verdicts are columns: a run that was written before they came has the same page."""

import math

import pytest
from gradient_runs import lambda_table
from test_report_precision import content, row

from klbench import studies
from klbench.report import render
from klbench.runs import RunFolder

TABLES = {
    "lambda": lambda_table(0.0, 0.5),
    "lambda, one": lambda_table(0.0, 0.001),
    "lambda, not known": lambda_table(0.1, lambda_value=math.inf),
    "precision": content(row(-3, math.nan, variant="here"), row(-2, 0.5, sign=-1)),
}


@pytest.mark.parametrize("states_its_version", [False, True])
@pytest.mark.parametrize("name", TABLES)
def test_a_run_without_its_verdicts_has_the_same_page(
    make_run, name: str, states_its_version: bool
) -> None:
    study, tables = name.partition(",")[0], TABLES[name]
    (declared,) = studies.get(study).tables
    late = [column.name for column in declared.columns if column.since]
    earlier = {study: tables[study].drop(columns=late)}
    folder = make_run(content=tables, study=study)
    whole = render(folder).read_text(encoding="utf-8")
    if states_its_version:
        RunFolder(folder).write_tables(earlier)
    else:
        earlier[study].to_parquet(folder / "tables" / f"{study}.parquet", index=False)
    assert late
    assert render(folder).read_text(encoding="utf-8") == whole
