"""The section of the DPO study: how near to the exact optimum ranked pairs lead."""

from __future__ import annotations

import math
from collections.abc import Sequence

from klbench.report.blocks import Block, Cell, Column, Details, Heading, Section, Table, Tables
from klbench.report.numbers import MISSING, number, percent
from klbench.schema import Schema
from klbench.studies.dpo import section_answer, section_figures
from klbench.studies.dpo.section_data import SYMBOLS, Preferred, Row, interval, load


def answer(tables: Tables) -> Sequence[Block]:
    """What the top of the page says."""
    return section_answer.answer(load(tables))


def _number(value: float, digits: int = 3) -> Cell:
    value = 0.0 if abs(value) < 1e-12 else value
    return Cell(MISSING if math.isnan(value) else number(value, digits), value)


def _ranged(row: Row, name: str) -> Cell:
    return Cell(interval(row, name), row[name])


def _final(run: Preferred) -> Table:
    columns = [
        Column("Loss", "which arm: dpo is the standard, f-dpo has another divergence, smoothed takes labels for doubtful"),
        Column("Pairs", "ranked pairs that it was trained on; all: every pair there is, as often as it comes", numeric=True),
        Column("KL(q‖q*)", "after training, mean over seeds, with a 95 % interval, in nats", numeric=True),
        Column("− standard's", "difference on the same seeds and pairs, with a 95 % interval", numeric=True),
        Column("Effect", "mean over standard deviation of these differences (Cohen's d for pairs)", numeric=True),
        Column("Best", "KL(q‖q*) at the checkpoint that is nearest to the optimum", numeric=True),
        Column("At step", "median step of that checkpoint", numeric=True),
        Column("To its own", "KL from the loss's own exact optimum", numeric=True),
        Column("Reward", "E r, exact", numeric=True),
        Column("KL(q‖p)", "from the reference, exact, in nats", numeric=True),
        Column("Slope", "of the implicit on the true reward, over the reference's answers; 1 at its own optimum", numeric=True),
        Column("Ranked", "share of all pairs that the implicit reward ranks as they are labelled", numeric=True),
    ]
    rows = [
        [
            Cell(row["arm"]), Cell("all" if math.isinf(row["pairs"]) else f"{row['pairs']:,.0f}", row["pairs"]),
            _ranged(row, "last"), _ranged(row, "last_difference"), _number(row["last_effect_size"], 2), _ranged(row, "best"),
            _number(row["best_step"]), _number(row["kl_to_own"]), _number(row["reward"]), _number(row["kl"]),
            _number(row["reward_slope"]), Cell(percent(row["population_accuracy"]), row["population_accuracy"]),
        ]
        for row in run.final
    ]  # fmt: skip
    return Table("After training", columns, rows)


def _optima(run: Preferred) -> list[Block]:
    if not run.optima:
        return []
    columns = [
        Column("Loss", "which arm"),
        Column("Divergence", "what holds the policy to the reference"),
        Column(
            "Gradient",
            "norm of the population loss's gradient there over that at the reference: 0 but for rounding",
            numeric=True,
        ),
        Column("KL(q‖q*)", "of its exact optimum from that of KL(q‖p), in nats", numeric=True),
        Column("KL(q‖p)", "of its exact optimum from the reference", numeric=True),
        Column("Reward", "E r there", numeric=True),
        Column("Slope", "of the implicit on the true reward there", numeric=True),
        Column("Reached", "KL from it after training on all pairs", numeric=True),
    ]
    rows = [
        [
            Cell(name), Cell(SYMBOLS.get(row["divergence"], row["divergence"])), _number(row["residual"], 1),
            *(_ranged(row, f"own_{each}") for each in ("kl_to_optimum", "kl", "reward")), _number(row["own_slope"]),
            _ranged(row, "reached_kl_to_own") if "reached_kl_to_own" in row else Cell(MISSING),
        ]
        for name, row in run.optima.items()
    ]  # fmt: skip
    return [Table("Each loss's own optimum, exact", columns, rows)]


def _seen(run: Preferred) -> list[Block]:
    found = run.rows("dpo_seen")
    if not found:
        return []
    columns = [
        Column("Pairs", "that standard DPO was trained on", numeric=True),
        Column("Estimate", "estimator, level, and whose answers"),
        Column("Error", "mean over seeds and checkpoints, in units of the exact KL, with a 95 % interval", numeric=True),
        Column("RMS", "root of the mean squared error, likewise", numeric=True),
        Column("Bias", "of the estimator's expectation, by enumeration; 0 if unbiased", numeric=True),
        Column("Below", "share of estimates below the exact KL", numeric=True),
    ]
    rows = [
        [
            Cell(f"{row['pairs']:,.0f}", row["pairs"]), Cell(section_answer.named(row)), _ranged(row, "rel_error"),
            _number(row["rel_rmse"], 2), _number(row["rel_bias"] if abs(row["rel_bias"]) > 1e-9 else 0.0, 2),
            Cell(percent(row["below"]), row["below"]),
        ]
        for row in found
    ]  # fmt: skip
    return [Details("What samples said of the KL", [Table("Estimates of standard DPO's KL(q‖p)", columns, rows)])]


def build(tables: Tables) -> Sequence[Block]:
    """Figures and tables of each run."""
    blocks: list[Block] = []
    for run in load(tables):
        blocks += [Heading(run.label)] if run.label else []
        blocks += [*section_figures.figures(run), _final(run), *_optima(run), *_seen(run)]
    return blocks


TERMS = ("q_p", "r", "schulman", "own_optimum", "pair", "implicit_reward", "f_dpo", "label_smoothing", "weighted_k1")

SECTION = Section("From ranked pairs", Schema("dpo_final", "", ()), build, answer, order=12, terms=TERMS)
