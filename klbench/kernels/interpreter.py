"""Triton's interpreter, whether it is in use."""

from __future__ import annotations

import os


def interpreted() -> bool:
    """Whether Triton's kernels run as Python, on any device: for tests, and slowly. Set before Triton is first imported."""
    return os.environ.get("TRITON_INTERPRET", "0").lower() in ("1", "true", "on")
