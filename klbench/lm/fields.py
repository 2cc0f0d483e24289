"""Types of settings that are checked as they are read: names of models, files of texts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

from pydantic import AfterValidator

from klbench.lm import names, prompts, rows


def checked(check: Callable[[str], object], *, optional: bool = True) -> AfterValidator:
    """Return a validator that lets a text through if a check does.

    An empty one as it is, if it may be left out.
    """

    def validate(value: str) -> str:
        if value or not optional:
            check(value)
        return value

    return AfterValidator(validate)


ModelName = Annotated[str, checked(names.check, optional=False)]
PromptFile = Annotated[str, checked(prompts.check_path)]
ExampleFile = Annotated[str, checked(lambda path: rows.check_path(path, rows.EXAMPLE, lines=True))]
