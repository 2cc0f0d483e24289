"""The part on training.

Numbers of the opening, figures and tables, and verdicts that follow from the tables.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pandas as pd
import pytest
from opening import plain

from klbench.report import combine, render, sources
from klbench.report.blocks import Paragraph, Table
from klbench.rlhf.options import REFERENCE as OF_THE_LOOP
from klbench.studies.ppo import section, verdicts
from klbench.studies.ppo.columns import REFERENCE

MakeRun = Callable[..., Path]
Tables = dict[str, pd.DataFrame]
PUBLISHED = Path(__file__).parents[2] / "reports" / "published" / "ppo"
FIGURES = (
    "training-curves",
    "training-optimum",
    "training-forest",
    "training-fixed-points",
    "training-frontier",
)


@pytest.fixture
def tables() -> Tables:
    return {name: table.copy() for name, table in sources.read(PUBLISHED).tables.items()}


def set_values(tables: Tables, table: str, combination: str, **values: object) -> None:
    rows = tables[table]["combination"] == combination
    for column, value in values.items():
        tables[table].loc[rows, column] = value


def said(tables: Tables) -> str:
    lead = section.lead(tables)
    return plain(" ".join(map(str, (lead.question, lead.verdict, *lead.more))))


def warnings(tables: Tables) -> str:
    return plain(
        " ".join(str(block.text) for block in section.build(tables) if isinstance(block, Paragraph))
    )


def test_the_page_opens_with_the_least_regret(tables: Tables) -> None:
    text = said(tables)
    assert "PPO" in section.lead(tables).question
    assert (
        "k1_reward leaves the least regret, 0.025 (0.020 to 0.033) of 0.31 before training; all 11"
        " others" in text
    )
    assert "β = 0.2, 200 updates, 8 seeds" in text
    assert "full_loss, k2_loss and k3_ratio_loss" in text
    assert "none and k1_loss" in text
    assert len((text + plain(section.lead(tables).figure.caption)).split()) <= 160


def test_other_numbers_another_verdict(tables: Tables) -> None:
    set_values(tables, "final", "k2_loss", outcome="not told from k1_reward", difference_low=-0.01)
    assert "k2_loss cannot be told from it" in said(tables)
    set_values(tables, "final", "k2_loss", outcome="too few seeds to tell")
    assert "10 of the 11 others are behind it" in said(tables)
    set_values(
        tables,
        "final",
        "k2_loss",
        regret=0.01,
        regret_low=-0.002,
        regret_high=0.02,
        outcome="ahead of k1_reward",
    )
    assert (
        "k2_loss leaves the least regret, 0.010 (0 to 0.020) of 0.31 before training (ahead of"
        " k1_reward)." in said(tables)
    )


def test_of_one_quantity_one_number(tables: Tables) -> None:
    """The table of fixed points is over fewer seeds.

    It shows how far training came, and no second regret.
    """
    shown = next(
        block
        for block in section.build(tables)
        if isinstance(block, Table) and block.caption.startswith("Predicted")
    )
    values = {cell.value for row in shown.rows for cell in row}
    assert not values & set(tables["fixed_points"]["sampled_regret"])
    assert set(tables["fixed_points"].query("fixed_point != ''")["sampled_way"]) <= values


def test_what_diverged_is_told(tables: Tables) -> None:
    assert "diverged" not in warnings(tables)
    table = tables["training"]
    rows = (table["combination"] == "k3_reward") & (table["seed"] == 1) & (table["step"] >= 100)
    table.loc[rows, "status"] = "diverged at update 99: the loss is nan"
    assert "1 replica diverged" in warnings(tables)
    assert "k3_reward, seed 1, diverged at update 99: the loss is nan" in warnings(tables)


def test_what_diverged_everywhere_has_no_numbers(make_run: MakeRun, tables: Tables) -> None:
    numbers = dict.fromkeys(
        tables["final"].select_dtypes("float").columns.drop("start_regret"), math.nan
    )
    set_values(
        tables,
        "final",
        "k3_reward",
        **numbers,
        seeds=0,
        diverged=8,
        outcome="diverged on all seeds",
    )
    assert "0.025" in said(tables)
    page = render(make_run("ppo", tables, study="ppo")).read_text(encoding="utf-8")
    assert "diverged on all seeds" in page
    assert ">nan" not in page
    for name in tables["final"]["combination"]:
        set_values(tables, "final", name, **numbers, outcome="diverged on all seeds")
    assert "every seed" in said(tables)


def test_settings_that_change_the_gradient_are_told(tables: Tables) -> None:
    tables["final"]["altered_by"] = "whitening=group"
    assert "This run has whitening=group." in warnings(tables)
    assert "in effect" not in warnings(tables)
    set_values(tables, "final", "k3_loss", loss_beta=0.04)
    assert "β = 0.2 of a penalty in the loss was in effect 0.040 to 0.20." in warnings(tables)


def test_one_seed_has_no_intervals(tables: Tables) -> None:
    for table in tables.values():
        table[[column for column in table if column.endswith(("_low", "_high"))]] = math.nan
    assert "k1_reward leaves the least regret, 0.025 of 0.31 before training." in said(tables)


def test_figures_and_tables(make_run: MakeRun, tables: Tables) -> None:
    page = render(make_run("ppo", tables, study="ppo"))
    assert {f"{name}.svg" for name in (*FIGURES, "training-recovery")} == {
        path.name for path in (page.parent / "figures").iterdir()
    }
    text = page.read_text(encoding="utf-8")
    assert text.index('<figure id="figure-training-forest"') < text.index(
        "After training, the least regret first"
    )
    curves = re.search(
        r'id="figure-training-curves".*?<figcaption>(.*?)</figcaption>', text, re.DOTALL
    )
    assert curves
    assert "full_with_score, k3_ratio_loss, full_loss and k1_loss" in plain(curves[1])


@pytest.mark.parametrize(
    "missing",
    [
        "training",
        "final",
        "curves",
        "frontier",
        "matched",
        "noise_free",
        "fixed_points",
        "recovery",
        "recovery_curves",
    ],
)
def test_a_table_that_is_missing_costs_its_own_part_only(
    make_run: MakeRun, tables: Tables, missing: str
) -> None:
    del tables[missing]
    page = render(make_run("ppo", tables, study="ppo")).read_text(encoding="utf-8")
    assert ("After training, the least regret first" in page) == (missing != "final")


def test_several_runs_stand_apart(make_run: MakeRun, tables: Tables, tmp_path: Path) -> None:
    make = partial(make_run, study="ppo")
    worse = tables | {"final": tables["final"].assign(regret=2 * tables["final"]["regret"])}
    folders = [make("a", tables, config="beta: 0.2\n"), make("b", worse, config="beta: 0.1\n")]
    text = combine(folders, tmp_path / "both.html").read_text(encoding="utf-8")
    assert "beta=0.2: k1_reward, 0.025" in plain(text)
    assert "beta=0.1: k1_reward, 0.050" in plain(text)
    assert "Regret after training, run by run" in text


def test_the_comparison_is_that_of_the_loop() -> None:
    assert REFERENCE == OF_THE_LOOP


def test_one_combination_stands_for_each_fixed_point(tables: Tables) -> None:
    set_values(tables, "final", "full_with_score", regret=0.001)
    found = verdicts.judged_final(tables["final"])
    leading = found[found["leads"]]
    assert list(leading["combination"]) == [
        "k1_reward",
        "k2_loss",
        "k3_loss",
        "k3_sequence_loss",
        "k3_reward",
        "none",
    ]


@pytest.mark.parametrize(
    ("low", "high", "arrived"),
    [
        (0.76, 1.24, "yes"),
        (0.70, 1.00, "not told"),
        (1.00, 1.30, "not told"),
        (0.10, 0.74, "no"),
        (1.26, 1.50, "no"),
        (math.nan, math.nan, "too few seeds to tell"),
    ],
)
def test_the_whole_interval_decides_whether_training_arrived(
    tables: Tables, low: float, high: float, arrived: str
) -> None:
    set_values(tables, "fixed_points", "k3_loss", sampled_way_low=low, sampled_way_high=high)
    found = verdicts.judged_points(tables["fixed_points"]).set_index("combination")["arrived"]
    assert found["k3_loss"] == arrived
    assert found["k1_reward"] == found["none"] == ""


@pytest.mark.parametrize(
    ("low", "high", "word"), [(-2.0, -1.0, "better"), (-1.0, 1.0, "not told"), (1.0, 2.0, "worse")]
)
def test_the_whole_interval_decides_against_no_training(
    tables: Tables, low: float, high: float, word: str
) -> None:
    set_values(tables, "final", "k3_reward", start_difference_low=low, start_difference_high=high)
    found = verdicts.judged_final(tables["final"]).set_index("combination")["start_outcome"]
    assert found["k3_reward"].startswith(word)


def test_an_earlier_run_gets_differences_and_verdicts(tables: Tables) -> None:
    """Version 0 lacked the paired differences from the start.

    They follow from the training table.
    """
    new = [
        "start_difference",
        "start_difference_low",
        "start_difference_high",
        "start_difference_seeds",
    ]
    earlier = tables | {
        "final": (
            tables["final"].assign(**dict.fromkeys(new, math.nan), leads=False, start_outcome="")
        )
    }
    found = verdicts.complete(earlier)["final"]
    pd.testing.assert_frame_equal(
        found, tables["final"], check_like=True, check_dtype=False, rtol=1e-3
    )
