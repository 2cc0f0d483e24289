"""The usual corrections of trainers: what they touch, and the weight that they leave."""

from __future__ import annotations

from typing import Any

from klbench.doctor.measures import Measured
from klbench.doctor.series import CUT, ICE, MASK
from klbench.doctor.statistics import estimate, mean_of, share_left

CORRECTIONS = (
    (
        "sequence_mask",
        "TRL",
        f"rollouts with a ratio above {MASK:g} are left out",
        "masked",
        "rollouts",
    ),
    ("token_truncate", "verl", f"a token's ratio is cut at {CUT:g}", "truncated", "n"),
    ("sequence_truncate", "verl", f"a rollout's ratio is cut at {CUT:g}", "capped", "rollouts"),
    (
        "icepop",
        "IcePop",
        f"tokens with a ratio outside {ICE[0]:g} to {ICE[1]:g} are left out",
        "iced",
        "n",
    ),
)
"""Name, whose default it is, what it does, the sums, and what it counts."""


def rows(m: Measured) -> list[dict[str, Any]]:
    """Return a row for each: the share that it touches, and the share of the weight left.

    The policy gradient over the sampler's rollouts is right when each is weighted by trainer over
    sampler. What is missing of the weight is missing of that gradient: its bias, if advantages do
    not depend on the ratio.
    """
    found = []
    for name, by, what, column, per in CORRECTIONS:
        share = estimate(m.groups, mean_of(column, per))
        left = estimate(m.groups, share_left(f"{column}_weight", per))
        found.append(
            {
                "name": name,
                "by": by,
                "what": what,
                "per": "token" if per == "n" else "rollout",
                "share": share.value,
                "share_se": share.se,
                "weight": left.value,
                "weight_se": left.se,
            }
        )
    return found
