"""Bundles of arrays that are merged in order and kept in files."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import ClassVar, Self

import numpy as np


@dataclass(frozen=True)
class Arrays:
    """A bundle of arrays that can be written to a file and read back."""

    greatest: ClassVar[tuple[str, ...]] = ()
    """Fields of which the greater one counts where bundles are merged; all others are added."""

    def merge(self, later: Self) -> Self:
        """Return both together."""
        return type(self)(
            **{
                each.name: (np.maximum if each.name in self.greatest else np.add)(
                    getattr(self, each.name), getattr(later, each.name)
                )
                for each in fields(self)
            }
        )

    def flat(self, prefix: str) -> dict[str, np.ndarray]:
        """Return the arrays by name, ``prefix.field``."""
        return {f"{prefix}.{each.name}": getattr(self, each.name) for each in fields(self)}

    @classmethod
    def of(cls, stored: Mapping[str, np.ndarray], prefix: str) -> Self:
        """Return the bundle that :meth:`flat` took apart."""
        return cls(**{each.name: stored[f"{prefix}.{each.name}"] for each in fields(cls)})
