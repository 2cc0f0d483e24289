"""The table of the lambda study."""

from __future__ import annotations

import pandas as pd

from klbench.schema import Column, Schema, text

SD_OF_VALUE = "standard deviation of one term of the value, {}"
SD_OF_GRADIENT = "standard deviation of one sample's gradient over the length of the exact one, {}"


def _migrate(frame: pd.DataFrame, version: int) -> pd.DataFrame:
    best, other = "gradient_rel_std_gradient_best", "gradient_rel_std_value_best"
    return (
        frame.assign(noise_lost=frame[other] / frame[best] - 1.0)
        if {best, other} <= set(frame)
        else frame
    )


LAMBDA = Schema(
    "lambda",
    "One row for each pair: the λ of −log r + λ(r − 1) with the least noise, and the noise at several λ.",
    (
        text("pair", "policy and reference"),
        text("series", "pairs that belong together", "Series"),
        Column("kl_qp", "exact, in nats", "nats", heading="KL(q‖p)"),
        Column("kl_pq", "KL(p‖q), exact", "nats"),
        Column("chi2", "chi-squared divergence, the mean of (r − 1)² under q, exact"),
        Column("lambda_value", "λ with the least noise of the value", heading="Value's λ"),
        Column("lambda_gradient", "λ with the least noise of the gradient", heading="Gradient's λ"),
        Column("value_std_k1", SD_OF_VALUE.format("λ = 0 (k1)"), "nats", heading="sd, k1"),
        Column("value_std_k3", SD_OF_VALUE.format("λ = 1 (k3)"), "nats", heading="sd, k3"),
        Column(
            "value_std_best", SD_OF_VALUE.format("the value's best λ"), "nats", heading="sd, best λ"
        ),
        Column("gradient_rel_std_0", SD_OF_GRADIENT.format("λ = 0"), heading="Noise, λ = 0"),
        Column("gradient_rel_std_1", SD_OF_GRADIENT.format("λ = 1"), heading="Noise, λ = 1"),
        Column(
            "gradient_rel_std_value_best",
            SD_OF_GRADIENT.format("the value's best λ"),
            heading="Noise, value's λ",
        ),
        Column(
            "gradient_rel_std_gradient_best",
            SD_OF_GRADIENT.format("the gradient's best λ"),
            heading="Noise, own λ",
        ),
        Column(
            "noise_lost",
            "noise of the gradient that the value's best λ has beyond that of the gradient's own, as a share of the latter",
            heading="Lost",
            since=1,
        ),
    ),
    migrate=_migrate,
)

TABLES = (LAMBDA,)
