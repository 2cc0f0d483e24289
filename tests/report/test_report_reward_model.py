"""The part on learned rewards.

Numbers of the opening, figures and tables, which follow from the tables.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pandas as pd
import pytest
from opening import plain

from klbench.report import combine, render, sources
from klbench.report.blocks import Paragraph, Table
from klbench.studies.reward_model import section
from klbench.studies.reward_model.columns import OVEROPTIMISATION

MakeRun = Callable[..., Path]
Tables = dict[str, pd.DataFrame]
PUBLISHED = Path(__file__).parents[2] / "reports" / "published" / "reward_model"
PARTS = ("", "-ways", "-costs", "-equal-kl", "-models", "-calibration", "-kl")


@pytest.fixture
def tables() -> Tables:
    return {name: table.copy() for name, table in sources.read(PUBLISHED).tables.items()}


def said(tables: Tables) -> str:
    lead = section.lead(tables)
    return plain(" ".join(map(str, (lead.question, lead.verdict, *lead.more))))


def warnings(tables: Tables) -> str:
    return plain(
        " ".join(str(block.text) for block in section.build(tables) if isinstance(block, Paragraph))
    )


def test_the_page_opens_with_what_is_lost(tables: Tables) -> None:
    text = said(tables)
    assert (
        "64 pairs gains 0.30 of true reward up to KL 3.5, and loses 0.13 (0.019 to 0.58) of it by"
        " KL 7.0" in text
    )
    assert "its own score says 0.62" in text
    assert (
        "One of 32,768 pairs gains 0.81 and loses 0.0081 (0.00036 to 0.020); the true reward itself"
        " gains 0.90." in text
    )
    assert "8 seeds" in text
    assert "2 of 8 models of 64 pairs" in text
    assert len((text + plain(section.lead(tables).figure.caption)).split()) <= 160


def test_other_numbers_other_sentences(tables: Tables) -> None:
    tables["peaks"] = tables["peaks"].assign(lost=0.001, lost_low=-0.002, lost_high=0.004)
    tables["reward_models"]["untrained"] = 0
    text = said(tables)
    assert "loses 0.0010 (0 to 0.0040) of it" in text
    assert "Held-out" not in text


def test_the_shown_interval_of_a_loss_ends_at_none(tables: Tables) -> None:
    tables["peaks"] = tables["peaks"].assign(lost=0.001, lost_low=-0.002, lost_high=0.004)
    peaks = next(
        block
        for block in section.build(tables)
        if isinstance(block, Table) and "peaks" in block.caption
    )
    place = [column.title for column in peaks.columns].index("Lost")
    assert {row[place].text for row in peaks.rows} == {"0.0010 (0 to 0.0040)"}
    assert "ends at 0" in peaks.columns[place].meaning


def test_what_diverged_is_told(tables: Tables) -> None:
    assert "diverged" not in warnings(tables)
    table = tables["training"]
    rows = (table["combination"] == "none") & (table["seed"] == 1) & (table["step"] == 120)
    table.loc[rows, "status"] = "diverged at update 119: the loss is nan"
    assert "4 replicas diverged: none, 64 pairs, seed 1, diverged at update 119" in warnings(tables)
    assert "; and 1 more" in warnings(tables)


def test_one_seed_has_no_intervals(make_run: MakeRun, tables: Tables) -> None:
    for table in tables.values():
        table[[column for column in table if column.endswith(("_low", "_high", "_se"))]] = math.nan
    assert "loses 0.13 of it" in said(tables)
    assert ">nan" not in render(make_run("reward_model", tables, study="reward_model")).read_text(
        encoding="utf-8"
    )


def test_figures_and_tables(make_run: MakeRun, tables: Tables) -> None:
    page = render(make_run("reward_model", tables, study="reward_model"))
    assert {f"overoptimisation{part}.svg" for part in PARTS} == {
        path.name for path in (page.parent / "figures").iterdir()
    }
    text = page.read_text(encoding="utf-8")
    assert text.index('<figure id="figure-overoptimisation"') < text.index(
        "Where the true reward peaks"
    )


@pytest.mark.parametrize(
    "missing",
    [
        "peaks",
        "equal_kl",
        "reward_models",
        "reward_models_by_seed",
        "calibration",
        "training",
        "overoptimisation_by_seed",
    ],
)
def test_a_table_that_is_missing_costs_its_own_part_only(
    make_run: MakeRun, tables: Tables, missing: str
) -> None:
    del tables[missing]
    page = render(make_run("reward_model", tables, study="reward_model"))
    assert '<figure id="figure-overoptimisation"' in page.read_text(encoding="utf-8")


def test_one_model_is_no_line(make_run: MakeRun, tables: Tables) -> None:
    """With one number of pairs there is nothing to draw over it."""
    for name, table in tables.items():
        tables[name] = table[table["proxy"].isin(["64 pairs", "gold"])]
    page = render(make_run("reward_model", tables, study="reward_model"))
    drawn = {path.name for path in (page.parent / "figures").iterdir()}
    assert drawn == {
        f"overoptimisation{part}.svg" for part in PARTS if part not in ("-costs", "-models")
    }


def test_several_runs_stand_apart(make_run: MakeRun, tables: Tables, tmp_path: Path) -> None:
    make = partial(make_run, study="reward_model")
    folders = [make("a", tables, config="scale: 5\n"), make("b", tables, config="scale: 2\n")]
    text = plain(combine(folders, tmp_path / "both.html").read_text(encoding="utf-8"))
    assert "scale=5, 64 pairs, 0.30 and 0.13" in text
    assert "scale=2, 64 pairs, 0.30 and 0.13" in text


def test_standard_errors_of_an_earlier_run_become_intervals(tables: Tables) -> None:
    """Student's t of 8 seeds: 2.365 standard errors on each side."""
    today = tables["overoptimisation"]
    errors = {f"{name}_se": 0.1 for name in ("gold_gain", "k1_error", "k3_error")}
    gone = [
        f"{name}_{end}" for name in ("gold_gain", "k1_error", "k3_error") for end in ("low", "high")
    ]
    earlier = today.drop(columns=[*gone, "k1_error_seeds", "k3_error_seeds"]).assign(**errors)
    found = OVEROPTIMISATION.migrated(earlier, 0)
    assert not OVEROPTIMISATION.missing(found)
    assert (found["gold_gain_high"] - found["gold_gain"]).to_numpy() == pytest.approx(0.2364624)
    assert (found["gold_gain"] - found["gold_gain_low"]).to_numpy() == pytest.approx(0.2364624)
    assert list(found["k1_error_seeds"]) == list(today["k1_error_seeds"])
