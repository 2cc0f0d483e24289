"""Tables of the training study on the page."""

from __future__ import annotations

import math
from collections.abc import Sequence

from markupsafe import Markup

from klbench.report import cells
from klbench.report.blocks import Block, Bullets, Cell, Column, Details, Paragraph, Table
from klbench.report.cells import code
from klbench.report.numbers import MISSING, number, percent, short
from klbench.studies.ppo.section_data import WORDS, Row, Trained, interval

ROUNDING = 1e-12


def _number(value: float, digits: int = 3) -> Cell:
    """A number; what is rounding of 0 is 0."""
    value = 0.0 if abs(value) < ROUNDING else value
    return Cell(MISSING if math.isnan(value) else number(value, digits), value)


def _ranged(row: Row, name: str) -> Cell:
    return Cell(interval(row, name), row[name])


def final(trained: Trained) -> Table:
    """Where every combination ended."""
    columns = [
        Column("Combination", "name in klbench; none: no penalty at all"),
        Column("Regret", "J* − J(q) after training, mean over seeds, with a 95 % interval", numeric=True),
        Column("Against k1_reward", "difference in regret on the same seeds, with a 95 % interval", numeric=True),
        Column("Effect", "mean over standard deviation of these differences (Cohen's d for pairs)", numeric=True),
        Column("Reward", "E r, exact", numeric=True),
        Column("KL", "KL(q‖p) of whole sequences, exact, in nats", numeric=True),
        Column("Seeds", "that did not diverge, over which all of this is", numeric=True),
        Column("Heads for", "the fixed point at which its mean gradient vanishes"),
        Column("Outcome", "what the intervals say"),
    ]
    rows = [
        [
            cells.name(row, "combination"), _ranged(row, "regret"), _ranged(row, "difference"), _number(row["effect_size"], 2),
            _number(row["reward"]), _number(row["kl"]), Cell(str(row["seeds"]), row["seeds"]),
            Cell(WORDS.get(row["fixed_point"] or "") or row["fixed_point"]), Cell(row["outcome"]),
        ]
        for row in trained.final
    ]  # fmt: skip
    return Table("After training, the least regret first", columns, rows)


def points(trained: Trained) -> Table | None:
    """Predictions beside what was reached."""
    found = [row for row in trained.points.values() if row["fixed_point"]]
    if not found:
        return None
    columns = [
        Column("Combination", "name in klbench"),
        Column("Fixed point", "the policy at which the mean gradient of the whole objective vanishes"),
        Column("Gradient", "norm of the mean gradient there, over that at the reference: 0 but for rounding", numeric=True),
        Column("Predicted", "regret at the fixed point, computed before training", numeric=True),
        Column(
            "Free logits",
            "regret reached by the signs of exact gradients, a logit for every token after every prefix",
            numeric=True,
        ),
        Column("Not at rest", "seeds whose free logits still had a gradient when their steps were used up", numeric=True),
        Column("No noise", "regret reached on exact gradients by the policy itself", numeric=True),
        Column("Noise", "regret reached in training, on the same seeds", numeric=True),
        Column("KL", "at the fixed point, in nats", numeric=True),
    ]
    rows = []
    for row in found:
        missing = math.nan
        rows.append([
            cells.name(row, "combination"), Cell(row["formula"], tone="words"),
            Cell(number(row["residual"], 2), row["residual"]),
            *(_number(row.get(f"{kind}_regret", missing)) for kind in ("predicted", "free")),
            _number(row.get("free_unsettled", missing), 1),
            *(_number(row.get(f"{kind}_regret", missing)) for kind in ("noise_free", "sampled")),
            _number(row["predicted_kl"]),
        ])  # fmt: skip
    return Table("Predicted, and reached", columns, rows)


def estimates(trained: Trained) -> Table:
    """What training was told of the KL."""
    columns = [
        Column("Combination", "name in klbench"),
        Column("KL", "exact KL(q‖p) after training, in nats", numeric=True),
        Column("Estimate − KL", "mean over all evaluations of what its own estimator said, less the exact KL", numeric=True),
        Column("Clipped", "share of tokens that the clip of the ratio cut off", numeric=True),
        Column("Clamped", "share of tokens at which the penalty was cut off", numeric=True),
    ]
    rows = [
        [
            cells.name(row, "combination"), _number(row["kl"]), _ranged(row, "estimate_error"),
            *(Cell(percent(row[f"{each}_fraction"]), row[f"{each}_fraction"]) for each in ("clip", "clamp")),
        ]
        for row in trained.final
    ]  # fmt: skip
    return Table("What the estimate in training said", columns, rows)


def frontier(trained: Trained) -> list[Table]:
    """Reward and KL over beta, and reward at equal KL."""
    result = []
    found = trained.rows("frontier")
    if found:
        columns = [
            Column("Combination", "name in klbench"),
            Column("β", "weight of the penalty", numeric=True),
            Column("KL", "exact, in nats, with a 95 % interval", numeric=True),
            Column("Reward", "exact, with a 95 % interval", numeric=True),
            Column("Missing", "reward missing to the best policy of the same KL", numeric=True),
        ]
        rows = [
            [
                cells.name(row, "combination"), Cell(short(row["beta"]), row["beta"]),
                *(_ranged(row, each) for each in ("kl", "reward", "shortfall")),
            ]
            for row in found
        ]  # fmt: skip
        result.append(Table("Reward and KL over β", columns, rows))
    matched = trained.rows("matched")
    if matched:
        columns = [
            Column("Combination", "name in klbench"),
            Column("KL", "to which k1_reward comes, in nats", numeric=True),
            Column("Reward − that of k1_reward", "at the same KL, interpolated, with a 95 % interval", numeric=True),
            Column("Seeds", "whose points reach that KL", numeric=True),
        ]
        rows = [
            [
                cells.name(row, "combination"),
                _number(row["kl"]),
                _ranged(row, "difference"),
                Cell(str(row["seeds"]), row["seeds"]),
            ]
            for row in matched
        ]
        result.append(Table("Reward at equal KL", columns, rows))
    return result


def tables(trained: Trained) -> Sequence[Block]:
    """All of them, those behind the figures folded away."""
    predicted = points(trained)
    more = [estimates(trained), *frontier(trained)]
    return [final(trained), *([predicted] if predicted else []), Details("Estimates in training, and reward over KL", more)]


def side_by_side(runs: Sequence[Trained]) -> list[Block]:
    """Return the table that a sweep is read for: regret and KL of every combination in every run."""
    names = list(dict.fromkeys(str(row["combination"]) for trained in runs for row in trained.final))
    best = [
        Markup("{}: {}, {}").format(trained.label, code(trained.final[0]["combination"]), interval(trained.final[0], "regret"))
        for trained in runs
    ]
    tables: list[Block] = []
    for column, title in (("regret", "Regret after training, run by run"), ("kl", "KL after training, run by run")):
        columns = [Column("Combination", "name in klbench")]
        columns += [Column(trained.label, "exact, mean over seeds", numeric=True) for trained in runs]
        found = [{row["combination"]: row[column] for row in trained.final} for trained in runs]
        lines = [
            [Cell(code(name)), *(Cell(number(each.get(name, math.nan), 2), each.get(name, math.nan)) for each in found)]
            for name in names
        ]
        tables.append(Table(title, columns, lines))
    return [Paragraph("The least regret in each run:"), Bullets(best), *tables]
