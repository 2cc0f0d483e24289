"""Divergences of the tokens of a support, a file each.

``topk_NAME`` is the function ``divergence`` of ``NAME.py`` here; a new file is a new objective of
distillation. It is given log-probabilities ``log_a`` and ``log_b``, ``(..., V)``, and the support
as booleans, and returns the estimate of KL(a‖b), ``(...)``, differentiable in both.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable
from typing import Any

PREFIX = "topk_"
PLAIN = "raw"


def names() -> tuple[str, ...]:
    """Return the names of all, the raw sum first; nothing heavy is imported for that."""
    found = sorted(part.name for part in pkgutil.iter_modules(__path__))
    return tuple(PREFIX + name for name in sorted(found, key=lambda name: name != PLAIN))


def get(name: str) -> Callable[..., Any]:
    """Return the divergence of one of these names."""
    module = importlib.import_module(f"{__name__}.{name.removeprefix(PREFIX)}")
    found: Callable[..., Any] = module.divergence
    return found
