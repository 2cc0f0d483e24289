"""The tables of the ppo study, from ``columns.yaml``."""

from __future__ import annotations

from klbench.columns import COMBINATIONS, declared
from klbench.rlhf.options import NONE, REFERENCE, compared_with

__all__ = ["NONE", "REFERENCE", "compared_with"]

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


DECLARED = (
    TRAINING,
    FINAL,
    CURVES,
    FRONTIER,
    MATCHED,
    NOISE_FREE,
    FIXED_POINTS,
    RECOVERY,
    RECOVERY_CURVES,
) = declared(__file__)
TABLES = (*DECLARED, COMBINATIONS)
