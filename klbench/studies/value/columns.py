"""The tables of the value study."""

from __future__ import annotations

import pandas as pd

from klbench import columns
from klbench.schema import Column, Schema, flag, integer, text, with_error

FEW_SAMPLES = 100
"""The number of values from which errors count as normal: Student's quantile is 1.98, close enough to 1.96."""
MAIN_TARGET = "KL(q‖p)"
ALL, UNBIASED, TWO = "all", "unbiased", "k1 or k3"
"""The groups of estimators that are ranked."""
PLAIN = (
    "k1",
    "k2",
    "k3",
    "k_lambda",
    "k_fitted",
    "k1_weighted",
    "k3_weighted",
    "k2_weighted",
    "k1_self_normalized",
)
QUANTILES = (0.005, 0.025, 0.05, 0.25, 0.5, 0.75, 0.95, 0.975, 0.995)
"""The quantiles of the errors of batches."""
PAIR = text("pair", "q ‖ p: the sampling distribution, then the one it is compared with", "Pair")
SERIES = text("series", "the series that the pair belongs to", "Series")
ESTIMATOR = text("estimator", "name in klbench", "Estimator")
TARGET = text("target", "the divergence that it aims at", "Estimates")
BATCH = integer("batch", "samples averaged into one estimate", "Batch")
KHAT = (
    *with_error(
        Column("khat", "measured tail index of the ratio r = p/q", heading="k-hat"),
        "the measured tail index",
    ),
    integer("khat_samples", "samples that the tail index was measured on"),
)
UNKNOWN = "missing where it is not known"


def plainness(name: str) -> tuple[int, int, str]:
    """Return a key that sorts the names of estimators: the plain ones first, then the short ones."""
    return (PLAIN.index(name) if name in PLAIN else len(PLAIN), len(name), name)


def common_batch(values: pd.DataFrame) -> int:
    """Return the smallest batch size at which the most estimators were measured: all of them, as a rule."""
    measured = values[~values["status"].str.startswith("skipped")]
    measured = values if measured.empty else measured
    names = measured.groupby("batch")["estimator"].nunique()
    return min((int(batch) for batch in names.index[names == names.max()]), default=1)


def quantile(share: float) -> str:
    """Return the name of the column that holds a quantile."""
    return f"q{100 * share:g}"


VALUES = Schema(
    "values",
    "One row for each pair, estimator and batch size: what was measured of the estimates, or why nothing was.",
    (
        PAIR,
        SERIES,
        ESTIMATOR,
        TARGET,
        BATCH,
        integer("samples", "samples drawn from the pair, the same for all estimators"),
        Column("truth", "exact value of the divergence", "nats", heading="Truth"),
        Column("truth_error", "bound on the error of the exact value", "nats"),
        text(
            "truth_method",
            "method of the exact value: closed-form, quadrature, enumeration and such, or unknown",
        ),
        *with_error(Column("mean", "mean of the estimates", "nats")),
        *with_error(
            Column("bias", "mean of the estimates minus the exact value", "nats", heading="Bias"),
            "the bias",
        ),
        *with_error(Column("variance", "variance of the estimates", "nats²")),
        *with_error(
            Column("std", "standard deviation of the estimates", "nats", heading="Std"),
            "the standard deviation",
        ),
        *with_error(
            Column(
                "rmse",
                "root-mean-square error of the estimates: bias and noise together",
                "nats",
                heading="Rmse",
            ),
            "the rmse",
        ),
        *with_error(Column("rel_bias", "bias over the exact value"), "the relative bias"),
        Column("rel_std", "standard deviation over the exact value"),
        Column("exact_bias", f"exact bias; {UNKNOWN}", "nats"),
        Column("exact_std", f"exact standard deviation at this batch size; {UNKNOWN}", "nats"),
        Column("bias_z", "measured bias minus the exact one, in standard errors"),
        Column("std_z", "measured standard deviation minus the exact one, in standard errors"),
        integer("batches", "batches that coverage and negative share were counted on"),
        *with_error(
            Column("frac_negative", "share of estimates below zero", heading="Negative"),
            "the share below zero",
        ),
        *with_error(
            Column(
                "coverage",
                "share of nominal 95 % intervals that hold the exact value; missing for batches of one sample",
                heading="Coverage",
            ),
            "the coverage",
        ),
        integer("n_nonfinite", "samples whose term overflowed or is not a number"),
        *with_error(
            Column(
                "khat",
                "measured tail index of the ratio that the estimator holds; the measured spread means little from 0.5 on",
                heading="k-hat",
            ),
            "the measured tail index",
        ),
        KHAT[-1],
        text(
            "status",
            "ok, or why the row is not to be trusted; skipped: why nothing was measured",
            "Status",
        ),
        Column(
            "error",
            "rmse that ranks the row, exact where it is known; missing where it is not to be trusted",
            "nats",
            since=1,
        ),
        flag("error_exact", "the rmse that ranks the row is the exact one", since=1),
        flag(
            "bias_dominates",
            "the row is to be trusted, and its bias exceeds its standard deviation",
            since=1,
        ),
    ),
)

DIFFERENCES = Schema(
    "differences",
    "One row for each pair, batch size and two estimators of one divergence, measured on the same samples.",
    (
        PAIR,
        TARGET,
        BATCH,
        text("first", "one estimator"),
        text("second", "the other estimator"),
        *with_error(
            Column("mean_difference", "mean of the first minus mean of the second", "nats"),
            "the difference of means",
        ),
        *with_error(
            Column("rmse_difference", "rmse of the first minus rmse of the second", "nats"),
            "the difference of rmses",
        ),
    ),
)

ERRORS = Schema(
    "errors",
    "One row for each pair, estimator and batch size: quantiles of the errors of batches, estimate minus exact value.",
    (
        PAIR,
        ESTIMATOR,
        BATCH,
        integer("batches", "batches that the quantiles come from"),
        *(
            Column(quantile(share), f"{100 * share:g} % of the errors are below it", "nats")
            for share in QUANTILES
        ),
    ),
)

PAIRS = Schema(
    "pairs",
    "One row for each pair: its exact divergences, the tail of its ratio, and its parameters.",
    (
        PAIR,
        SERIES,
        text("kind", "family of distributions"),
        flag("off_policy", "the samples come from a third distribution"),
        Column("unreached", "probability that p gives to what q never samples", since=1),
        Column("kl_qp", "exact KL(q‖p)", "nats", heading="KL(q‖p)"),
        Column("kl_pq", "exact KL(p‖q)", "nats"),
        Column("chi2", "exact chi-squared divergence, the mean of (r − 1)² under q"),
        Column("tail_index", "exact tail index of r; 0 where its tail is lighter than any power"),
        *KHAT,
        text("parameters", "parameters of the distributions, as JSON"),
    ),
)

RANGES = Schema(
    "ranges",
    "One row for each series, batch size, group of estimators and range of KL in which one of the group has the least rmse.",
    (
        SERIES,
        TARGET,
        BATCH,
        text(
            "among",
            f"the group that is ranked: {ALL}, {UNBIASED} (those that claim to be), or {TWO}",
            "Among",
        ),
        Column("kl_low", "least exact KL(q‖p) of the range", "nats", heading="KL from"),
        Column("kl_high", "greatest exact KL(q‖p) of the range", "nats", heading="KL to"),
        integer("pairs", "pairs in the range", "Pairs"),
        text(
            "estimator",
            "the one with the least rmse; of several within 0.5 %, or not to be told apart, the simplest",
            "Least rmse",
        ),
        text("pair", "the middle pair of the range, by KL"),
        Column("error", "its rmse on the middle pair", "nats", heading="Rmse"),
        text(
            "next",
            "the next best on that pair, of those that are behind beyond doubt if there are any",
            "Next",
        ),
        Column("next_error", "the rmse of the next best", "nats"),
        *with_error(
            Column(
                "behind", "rmse of the next minus rmse of the first", "nats", heading="Behind by"
            ),
            "that difference",
        ),
        text(
            "unranked",
            "measured less on a pair, and not ranked: their tail is heavy and their exact noise unknown",
            "Not ranked",
        ),
    ),
)

ESTIMATORS = Schema(
    "estimators",
    "One row for each estimator: its formula, what it claims, and what was measured of that.",
    (
        *columns.ESTIMATORS.columns,
        text(
            "verdict",
            "the claims beside what was measured; broken: a mean too far from the truth, or a negative value",
            "Verdict",
            since=1,
        ),
        integer("judged", "rows that judge the claim to be unbiased", since=1),
        Column(
            "worst_z",
            "largest distance of its mean from the truth where the claim applies, in standard errors",
            heading="Worst |z|",
            since=1,
        ),
        text("worst_pair", "the pair with that distance", since=1),
        Column(
            "negative",
            "largest share of batches with a negative estimate",
            heading="Negative",
            since=1,
        ),
        Column(
            "exact_z",
            "largest distance of its mean from its exact mean, in standard errors",
            heading="Worst |z| from its exact mean",
            since=1,
        ),
    ),
)

TABLES = (VALUES, DIFFERENCES, ERRORS, PAIRS, ESTIMATORS, RANGES)
