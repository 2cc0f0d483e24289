"""The settings of the trainers study."""

from __future__ import annotations

from pydantic import Field

from klbench.types import Options


class TrainersOptions(Options):
    """Settings of the comparison of releases.

    Parameters
    ----------
    audits
        Folders with the tables of audits of one release each, as ``benchmarks/conformance.py``
        writes them.
    kl_token
        KL(q‖p) of the policies on which gradients are followed over the length, nats a token.
    chains
        How many of them.
    """

    audits: tuple[str, ...] = Field(min_length=1)
    kl_token: float = Field(default=0.01, gt=0.0, le=1.0)
    chains: int = Field(default=6, ge=1, le=100)
