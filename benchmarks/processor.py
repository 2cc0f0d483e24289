"""Seconds on the processor: a neighbour that takes the core away for a while adds nothing."""

from __future__ import annotations

import resource
import time


def seconds() -> float:
    """Return those of this process, and of all processes that it has started and seen end."""
    ended = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + ended.ru_utime + ended.ru_stime
