"""The probe of a function: the part of its value, and of its gradient, that the KL makes."""

from __future__ import annotations

from dataclasses import replace
from functools import cached_property

import numpy as np

from klbench.audit.adapter import CallError, Function, Result
from klbench.audit.batches import SHAPE, Batch, random
from klbench.types import ConfigError


class Probe:
    """A function, and how it is used.

    A loss is taken at advantages of 0, where that is possible, and what a coefficient of 0 leaves
    is subtracted; where it has neither, what the policy in place of the reference leaves.

    Raises
    ------
    ConfigError
        What it gives back has no shape that is known, or it raises on ordinary inputs.
    """

    def __init__(self, function: Function, used_as: str) -> None:
        self.function, self.plan, self.used_as = function, function.plan, used_as
        self.shape = self._call(random("shape")).value.shape
        kind = _kind(self.shape)
        grown = self.shape[:2] == (SHAPE[0], SHAPE[0]) or np.prod(self.shape) > np.prod(SHAPE)
        if kind == "other" and not grown and self.shape not in (SHAPE[1:], SHAPE[::-1]):
            raise ConfigError(
                f"inputs of shape {SHAPE} give an output of shape {self.shape}; expected one"
                " number, or one a sequence or token"
            )
        self.per_vocabulary = kind == "vocabulary"
        self.output = "token" if self.per_vocabulary else kind
        self.still = False
        self._rest = self._way() if used_as != "kl" and self.compares else ""

    def _way(self) -> str:
        self.still = self.plan.has("advantages") and self._finite(
            _still(random("way", masked=True))
        )
        if self.plan.has("beta"):
            return "beta"
        return "" if self.still or not self.plan.has("advantages") else "same"

    def _finite(self, batch: Batch) -> bool:
        found = self._call(batch, gradients=(self.plan.learned,))
        slope = found.gradients[self.plan.learned]
        return bool(np.isfinite(found.value).all()) and (
            slope is None or bool(np.isfinite(slope).all())
        )

    def _parts(
        self, batch: Batch, beta: float | None, **options: object
    ) -> tuple[Result, Result | None]:
        """Return the call, and that of the rest, where it has one."""
        batch = _still(batch) if self.still else batch
        whole = self._call(batch, beta=beta, **options)
        if self._rest == "beta":
            return whole, self._call(batch, beta=0.0, **options)
        return whole, (
            self._call(batch.same(), beta=beta, **options) if self._rest == "same" else None
        )

    @property
    def shape_factors(self) -> tuple[float, ...]:
        """The factor of a probe in a sum over rows, tokens or both."""
        rows, tokens = SHAPE
        return float(rows), float(tokens), float(rows * tokens)

    @cached_property
    def compares(self) -> bool:
        """Return whether it has a KL: a loss may have none."""
        return self.plan.has("log_ratio") or "p" in self.plan.sides.values()

    def _call(self, batch: Batch, **options: object) -> Result:
        try:
            return self.function(batch, **options)  # type: ignore[arg-type]
        except CallError as error:
            raise ConfigError(str(error)) from error

    def part(self, batch: Batch, dtype: str = "", beta: float | None = None) -> np.ndarray:
        """Return the value that the KL makes, float64.

        Summed over the vocabulary where it is not yet.
        """
        whole, rest = self._parts(batch, beta, dtype=dtype)
        value = whole.value if rest is None else whole.value - rest.value
        if self.used_as == "reward" and self.plan.has("advantages"):
            value = -value  # what a reward loses
        return value.sum(-1) if self.per_vocabulary else value

    def one(self, batch: Batch) -> float:
        """Return the value where all tokens are equal: the median of the outputs."""
        return float(np.median(self.part(batch)))

    def slope(self, batch: Batch, role: str | None = None, dtype: str = "") -> np.ndarray | None:
        """Return the gradient of the sum of the outputs that the KL makes.

        None where none flows to that role.
        """
        role = role or self.plan.learned
        whole, rest = self._parts(batch, None, dtype=dtype, gradients=(role,))
        found, other = whole.gradients[role], None if rest is None else rest.gradients[role]
        return found if found is None or other is None else found - other


def _still(batch: Batch) -> Batch:
    return replace(batch, advantages=0.0 * batch.advantages)


def _kind(shape: tuple[int, ...]) -> str:
    rows, tokens = SHAPE
    if shape in ((), (1,), (1, 1)):
        return "number"
    if shape in ((rows,), (rows, 1)):
        return "sequence"
    flat = ((rows * tokens,), (rows * (tokens - 1),))  # the tokens that count, one after the other
    if shape in (
        (rows, tokens),
        (rows, tokens - 1),
        (rows, tokens, 1),
        (rows, tokens - 1, 1),
        *flat,
    ):
        return "token"
    return (
        "vocabulary"
        if len(shape) == 3 and shape[:2] in ((rows, tokens), (rows, tokens - 1))
        else "other"
    )
