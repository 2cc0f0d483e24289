"""Tables as data: what is checked when they are written, what is filled in when they are read."""

import math

import pandas as pd
import pyarrow.parquet as pq
import pytest

from klbench import schema, studies
from klbench.runs import RunFolder
from klbench.schema import Column, Schema, SchemaError, flag, integer, interval, text, with_error
from klbench.types import ConfigError

TABLE = Schema(
    "final",
    "One row for each combination.",
    (
        text("combination", "name in klbench", "Combination"),
        integer("seeds", "seeds it is the mean of"),
        *interval(Column("regret", "distance from the best", "nats", heading="Regret")),
        flag("stopped", "whether it diverged"),
        Column("extra", "what only some runs have", optional=True),
        Column("late", "what version 1 added", since=1),
    ),
)


def frame(**columns) -> pd.DataFrame:
    return TABLE.example(2, **columns)


def test_an_example_is_as_declared_and_leaves_out_what_is_optional() -> None:
    TABLE.check(frame())
    assert list(frame()) == [
        "combination",
        "seeds",
        "regret",
        "regret_low",
        "regret_high",
        "stopped",
        "late",
    ]
    with pytest.raises(KeyError, match="no columns"):
        TABLE.example(regrets=1.0)


@pytest.mark.parametrize("name", [column.name for column in TABLE.columns if not column.optional])
def test_a_renamed_column_is_refused(name) -> None:
    with pytest.raises(
        SchemaError, match=rf"table final lacks {name}; has renamed, which is not declared"
    ):
        TABLE.check(frame().rename(columns={name: "renamed"}))


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("combination", [1.0, 2.0]),
        ("combination", [None, 3]),
        ("seeds", [1.5, 2.0]),
        ("seeds", ["1", "2"]),
        ("regret", ["0.1", "0.2"]),
        ("regret", [True, False]),
        ("stopped", [0.0, 1.0]),
        ("stopped", ["yes", "no"]),
    ],
)
def test_a_column_of_another_type_is_refused(name, values) -> None:
    with pytest.raises(SchemaError, match=f"has {name} of dtype .*, declared as"):
        TABLE.check(frame(**{name: values}))


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("combination", ["a", None]),
        ("seeds", [2.0, math.nan]),
        ("regret", [1, 2]),
        ("regret", [math.inf, math.nan]),
        ("regret", [None, None]),
        ("stopped", [True, None]),
    ],
)
def test_gaps_are_allowed(name, values) -> None:
    TABLE.check(frame(**{name: values}))


def test_rows_have_every_column() -> None:
    rows = TABLE.rows(frame(combination=["a", None]).drop(columns=["late"]))
    assert [row["combination"] for row in rows] == ["a", ""]
    assert all(math.isnan(row["extra"]) and math.isnan(row["late"]) for row in rows)
    assert set(rows[0]) == {column.name for column in TABLE.columns}


def test_only_a_table_of_an_earlier_version_may_lack_what_is_new() -> None:
    old = frame().drop(columns=["late"])
    assert TABLE.missing(TABLE.migrated(old, 1)) == ["late"]
    migrated = TABLE.migrated(old, 0)
    assert TABLE.missing(migrated) == []
    assert migrated["late"].isna().all()
    pd.testing.assert_frame_equal(migrated[list(old)], old)


def test_a_migration_sees_the_table_first() -> None:
    renaming = Schema(
        "t",
        "A row.",
        (Column("new", "x"),),
        migrate=lambda table, _: table.rename(columns={"old": "new"}),
    )
    assert list(renaming.migrated(pd.DataFrame({"old": [1.0]}), 0)) == ["new"]
    assert list(renaming.migrated(pd.DataFrame({"old": [1.0]}), schema.VERSION)) == ["old"]


def test_a_table_of_this_version_gets_what_came_after_it() -> None:
    late = Schema(
        "t",
        "A row.",
        (Column("x", "x"), Column("twice", "2 x", since=schema.VERSION)),
        migrate=lambda table, _: table.assign(twice=2 * table["x"]),
    )
    assert late.migrated(pd.DataFrame({"x": [1.0]}), schema.VERSION)["twice"].to_list() == [2.0]
    whole = pd.DataFrame({"x": [1.0], "twice": [3.0]})
    assert late.migrated(whole, schema.VERSION) is whole


def test_groups_of_columns() -> None:
    names = [column.name for column in interval(Column("x", "a value"), seeds=True)]
    assert names == ["x", "x_low", "x_high", "x_seeds"]
    assert [column.name for column in with_error(Column("x", "a value", "nats"))] == ["x", "x_se"]
    assert with_error(Column("x", "a value", "nats"))[1].unit == "nats"
    with pytest.raises(ValueError, match="stand twice"):
        Schema("t", "A row.", (Column("x", "a"), Column("x", "b")))


def test_tables_of_a_run_are_held_against_what_its_study_declares() -> None:
    schema.check([TABLE], {"final": frame()})
    with pytest.raises(SchemaError, match="table other is not declared; the study declares final"):
        schema.check([TABLE], {"other": frame()})
    with pytest.raises(ValueError, match="declared twice"):
        schema.by_table([TABLE, TABLE])


def test_a_file_states_the_version_of_its_schema(tmp_path) -> None:
    folder = RunFolder(tmp_path)
    folder.write_tables({"final": frame()})
    file = tmp_path / "tables" / "final.parquet"
    assert schema.version_of(pq.read_schema(file).metadata) == schema.VERSION
    pd.testing.assert_frame_equal(pd.read_parquet(file), frame())


def test_a_version_that_is_not_known_is_refused() -> None:
    assert schema.version_of(None) == schema.version_of({}) == 0
    for stated in (b"999", b"x", b"-1"):
        with pytest.raises(ConfigError, match="schema_version"):
            schema.version_of({b"schema_version": stated})


@pytest.mark.parametrize("study", studies.names())
def test_every_column_of_every_table_is_explained(study) -> None:
    assert studies.get(study).tables
    for table in studies.get(study).tables:
        assert table.meaning.endswith(".")
        for column in table.columns:
            assert len(column.meaning) > 2, f"{table.table}.{column.name}"
            assert "TODO" not in column.meaning, f"{table.table}.{column.name}"
