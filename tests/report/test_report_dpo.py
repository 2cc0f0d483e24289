"""The part on DPO: sentences that follow from the tables, figures and tables of each run."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
from gradient_runs import plain

from klbench.report import combine, render
from klbench.studies.dpo import section as dpo_section
from klbench.studies.dpo.columns import TABLES

MakeRun = Callable[..., Path]
SIZES, STEPS, START = (64.0, 1024.0, math.inf), (0, 10, 20), 1.5
# Divergence, smoothing, distance of its own optimum, and after training by number of pairs.
ARMS = {
    "dpo": ("kl_qp", 0.0, 0.0, (2.0, 0.5, 0.1)),
    "f-dpo chi2": ("chi2", 0.0, 2.4, (1.0, 0.3, 0.4)),
    "dpo smoothed 0.1": ("kl_qp", 0.1, 0.3, (1.9, 0.51, 0.3)),
}


def spread(name: str, value: float, half: float = 0.05) -> dict[str, float]:
    return {name: value, f"{name}_low": value - half, f"{name}_high": value + half}


def content(shift: float = 0.0, status: str = "ok") -> dict[str, pd.DataFrame]:
    training, final, curves, optima, told, seen = [], [], [], [], [], []
    for name, (divergence, smoothing, away, ends) in ARMS.items():
        what = {"arm": name, "divergence": divergence, "smoothing": smoothing, "beta": 0.2, "beta_dpo": 1.0}
        optima.append(
            what | {"seeds": 4, "start": START, "residual": 1e-15, "own_slope": 1.0 - smoothing}
            | spread("own_kl_to_optimum", away) | spread("own_kl", 1.0 + away) | spread("own_reward", 0.5)
            | spread("reached_kl_to_own", 0.2 + away)
        )  # fmt: skip
        for size, end, base in zip(SIZES, ends, ARMS["dpo"][3], strict=True):
            row = what | {"pairs": size, "seeds": 4, "last_effect_size": 1.0, "best_step": 10.0, "kl": 1.1, "reward": 0.4}
            row |= spread("last", end + shift) | spread("best", 0.9 * end) | spread("stopped", 0.95 * end)
            row |= spread("last_difference", end - base, 0.0 if name == "dpo" else 0.05)
            row |= spread("last_start_difference", end + shift - START, 0.6)
            row |= {"kl_to_own": 0.3, "accuracy": 0.9, "population_accuracy": 0.7, "reward_slope": 1.2, "diverged": 0}
            row |= {"loss": 0.3, "population_loss": 1.9}
            final.append(row | {"reward_correlation": 0.8, "policy_correlation": 0.4, "outcome": "x"})
            for step in STEPS:
                curve = {"arm": name, "pairs": size, "step": step}
                for column in ("kl_to_optimum", "population_loss"):
                    curve |= spread(column, end + 0.1)
                curves.append(curve)
                said = status if (name, size, step) == ("f-dpo chi2", 64.0, 20) else "ok"
                training.append({"algorithm": "dpo", "arm": name, "pairs": size, "seed": 1, "step": step, "status": said})
    for source, estimator, level, error in (
        ("policy", "k1", "sequence", 0.01), ("policy", "k3", "sequence", -0.2), ("pairs", "k1 weighted", "sequence", -0.4),
    ):  # fmt: skip
        key = {"pairs": 1024, "samples_of": source, "estimator": estimator, "level": level}
        seen.append(key | {"seeds": 4, "kl": 1.4, "rel_rmse": 0.3, "rel_bias": 0.0, "below": 0.75} | spread("rel_error", error))
        told += [key | {"step": step, "kl": 1.4, "estimate": 1.4 * (1 + error)} for step in STEPS[1:]]
    rates = [{"arm": "dpo"} | spread("last_exponent", -0.5) | spread("best_exponent", -0.43)]
    rows = (training, final, curves, rates, optima, told, seen)
    return {
        schema.table: schema.example(**pd.DataFrame(each).to_dict("list")) for schema, each in zip(TABLES, rows, strict=True)
    }


def said(tables: dict[str, pd.DataFrame]) -> str:
    return plain(dpo_section.answer(tables))


def test_the_answer_is_that_of_the_tables() -> None:
    text = said(content())
    assert (
        "3 preference losses, β = 0.2, 4 seeds. Standard DPO ends 2.0 nats from the optimum with 64 pairs and 0.10 with all "
        "pairs; the reference is at 1.5." in text
    )
    assert "64 pairs: 2.0 (1.9 to 2.0), at its best 1.8" in text or "64 pairs: 2.0 (1.9 to 2.1), at its best 1.8" in text
    assert "to the power −0.43 (−0.48 to −0.38)" in text
    assert (
        "With 64 pairs it cannot be told from the reference. With 1,024 pairs it ends nearer. (Paired by seed, 95 %.)" in text
    )
    assert "With 64 pairs its loss on them went from 0.69 to 0.30, and that on all pairs to 1.9." in text
    assert "It ranks 90 % of its own pairs as they are labelled, and 70 % of all pairs." in text
    assert "f-dpo chi2: −0.20 (−0.25 to −0.15)" in text
    assert "With all pairs nearer for sure: none; further for sure: f-dpo chi2, dpo smoothed 0.1." in text
    assert "χ²(p‖q): 2.4 from q*, 3.4 from the reference" in text
    assert "0.1: 0.30 nats from q*, KL(q‖p) 1.3, rewards 0.90 times as large" in text
    assert "64 pairs: 0.80 and 0.40" in text
    assert "k3 per sequence: −20 % on average, below in 75 %" in text
    assert "the training pairs themselves: −40 % on average" in text


def test_other_numbers_other_sentences() -> None:
    text = said(content(shift=0.2))
    assert "With 64 pairs the policy ends further from the optimum than the reference was. With 1,024 pairs it ends" in text
    assert "Standard DPO ends 2.2 nats from the optimum" in text


def test_what_diverged_is_told_first() -> None:
    text = said(content(status="diverged at step 12: the loss is nan"))
    assert (
        "1 replica diverged and is left out of all means and intervals (f-dpo chi2, 64 pairs, seed 1: diverged at step 12: "
        in text
    )


def test_one_seed_has_no_intervals() -> None:
    tables = content()
    for table in tables.values():
        table[[column for column in table if column.endswith(("_low", "_high"))]] = math.nan
    text = said(tables)
    assert "64 pairs: 2.0, at its best 1.8" in text
    assert "Against standard DPO" not in text
    assert "Too few seeds to tell." in text
    assert "nan" not in text


def test_figures_and_tables(make_run: MakeRun) -> None:
    page = render(make_run("dpo", content(), study="dpo"))
    text = page.read_text(encoding="utf-8")
    for name in ("dpo-pairs", "dpo-curves", "dpo-forest", "dpo-estimates"):
        assert (page.parent / "figures" / f"{name}.svg").is_file()
    assert "Each loss&#39;s own optimum, exact" in text or "Each loss's own optimum, exact" in text
    assert "Other tables" not in text


@pytest.mark.parametrize("missing", [schema.table for schema in TABLES if schema.table != "dpo_final"])
def test_a_table_that_is_missing_costs_its_own_part_only(make_run: MakeRun, missing: str) -> None:
    tables = content()
    del tables[missing]
    assert "After training" in render(make_run("dpo", tables, study="dpo")).read_text(encoding="utf-8")


def test_several_runs_stand_apart(make_run: MakeRun, tmp_path: Path) -> None:
    folders = [
        make_run("a", content(), config="beta: 0.2\n", study="dpo"),
        make_run("b", content(shift=0.3), config="beta: 0.1\n", study="dpo"),
    ]
    out = tmp_path / "both.html"
    combine(folders, out)
    text = out.read_text(encoding="utf-8")
    assert "beta=0.2: 3 preference losses" in text
    assert "beta=0.1: 3 preference losses" in text
