"""The settings of the doctor's study."""

from __future__ import annotations

from typing import Annotated

from pydantic import BeforeValidator, Field

from klbench.types import Options


def _several(value: object) -> object:
    return (value,) if isinstance(value, str) else value


class DoctorOptions(Options):
    """Settings of the doctor's study.

    Parameters
    ----------
    path
        A file of rollouts, or several in the order of steps.
    map
        The column of each role, where its name says nothing: ``{sampler: rollout_lp}``.
    text
        Whether texts of tokens may be shown.
    trainer
        Whose options the advice names.
    """

    path: Annotated[tuple[str, ...], BeforeValidator(_several)] = Field(min_length=1)
    map: dict[str, str] = Field(default_factory=dict)
    text: bool = False
    trainer: str = ""
