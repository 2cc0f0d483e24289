"""The settings of the same_kl study."""

from __future__ import annotations

from typing import Annotated, Any, Literal, get_args

from pydantic import AfterValidator, Field

from klbench.choices import Listed
from klbench.types import Options

Shape = Literal["tilt", "noise", "sharpened", "flattened", "hole", "spike"]


def _once(values: tuple[Any, ...]) -> tuple[Any, ...]:
    return tuple(dict.fromkeys(values))


class SameKlOptions(Options):
    """Settings of the study of shapes.

    Parameters
    ----------
    kls
        ``KL(q‖p)`` in nats.
    size
        Categories.
    depth
        q/p inside a hole.
    rarity
        p of the category that a spike raises.
    """

    shapes: Annotated[Listed[Shape], AfterValidator(_once)] = get_args(Shape)
    kls: Annotated[Listed[Annotated[float, Field(ge=1e-6, le=1.5)]], AfterValidator(_once)] = (
        0.003,
        0.01,
        0.03,
        0.1,
        0.3,
        1.0,
    )
    size: int = Field(default=32, ge=4, le=1_000)
    depth: float = Field(default=1e-3, ge=1e-12, lt=0.1)
    rarity: float = Field(default=1e-3, ge=1e-9, lt=0.1)
