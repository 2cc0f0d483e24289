"""The tables of the ppo study."""

from __future__ import annotations

from dataclasses import replace

from klbench.columns import COMBINATION, COMBINATIONS
from klbench.schema import Column, Schema, flag, integer, interval, text, with_error

REFERENCE, NONE = "k1_reward", "none"
"""The combination that others are compared with, and no penalty at all."""
OPTIMUM, GREEDY = "optimum", "greedy"
FLOORS = ("token_kl", "token_k3", "sequence_k3")
"""Fixed points that are not the optimum, and that training can come to rest at."""
WORDS = {
    OPTIMUM: "the optimum",
    "token_kl": "token-level KL(q‖p)",
    "token_k3": "token-level KL(p‖q)",
    "sequence_k3": "KL(p‖q) of sequences",
    GREEDY: "the best sequence alone",
    "": "none known",
}

WITHOUT_PENALTY = "; none: the reward alone, no penalty at all"
WHO = (replace(COMBINATION[0], meaning=COMBINATION[0].meaning + WITHOUT_PENALTY), *COMBINATION[1:])
NAME = WHO[0]

ALGORITHM = text("algorithm", "ppo, reinforce, grpo, or that of a trainer")
BETA = Column("beta", "weight of the penalty", heading="β")
SEED = integer("seed", "number of the replica; it draws the reference, the reward and all samples")
STEP = integer("step", "updates so far")
SEEDS = integer("seeds", "seeds that did not diverge, over which the means are", "Seeds")
DIVERGED = integer("diverged", "seeds that diverged")
REWARD = Column("reward", "E r, exact", heading="Reward")
KL = Column("kl", "KL(q‖p) of whole sequences, exact, in nats", "nats", heading="KL")
REGRET = Column(
    "regret",
    "J* − J(q): how far the exact objective stays below the largest possible one",
    heading="Regret",
)
KL_TO_OPTIMUM = Column(
    "kl_to_optimum", "KL of the policy to the optimum, exact: regret / β", "nats"
)
OBJECTIVE = Column("objective", "J(q) = E r − β KL(q‖p), exact")
CLIP = Column(
    "clip_fraction", "share of tokens that the clip of the ratio cut off", heading="Clipped"
)
CLAMP = Column(
    "clamp_fraction", "share of tokens at which the penalty was cut off", heading="Clamped"
)
LOSS_BETA = Column(
    "loss_beta",
    "β of a penalty in the loss in effect, against the reward as whitening or a controller have scaled it",
)
LOST = Column("lost", "nats by which the token's logit was pushed down", "nats", heading="Lost")


def _band(column: Column) -> tuple[Column, ...]:
    """Return a column and the quantiles between which the middle 80 % of the seeds lie."""
    ends = (("low", "10 %"), ("high", "90 %"))
    return (
        column,
        *(
            replace(
                column,
                name=f"{column.name}_{end}",
                meaning=f"{at} quantile of {column.name} over seeds",
                heading="",
            )
            for end, at in ends
        ),
    )


TRAINING = Schema(
    "training",
    "One row for each combination, seed and evaluation of the policies in training.",
    (
        ALGORITHM,
        *WHO,
        BETA,
        SEED,
        STEP,
        REWARD,
        KL,
        *with_error(
            Column(
                "kl_estimate",
                "what the combination's own estimator said of KL(q‖p) on the last batch",
                "nats",
            )
        ),
        OBJECTIVE,
        REGRET,
        KL_TO_OPTIMUM,
        Column("sampled_reward", "mean reward of the last batch"),
        CLIP,
        CLAMP,
        LOSS_BETA,
        Column("beta_used", "weight of the penalty at that update, as a controller has set it"),
        text("status", "ok, or when and why the replica diverged: it stands still from then on"),
    ),
)

FINAL = Schema(
    "final",
    "One row for each combination: where training ended, over the seeds that did not diverge.",
    (
        *WHO,
        SEEDS,
        text(
            "fixed_point",
            "the policy at which its mean gradient vanishes; empty: none is known",
            "Heads for",
        ),
        Column("start_regret", "regret before training, mean over all seeds"),
        *interval(
            replace(
                REGRET,
                meaning=f"{REGRET.meaning}, after training, mean over seeds; its interval ends at 0",
            )
        ),
        *interval(
            Column(
                "start_difference",
                "regret after training less that before, of the same seeds",
                since=1,
            ),
            seeds=True,
        ),
        *interval(
            Column(
                "difference",
                "regret less that of the comparison, k1_reward or else the first, on the same seeds",
                heading="Difference",
            ),
            seeds=True,
        ),
        Column(
            "effect_size",
            "mean over standard deviation of these differences (Cohen's d for pairs)",
            heading="Effect",
        ),
        REWARD,
        KL,
        KL_TO_OPTIMUM,
        *interval(
            Column(
                "estimate_error",
                "mean over all evaluations of what its own estimator said, less the exact KL",
                "nats",
                heading="Estimate − KL",
            )
        ),
        CLIP,
        CLAMP,
        LOSS_BETA,
        DIVERGED,
        text("outcome", "verdict of the intervals", "Outcome"),
        text(
            "altered_by",
            "settings by which training follows another gradient than that of the objective as written",
        ),
        flag(
            "leads",
            "stands for its fixed point: k1_reward for the optimum, else the best; all without one do",
            since=1,
        ),
        text(
            "start_outcome",
            "verdict of the interval of start_difference",
            "Against no training",
            since=1,
        ),
    ),
)

CURVES = Schema(
    "curves",
    "One row for each combination and evaluation: means over the seeds that have not diverged, and the middle 80 % of them.",
    (
        NAME,
        STEP,
        SEEDS,
        *_band(REGRET),
        *_band(KL),
        *_band(
            Column("kl_estimate", "what the combination's own estimator said of KL(q‖p)", "nats")
        ),
        *_band(REWARD),
    ),
)

FRONTIER = Schema(
    "frontier",
    "One row for each combination and weight of the penalty: reward and KL after training.",
    (
        NAME,
        BETA,
        SEEDS,
        DIVERGED,
        *interval(KL),
        *interval(REWARD),
        Column("frontier_reward", "largest expected reward that a policy of that KL can have"),
        *interval(
            Column(
                "shortfall", "reward missing to the best policy of the same KL", heading="Missing"
            )
        ),
    ),
    optional=True,
)

MATCHED = Schema(
    "matched",
    "One row for each combination and weight of the penalty: reward at the KL to which k1_reward came with that weight.",
    (
        NAME,
        BETA,
        Column("kl", "KL to which k1_reward comes", "nats", heading="KL"),
        integer("seeds", "seeds whose points reach that KL", "Seeds"),
        *interval(
            Column(
                "difference",
                "reward less that of the comparison at the same KL, interpolated in √KL between a seed's points",
                heading="Reward − the other's",
            )
        ),
    ),
    optional=True,
)

NOISE_FREE = Schema(
    "noise_free",
    "One row for each combination, seed and evaluation of training on exact gradients.",
    (
        *WHO,
        text("same_gradient_as", "the combination of the same mean gradient that was followed"),
        BETA,
        SEED,
        STEP,
        REWARD,
        KL,
        OBJECTIVE,
        REGRET,
        KL_TO_OPTIMUM,
    ),
    optional=True,
)

TRAININGS = {
    "predicted": ("at the fixed point, computed before training", "Predicted", False),
    "free": (
        "reached by the signs of exact gradients, a logit for every token after every prefix",
        "Free logits",
        True,
    ),
    "noise_free": ("reached on exact gradients by the policy itself", "No noise", True),
    "sampled": ("reached in training, on the same seeds", "Noise", False),
}


def _reached(column: str, what: str, unit: str = "", short: str = "") -> tuple[Column, ...]:
    """Return a quantity as predicted and as each kind of training reached it, with intervals."""
    columns = [
        Column(
            f"{kind}_{column}", f"{what} {how}", unit, heading=short or heading, optional=optional
        )
        for kind, (how, heading, optional) in TRAININGS.items()
    ]
    return tuple(each for one in columns for each in interval(one))


WAY = Column(
    "sampled_way",
    "share of the way in regret from the start to the prediction that training has gone",
    heading="Way gone",
)

FIXED_POINTS = Schema(
    "fixed_points",
    "One row for each combination: where its mean gradient vanishes, and where three trainings ended.",
    (
        *WHO,
        text("fixed_point", "name of that policy; empty: none is known"),
        text(
            "formula",
            "the policy at which the mean gradient of the whole objective vanishes",
            "Fixed point",
        ),
        Column(
            "residual",
            "norm of the mean gradient there, over that at the reference: 0 but for rounding",
            heading="Gradient",
        ),
        integer("seeds", "seeds over which all of the row is"),
        Column("start_regret", "regret before training, mean over these seeds"),
        *_reached("regret", "regret"),
        integer("sampled_seeds", "seeds of them that did not diverge"),
        WAY,
        *interval(replace(WAY, since=1), seeds=True)[1:],
        *_reached("kl", "KL(q‖p) in nats,", "nats", "KL"),
        *_reached("reward", "expected reward", short="Reward"),
        Column("free_steps", "steps that the free logits took at most", optional=True, since=1),
        Column(
            "free_residual",
            "largest norm over seeds of their gradient after these steps",
            optional=True,
            since=1,
        ),
        Column(
            "free_unsettled",
            "seeds whose free logits still had a gradient when their steps were used up",
            heading="Not at rest",
            optional=True,
            since=1,
        ),
        text(
            "arrived",
            "training came to the fixed point: within 25 % of the distance from the start, by the whole 95 % interval of "
            "sampled_way; empty for the optimum, and where nothing holds the policy",
            "Arrived",
            since=1,
        ),
    ),
)

PROBABILITY = Column(
    "probability",
    "the token's probability after training on samples, mean over prompts",
    heading="End",
)
EXACT = Column(
    "exact_probability", "the same after as many steps on exact gradients", heading="Exact"
)

RECOVERY = Schema(
    "recovery",
    "One row for each combination and depth to which a token's logit was pushed down: what training made of it.",
    (
        *WHO,
        LOST,
        SEEDS,
        integer("updates", "updates of training"),
        DIVERGED,
        Column(
            "reference_probability",
            "probability that the reference holds, mean over prompts and seeds",
        ),
        Column("optimum_probability", "probability that the optimum holds"),
        Column(
            "start_sampled", "probability that a batch at the start has the token at some prompt"
        ),
        Column(
            "start_probability",
            "the token's probability at the start, mean over prompts and seeds",
            heading="Start",
        ),
        *interval(PROBABILITY),
        *interval(EXACT),
        *interval(
            Column(
                "sampled_share",
                "share of updates whose batch had it at some prompt",
                heading="Drawn",
            )
        ),
        *interval(
            Column("expected_norm", "norm of the exact gradient at the start", heading="Exact norm")
        ),
        *interval(
            Column(
                "norm_median",
                "median norm of the sampled gradients, mean over seeds",
                heading="Median norm",
            )
        ),
        *interval(Column("norm_99", "99 % quantile of the norms, mean over seeds", heading="99 %")),
        Column("norm_max", "largest norm over all updates and seeds", heading="Largest"),
        Column("never_sampled", "share of seeds that never drew it", heading="Never"),
        Column(
            "first_sampled", "update at which it was first drawn, median over seeds that drew it"
        ),
    ),
    optional=True,
)

RECOVERY_CURVES = Schema(
    "recovery_curves",
    "One row for each combination, depth and evaluation: the pushed-down token's probability, over seeds.",
    (
        NAME,
        LOST,
        STEP,
        PROBABILITY,
        EXACT,
        Column("low", "smallest probability over seeds"),
        Column("high", "largest probability over seeds"),
    ),
    optional=True,
)

TABLES = (
    TRAINING,
    FINAL,
    CURVES,
    FRONTIER,
    MATCHED,
    NOISE_FREE,
    FIXED_POINTS,
    RECOVERY,
    RECOVERY_CURVES,
    COMBINATIONS,
)
