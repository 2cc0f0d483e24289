"""The kinds of factors that off-policy corrections are made of."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

Scope = Literal["token", "sequence", "level"]
"""The owner of a factor: each token, its sequence, or the level at which the estimator stands."""
Over = Literal["token", "sum", "mean", "max", "every", "level"]
"""The way from the numbers of tokens to the one that is held against the bounds."""


@dataclass(frozen=True)
class Kind:
    """The shape of a factor.

    Parameters
    ----------
    scope
        Whose number the weight is.
    bounds
        The numbers that may follow its name, and their defaults: none, ``(high,)`` or ``(low,
        high)``.
    meaning
        What it is, for people.
    statistic, over
        What must be inside the bounds for it not to be 0; empty: nothing must.
    keeps
        What it is inside: the ratio, or 1.
    signed
        It depends on the sign of the advantage, which only a score has.
    """

    scope: Scope
    bounds: tuple[float, ...]
    meaning: str
    statistic: str = ""
    over: Over = "level"
    keeps: Literal["ratio", "1"] = "ratio"
    signed: bool = False


def _rejections() -> Iterator[tuple[str, Kind]]:
    """The rejections of verl, by their names there: 1 for what they keep."""
    for where, over in REDUCED.items():
        scope: Scope = "token" if where == "token" else "sequence"
        for what in ("k2", "k3", *(("binary_kl", "tv") if over == "mean" else ())):
            name = f"{where}_{what}"
            yield (
                name,
                Kind(scope, (2.0,), f"1 where {name} of mu to q is not above", what, over, "1"),
            )
        if over != "max":
            meaning = f"1 where {over} mu/q is inside the bounds".replace(
                "mean", "geometric mean of"
            )
            yield f"{where}_k1", Kind(scope, (0.5, 2.0), meaning, "inverse", over, "1")


REDUCED: dict[str, Over] = {
    "token": "token",
    "seq_sum": "sum",
    "seq_mean": "mean",
    "seq_max": "max",
}
SMALL, PUSHED = "the ratio of a token where {} is small", "; or which the advantage pushes back"
BINARY = {"kl": "KL(mu‖q) of it against all others", "tv": "the change of its probability"}
KINDS: dict[str, Kind] = {
    "token_ratio": Kind("token", (), "the token's ratio"),
    "prefix_ratio": Kind("token", (), "the ratio of all tokens up to it"),
    "decision_ratio": Kind("token", (), "each term with the ratio of the tokens that led to it"),
    "sequence_ratio": Kind("sequence", (), "the ratio of the whole sequence"),
    "geometric_ratio": Kind("sequence", (), "the geometric mean of the tokens' ratios (GSPO)"),
    "truncated_ratio": Kind("level", (2.0,), "the ratio, cut off above (TIS)"),
    "clipped_ratio": Kind("level", (0.0, 5.0), "the ratio, moved to the nearer bound (CISPO)"),
    "masked_ratio": Kind("level", (0.5, 5.0), "the ratio inside the bounds (IcePop)", "ratio"),
    "sequence_mask": Kind("sequence", (3.0,), "the sequence's ratio up to the cap", "ratio", "sum"),
    "truncated_sequence_ratio": Kind("sequence", (2.0,), "the sequence's ratio, cut off above"),
    "clipped_sequence_ratio": Kind(
        "sequence", (0.0, 5.0), "the sequence's ratio, moved to the nearer bound"
    ),
    "masked_sequence_ratio": Kind(
        "sequence", (0.5, 5.0), "the sequence's ratio inside the bounds", "ratio", "sum"
    ),
    "geometric_mask": Kind(
        "level", (0.5, 5.0), "the ratio where its geometric mean is inside", "ratio", "mean"
    ),
    "clipped_geometric_ratio": Kind(
        "sequence", (0.0, 2.0), "their geometric mean over the sequence, moved to the nearer bound"
    ),
    "masked_geometric_ratio": Kind(
        "sequence", (0.5, 5.0), "their geometric mean inside the bounds", "ratio", "mean"
    ),
    "every_ratio": Kind(
        "sequence", (0.01, 100.0), "1 where each token's ratio is inside", "ratio", "every", "1"
    ),
    "block_ratio": Kind("token", (2.0,), "the ratio of all tokens up to the end of its block"),
    "truncated_decision_ratio": Kind(
        "token", (2.0,), "each term with the ratio of the tokens that led to it, cut off above"
    ),
    "binary_kl": Kind("level", (0.05,), SMALL.format(BINARY["kl"]), "binary_kl"),
    "tv": Kind("level", (0.2,), SMALL.format(BINARY["tv"]), "tv"),
    "fall": Kind("token", (0.2,), SMALL.format("the fall of its probability"), "fall", "token"),
    "dppo_kl": Kind(
        "token", (0.05,), SMALL.format(BINARY["kl"]) + PUSHED, "binary_kl", "token", signed=True
    ),
    "dppo_tv": Kind(
        "token", (0.2,), SMALL.format(BINARY["tv"]) + PUSHED, "tv", "token", signed=True
    ),
    "ppo_ratio": Kind(
        "level", (0.8, 1.2), "the ratio inside the bounds (PPO)" + PUSHED, "ratio", signed=True
    ),
    "ppo_geometric_ratio": Kind(
        "sequence",
        (0.8, 1.2),
        "the geometric mean of the tokens' ratios inside the bounds (GSPO's clip)" + PUSHED,
        "ratio",
        "mean",
        signed=True,
    ),
    "gmpo": Kind(
        "sequence",
        (0.67, 1.5),
        "the geometric mean of the tokens' ratios, each moved to a bound that the advantage pushes"
        " it beyond, and 0 for tokens that are moved (GMPO)",
        signed=True,
    ),
    "dual_clip": Kind(
        "token",
        (3.0,),
        "0 for tokens of negative advantage whose ratio is above, else 1",
        "ratio",
        "token",
        "1",
        signed=True,
    ),
    "faded_ratio": Kind(
        "token",
        (1.0, 1.05),
        "the ratio r times the slope of SAPO's gate, 4 s (1 - s) with s = sigmoid(tau (r - 1)), the"
        " second tau where the advantage is not positive",
        signed=True,
    ),
    "vaco": Kind(
        "token",
        (0.2,),
        "1 where the mean |q/mu - 1| of the sequence is not above" + PUSHED,
        "change",
        "mean",
        "1",
        signed=True,
    ),
    "opsm": Kind(
        "sequence",
        (0.1,),
        "0 for sequences of negative advantage whose mean log mu/q is above, else 1",
        "log_inverse",
        "mean",
        "1",
        signed=True,
    ),
    **dict(_rejections()),
}
"""The ratios, the masks that keep the ratio inside their bounds, and the rejections that keep 1."""
