"""The settings of the claims study."""

from __future__ import annotations

from typing import Any

from pydantic import Field, field_validator

from klbench import claims
from klbench.choices import once
from klbench.types import Options


def _all() -> tuple[str, ...]:
    return tuple(claims.names())


class ClaimsOptions(Options):
    """Settings of the claims study.

    Parameters
    ----------
    claims
        Which to check: names, one name, or ``all``.
    """

    claims: tuple[str, ...] = Field(default_factory=_all, min_length=1)

    @field_validator("claims", mode="before")
    @classmethod
    def _one_or_all(cls, value: Any) -> Any:
        return (_all() if value == "all" else (value,)) if isinstance(value, str) else value

    @field_validator("claims")
    @classmethod
    def _known(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for name in value:
            claims.get(name)
        return once(value)
