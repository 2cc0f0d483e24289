"""The tables of the studies ppo_lm and dpo_lm, which train language models."""

from __future__ import annotations

from dataclasses import replace

from klbench.columns import COMBINATION, COMBINATIONS, declared
from klbench.schema import Column, Schema, integer, interval, text, with_error

NAME = replace(
    COMBINATION[0],
    meaning="name in klbench; none: no penalty at all; untrained: the policy before training",
)
LOSS_NAME = replace(
    NAME,
    meaning=(
        "dpo is the standard, f-dpo has another divergence, smoothed takes labels for doubtful,"
        " ipo, kto and others by their names; untrained: before training"
    ),
    heading="Loss",
)
LOSS = (
    text("divergence", "what holds the policy to the reference", "Divergence"),
    Column("smoothing", "the share of labels that the loss takes for wrong"),
    Column("beta_dpo", "weight in the loss: label_scale times beta, over f″(1) of the divergence"),
)
"""A loss of DPO: what it is made of."""
HALF = 0.5
"""A penalty holds the policy if it leaves less than so much of the KL that training without one
comes to, for sure.
"""
SEED = integer("seed", "of the random numbers of a run", "Seed")
REWARD = Column("reward", "of the program, mean over completions, ± 95 %", heading="Reward")
KL = Column(
    "kl",
    "KL(q‖p) of whole completions, sum of the tokens' exact KLs, in nats, ± 95 %",
    "nats",
    heading="KL",
)
PROXY = Column(
    "proxy",
    "score of the reward model, in the reward's units, 0 on the pairs it learned from, ± 95 %",
    heading="Paid",
    optional=True,
)
MEASURES = (
    *(
        Column(
            name,
            f"{name} of the same completions, summed over tokens, in nats, ± 95 %",
            "nats",
            heading=name,
        )
        for name in ("k1", "k2", "k3")
    ),
    Column("objective", "reward − β KL, with the exact KL, ± 95 %", heading="Objective"),
    Column("tokens", "mean length of a completion", "tokens", heading="Tokens"),
    Column("ended", "share of completions that came to their end"),
    Column(
        "kl_estimate", "KL(q‖p) of the same completions, as the estimator in use has it", "nats"
    ),
    Column(
        "estimate_error",
        "KL as the estimator in use has it, less the exact one, in nats, ± 95 %",
        "nats",
        heading="Error",
    ),
)


SPREADS = {"kl": "KL by seed", "reward": "Reward by seed"}


def errors(*columns: Column) -> tuple[Column, ...]:
    """Return columns, each with its standard error over completions."""
    return tuple(each for column in columns for each in with_error(column))


def differences(column: Column) -> tuple[Column, ...]:
    """Return the mean of a column over seeds, its spread between them, and its paired
    differences, completion by completion.
    """
    others = (
        replace(
            column,
            name=f"{column.name}_difference",
            meaning=f"{column.name} less the reference combination's",
        ),
        replace(
            column,
            name=f"{column.name}_gain",
            meaning=f"{column.name} less the untrained policy's, completion by completion, ± 95 %",
            heading="Gain",
        ),
    )
    spread = f"standard deviation of {column.name} between seeds; missing with one seed"
    return (
        *errors(column),
        replace(
            column,
            name=f"{column.name}_spread",
            meaning=spread,
            heading=SPREADS.get(column.name, ""),
        ),
        *errors(*others),
    )


def training(name: Column, *own: Column) -> Schema:
    """Return the table of how training went, with the columns that one algorithm has."""
    return Schema(
        "training",
        "One row for each combination, seed and report: the policy then, on the completions of its"
        " latest batch.",
        (
            text("algorithm", "ppo, reinforce, grpo, dpo or that of a trainer"),
            name,
            *COMBINATION[1:],
            Column("beta", "weight of the penalty against the reward", heading="β"),
            SEED,
            integer("step", "updates so far", "Update"),
            Column("regret", "always missing: no optimum is known here"),
            Column("kl_to_optimum", "always missing: no optimum is known here", "nats"),
            *own,
            *errors(REWARD, KL, PROXY, *MEASURES),
            text("status", "ok, or at which update it diverged and why"),
        ),
    )


def compared(name: Column, *own: Column) -> Schema:
    """Return the table of where training ended, with the columns that one algorithm has."""
    share = Column(
        "kl_share",
        "KL over that of training without a penalty, with a 95 % interval over seeds (one seed:"
        " over completions)",
        heading="Of none's",
    )
    low, high, seeds = (replace(each, since=1) for each in interval(share, seeds=True)[1:])
    return Schema(
        "compared",
        "One row for each combination, and one for the untrained policy: its policies in the end,"
        " on the same prompts and random numbers, means over seeds with standard errors over"
        " completions.",
        (
            name,
            *COMBINATION[1:],
            integer("seeds", "seeds that did not diverge", "Seeds"),
            *differences(REWARD),
            *differences(KL),
            *differences(PROXY),
            *errors(*MEASURES),
            integer("diverged", "seeds that diverged, and are left out"),
            share,
            low,
            high,
            seeds,
            text(
                "outcome",
                "holds: less than half of the KL without a penalty, by the whole interval; does not"
                " hold: more; not told",
                "Outcome",
            ),
            text(
                "estimate_outcome",
                "the estimator in use against the exact KL: too high or too low, or within noise"
                " (95 %)",
                "Estimate",
                since=1,
            ),
            *own,
        ),
    )


PPO_TRAINING = training(
    NAME,
    Column("beta_used", "weight of the penalty at that update, which a target KL moves"),
    Column("clip_fraction", "share of the update's tokens whose ratio was clipped"),
    Column("clamp_fraction", "share of the update's tokens whose penalty was clamped"),
)
DPO_TRAINING = training(
    LOSS_NAME,
    *LOSS,
    Column("loss", "on the step's pairs, nats a pair", "nats"),
    Column(
        "accuracy", "share of the step's pairs that the implicit reward ranks as they are labelled"
    ),
    Column(
        "margin",
        "mean implicit reward of the better completion less that of the worse, on the step's pairs",
    ),
)
PPO_COMPARED, DPO_COMPARED = compared(NAME), compared(LOSS_NAME, *LOSS)

TEXTS, RATERS = declared(__file__)
PPO = (PPO_TRAINING, PPO_COMPARED, TEXTS, COMBINATIONS, RATERS)
DPO = (DPO_TRAINING, DPO_COMPARED, TEXTS)
