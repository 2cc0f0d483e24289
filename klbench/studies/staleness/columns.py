"""The tables of the staleness study."""

from __future__ import annotations

import math

from klbench.columns import COMBINATIONS as COMBINATIONS
from klbench.columns import DESCRIBED, MEASURED, OF_EXACT, TASK
from klbench.schema import Column, Schema, integer, interval, text

WEIGHTS = (
    Column(
        "weight_mean",
        "mean weight of a token, or of a sequence where all its tokens have one; 1: none of the weight is lost",
        optional=True,
    ),
    Column("weight_ess", "the square of that over the mean squared weight", optional=True),
    Column(
        "weight_kept", "share of the tokens, or sequences, whose weight is not 0", optional=True
    ),
)
"""The weights of one combination."""

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
        *WEIGHTS,
    ),
)

CHOICES = Schema(
    "choices",
    "One row for each pair, lag and range of batches: the combination with the least error there, of bias and noise.",
    (
        *TASK[:2],
        Column("staleness", "KL(q‖μ) of the policy from the sampler", "nats", heading="Lag"),
        text("among", "all; or sampled: those that need no full vocabulary", "Among"),
        integer("batch_from", "smallest batch, in sequences", "Batches from"),
        Column("batch_to", "largest batch; infinite for the last one", heading="to"),
        text("combination", "name in klbench", "Combination"),
        text("typed", "the name by which the run was asked for it"),
        text("correction", "what it is weighted with", "Weight"),
        Column("rel_bias", f"its bias, {OF_EXACT}", heading="Off by"),
        Column("rel_std", f"noise of one of its samples, {OF_EXACT}", heading="Noise"),
        Column(
            "rel_error_from",
            f"root of bias² + noise² / batch at the smallest of these batches, {OF_EXACT}",
            heading="Error there",
        ),
        Column(
            "plain_up_to", "largest batch in which no weight at all errs less than it; 0: never"
        ),
    ),
    optional=True,
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

OVER_SEEDS = Schema(
    "over_seeds",
    "One row for each series of several pairs, lag and combination: bias and noise over its pairs, which differ by the seed.",
    (
        TASK[1],
        Column("staleness", "KL(q‖μ) of the policy from the sampler", "nats", heading="Lag"),
        text("combination", "name in klbench", "Combination"),
        text("typed", "the name by which the run was asked for it"),
        text("placement", "where the estimator stands", "Where"),
        text("correction", "what it is weighted with", "Weight"),
        text("baseline", "what is subtracted from the number that multiplies the score"),
        integer("pairs", "pairs of the series", "Seeds"),
        integer("right_pairs", "pairs on which its mean is the gradient of KL(q‖p)", "Right on"),
        Column("rel_bias", f"largest bias on any pair, {OF_EXACT}", heading="Off by, at most"),
        *interval(
            Column(
                "rel_std",
                f"noise of one sample, geometric mean over pairs, {OF_EXACT}",
                heading="Noise",
            )
        ),
        *interval(
            Column(
                "over_least",
                "its noise over that of the quietest one that is right on every pair, geometric mean over pairs",
                heading="Over the quietest",
            )
        ),
    ),
    optional=True,
)


def error_in(batch: float, bias: float, noise: float) -> float:
    """Return the root of ``bias^2 + noise^2 / batch``, in the unit of both."""
    return math.sqrt(bias**2 + noise**2 / batch)


TABLES = (STALENESS, CORRECTIONS, CHOICES, OVER_SEEDS, COMBINATIONS)
