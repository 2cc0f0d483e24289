"""The tables of the reward-model study."""

from __future__ import annotations

from dataclasses import replace

import pandas as pd
from scipy.stats import t

from klbench.columns import COMBINATION
from klbench.schema import Column, Schema, integer, interval, text, with_error

GOLD = "gold"
"""Stands among the proxies for the true reward."""

METHOD = text("method", "the way in which the proxy is made large: optimum, best_of_n or ppo", "By")
TRAINED_WITH = text("combination", "the penalty of ppo; empty for the other ways")
PROXY = text(
    "proxy", "the reward model, by its ranked pairs; gold: the true reward itself", "Proxy"
)
PAIRS = integer("pairs", "ranked pairs that the model has, a fifth of them held out", "Pairs")
SEED = integer(
    "seed", "number of the replica; it draws the reference, the reward, the pairs and all samples"
)
SEEDS = integer("seeds", "seeds over which the means are", "Seeds")
DIVERGED = integer("diverged", "seeds that diverged")
PATH = (
    Column("beta", "optimum: weight of the penalty whose optimum it is", heading="β"),
    Column("n", "best_of_n: answers of which the best is taken", type="int"),
    Column("step", "ppo: updates so far", type="int"),
)
KL = Column("kl", "KL(q‖p) of whole sequences, exact, in nats", "nats", heading="KL")
PROXY_GAIN = Column("proxy_gain", "gain over the reference by the proxy's own score, exact")
GOLD_GAIN = Column(
    "gold_gain", "gain of true reward over the reference, exact", heading="True reward"
)
KL_BOUND = Column("kl_bound", "best_of_n: log n − (n − 1)/n, an upper bound of the KL", "nats")
ESTIMATES = tuple(
    Column(f"{name}_estimate", f"ppo: what {name} says of KL(q‖p) on the last batch", "nats")
    for name in ("k1", "k3")
)
STATUS = text("status", "ok, or when and why it diverged")

QUALITY = (
    Column("accuracy", "share of new pairs ranked as they are labelled", heading="Accuracy"),
    Column(
        "best_accuracy", "the same for the true reward: labels are drawn by chance", heading="Best"
    ),
    Column(
        "order", "share of new pairs ranked as the true reward ranks them", heading="True order"
    ),
    Column("loss", "Bradley-Terry loss on new pairs", "nats", heading="Loss"),
    Column("best_loss", "that of the true probabilities", "nats", heading="Least"),
    Column(
        "correlation",
        "correlation of score and true reward over the reference's answers, exact",
        heading="Correlation",
    ),
)
CALIBRATION_ERROR = Column(
    "calibration_error",
    "predicted less true probability, absolute, mean over bins",
    heading="Confidence off",
)
KEPT_STEP = Column(
    "kept_step",
    "of the steps looked at, the one with the least loss on held-out pairs",
    heading="Step kept",
)
TRAIN_ACCURACY = Column(
    "train_accuracy", "share of its own pairs ranked as they are labelled, at the last step"
)

REWARD_MODELS = Schema(
    "reward_models",
    "One row for each number of ranked pairs: how good the reward models are, over seeds. Models that diverged count with what "
    "predicted held-out pairs best before.",
    (
        PROXY,
        PAIRS,
        SEEDS,
        *(
            each
            for column in (*QUALITY, CALIBRATION_ERROR, KEPT_STEP, TRAIN_ACCURACY)
            for each in interval(column)
        ),
        integer(
            "untrained",
            "models of which the untrained one was kept: held-out pairs confirm nothing of what they learned",
        ),
        DIVERGED,
    ),
)

REWARD_MODELS_BY_SEED = Schema(
    "reward_models_by_seed",
    "One row for each number of ranked pairs and seed: how good that reward model is.",
    (
        PROXY,
        PAIRS,
        SEED,
        *QUALITY,
        KEPT_STEP,
        Column("train_loss", "Bradley-Terry loss on its own pairs at the last step", "nats"),
        TRAIN_ACCURACY,
        Column(
            "held_out_loss", "Bradley-Terry loss on the pairs held out, at the last step", "nats"
        ),
        CALIBRATION_ERROR,
        STATUS,
    ),
)

CALIBRATION = Schema(
    "calibration",
    "One row for each number of ranked pairs and bin of the model's confidence, over new pairs of all seeds.",
    (
        PROXY,
        PAIRS,
        integer("bin", "0 to 9: a tenth each of the range from one half to 1"),
        Column("share", "share of new pairs in the bin"),
        Column("predicted", "mean probability that the model gives to what it prefers"),
        Column("true", "mean true probability of the same"),
    ),
)


def _with_ends(frame: pd.DataFrame, version: int) -> pd.DataFrame:
    """Turn the standard errors of version 0 into 95 % intervals.

    They are those of means over seeds, which are few: the half width is Student's t for ``seeds - 1`` times the error.
    Version 1 leans to where values are skewed, which a standard error cannot tell.
    """
    quantile = t.ppf(0.975, frame["seeds"] - 1)
    for name in ("gold_gain", "k1_error", "k3_error"):
        if (error := f"{name}_se") in frame:
            half = quantile * frame[error]
            frame = frame.assign(
                **{f"{name}_low": frame[name] - half, f"{name}_high": frame[name] + half}
            ).drop(columns=error)
            if name != "gold_gain":
                frame[f"{name}_seeds"] = frame["seeds"].where(frame[name].notna(), 0)
    return frame


OVEROPTIMISATION = Schema(
    "overoptimisation",
    "One row for each way to make a proxy large, proxy and setting: a point of its path away from the reference. Means over "
    "the seeds that did not diverge.",
    (
        METHOD,
        TRAINED_WITH,
        PROXY,
        *PATH,
        PAIRS,
        SEEDS,
        DIVERGED,
        KL_BOUND,
        *(each for column in (KL, PROXY_GAIN, *ESTIMATES) for each in with_error(column)),
        *interval(GOLD_GAIN),
        *(
            each
            for name in ("k1", "k3")
            for each in interval(
                Column(
                    f"{name}_error",
                    f"ppo: {name}'s estimate less the exact KL of the same policy",
                    "nats",
                ),
                seeds=True,
            )
        ),
    ),
    migrate=_with_ends,
)

OVEROPTIMISATION_BY_SEED = Schema(
    "overoptimisation_by_seed",
    "One row for each way but ppo, proxy, seed and setting: a point of its path; those of ppo are in training.",
    (
        METHOD,
        TRAINED_WITH,
        PROXY,
        PAIRS,
        SEED,
        *PATH,
        KL,
        PROXY_GAIN,
        GOLD_GAIN,
        KL_BOUND,
        *ESTIMATES,
    ),
)

PEAKS = Schema(
    "peaks",
    "One row for each way to make a proxy large and proxy: where the true reward is largest, and what going on costs.",
    (
        METHOD,
        TRAINED_WITH,
        PROXY,
        PAIRS,
        SEEDS,
        DIVERGED,
        *interval(
            Column(
                "peak_gold",
                "largest gain of true reward on the way, mean over seeds",
                heading="Peak",
            )
        ),
        *interval(
            Column("peak_proxy", "gain by the proxy's own score there", heading="Proxy there")
        ),
        *interval(Column("peak_kl", "KL(q‖p) there, exact, in nats", "nats", heading="KL there")),
        *interval(Column("end_gold", "gain of true reward at the end of the way", heading="End")),
        *interval(
            Column(
                "end_proxy", "gain by the proxy's own score at the end", heading="Proxy at the end"
            )
        ),
        *interval(
            Column("end_kl", "KL(q‖p) at the end, exact, in nats", "nats", heading="KL at the end")
        ),
        *interval(
            Column(
                "lost",
                "true reward lost: peak less end, on the same seed; its interval ends at 0",
                heading="Lost",
            )
        ),
        *interval(
            Column(
                "missed",
                "largest gain on the same way with the true reward for a proxy (ppo: of the exact optimum), less the peak, on "
                "the same seed",
                heading="Missed",
            )
        ),
    ),
)

EQUAL_KL = Schema(
    "equal_kl",
    "One row for each way to make a proxy large, proxy and KL: the true reward there, over the seeds whose paths come so far.",
    (
        METHOD,
        TRAINED_WITH,
        PROXY,
        Column(
            "kl", "nats at which ways are compared, by interpolation in √KL", "nats", heading="KL"
        ),
        replace(SEEDS, meaning="seeds whose paths come so far"),
        *interval(replace(GOLD_GAIN, meaning="gain of true reward over the reference")),
        *interval(
            Column(
                "difference",
                "that gain less the one of the proxy's exact optimum at this KL, paired by seed",
                heading="Less the optimum's",
            )
        ),
    ),
    optional=True,
)

TRAINING = Schema(
    "training",
    "One row for each combination, number of ranked pairs, seed and evaluation of ppo on the proxy.",
    (
        text("algorithm", "ppo, reinforce, grpo, or that of a trainer"),
        *COMBINATION,
        Column("beta", "weight of the penalty"),
        PROXY,
        PAIRS,
        SEED,
        integer("step", "updates so far"),
        Column("reward", "gain over the reference by the proxy's own score, exact"),
        Column("gold", "gain of true reward over the reference, exact"),
        KL,
        *with_error(
            Column(
                "kl_estimate",
                "what the combination's own estimator said of KL(q‖p) on the last batch",
                "nats",
            )
        ),
        *ESTIMATES,
        Column("objective", "E r − β KL(q‖p) with the proxy for r, exact"),
        Column("regret", "how far that objective stays below the largest possible one"),
        Column("kl_to_optimum", "KL of the policy to the proxy's optimum, exact", "nats"),
        Column("clip_fraction", "share of tokens that the clip of the ratio cut off"),
        Column("beta_used", "weight of the penalty at that update, as a controller has set it"),
        STATUS,
    ),
)

TABLES = (
    OVEROPTIMISATION,
    OVEROPTIMISATION_BY_SEED,
    PEAKS,
    EQUAL_KL,
    REWARD_MODELS,
    REWARD_MODELS_BY_SEED,
    CALIBRATION,
    TRAINING,
)
