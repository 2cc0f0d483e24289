"""The table of the same_kl study."""

from __future__ import annotations

import pandas as pd

from klbench.schema import Column, Schema, text

GRADIENTS = ("k1_reward", "k1_reward_leave_one_out", "k2_loss", "k3_loss")
"""Combinations whose gradients are measured on every pair."""
OF_EXACT = "in lengths of the exact one"


def _gradient(name: str) -> tuple[Column, Column]:
    """Return the columns of one combination's gradient."""
    return (
        Column(f"gradient_rel_bias_{name}", f"{name}: bias of its mean gradient, {OF_EXACT}"),
        Column(f"gradient_rel_std_{name}", f"{name}: sd of one sample's gradient, {OF_EXACT}"),
    )


def predicted(frame: pd.DataFrame) -> pd.DataFrame:
    """Return a table of shapes with the winner that χ²(p‖q) and 2J name."""
    if not {"chi2", "two_j"} <= set(frame):
        return frame
    return frame.assign(
        predicted=["k3" if below else "k1" for below in frame["chi2"] < frame["two_j"]]
    )


SHAPES = Schema(
    "shapes",
    "One row for each shape and KL: a pair, and the noise of k1 and k3 on it.",
    (
        text("pair", "policy and reference"),
        text("shape", "how policy and reference differ", "Shape"),
        Column("kl_qp", "KL(q‖p), exact", "nats", heading="KL(q‖p)"),
        Column("kl_pq", "KL(p‖q), exact", "nats", heading="KL(p‖q)"),
        Column("chi2", "χ²(p‖q), the mean of (r − 1)² over samples of q", heading="χ²(p‖q)"),
        Column("two_j", "2J = 2 (KL(q‖p) + KL(p‖q))", "nats", heading="2J"),
        Column("x_over_2j", "χ²(p‖q) over 2J; below 1, k3 has less noise", heading="χ² / 2J"),
        Column("value_std_k1", "standard deviation of one term of k1", "nats", heading="sd of k1"),
        Column("value_std_k3", "standard deviation of one term of k3", "nats", heading="sd of k3"),
        text(
            "value_winner", "the one of k1 and k3 whose standard deviation is smaller", "Less noise"
        ),
        text(
            "predicted",
            "the one that should have less noise: k3 where χ²(p‖q) is below 2J, else k1",
            "Predicted",
            since=1,
        ),
        *(column for name in GRADIENTS for column in _gradient(name)),
    ),
    migrate=lambda frame, version: predicted(frame),
)

TABLES = (SHAPES,)
