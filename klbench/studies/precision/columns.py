"""The table of the precision study."""

from __future__ import annotations

from klbench.schema import Column, Schema, integer, text

PRECISION = Schema(
    "precision",
    "One row for each formula, dtype, decade of |log r| and sign of log r: the worst of its errors"
    " against exact values.",
    (
        text("estimator", "name in klbench", "Estimator"),
        text(
            "variant", "as written in papers, with the usual repair, or as computed here", "Formula"
        ),
        text("dtype", "format of the numbers", "Dtype"),
        integer("decade", "d, for |log r| from 10^d to 10^(d + 1)"),
        integer("sign", "sign of log r"),
        Column("log_ratio", "the log-ratio in the middle of the decade"),
        integer("points", "log-ratios that were looked at"),
        Column("eps", "unit in the last place of 1 in this dtype"),
        Column(
            "max_rel_error",
            "worst error of the value, as a fraction of the exact one",
            heading="Worst relative",
        ),
        Column("median_rel_error", "median error of the value, as a fraction of the exact one"),
        Column("max_ulp", "worst error of the value, in units of its own last place"),
        Column(
            "max_gradient_rel_error",
            "worst error of the gradient, as a fraction of the exact one",
            heading="Gradient relative",
        ),
        Column(
            "frac_negative",
            "share of negative values; the exact ones are positive",
            heading="Negative",
        ),
    ),
)

TABLES = (PRECISION,)
