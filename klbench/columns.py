"""Columns and tables that several studies have."""

from __future__ import annotations

from klbench.schema import Schema, flag, text

COMBINATION = (
    text("combination", "name in klbench", "Combination"),
    text("estimator", "the estimator whose value or gradient is taken", "Estimator"),
    text("placement", "where it stands: in the loss, in the reward, in both, or the full KL", "Where"),
    text("level", "per token, or once for the whole sequence", "Level"),
    text("correction", "the ratio of policy to sampler that it is weighted with", "Correction"),
    text("baseline", "what is subtracted from the number that multiplies the score", "Baseline"),
)
"""A combination: an estimator, and where and how it is differentiated."""

COMBINATIONS = Schema(
    "combinations",
    "One row for each combination of the run: what it is, and what it is called elsewhere.",
    (
        *COMBINATION[:4],
        flag("length_mean", "whether its tokens are averaged over the length of the sequence instead of summed"),
        COMBINATION[4],
        flag("ratio_gradient", "whether the ratio of the correction is differentiated too"),
        COMBINATION[5],
        text("gradient_of", "the estimator whose gradient a straight-through one takes"),
        text("aliases", "names in other code", "Also called"),
        text("used_by", "trainers that have it", "Used by"),
        text("called_unbiased_by", "trainers that call it unbiased", since=1),
        text("claim", "what its mean gradient is claimed to be", "Claimed"),
        flag("off_policy", "whether the claim holds for samples of another policy too"),
        text("one_token", "what its mean gradient is claimed to be where a sequence has one token"),
        text("source", "where it is described", "Source"),
    ),
)

ESTIMATORS = Schema(
    "estimators",
    "One row for each estimator of the run: its formula, and what it claims.",
    (
        text("estimator", "name in klbench", "Estimator"),
        text("target", "the divergence that it aims at", "Estimates"),
        text("tex", "the formula that is averaged over the batch, in TeX", "Terms"),
        text("summary", "one line on it"),
        flag("unbiased_claim", "claimed: its mean is exactly that divergence", "Unbiased?"),
        flag("nonnegative_claim", "claimed: no estimate is below zero", "Never negative?"),
        text("gradient_claim", "claimed: what its mean gradient as a loss is the gradient of", "Gradient as a loss"),
        flag("needs_weight", "whether it is for samples of a third distribution"),
        text("aliases", "names in other code", "Also called"),
        text("source", "where it is described", "Source"),
    ),
)
