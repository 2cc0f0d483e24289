"""Tables of the training study on the page."""

from __future__ import annotations

import math
from collections.abc import Sequence

from klbench.report import cells
from klbench.report.blocks import Block, Cell, Column, Details, Table
from klbench.report.cells import code, computed, plain
from klbench.report.tables import select, table
from klbench.report.tables import tables as tables_of
from klbench.studies.ppo.columns import FINAL, FIXED_POINTS, FRONTIER, MATCHED, RECOVERY, WORDS
from klbench.studies.ppo.section_data import Trained

FROM_ZERO = cells.interval(least=0.0)
POINT = computed(lambda row: Cell(WORDS[row["fixed_point"]]))

SHOWN_FINAL = select(
    "combination regret difference effect_size:number2 reward kl seeds fixed_point outcome",
    regret=FROM_ZERO,
    fixed_point=POINT,
)
SHOWN_POINTS = select(
    "combination formula:words residual:plain2 predicted_regret:number "
    "free_regret:number free_unsettled:whole noise_free_regret:number "
    "sampled_way:percent_interval arrived predicted_kl:number"
)
SHOWN_ESTIMATES = select(
    "combination kl estimate_error clip_fraction:percent clamp_fraction:percent"
)
SHOWN_FRONTIER = select(
    "combination beta:short kl reward shortfall", kl=FROM_ZERO, shortfall=FROM_ZERO
)
SHOWN_MATCHED = select("combination kl difference seeds")
SHOWN_RECOVERY = select(
    "combination lost:short start_probability:number2 probability:number2 "
    "exact_probability:number2 sampled_share:percent never_sampled:percent "
    "expected_norm:number2 norm_median:number2 norm_99:number2 norm_max:number2"
)


def tables(trained: Trained) -> Sequence[Block]:
    """Return all tables of a run, those behind the figures folded away."""
    frontier, matched, recovery = (trained.rows(schema) for schema in (FRONTIER, MATCHED, RECOVERY))
    more = [
        table("What the estimate in training said", FINAL, trained.final, SHOWN_ESTIMATES),
        *tables_of("Reward and KL over β", FRONTIER, frontier, SHOWN_FRONTIER),
        *tables_of("Reward at equal KL", MATCHED, matched, SHOWN_MATCHED),
    ]
    lost = tables_of("A token pushed down, and after training", RECOVERY, recovery, SHOWN_RECOVERY)
    return [
        table("After training, the least regret first", FINAL, trained.final, SHOWN_FINAL),
        *tables_of("Predicted, and reached", FIXED_POINTS, trained.points, SHOWN_POINTS),
        Details("Estimates in training, and reward over KL", more),
        *([Details("Bringing back a lost token, in numbers", lost)] if lost else []),
    ]


def side_by_side(runs: Sequence[Trained]) -> list[Block]:
    """Return the table that a sweep is read for.

    Regret and KL of every combination in every run.
    """
    names = list(
        dict.fromkeys(str(row["combination"]) for trained in runs for row in trained.final)
    )
    found: list[Block] = []
    for column, title in (
        ("regret", "Regret after training, run by run"),
        ("kl", "KL after training, run by run"),
    ):
        columns = [Column("Combination", FINAL["combination"].meaning)]
        columns += [Column(trained.label, FINAL[column].meaning, numeric=True) for trained in runs]
        values = [{row["combination"]: row[column] for row in trained.final} for trained in runs]
        show = plain(2)
        rows = [
            [Cell(code(name)), *(show({name: each.get(name, math.nan)}, name) for each in values)]
            for name in names
        ]
        found.append(Table(title, columns, rows))
    return found
