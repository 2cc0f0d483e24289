"""The table of the lambda study."""

from __future__ import annotations

from klbench.schema import Column, Schema, text

SD_OF_VALUE = "standard deviation of one term of the value, {}"
SD_OF_GRADIENT = "standard deviation of one sample's gradient over the length of the exact one, {}"

LAMBDA = Schema(
    "lambda",
    "One row for each pair: the λ of −log r + λ(r − 1) with the least noise, and the noise at several λ.",
    (
        text("pair", "policy and reference"),
        text("series", "pairs that belong together", "Series"),
        Column("kl_qp", "exact, in nats", "nats", heading="KL(q‖p)"),
        Column("kl_pq", "KL(p‖q), exact", "nats"),
        Column("chi2", "chi-squared divergence, the mean of (r − 1)² under q, exact"),
        Column("lambda_value", "λ with the least noise of the value", heading="Best λ, value"),
        Column("lambda_gradient", "λ with the least noise of the gradient", heading="Best λ, gradient"),
        Column("value_std_k1", SD_OF_VALUE.format("λ = 0 (k1)"), "nats", heading="Value, k1"),
        Column("value_std_k3", SD_OF_VALUE.format("λ = 1 (k3)"), "nats", heading="Value, k3"),
        Column("value_std_best", SD_OF_VALUE.format("the value's best λ"), "nats", heading="Value, best λ"),
        Column("gradient_rel_std_0", SD_OF_GRADIENT.format("λ = 0"), heading="Gradient, λ = 0"),
        Column("gradient_rel_std_1", SD_OF_GRADIENT.format("λ = 1"), heading="Gradient, λ = 1"),
        Column("gradient_rel_std_value_best", SD_OF_GRADIENT.format("the value's best λ"), heading="Gradient, value's λ"),
        Column("gradient_rel_std_gradient_best", SD_OF_GRADIENT.format("the gradient's best λ"), heading="Gradient, best λ"),
    ),
)

TABLES = (LAMBDA,)
