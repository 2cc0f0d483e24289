"""The tables of the study of completions."""

from __future__ import annotations

import pandas as pd

from klbench.columns import ESTIMATORS
from klbench.schema import Column, Schema, flag, integer, text, with_error

PAIR = text("pair", "policy and reference", "Pair")
ESTIMATOR = text(
    "estimator",
    "its name in klbench; rao_blackwell is the exact KL of each token's distribution",
    "Estimator",
)
LEVEL = text(
    "level",
    "token: the terms of the tokens, summed; sequence: the term of the summed log-ratio",
    "Of",
)
STATUS = text("status", "ok, or why the row is not to be trusted, or was left out", "Flag")
KHAT = (
    *with_error(
        Column(
            "khat",
            "tail index of the ratio; at 0.5 and above its variance is infinite",
            heading="k-hat",
        )
    ),
    integer("khat_samples", "the largest number of ratios that k-hat was fitted to"),
)
COMPLETIONS = integer("completions", "completions that were measured", "Completions")
TOKENS_OF_ALL = integer("tokens", "tokens that count in these completions", "Tokens")
LARGEST = Column("largest", "the largest |log p/q| of a token", "nats", heading="Largest |log r|")


POSITIONED = ("kl_qp", "k1", "k2", "k3")
"""Quantities of tokens that are also added up along the completion."""


def with_totals(tokens: pd.DataFrame) -> pd.DataFrame:
    """Return the table of positions with the sums up to each position, over all completions of a pair."""
    pairs = tokens["pair"]
    completions = tokens.groupby(pairs, sort=False)["n"].transform("first")
    sums = {
        name: (tokens[name] * tokens["n"]).groupby(pairs, sort=False).cumsum()
        for name in POSITIONED
    }
    return tokens.assign(**{f"{name}_total": total / completions for name, total in sums.items()})


def with_relative_errors(values: pd.DataFrame) -> pd.DataFrame:
    """Return the table of values with the error of a mean over 100 completions relative to the exact divergence."""
    return values.assign(
        rel_rmse_100=values["rmse_100"] / values["truth"].where(values["truth"] != 0.0)
    )


def with_inflation(prompts: pd.DataFrame) -> pd.DataFrame:
    """Return the table of prompts with the factors by which standard errors change."""
    return prompts.assign(
        same_over_se=prompts["se_same"] / prompts["se"],
        new_over_se=prompts["se_new"] / prompts["se"],
    )


def mean_at(name: str, meaning: str, heading: str) -> tuple[Column, Column]:
    """Return the columns of a mean over the tokens at a position, and of its standard error."""
    return with_error(Column(name, f"mean of {meaning} at that position", "nats", heading=heading))


def token_columns(*others: Column) -> tuple[Column, ...]:
    """Return the columns of a table of tokens, in an order of rank."""
    return (
        PAIR,
        integer("rank", "place in this table, counted from 1"),
        integer("token", "id in the tokenizer", "Id"),
        text(
            "text",
            "its text, where the tokenizer is at hand; ␣ is a space, ⏎ the end of a line",
            "Token",
        ),
        *others,
    )


DRAWN = integer("count", "how often it was drawn", "Drawn")
LARGEST_OF_TOKEN = Column(
    "largest", "the largest |log p/q| of any time it was drawn", "nats", heading="Largest |log r|"
)
K1_MEAN = Column("k1_mean", "mean of log q/p where it was drawn", "nats", heading="log q/p")
SHARE_OF = text(
    "share_of",
    "the divergence that share is a share of: kl_qp, or k1 where the exact one is not known",
)

VALUES = Schema(
    "values",
    "One row for each pair, estimator, level and unit (a completion or a token): the estimate against the exact divergence.",
    (
        PAIR,
        text("series", "pairs that belong together"),
        ESTIMATOR,
        LEVEL,
        text("per", "the unit that all means are per: sequence (a completion) or token"),
        text("target", "the divergence that it estimates", "Aims at"),
        integer("batch", "completions that are averaged into one estimate: 1"),
        integer("samples", "completions that were measured"),
        TOKENS_OF_ALL,
        Column(
            "truth",
            "that divergence, exact; missing where it is not known",
            "nats",
            heading="Exact",
        ),
        Column(
            "truth_error",
            "standard error of the exact divergence; 0 where it is enumerated",
            "nats",
        ),
        text(
            "truth_method",
            "how the exact divergence was computed: enumeration, monte-carlo, unknown",
        ),
        *with_error(Column("mean", "mean of the estimates", "nats", heading="Mean")),
        *with_error(Column("bias", "mean minus exact divergence", "nats")),
        text(
            "bias_method",
            "paired: on the same completions; plain: of two means; is the truth; unknown",
        ),
        *with_error(Column("variance", "variance of the estimate from one completion", "nats²")),
        *with_error(
            Column(
                "std",
                "standard deviation of the estimate from one completion",
                "nats",
                heading="Sd",
            )
        ),
        Column("rmse", "root-mean-square error of the estimate from one completion", "nats"),
        Column("rmse_100", "root-mean-square error of the mean over 100 completions", "nats"),
        *with_error(Column("rel_bias", "bias over the exact divergence", heading="Bias")),
        Column("rel_std", "std over the exact divergence"),
        Column(
            "exact_bias", "bias in closed form, where the completions can be enumerated", "nats"
        ),
        Column("exact_std", "std in closed form, where the completions can be enumerated", "nats"),
        Column(
            "bias_z", "distance of the measured from the closed form's bias, in standard errors"
        ),
        Column(
            "frac_negative",
            "share of the terms (for sums over tokens: of the sums) that are negative",
            heading="Below zero",
        ),
        integer("n_nonfinite", "terms that are infinite or not a number"),
        *KHAT,
        STATUS,
        Column(
            "rel_rmse_100",
            "root-mean-square error of the mean over 100 completions, over the exact divergence",
            heading="Error of 100",
            since=1,
        ),
    ),
    migrate=lambda frame, _: with_relative_errors(frame),
)

TOKENS = Schema(
    "tokens",
    "One row for each pair and position in the completion: means over the completions that reach it.",
    (
        PAIR,
        integer("position", "counted from 1 among the tokens that count", "Position"),
        integer("n", "completions that reach that position", "Completions"),
        *mean_at("kl_qp", "the exact KL(q‖p) over the next token", "Exact KL"),
        *mean_at("kl_pq", "the exact KL(p‖q) over the next token", "KL(p‖q)"),
        *mean_at("k1", "k1 of the token", "k1"),
        *mean_at("k2", "k2 of the token", "k2"),
        *mean_at("k3", "k3 of the token", "k3"),
        Column(
            "frac_negative",
            "share of the tokens there whose k1 is negative",
            heading="k1 below zero",
        ),
        LARGEST,
        *KHAT,
        Column(
            "share", "share of the divergence of a completion that arises there", heading="Share"
        ),
        SHARE_OF,
        *(
            Column(
                f"{name}_total", f"sum of {name} up to that position, a completion", "nats", since=1
            )
            for name in POSITIONED
        ),
    ),
    migrate=lambda frame, _: with_totals(frame),
)

TOP_TOKENS = Schema(
    "top_tokens",
    "One row for each pair and token of the vocabulary, for the 50 tokens whose summed log-ratios are the largest.",
    token_columns(
        DRAWN,
        Column("frequency", "share of all drawn tokens"),
        *with_error(Column("k1_sum", "sum of log q/p over the times it was drawn", "nats")),
        K1_MEAN,
        Column(
            "kl_sum",
            "sum of the exact KL of the distributions that it was drawn from",
            "nats",
            heading="Exact KL there",
        ),
        LARGEST_OF_TOKEN,
        Column(
            "share",
            "k1_sum over the divergence of all completions; below 0 where the policy avoids the token",
            heading="Share",
        ),
        SHARE_OF,
        integer("distinct", "different tokens that were drawn"),
    ),
    optional=True,
)

LARGEST_RATIOS = Schema(
    "largest_ratios",
    "One row for each pair and token of the vocabulary, for the 20 tokens with the largest |log p/q|.",
    token_columns(LARGEST_OF_TOKEN, DRAWN, K1_MEAN),
    optional=True,
)

TOKEN_MEANS = Schema(
    "token_means",
    "One row for each pair and estimator: its mean over each completion's tokens, and that over all completions.",
    (
        PAIR,
        ESTIMATOR,
        text("target", "the divergence that it estimates"),
        *with_error(Column("mean", "mean over completions of the mean over their tokens", "nats")),
    ),
    optional=True,
)

AGREEMENT = Schema(
    "agreement",
    "One row for each pair: k1 against k3, both summed over tokens, on the same completions.",
    (
        PAIR,
        flag("off_policy", "whether another distribution than the policy sampled the completions"),
        *with_error(Column("k1", "mean of k1, a completion", "nats", heading="k1")),
        *with_error(Column("k3", "mean of k3, a completion", "nats", heading="k3")),
        *with_error(
            Column(
                "difference",
                "mean of k3 − k1, a completion: the sum of p/q − 1",
                "nats",
                heading="k3 − k1",
            )
        ),
        Column(
            "z", "distance of the difference from 0, in standard errors", heading="Standard errors"
        ),
        text("verdict", "agree; differ, beyond 5 standard errors; or cannot tell", "Verdict"),
    ),
)

VERDICTS = Schema(
    "verdicts",
    "One row for each pair: what speaks against its completions, and what can be recommended on them.",
    (
        PAIR,
        flag(
            "sound",
            "whether nothing speaks against the completions; if not, nothing is recommended",
            "Sound",
        ),
        text(
            "ratios",
            "the worst verdict of the table checks: holds, fails, cannot tell",
            "Ratios of mean 1",
        ),
        Column(
            "k1_z",
            "distance of k1 from the exact sum where both are of the policy, in standard errors",
            heading="k1 off",
        ),
        text(
            "nearest", "the estimator with the least rmse_100, the exact ones left out", "Nearest"
        ),
        text("nearest_level", "its level: token or sequence", "Of"),
        Column(
            "nearest_rel_rmse_100",
            "its error over 100 completions, over the exact divergence",
            heading="Error of 100",
        ),
        Column(
            "exact_saving",
            "completions that k1 needs over those that rao_blackwell needs, for the same precision",
        ),
        Column(
            "k3_saving",
            "completions that k1 needs over those that k3 summed over tokens needs, for the same precision",
        ),
        Column(
            "whole_k3_noise", "std of k3 of the whole log-ratio over that of k3 summed over tokens"
        ),
        text("whole_k3_status", "ok, or why k3 of the whole log-ratio is not to be trusted"),
        integer(
            "half_by", "position by which half of the divergence has arisen", "Half by position"
        ),
    ),
)

SAMPLING = Schema(
    "sampling",
    "One row for each pair whose completions another distribution μ sampled, each log-ratio, estimator and level.",
    (
        PAIR,
        text("log_ratio", "whose log-probabilities are compared with the reference's", "Log-ratio"),
        text("estimator", "its name, on samples of μ, without weights", "Estimator"),
        LEVEL,
        *with_error(Column("mean", "mean of the estimates, a completion", "nats", heading="Mean")),
        Column("kl_qp", "exact KL(q‖p) of the policy, a completion", "nats", heading="KL(q‖p)"),
        *with_error(Column("bias", "mean minus KL(q‖p)", "nats")),
        Column("rel_bias", "bias over KL(q‖p)", heading="Off by"),
        *with_error(
            Column(
                "kl_mup",
                "KL(μ‖p) of the sampler: k1 with the sampler's log-probabilities",
                "nats",
                heading="KL(μ‖p)",
            )
        ),
    ),
    optional=True,
)

PROMPTS = Schema(
    "prompts",
    "One row for each pair and mean: its standard error, with the completions of one prompt taken together.",
    (
        PAIR,
        text("what", "the quantity of a completion, summed over tokens", "Of"),
        integer("prompts", "prompts that were answered", "Prompts"),
        integer("completions", "completions of all prompts", "Completions"),
        Column("mean", "mean over completions", "nats", heading="Mean"),
        Column(
            "se",
            "standard error with completions taken for independent, as in all other tables",
            "nats",
            heading="S.e.",
        ),
        Column(
            "se_same",
            "standard error for the mean over these very prompts",
            "nats",
            heading="These prompts",
        ),
        Column(
            "se_new",
            "standard error for the mean over prompts of which these are a sample",
            "nats",
            heading="New prompts",
        ),
        Column("between_share", "share of the variance that is between prompts", heading="Between"),
        Column("same_over_se", "se_same over se", since=1),
        Column("new_over_se", "se_new over se", since=1),
    ),
    optional=True,
    migrate=lambda frame, _: with_inflation(frame),
)

CHECKS = Schema(
    "checks",
    "One row for each pair and ratio of a token's probabilities whose mean over the sampler's tokens is 1.",
    (
        PAIR,
        text("ratio", "the ratio; below the line is who sampled", "Ratio"),
        COMPLETIONS,
        TOKENS_OF_ALL,
        *with_error(
            Column(
                "mean",
                "mean over all tokens, with completions taken for independent",
                heading="Mean",
            )
        ),
        Column("z", "distance of the mean from 1, in standard errors", heading="Standard errors"),
        Column(
            "ess",
            "effective number of tokens that carry the mean: (sum r)² / sum r²",
            heading="Effective tokens",
        ),
        Column(
            "khat",
            "tail index of the ratio; at 0.5 and above its variance is infinite",
            heading="k-hat",
        ),
        text(
            "verdict",
            "whether the mean is 1: holds; fails, beyond 5 standard errors; or cannot tell",
            "Mean of 1",
        ),
    ),
    optional=True,
)

DTYPE = Schema(
    "dtype",
    "One row for each pair, format, comparison, estimator and level: the same completions scored again in that format.",
    (
        PAIR,
        text("dtype", "the number format that they were scored in", "Format"),
        integer("completions", "completions that were scored again"),
        integer("tokens", "tokens of these completions that count"),
        Column(
            "sd_log_ratio",
            "standard deviation of the change of a token's log-ratio",
            "nats",
            heading="Sd of log r",
        ),
        Column("largest", "largest change of a token's log-ratio", "nats"),
        Column("sd_log_q", "standard deviation of the change of a token's log q", "nats"),
        text(
            "what",
            "policy against reference, or against itself: then the true divergence is 0",
            "What",
        ),
        ESTIMATOR,
        LEVEL,
        Column("mean", "mean in the pair's own format, a completion", "nats", heading="Before"),
        Column("mean_there", "mean in that format, a completion", "nats"),
        *with_error(
            Column("change", "mean difference on the same completions", "nats", heading="Change")
        ),
    ),
    optional=True,
)

TRUNCATION = Schema(
    "truncation",
    "One row for each pair and k: the exact KL with the k most probable tokens told apart and all others in one bucket.",
    (
        PAIR,
        integer("k", "tokens told apart; all others are one bucket", "k"),
        integer("completions", "completions that it was computed on"),
        Column(
            "exact",
            "sum of the exact KL over the whole vocabulary, a completion",
            "nats",
            heading="All tokens",
        ),
        *with_error(
            Column("mean", "what is left of it, a completion", "nats", heading="k and a bucket")
        ),
        *with_error(Column("missing", "exact sum minus what is left", "nats")),
        Column("share", "missing over the exact sum", heading="Missing"),
    ),
    optional=True,
)

PAIRS = Schema(
    "pairs",
    "One row for each pair: its completions and its divergence.",
    (
        PAIR,
        text("series", "pairs that belong together"),
        text("kind", "kind of pair"),
        flag("off_policy", "whether another distribution than the policy sampled the completions"),
        COMPLETIONS,
        TOKENS_OF_ALL,
        Column("mean_length", "tokens of a completion that count, on average"),
        integer("longest", "tokens of the longest completion that count"),
        flag("exact_kl", "whether the exact KL of each token's distribution is known"),
        *with_error(Column("kl_qp", "KL(q‖p) of a completion", "nats", heading="KL(q‖p)")),
        text("kl_qp_method", "how it was computed: enumeration, monte-carlo, unknown"),
        LARGEST,
        integer("above_zero", "tokens with a log-probability above 0", since=1),
        text("unread", "columns of the file that were not read", since=1),
        text("parameters", "settings of the pair, as JSON"),
    ),
)

THROUGHPUT = Schema(
    "throughput",
    "One row for each pair and stage: the speed of one process.",
    (
        PAIR,
        text(
            "stage",
            "completions (all that it takes to have them), generation, scoring, or the name of an estimator",
            "Of",
        ),
        Column("seconds", "time it took, added up over processes", "s"),
        Column(
            "completions_per_second",
            "completions in a second of one process",
            "1/s",
            heading="Completions a second",
        ),
        Column(
            "tokens_per_second",
            "tokens that count in a second of one process",
            "1/s",
            heading="Tokens a second",
        ),
        Column(
            "peak_mib",
            "most memory that a process held; on a GPU, that its tensors held",
            "MiB",
            heading="Memory, MiB",
        ),
        text("device", "where it was computed", "Device"),
        text("kernel", "what computed log-probabilities and exact KL from the logits", "Kernel"),
    ),
)

COST = Schema(
    "cost",
    "One row for each pair, estimator and level: the completions and seconds for a standard error of 1 % of KL(q‖p).",
    (
        PAIR,
        ESTIMATOR,
        LEVEL,
        Column(
            "completions_needed",
            "completions for a standard error of 1 % of the exact KL(q‖p)",
            heading="Completions",
        ),
        Column(
            "seconds_per_completion",
            "time to make and score a completion; missing for recorded ones",
            "s",
        ),
        Column("estimator_seconds_per_completion", "time to estimate from a completion", "s"),
        Column(
            "seconds_needed",
            "time for these completions at the speed of this run",
            "s",
            heading="Seconds",
        ),
        Column(
            "rel_bias",
            "bias over the exact divergence: more completions do not make it smaller",
            heading="Bias",
        ),
        STATUS,
    ),
)

TABLES = (
    VALUES,
    TOKENS,
    TOKEN_MEANS,
    AGREEMENT,
    VERDICTS,
    TOP_TOKENS,
    LARGEST_RATIOS,
    SAMPLING,
    PROMPTS,
    CHECKS,
    DTYPE,
    TRUNCATION,
    PAIRS,
    ESTIMATORS,
    THROUGHPUT,
    COST,
)
