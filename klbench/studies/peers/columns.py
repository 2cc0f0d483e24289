"""The tables of the comparison with other libraries."""

from __future__ import annotations

from klbench.schema import Column, Schema, integer, text

HERE = "klbench"
LOST = 0.01
"""A relative error of this or more leaves little of a value."""

FUNCTION = (
    text("subject", "what is computed"),
    text("library", "the distribution"),
    text("name", "what the library calls the function"),
    text("version", "version of the distribution"),
    text("dtype", "format of the inputs", "Dtype"),
)
"""Somebody's function, and what it is given."""

PEERS = Schema(
    "peers",
    "One row for each function, dtype and regime of inputs: its errors against float64 on the same"
    " inputs.",
    (
        *FUNCTION,
        text(
            "regime",
            "how far policy and reference are from each other: near, usual, far, extreme or masked",
        ),
        integer("values", "values that were compared"),
        Column("max_rel_error", "worst relative error of the value"),
        Column("median_rel_error", "median relative error of the value"),
        Column("frac_wrong", "share of the values that are off by 1 % or more"),
        integer("n_nonfinite", "values that are infinite or NaN"),
        Column(
            "max_gradient_rel_error",
            "worst error of the gradient; of logits, over the row's largest",
        ),
        Column("frac_flat", "share of the inputs whose gradient is 0 though the exact one is not"),
        integer("n_nan_gradient", "elements of the gradient that are NaN"),
        text("status", "ok, or why the function was not compared"),
        text("twin", "klbench's estimator of the same numbers", optional=True),
        Column(
            "twin_difference",
            "largest difference from it in float64, over 1 + |value|",
            optional=True,
        ),
    ),
)

SPEED = Schema(
    "peers_speed",
    "One row for each function, dtype and direction: its time beside klbench's, in rounds of one"
    " block each.",
    (
        *FUNCTION,
        text("pass", "forward, or forward and backward"),
        Column("seconds", "of a call, median over the rounds", "s"),
        Column("seconds_q25", "first quartile over the rounds", "s"),
        Column("seconds_q75", "third quartile over the rounds", "s"),
        Column("ratio", "time over klbench's in the same round, median over the rounds"),
        Column("ratio_q25", "first quartile over the rounds"),
        Column("ratio_q75", "third quartile over the rounds"),
        integer("repeats", "rounds"),
    ),
    optional=True,
)

VERDICTS = Schema(
    "peers_verdicts",
    "One row for each subject and dtype: the functions of others that lose its values near the"
    " reference.",
    (
        *(FUNCTION[k] for k in (0, 4)),
        integer("functions", "functions of others that were compared there"),
        integer("lost", "those of them of which half of the values are off by 1 % or more"),
        text("lost_by", "their libraries"),
        Column("least_lost", "least median relative error of theirs"),
        Column("own_error", "median relative error of klbench's function"),
        Column("worst_error", "worst relative error of any value of any function"),
        integer("place", "place among the subjects of the dtype; 1: lost by the most functions"),
    ),
    optional=True,
)

TABLES = (PEERS, SPEED, VERDICTS)
