"""The tables of the study over length."""

from __future__ import annotations

from klbench.columns import COMBINATIONS as COMBINATIONS
from klbench.columns import OF_EXACT
from klbench.schema import Column, Schema, integer, interval, text, with_error

SERIES = text("series", "what the sequences come from", "Series")
COMBINATION = text("combination", "name in klbench", "Combination")
TOKENS = integer("tokens", "tokens of a sequence", "Tokens")
KL_TOKEN = Column(
    "kl_token", "KL(q‖p) a token, over the longest sequences", "nats", heading="KL a token"
)
LAG_TOKEN = Column(
    "lag_token",
    "KL(q‖μ) a token of the policy from the sampler; 0: the policy itself samples",
    "nats",
    heading="Lag a token",
)
BIAS = Column(
    "rel_bias",
    f"distance of its mean gradient from that of KL(q‖p), {OF_EXACT}",
    heading="Off by",
)
NOISE = Column("rel_std", f"noise of one sequence's gradient, {OF_EXACT}", heading="Noise")

HORIZON = Schema(
    "horizon",
    "One row for each series, combination, length and lag: bias and noise of the gradient, and what the weights are worth.",
    (
        SERIES,
        COMBINATION,
        TOKENS,
        KL_TOKEN,
        LAG_TOKEN,
        Column("kl", "KL(q‖p) of whole sequences", "nats", heading="KL"),
        BIAS,
        NOISE,
        Column(
            "ess",
            "effective sample size of its weights, of tokens or of whole sequences, as a share of the samples",
            heading="Sample size",
        ),
        Column("log_ess", "logarithm of ess, which may be below the smallest float"),
        Column(
            "khat",
            "Pareto k-hat of its weights in a batch of 256 sequences; empty where they are bounded",
            heading="k-hat",
        ),
        text("method", "enumeration, recursion, closed-form, or sampling", "Method"),
    ),
)

SAMPLED = Schema(
    "sampled",
    "One row for each row of horizon that was sampled: its standard errors.",
    (
        SERIES,
        COMBINATION,
        TOKENS,
        LAG_TOKEN,
        *with_error(BIAS),
        *with_error(NOISE),
        integer("samples", "sequences that were sampled"),
    ),
    optional=True,
)

FAMILIES = Schema(
    "families",
    "One row for each series and KL a token: how the bias of the full KL in the loss, without later tokens' score, grows.",
    (
        SERIES,
        KL_TOKEN,
        *interval(Column("first", f"its bias at 8 tokens, {OF_EXACT}", heading="At 8 tokens")),
        integer("last_tokens", "tokens of the longest sequences", "Longest"),
        *interval(Column("last", f"its bias there, {OF_EXACT}", heading="There")),
        Column("growth", "last over first", heading="Grows by"),
        integer(
            "levels_at",
            "the shortest length at which 95 % of the largest bias is reached; empty where it is sampled",
            "95 % reached at",
        ),
        Column(
            "relaxation",
            "tokens in which the chain forgets its state by a factor e; infinite: never; empty: unknown",
            "tokens",
            heading="Forgets in",
        ),
        Column(
            "limit",
            "bias of endless sequences, from the stationary distribution; empty where there is none",
            heading="Endless",
        ),
        text(
            "verdict",
            "levels off: 95 % are reached within 64 tokens, or for samples what is left out lies within 64 tokens; or grows",
            "Verdict",
        ),
        text(
            "like",
            "for sampled series: the families whose share within 8 later tokens, of table gaps, is in its interval",
            "Like",
        ),
    ),
    optional=True,
)

GAPS = Schema(
    "gaps",
    "One row for each series and gap: the part of what token losses leave out that lies within so many later tokens.",
    (
        SERIES,
        KL_TOKEN,
        integer("tokens", "tokens of a sequence", "Tokens"),
        integer("gap", "later tokens whose KL is counted", "Within"),
        *interval(
            Column("left_out", f"what is left out within them, {OF_EXACT}", heading="Left out")
        ),
        Column("share", "that over what is left out in all", heading="Of all"),
    ),
    optional=True,
)

LEVELS = Schema(
    "levels",
    "One row for each length: the bias of token losses on random chains of six states, and where it levels off.",
    (
        TOKENS,
        *interval(Column("rel_bias", "median over the chains of the bias", heading="Off by")),
        Column("known", "the number that others found; empty where there is none", heading="Known"),
        Column(
            "of_limit", "median share of the endless bias that is reached", heading="Of the limit"
        ),
        Column("relaxation", "median tokens in which a chain forgets its state by a factor e"),
        integer("chains", "random chains"),
    ),
    optional=True,
)

CROSSINGS = Schema(
    "crossings",
    "One row for each KL and lag a token and pair of combinations: the length from which token weights err less in a batch.",
    (
        SERIES,
        KL_TOKEN,
        LAG_TOKEN,
        text("token", "combination with a ratio a token", "Token weights"),
        text(
            "sequence",
            "the same with the whole sequence's ratio, or that of all tokens up to each",
            "Sequence weights",
        ),
        integer("batch", "sequences in the batch"),
        *interval(
            Column(
                "tokens",
                "median over the chains of the length at which they err alike; 1: always",
                "tokens",
                heading="Cross at",
            )
        ),
        Column("nats", "KL(q‖μ) of whole sequences there", "nats", heading="Lag there"),
        Column(
            "crossed",
            "share of the chains whose curves cross within the longest sequences",
            heading="Chains that cross",
        ),
        integer("chains", "random chains"),
    ),
    optional=True,
)

BOUNDS = Schema(
    "bounds",
    "One row for each series, lag and length: the error of the token surrogate for the worst reward, and its bounds.",
    (
        SERIES,
        TOKENS,
        KL_TOKEN,
        LAG_TOKEN,
        Column(
            "error",
            "largest error of the surrogate over all rewards in [0, 1] of the last state",
            heading="Error",
        ),
        Column("bound_2", "T (T - 1) D, D the largest KL(μ‖q) of a token", heading="T² bound"),
        Column("bound_15", "4/3 T^1.5 D", heading="T^1.5 bound"),
        Column("bound_1", "2 T √(D KL(μ‖q)), the KL that of whole sequences", heading="T bound"),
        Column("slack_2", "the T² bound over the error", heading="T² slack"),
        Column("slack_15", "the T^1.5 bound over the error", heading="T^1.5 slack"),
        Column("slack_1", "the T bound over the error", heading="T slack"),
    ),
    optional=True,
)

MARKS = Schema(
    "marks",
    "One row for each lag of whole sequences with lognormal ratios: what their weights are worth.",
    (
        Column("nats", "KL(q‖μ) of whole sequences", "nats", heading="Lag"),
        Column("ess", "effective sample size, exp(-2 nats)", heading="Sample size"),
        Column("log_ess", "its logarithm"),
        Column("kept", "share of the weight that a mask at 3 keeps", heading="Kept below 3"),
        Column("khat", "Pareto k-hat of a batch of 256", heading="k-hat"),
    ),
    optional=True,
)

TABLES = (HORIZON, SAMPLED, FAMILIES, GAPS, LEVELS, CROSSINGS, BOUNDS, MARKS, COMBINATIONS)
