"""Callbacks for trainers: what the doctor says while training."""

from __future__ import annotations

from klbench.integrations import trl

__all__ = ["trl"]
