"""Triton's interpreter, whether it is in use."""

from __future__ import annotations

import os


def interpreted() -> bool:
    """Return whether Triton's kernels run as Python, slowly, on any device.

    For tests; set before Triton's first import.
    """
    return os.environ.get("TRITON_INTERPRET", "0").lower() in ("1", "true", "on")
