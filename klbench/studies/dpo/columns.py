"""The tables of the DPO study."""

from __future__ import annotations

from dataclasses import replace

import pandas as pd

from klbench.schema import Column, Schema, integer, interval, text, with_error

LOSS = (
    text(
        "arm",
        "which loss: dpo is the standard, f-dpo has another divergence, smoothed takes labels for doubtful; ipo, kto and "
        "others by their names",
        "Loss",
    ),
    text("divergence", "what holds the policy to the reference; none: nothing", "Divergence"),
    Column("smoothing", "the share of labels that the loss takes for wrong", heading="Smoothing"),
    Column("beta", "weight of the penalty against the reward", heading="β"),
    Column("beta_dpo", "weight in the loss: scale times β, over f″(1) of the divergence"),
)
"""A loss, and what it is made of."""
PAIRS = "ranked pairs that it was trained on; all: every pair there is, as often as it comes"
SIZE = Column("pairs", PAIRS, heading="Pairs")
FINITE = integer("pairs", "ranked pairs that standard DPO was trained on", "Pairs")
STEP = integer("step", "step of the optimiser", "Step")
SEEDS = integer("seeds", "seeds that did not diverge: what means and intervals are over", "Seeds")
KL = Column(
    "kl", "KL(q‖p) of the policy from the reference, exact, in nats", "nats", heading="KL(q‖p)"
)
REWARD = Column("reward", "E r of the policy, exact", heading="Reward")
REGRET = Column("regret", "objective of the optimum less that of the policy, exact")
PENALTY = Column(
    "divergence_value", "the loss's own divergence of the policy from the reference, exact"
)
LOSSES = (
    Column("loss", "the loss on the pairs that it was trained on, nats a pair", "nats"),
    Column("accuracy", "share of these pairs that the implicit reward ranks as they are labelled"),
    Column("population_loss", "the loss on all pairs there are, each as often as it comes", "nats"),
    Column(
        "population_accuracy",
        "share of all pairs that the implicit reward ranks as they are labelled",
        heading="Ranked",
    ),
)
IMPLICIT = (
    Column(
        "reward_slope",
        "of the implicit on the true reward, over the reference's answers; 1 at its own optimum",
        heading="Slope",
    ),
    Column(
        "reward_correlation",
        "of the implicit with the true reward, centred by prompt, over the reference's answers",
    ),
    Column("policy_slope", "as reward_slope, over the policy's own answers"),
    Column("policy_correlation", "as reward_correlation, over the policy's own answers"),
)
ESTIMATE = (
    text(
        "samples_of",
        "whose answers: the policy's, fresh ones of the reference, or the training pairs",
    ),
    text("estimator", "of KL(q‖p)", "Estimate"),
    text("level", "per token, or once for the whole sequence"),
)


def band(column: Column) -> tuple[Column, ...]:
    """Return a column, a mean over seeds, and the ends of the band that holds the middle 80 % of them."""
    ends = (
        replace(
            column,
            name=f"{column.name}_{end}",
            meaning=f"{share} quantile over seeds of {column.name}",
            heading="",
        )
        for end, share in (("low", "10 %"), ("high", "90 %"))
    )
    return (column, *ends)


def checkpoint(name: str, which: str, heading: str) -> tuple[Column, ...]:
    """Return the columns of one kind of checkpoint: its distance from the optimum, and differences of the same seeds."""
    start = interval(
        Column(
            f"{name}_start_difference",
            f"{name} less KL(q‖q*) before training, on the same seeds",
            "nats",
            since=1,
        ),
        seeds=True,
    )
    return (
        *interval(
            Column(
                name,
                f"KL(q‖q*) {which}, mean over seeds with a 95 % interval, in nats",
                "nats",
                heading=heading,
            )
        ),
        *interval(
            Column(
                f"{name}_difference",
                f"{name} less standard DPO's, on the same seeds and pairs, with a 95 % interval",
                "nats",
                heading="− standard's",
            ),
            seeds=True,
        ),
        Column(
            f"{name}_effect_size",
            "mean over standard deviation of these differences (Cohen's d for pairs)",
            heading="Effect",
        ),
        Column(f"{name}_step", "median step of that checkpoint", heading="At step"),
        *start,
    )


def seeds_by_kind(frame: pd.DataFrame, version: int) -> pd.DataFrame:
    """Return ``dpo_final`` with a number of seeds for each difference: there was one for all three, which was theirs."""
    if "difference_seeds" not in frame:
        return frame
    seeds = frame["difference_seeds"]
    return frame.drop(columns="difference_seeds").assign(
        last_difference_seeds=seeds, best_difference_seeds=seeds, stopped_difference_seeds=seeds
    )


TRAINING = Schema(
    "training",
    "One row for each loss, number of pairs, seed and evaluation.",
    (
        text("algorithm", "dpo"),
        LOSS[0],
        text("estimator", "none: the penalty of DPO is not estimated"),
        text("placement", "where the penalty stands: in the loss"),
        text("level", "for the whole sequence"),
        SIZE,
        integer("seed", "of reference, reward, pairs and samples"),
        STEP,
        REWARD,
        KL,
        *with_error(Column("kl_estimate", "k1 of the policy's own answers", "nats")),
        Column("objective", "E r − β KL(q‖p), exact"),
        REGRET,
        Column(
            "kl_to_optimum",
            "KL(q‖q*) of the policy from the optimum of the objective, exact",
            "nats",
        ),
        Column(
            "kl_to_own",
            "KL of the policy from the loss's own optimum, exact; missing where that is not finite, or no optimum is known",
            "nats",
        ),
        *LOSS[1:],
        PENALTY,
        *LOSSES,
        Column(
            "margin",
            "mean implicit reward of the better answer less that of the worse, on the pairs trained on",
        ),
        *IMPLICIT,
        text("status", "ok, or at which step it diverged and why"),
    ),
)

DPO_FINAL = Schema(
    "dpo_final",
    "One row for each loss and number of pairs: how near to the optimum it came, at the last checkpoint, at the best one, and "
    "at the one with the least loss on all pairs.",
    (
        *LOSS,
        SIZE,
        SEEDS,
        *checkpoint("last", "after training", "KL(q‖q*)"),
        *checkpoint("best", "at the checkpoint that is nearest to the optimum", "Best"),
        *checkpoint("stopped", "at the checkpoint with the least loss on all pairs", "Stopped"),
        REWARD,
        KL,
        REGRET,
        Column(
            "kl_to_own",
            "KL from the loss's own exact optimum, in nats",
            "nats",
            heading="To its own",
        ),
        PENALTY,
        *LOSSES,
        *IMPLICIT,
        Column("best_kl", "KL(q‖p) at the best checkpoint, exact", "nats"),
        integer("diverged", "seeds that diverged"),
        text(
            "outcome",
            "against standard DPO: nearer, further, or not told, by the whole 95 % interval of last_difference",
        ),
        *interval(
            Column(
                "nearest_difference",
                "last less that of the loss that ends nearest on as many pairs, on the same seeds",
                "nats",
                since=1,
            ),
            seeds=True,
        ),
        text(
            "start_outcome",
            "against the reference: nearer, further, or not told, by the whole interval of last_start_difference",
            since=1,
        ),
        text(
            "place",
            "among the losses on as many pairs: nearest, not told from it, or further, by the whole interval",
            "Place",
            since=1,
        ),
    ),
    migrate=seeds_by_kind,
)

DPO_CURVES = Schema(
    "dpo_curves",
    "One row for each loss, number of pairs and evaluation: means over the seeds that have not diverged.",
    (
        LOSS[0],
        SIZE,
        STEP,
        integer("seeds", "seeds that have not diverged by then"),
        *band(Column("kl_to_optimum", "KL(q‖q*), exact", "nats")),
        *band(Column("kl_to_own", "KL from the loss's own optimum, exact", "nats")),
        *band(KL),
        *band(LOSSES[0]),
        *band(LOSSES[2]),
    ),
)

DPO_RATES = Schema(
    "dpo_rates",
    "One row for each loss: the power of the number of pairs that KL(q‖q*) goes with, by a line through the logarithms.",
    (
        LOSS[0],
        integer("seeds", "seeds that diverged with no number of pairs"),
        *interval(Column("last_exponent", "power after training", optional=True)),
        *interval(Column("best_exponent", "power at the best checkpoint", optional=True)),
        Column(
            "enough_pairs",
            "least number of pairs from which on it ends nearer to the optimum than the reference; missing: none is enough",
            since=1,
        ),
    ),
)

DPO_OPTIMA = Schema(
    "dpo_optima",
    "One row for each loss: the exact optimum of its loss on all pairs, and how near to it training on all pairs came.",
    (
        *LOSS,
        integer("seeds", "seeds that means and intervals are over", "Seeds"),
        Column("start", "KL(q‖q*) of the reference, before training", "nats"),
        Column(
            "residual",
            "norm of the gradient there of the loss on all pairs over that at the reference: 0 but for rounding; none of hinge",
            heading="Gradient",
        ),
        *interval(
            Column(
                "own_kl_to_optimum",
                "of its exact optimum from that of KL(q‖p), in nats",
                "nats",
                heading="KL(q‖q*)",
            )
        ),
        *interval(
            Column("own_kl", "of its exact optimum from the reference", "nats", heading="KL(q‖p)")
        ),
        *interval(Column("own_reward", "E r there", heading="Reward")),
        *interval(
            Column("own_divergence_value", "the loss's own divergence there from the reference")
        ),
        *interval(Column("own_slope", "of the implicit on the true reward there", heading="Slope")),
        *interval(
            Column(
                "own_correlation",
                "of the implicit with the true reward there, over the reference's answers",
            )
        ),
        *interval(
            Column(
                "reached_kl_to_optimum",
                "KL(q‖q*) after training on all pairs",
                "nats",
                optional=True,
            )
        ),
        *interval(
            Column(
                "reached_kl_to_own",
                "KL from it after training on all pairs",
                "nats",
                heading="Reached",
                optional=True,
            )
        ),
        *interval(
            Column("reached_kl", "KL(q‖p) after training on all pairs", "nats", optional=True)
        ),
    ),
)

DPO_ESTIMATES = Schema(
    "dpo_estimates",
    "One row for each number of pairs, evaluation and estimate: what samples said of standard DPO's KL(q‖p).",
    (
        FINITE,
        STEP,
        *ESTIMATE,
        integer("seeds", "seeds that means are over"),
        Column("kl", "exact, mean over seeds", "nats"),
        Column("estimate", "mean over seeds", "nats"),
        *with_error(Column("error", "estimate less exact, mean over seeds", "nats")),
        Column("rmse", "root mean square over seeds of estimate less exact", "nats"),
        Column(
            "bias",
            "expectation of the estimate, by enumeration, less exact; mean over seeds",
            "nats",
        ),
        Column("below", "share of seeds with an estimate below the exact KL"),
        Column(
            "claimed_se",
            "standard error that the samples themselves claim, mean over seeds",
            "nats",
        ),
    ),
)

DPO_SEEN = Schema(
    "dpo_seen",
    "One row for each number of pairs and estimate: its error over all evaluations, in units of the exact KL.",
    (
        FINITE,
        *ESTIMATE,
        integer("seeds", "seeds that means and intervals are over"),
        Column("kl", "exact, mean over seeds and checkpoints", "nats"),
        *interval(
            Column(
                "rel_error",
                "mean over seeds and checkpoints, in units of the exact KL, with a 95 % interval",
                heading="Error",
            )
        ),
        Column("rel_rmse", "root of the mean squared error, likewise", heading="RMS"),
        Column(
            "rel_bias",
            "of the estimator's expectation, by enumeration; 0 if unbiased",
            heading="Bias",
        ),
        Column("below", "share of estimates below the exact KL", heading="Below"),
        text(
            "outcome",
            "too low, too high, or not told from exact, by the whole interval of rel_error",
            "On average",
            since=1,
        ),
    ),
)

KTO_POINTS = Schema(
    "kto_points",
    "One row for each number of pairs and evaluation: the reference point of KTO, which stands for KL(q‖p).",
    (
        replace(SIZE, meaning="ranked pairs that KTO was trained on; all: every pair there is"),
        STEP,
        integer("seeds", "seeds that means and intervals are over", "Seeds"),
        Column("kl", "exact, mean over seeds, in nats", "nats", heading="KL(q‖p)"),
        Column(
            "point",
            "of the pairs trained on, as trainers have it: log q/p of answers to other prompts, their mean, at least 0",
            "nats",
            heading="Reference point",
        ),
        Column(
            "mismatched",
            "expectation of log q/p of such answers, by enumeration, before the clamp at 0",
            "nats",
            heading="Before the clamp",
        ),
        Column("one", "expectation of the point with batches of one answer, exact", "nats"),
        Column("all", "the point with all answers there are, exact", "nats"),
        *interval(
            Column(
                "bias",
                "point less exact KL, mean over seeds with a 95 % interval, in nats",
                "nats",
                heading="Bias",
            )
        ),
    ),
    optional=True,
)

TABLES = (
    TRAINING,
    DPO_FINAL,
    DPO_CURVES,
    DPO_RATES,
    DPO_OPTIMA,
    DPO_ESTIMATES,
    DPO_SEEN,
    KTO_POINTS,
)
