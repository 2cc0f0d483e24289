"""The tables of the gradient study."""

from __future__ import annotations

from klbench.columns import COMBINATIONS as COMBINATIONS
from klbench.columns import DESCRIBED, MEASURED, OF_EXACT, TASK
from klbench.schema import Column, Schema

GRADIENTS = Schema(
    "gradients",
    "One row for each pair and combination: what the mean of its gradient is, and how far one sample strays from it.",
    (
        *TASK,
        *DESCRIBED,
        *MEASURED,
        Column(
            "total_rel_std",
            f"noise of reward and penalty together, for the policy that is the best one for its reward, {OF_EXACT}",
            heading="With reward",
        ),
    ),
)

ARROWS = Schema(
    "arrows",
    "One row for each pair whose policy has two parameters and each combination, or exact gradient: the mean gradient.",
    (
        *TASK,
        *DESCRIBED,
        Column("first", "component of the mean gradient along the policy's first parameter"),
        Column("second", "component along the second"),
    ),
    optional=True,
)

TABLES = (GRADIENTS, ARROWS, COMBINATIONS)
