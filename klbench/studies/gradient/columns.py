"""The tables of the gradient study."""

from __future__ import annotations

from klbench.columns import COMBINATIONS as COMBINATIONS
from klbench.columns import DESCRIBED, MEASURED, OF_EXACT, TASK
from klbench.schema import Column, Schema, integer, text

TOTAL = (
    "noise of reward and penalty together, for the policy that is the best one for its reward,"
    f" {OF_EXACT}"
)

GRADIENTS = Schema(
    "gradients",
    "One row for each pair and combination: what the mean of its gradient is, and how far one"
    " sample strays from it.",
    (*TASK, *DESCRIBED, *MEASURED, Column("total_rel_std", TOTAL, heading="With reward")),
)

ARROWS = Schema(
    "arrows",
    "One row for each pair whose policy has two parameters and each combination, or exact gradient:"
    " the mean gradient.",
    (
        *TASK,
        *DESCRIBED,
        Column("first", "component of the mean gradient along the policy's first parameter"),
        Column("second", "component along the second"),
    ),
    optional=True,
)

VERDICT = (
    text("combination", "name in klbench", "Combination"),
    text(
        "verdict",
        "right: its mean is the gradient of KL(q‖p) on every pair; or right on some pairs, another"
        " divergence, no gradient (its mean is 0), no divergence",
        "Verdict",
    ),
    text(
        "target",
        "divergence whose gradient its mean is on every pair; empty where there is no such one",
        "Its mean is",
    ),
    Column(
        "rel_bias_near",
        f"distance of its mean from the gradient of KL(q‖p), near the reference, {OF_EXACT}",
        heading="Off, near",
    ),
    Column("rel_bias_far", f"the same far from the reference, {OF_EXACT}", heading="Off, far"),
    Column(
        "rel_std_far", f"noise of one sample far from the reference, {OF_EXACT}", heading="Noise"
    ),
    Column("total_rel_std_far", f"{TOTAL}, far from the reference", heading="Noise with reward"),
)

VERDICTS = Schema(
    "verdicts",
    "One row for each combination: what its mean gradient is over all pairs, and how far off it is"
    " near the reference and far.",
    (
        *VERDICT,
        text(
            "typed", "the name by which the run was asked for it; empty where it was asked for all"
        ),
        text("placement", "where the estimator stands", "Where"),
        integer("pairs", "pairs on which it was measured"),
        integer("right_pairs", "pairs on which its mean is the gradient of KL(q‖p)"),
        integer("against_pairs", "pairs on which its mean points away from that gradient"),
        integer(
            "agreeing_pairs",
            "pairs on which its mean is what it claims; a claim of bias is never refuted",
            "Agrees on",
        ),
        text("same_as", "the first combination with the same numbers on every pair"),
        text("near", "the pair nearest to its reference, of the longest series"),
        text("far", "the furthest pair of that series"),
        Column("rel_std_near", f"noise of one sample near the reference, {OF_EXACT}"),
        Column("total_rel_std_near", f"{TOTAL}, near the reference"),
        integer(
            "place",
            "place of a right one by its noise with the reward, then alone, far from the reference;"
            " 1: the least",
        ),
    ),
)

OPTIONS = Schema(
    "options",
    "One row for each option of a trainer, or common practice: the combination that it is, and what"
    " to set in its place.",
    (
        text("option", "as its trainer writes it", "Setting"),
        text("trainer", "the trainer; empty for a paper or a common practice", "Trainer"),
        *VERDICT,
        text(
            "instead",
            "a right option of the same trainer, the one with the least noise in training",
            "Set instead",
        ),
        text(
            "instead_combination",
            "that option's combination, or the right one with the least noise in training",
        ),
    ),
    optional=True,
)

TABLES = (GRADIENTS, VERDICTS, OPTIONS, ARROWS, COMBINATIONS)
