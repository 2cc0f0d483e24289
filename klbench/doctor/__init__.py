"""The doctor: what is going on in a run, by the log-probabilities that it recorded.

A file is read once, in batches: sums for the statistics, and some whole rollouts for the signs
that tell causes apart. The package can be called itself: ``klbench.doctor(frame_or_path)``.
"""

from __future__ import annotations

import importlib
import sys
from types import ModuleType
from typing import Any


class _Package(ModuleType):
    def __call__(self, *args: Any, **options: Any) -> Any:
        return importlib.import_module("klbench.doctor.api").doctor(*args, **options)


sys.modules[__name__].__class__ = _Package
