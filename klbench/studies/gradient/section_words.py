"""A combination in plain words."""

from __future__ import annotations

from klbench.studies.gradient.section_data import Row

BASELINES = {
    "batch_mean": "minus the group's mean",
    "leave_one_out": "minus the mean of the others of its group",
    "token_kl": "minus the exact KL of each next token",
}
RATIOS = {
    "token_ratio": "the token's q/μ",
    "prefix_ratio": "q/μ of the tokens up to it",
    "sequence_ratio": "q/μ of the whole sequence",
}
PLACES = {
    "loss": "loss",
    "straight_through": "straight-through",
    "loss_and_reward": "loss and reward",
    "reward": "reward",
    "reward_to_go": "reward to go",
    "full": "full KL",
    "full_with_score": "full KL and score",
}


def in_words(row: Row) -> str:
    """What is done: which number of what, what becomes of it, and what it is weighted with."""
    of = "of the whole sequence" if row.level == "sequence" else "of each token"
    said = {
        "loss": f"{row.estimator} {of}, differentiated",
        "straight_through": f"value of {row.estimator}, gradient of {row.gradient_of}, {of}",
        "loss_and_reward": f"{row.estimator} {of}, differentiated, and also held fixed times the score",
        "reward": f"{row.estimator} {of}, held fixed, times the score of the whole sequence",
        "reward_to_go": f"{row.estimator} {of}, held fixed, times the score of the tokens up to it",
        "full": "KL over the whole vocabulary at each token, differentiated",
        "full_with_score": "KL over the whole vocabulary at each token, differentiated, and times the score of the tokens "
        "before it",
    }.get(row.placement, f"{row.estimator} {of}, {row.placement}")
    if row.baseline not in ("none", ""):
        said += f", {BASELINES.get(row.baseline, row.baseline)}"
    if row.correction not in ("none", ""):
        cut = "the " + ("sequence" if row.level == "sequence" else "token") + "'s q/μ, cut off"
        ratio = cut if row.correction == "truncated_ratio" else RATIOS.get(row.correction, row.correction)
        said += f"; weighted with {ratio}" + (", which is differentiated too" if row.ratio_gradient else "")
    return said
