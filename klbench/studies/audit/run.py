"""The refusal to run an audit from a configuration: only what is typed is ever imported."""

from __future__ import annotations

from typing import Any, Never

from pydantic import ConfigDict

from klbench.context import Context
from klbench.types import ConfigError, Options


class AuditOptions(Options):
    """The contents of an audit's ``config.yaml``; none of them is acted upon."""

    model_config = ConfigDict(extra="allow")


def run(options: AuditOptions, context: Context) -> Never:
    """Refuse.

    Raises
    ------
    ConfigError
        Always.
    """
    named: Any = getattr(options, "target", None) or "TARGET"
    raise ConfigError(
        "an audit is made by its own command, from no configuration: "
        f"klbench audit {named} --out DIR"
    )
