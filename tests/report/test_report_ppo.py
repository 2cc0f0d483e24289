"""The part on training: sentences that follow from the tables, figures and tables of each run."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
from gradient_runs import plain

from klbench.report import combine, render
from klbench.schema import by_table
from klbench.studies.ppo import section as ppo_section
from klbench.studies.ppo.columns import TABLES
from klbench.studies.ppo.section_data import load

MakeRun = Callable[..., Path]
# Fixed point, regret at the end, KL at the end, predicted regret.
ENDS = {
    "k1_reward": ("optimum", 0.02, 1.0, 0.0),
    "k2_sequence_loss": ("optimum", 0.03, 1.1, 0.0),
    "k2_loss": ("token_kl", 0.05, 1.2, 0.04),
    "k3_loss": ("token_k3", 0.09, 1.3, 0.08),
    "k3_reward": ("", 0.5, 4.0, math.nan),
    "none": ("greedy", 1.0, 8.0, 1.6),
}
STEPS, SEEDS, START = (0, 10, 20), 4, 0.4


def spread(name: str, value: float, half: float = 0.005) -> dict[str, float]:
    return {name: value, f"{name}_low": value - half, f"{name}_high": value + half}


def parts(name: str) -> dict[str, str]:
    placement = "reward" if "reward" in name else "loss"
    return {"estimator": name[:2], "placement": placement, "level": "token", "correction": "none", "baseline": "none"}


def outcome(name: str, regret: float) -> str:
    if name == "k1_reward":
        return "the comparison"
    return "worse than not training" if regret > START else "behind k1_reward"


def content(ends: dict[str, tuple[str, float, float, float]] | None = None, status: str = "ok") -> dict[str, pd.DataFrame]:
    ends = ends or ENDS
    rows, final, curves, frontier, matched, points = [], [], [], [], [], []
    for name, (point, regret, kl, predicted) in ends.items():
        for step in STEPS:
            now = START if step == 0 else regret * (1 + 20 / step - 1)
            curve = {"combination": name, "step": step}
            for column, value in (("regret", now), ("kl", kl * step / 20), ("kl_estimate", kl), ("reward", 0.5)):
                curve |= spread(column, value, 0.1 * value)
            curves.append(curve)
            rows += [
                {"algorithm": "ppo", "combination": name, **parts(name), "beta": 0.2, "seed": seed, "step": step,
                 "reward": 0.5, "sampled_reward": 0.5, "kl": kl, "kl_estimate": kl, "objective": 0.3,
                 "regret": now, "kl_to_optimum": now / 0.2,
                 "status": status if (name, seed, step) == ("k3_reward", 1, 20) else "ok"}
                for seed in range(SEEDS)
            ]  # fmt: skip
        row = {"combination": name, **parts(name), "seeds": SEEDS, "fixed_point": point, "start_regret": START}
        row |= spread("regret", regret) | spread("difference", regret - 0.02, 0.0 if name == "k1_reward" else 0.005)
        row |= spread("start_difference", regret - START) | {"start_difference_seeds": SEEDS}
        row |= {"effect_size": 2.0, "reward": 0.5, "kl": kl, "kl_to_optimum": 5 * regret} | spread("estimate_error", -0.01)
        row |= {
            "clip_fraction": 0.001,
            "clamp_fraction": 0.0,
            "diverged": 0,
            "outcome": outcome(name, regret),
            "altered_by": "",
            "loss_beta": math.nan,
        }
        final.append(row)
        points.append(
            {"combination": name, **parts(name), "fixed_point": point, "formula": "π = ref" if point else "", "residual": 1e-16,
             "seeds": 2} | spread("predicted_regret", predicted) | spread("predicted_kl", kl) | spread("free_regret", 0.04)
            | spread("noise_free_regret", 0.015) | spread("sampled_regret", regret) | spread("sampled_kl", kl)
            | {"start_regret": START, "sampled_seeds": 2} | spread("sampled_way", (START - regret) / (START - predicted))
        )  # fmt: skip
    for name, missing in (("k1_reward", 0.02), ("k3_loss", 0.06)):
        for beta, kl in ((0.1, 2.0), (0.2, 1.0)):
            row = {"combination": name, "beta": beta, "seeds": 2, "frontier_reward": 0.6} | spread("kl", kl)
            frontier.append(row | spread("reward", 0.6 - missing) | spread("shortfall", missing * (1 + beta)))
            if name != "k1_reward":
                matched.append({"combination": name, "beta": beta, "kl": kl, "seeds": 2} | spread("difference", -0.04))
    names = ("training", "final", "curves", "frontier", "matched", "fixed_points", "recovery", "recovery_curves")
    found = (rows, final, curves, frontier, matched, points, *lost_tokens())
    schemas = by_table(TABLES)
    return {name: schemas[name].example(**pd.DataFrame(each).to_dict("list")) for name, each in zip(names, found, strict=True)}


def lost_tokens() -> tuple[list[dict], list[dict]]:
    rows, curves = [], []
    for name, back, largest in (("full_loss", 0.1, 0.2), ("k3_loss", 0.03, 9.0), ("none", 1e-4, 0.15)):
        for lost in (2.0, 6.0, 10.0):
            row = {"combination": name, **parts(name), "lost": lost, "seeds": SEEDS, "updates": 20, "optimum_probability": 0.3}
            row |= {
                "reference_probability": 0.45,
                "start_sampled": 0.16,
                "start_probability": 0.0027,
                "norm_max": largest + lost,
            }
            for column in ("probability", "exact_probability", "sampled_share", "expected_norm", "norm_median", "norm_99"):
                row |= spread(column, back)
            rows.append(row | {"never_sampled": 0.0, "first_sampled": 7.0, "norm_max": largest * lost / 10})
            curves += [
                {"combination": name, "lost": lost, "step": step, "probability": back, "exact_probability": back, "low": back,
                 "high": back} for step in STEPS
            ]  # fmt: skip
    return rows, curves


def said(tables: dict[str, pd.DataFrame]) -> str:
    return plain(ppo_section.answer(tables))


def test_the_answer_is_that_of_the_tables() -> None:
    text = said(content())
    assert (
        "6 ways to penalise, PPO with β = 0.2, 20 updates, 4 seeds. Regret before training 0.40; after it from 0.020 to 1.0"
        in text
    )
    assert "Head for the optimum" in text
    assert "k1_reward: 0.020 (0.015 to 0.025)" in text
    assert "Of the regret before training, 95 % to 92.5 % is gone." in text
    assert "the same policy keeps 0.015" in text
    assert "Fixed point of token-level KL(q‖p): regret 0.040, 0.040 with a free logit for every token, 0.015 in" in text
    assert "Fixed point of token-level KL(p‖q): regret 0.080" in text
    assert "All of this card is for 2 of the 4 seeds." in text
    assert "is at most 25 % of the way from the regret before training, by the whole of its 95 % interval" in text
    assert "Not at the floor" not in text
    assert "do not tell" not in text
    assert "none: 8.0 nats, regret 1.0" in text
    assert "k1_reward ends at 1.0 nats." in text
    assert "Worse than not to train at all (0.40), paired by seed: k3_reward by 0.10 (0.095 to " in text
    assert "Cannot be told from not to train" not in text
    assert "5 of 5 combinations are behind for sure (95 % intervals)." in text
    assert "The least: k2_sequence_loss, by 0.010 (0.0050 to 0.015). The most: none, by 0.98" in text
    assert "k1_reward: 0.022 to 0.024" in text
    assert text.index("k1_reward: 0.022") < text.index("k3_loss: 0.066 to 0.072")


def test_a_lost_token_is_told() -> None:
    text = said(content())
    assert "with 0.45 on average, is pushed down by 6 nats, to 0.0027: 16 % of batches have one." in text
    assert "The optimum holds 0.30. After 20 updates on samples (and on exact gradients) the policy holds:" in text
    assert text.index("full_loss: 0.10 (0.10)") < text.index("k3_loss: 0.030 (0.030)") < text.index("none: 0.00010 (0.00010)")
    assert (
        "The largest gradient, in the rare batch that has the token: k3_loss 9.0 with 10 nats lost (half are below 0.030)"
        in text
    )
    assert "without it, at most 0.20." in text
    calm = content()
    calm["recovery"]["norm_max"] = 0.2
    assert "No gradient is larger than 0.20." in said(calm)


def test_other_numbers_other_sentences() -> None:
    text = said(content({
        "k1_reward": ("optimum", 0.02, 1.0, 0.0), "full_with_score": ("optimum", 0.01, 1.0, 0.0),
        "k3_plus_sequence": ("optimum", 0.021, 1.0, 0.0),
    }))  # fmt: skip
    assert "0 of 2 combinations are behind for sure, 1 ahead, 1 cannot be told from it" in text
    assert "full_with_score: −0.010" in text
    assert "Stall" not in text
    assert "Do not regularise" not in text


def test_what_diverged_is_told_first() -> None:
    text = said(content(status="diverged at update 12: the loss is nan"))
    assert (
        "1 replica diverged and is left out of all means and intervals (k3_reward, seed 1: diverged at update 12: the loss is "
        "nan)." in text
    )


def test_a_floor_that_training_has_not_come_to_is_none_that_it_stalls_at() -> None:
    """Noise may stop it on the way; then the card says how far it came, with the numbers of the prediction's own seeds."""
    tables = content(ENDS | {"k3_sequence_loss": ("sequence_k3", 0.46, 2.0, 0.95)})
    points = tables["fixed_points"].set_index("combination")
    points.loc["k3_sequence_loss", ["sampled_regret", "sampled_regret_low", "sampled_regret_high"]] = 0.5, 0.3, 0.7
    tables["fixed_points"] = points.reset_index()
    text = said(tables)
    stalls, others = text.index("Stall at a floor"), text.index("Not at the floor that is predicted for them")
    card = text[others:]
    assert stalls < text.index("k3_loss: 0.090") < others
    assert "Fixed point of KL(p‖q) of sequences: regret 0.95, 0.040 with a free logit" in card
    assert "k3_sequence_loss: 0.50 (0.30 to 0.70)" in card
    assert "they have gone (95 % intervals): k3_sequence_loss 10.9 % (10.4 % to 11.4 %)." in card


def test_free_logits_that_are_not_at_rest_are_told() -> None:
    tables = content()
    assert "not yet at rest" not in said(tables)
    tables["fixed_points"] = tables["fixed_points"].assign(free_unsettled=1.0, free_steps=3000.0)
    assert "0.040 with a free logit for every token (1 of 2 seeds not yet at rest after 3,000 steps)," in said(tables)


@pytest.mark.parametrize(("low", "high", "title"), [
    (0.76, 1.24, "Stall at a floor that was predicted"),
    (0.70, 1.00, "At the predicted floor or not: these seeds do not tell"),
    (1.00, 1.30, "At the predicted floor or not: these seeds do not tell"),
    (0.10, 0.74, "Not at the floor that is predicted for them"),
    (1.26, 1.50, "Not at the floor that is predicted for them"),
    (math.nan, math.nan, "At the predicted floor or not: these seeds do not tell"),
])  # fmt: skip
def test_the_whole_interval_decides_of_a_floor(low: float, high: float, title: str) -> None:
    tables = content({name: end for name, end in ENDS.items() if name in ("k1_reward", "k3_loss")})
    points = tables["fixed_points"].set_index("combination")
    points.loc["k3_loss", ["sampled_way_low", "sampled_way_high"]] = low, high
    tables["fixed_points"] = points.reset_index()
    titles = ("Stall at", "Not at the floor", "At the predicted floor or not")
    assert title in said(tables)
    assert sum(each in said(tables) for each in titles) == 1


def test_a_regret_above_the_start_that_pairs_do_not_tell_is_none() -> None:
    tables = content()
    final = tables["final"].set_index("combination")
    final.loc["k3_reward", ["start_difference_low", "start_difference_high"]] = -0.025, 0.216
    tables["final"] = final.reset_index()
    text = said(tables)
    assert "Worse than not" not in text
    assert "Cannot be told from not to train at all (0.40), paired by seed: k3_reward by 0.10 (−0.025 to 0.22)." in text


def test_what_diverged_everywhere_has_no_numbers(make_run: MakeRun) -> None:
    tables = content()
    gone = tables["final"]["combination"] == "k3_reward"
    columns = tables["final"].select_dtypes("float").columns.drop("start_regret")
    tables["final"].loc[gone, columns] = math.nan
    tables["final"].loc[gone, ["seeds", "diverged", "outcome"]] = 0, SEEDS, "diverged on all seeds"
    text = said(tables)
    assert "20 updates, 4 seeds. Regret before training 0.40; after it from 0.020 to 1.0" in text
    assert "k3_reward: –" in text
    assert "nan" not in text
    page = render(make_run("ppo", tables, study="ppo")).read_text(encoding="utf-8")
    assert "diverged on all seeds" in page


def test_settings_that_change_the_gradient_are_told() -> None:
    tables = content()
    assert "need not be where this run is going" not in said(tables)
    tables["final"]["altered_by"] = "whitening=group"
    assert "This run has whitening=group. That changes the reward's gradient" in said(tables)
    assert "in effect" not in said(tables)
    tables["final"]["loss_beta"] = [0.2, 0.05, 0.04, 0.05, 0.2, 0.05]
    assert "β = 0.2 of a penalty in the loss has in effect been 0.040 to 0.050." in said(tables)


def test_one_seed_has_no_intervals() -> None:
    tables = content()
    for name in ("final", "fixed_points"):
        columns = [column for column in tables[name] if column.endswith(("_low", "_high"))]
        tables[name][columns] = math.nan
    text = said(tables)
    assert "k1_reward: 0.020" in text
    assert "How sure?" not in text
    assert "nan" not in text


def test_figures_and_tables(make_run: MakeRun) -> None:
    page = render(make_run("ppo", content(), study="ppo"))
    text = page.read_text(encoding="utf-8")
    for name in (
        "training-curves",
        "training-optimum",
        "training-forest",
        "training-fixed-points",
        "training-frontier",
        "training-recovery",
    ):
        assert (page.parent / "figures" / f"{name}.svg").is_file()
    assert "After training, the least regret first" in text
    assert "Predicted, and reached" in text
    assert "Other tables" not in text


@pytest.mark.parametrize("missing", sorted(content()))
def test_a_table_that_is_missing_costs_its_own_part_only(make_run: MakeRun, missing: str) -> None:
    tables = content()
    del tables[missing]
    page = render(make_run("ppo", tables, study="ppo")).read_text(encoding="utf-8")
    assert ("After training, the least regret first" in page) == (missing != "final")


def test_several_runs_stand_apart(make_run: MakeRun, tmp_path: Path) -> None:
    worse = {name: (point, 2 * regret, kl, predicted) for name, (point, regret, kl, predicted) in ENDS.items()}
    folders = [
        make_run("a", content(), study="ppo", config="beta: 0.2\n"),
        make_run("b", content(worse), study="ppo", config="beta: 0.1\n"),
    ]
    out = tmp_path / "both.html"
    combine(folders, out)
    text = out.read_text(encoding="utf-8")
    assert "Regret after training, run by run" in text
    assert text.index("The least regret in each run") < text.index("beta=0.2: 6 ways to penalise")
    assert "beta=0.1: 6 ways to penalise" in text


def test_runs_without_a_final_table_are_left_alone() -> None:
    assert load({"training": content()["training"]}) == []
