"""The tables of the staleness study."""

from __future__ import annotations

from klbench.columns import COMBINATIONS as COMBINATIONS
from klbench.columns import DESCRIBED, MEASURED, OF_EXACT, TASK
from klbench.schema import Column, Schema, text

STALENESS = Schema(
    "staleness",
    "One row for each pair, lag and combination: its gradient on samples of a policy that lags behind.",
    (
        *TASK,
        *DESCRIBED,
        *MEASURED,
        Column(
            "ess",
            "effective sample size of whole sequences, 1 over the mean squared weight; the mean over prompts",
        ),
        Column("ess_token", "the same of single tokens"),
    ),
)

CORRECTIONS = Schema(
    "corrections",
    "One row for each pair and combination: what the lag does to it, and in which batches it errs less than the right ones.",
    (
        *TASK[:2],
        text("combination", "name in klbench", "Combination"),
        text("typed", "the name by which the run was asked for it"),
        text("placement", "where the estimator stands", "Where"),
        text("correction", "the ratio of policy to sampler that it is weighted with", "Weight"),
        text("verdict", "right at every lag, right without a lag, or off at every lag", "Verdict"),
        text(
            "same_as", "the first combination with the same numbers on every pair and at every lag"
        ),
        Column("lag", "the largest lag, KL(q‖μ)", "nats", heading="Lag"),
        Column(
            "rel_bias_first", f"bias at the smallest lag, {OF_EXACT}", heading="Off by, at first"
        ),
        Column("rel_bias_last", f"bias at the largest lag, {OF_EXACT}", heading="Off by, at last"),
        Column(
            "rel_std_first",
            f"noise of one sample at the smallest lag, {OF_EXACT}",
            heading="Noise, at first",
        ),
        Column(
            "rel_std_last",
            f"noise of one sample at the largest lag, {OF_EXACT}",
            heading="Noise, at last",
        ),
        Column(
            "balance_batch",
            "batch whose noise is as long as the bias, at the largest lag",
            heading="Bias = noise at",
        ),
        text("rival", "the least noisy combination that is right at every lag"),
        Column(
            "best_up_to",
            "largest batch in which it errs less than that one, at the largest lag",
            heading="Beats it up to",
        ),
        text("sampled_rival", "the least noisy one of those that need no full vocabulary"),
        Column(
            "best_sampled_up_to",
            "largest batch in which it errs less than that one",
            heading="Beats that one up to",
        ),
    ),
)

TABLES = (STALENESS, CORRECTIONS, COMBINATIONS)
