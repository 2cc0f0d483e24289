"""Callbacks for trainers: what the doctor says while training."""

from __future__ import annotations

import importlib
from typing import Any

__all__ = ["trl"]


def __getattr__(name: str) -> Any:
    # On first use: a callback loads the library that its trainer is built on.
    if name in __all__:
        return importlib.import_module(f"klbench.integrations.{name}")
    raise AttributeError(f"module 'klbench.integrations' has no attribute {name!r}")
