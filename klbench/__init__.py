"""Numerical benchmarks of Kullback-Leibler divergence estimators, as RLHF uses them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from klbench import (
        audit,
        divergences,
        doctor,
        estimators,
        gradients,
        integrations,
        kernels,
        pairs,
        rlhf,
        streams,
        testing,
        trainers,
    )
    from klbench.engine.app import run
    from klbench.engine.execution import Run
    from klbench.machine import __version__
    from klbench.types import ConfigError, Draws, RunError

__all__ = [
    "ConfigError",
    "Draws",
    "Run",
    "RunError",
    "__version__",
    "audit",
    "divergences",
    "doctor",
    "estimators",
    "gradients",
    "integrations",
    "kernels",
    "pairs",
    "rlhf",
    "run",
    "streams",
    "testing",
    "trainers",
]

_HOME = {
    "Run": "engine.execution",
    "run": "engine.app",
    "ConfigError": "types",
    "Draws": "types",
    "RunError": "types",
    "__version__": "machine",
}


def __getattr__(name: str) -> Any:
    # On first use, so that `import klbench` and `--help` cost nothing.
    import importlib

    if name in _HOME:
        return getattr(importlib.import_module(f"klbench.{_HOME[name]}"), name)
    if name in __all__:
        return importlib.import_module(f"klbench.{name}")
    raise AttributeError(f"module 'klbench' has no attribute {name!r}")
