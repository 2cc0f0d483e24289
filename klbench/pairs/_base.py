"""The base of every pair, and the base that one-dimensional continuous pairs share."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Annotated, Any, ClassVar, Self

import numpy as np
from pydantic import AfterValidator, Field, PositiveFloat
from pydantic_core import PydanticUndefined

from klbench import divergences, quadrature
from klbench.estimators.bregman import bregman
from klbench.oracles import ExactMoments
from klbench.types import (
    Capabilities,
    Completions,
    Draws,
    Dtype,
    Estimator,
    GradientTask,
    Options,
    Skip,
    Truncated,
    Truth,
)

EXTREME = 1e15
"""Parameters beyond this, and scales below its inverse, have powers that doubles do not hold."""


def not_extreme(value: float) -> float:
    """A location, refused where its powers would overflow."""
    if abs(value) > EXTREME:
        raise ValueError(f"must be at most {EXTREME:g} in size, to be computed with")
    return value


def not_extreme_scale(value: float) -> float:
    """A positive scale or rate, refused where its powers would overflow or vanish."""
    if not 1.0 / EXTREME <= value <= EXTREME:
        raise ValueError(f"must be from {1.0 / EXTREME:g} to {EXTREME:g}, to be computed with")
    return value


Temperature = Annotated[float, Field(ge=0.01, le=100.0)]
"""By which logits are divided.

From all but certain of the most probable token to all but uniform.
"""
Location = Annotated[float, AfterValidator(not_extreme)]
Scale = Annotated[PositiveFloat, AfterValidator(not_extreme_scale)]


class Pair(Options, ABC):
    """A policy ``q``, a reference ``p``, and optionally a third distribution ``mu`` that the
    samples come from instead.

    Attributes
    ----------
    kind
        The name in the configuration.
    summary
        One line for ``--help``.
    label
        What the tables call this pair; made from the parameters where it is not given.
    series
        What it is one of, in a sweep: figures join the pairs of one series.
    measured_with
        The command for pairs that have no exact divergence of their own, and are measured token by
        token instead.
    capabilities
        What it can do with completions, of which :class:`klbench.types.CompletionSource` says more.
    later
        Fields that came after the first version. Where they have their defaults they are in no
        stream's name, so that the draws stay what they were.
    """

    kind: ClassVar[str]
    summary: ClassVar[str]
    measured_with: ClassVar[str] = ""
    capabilities: ClassVar[Capabilities] = Capabilities()
    later: ClassVar[Sequence[str]] = ()
    label: str = ""
    series: str = ""

    def __eq__(self, other: object) -> bool:
        # Not pydantic's, which would compare cached arrays too.
        return type(other) is type(self) and other.model_dump() == self.model_dump()

    def __getstate__(self) -> dict[Any, Any]:
        # Fields only: what a process has cached it would otherwise send to the others, and a task's
        # tensors do not travel.
        state = super().__getstate__()
        return state | {
            "__dict__": {key: state["__dict__"][key] for key in type(self).model_fields}
        }

    def parameters_text(self, *, exclude_none: bool = False) -> str:
        """Return the parameters as JSON, by which its streams are named.

        Neither label nor series.
        """
        fields = type(self).model_fields
        unused = {name for name in self.later if getattr(self, name) == fields[name].default}
        return self.model_dump_json(exclude={"label", "series", *unused}, exclude_none=exclude_none)

    @classmethod
    def node(cls) -> dict[str, Any]:
        """Return the plain data that ``pair=NAME`` stands for.

        The kind, and the class's defaults.
        """
        defaults = {
            name: field.get_default(call_default_factory=True)
            for name, field in cls.model_fields.items()
        }
        return {"kind": cls.kind} | {
            name: value.model_dump(exclude_unset=True) if isinstance(value, Options) else value
            for name, value in defaults.items()
            if value is not None and value is not PydanticUndefined
        }

    def plain(self) -> dict[str, Any]:
        return {"kind": self.kind} | super().plain()

    @property
    def unreached(self) -> float:
        """The probability that p gives to what q never samples.

        By so much is ``E_q[r]`` less than 1.
        """
        return 0.0

    @property
    @abstractmethod
    def off_policy(self) -> bool:
        """Return whether the sampler is ``mu``, so that the draws carry ``log_weight``."""

    @abstractmethod
    def describe(self) -> str:
        """A label made from the parameters."""

    @abstractmethod
    def draw(self, stream: np.random.Generator, n: int) -> Draws:
        """``n`` samples from ``q`` (or ``mu``) as float64 draws of shape ``(n,)``."""

    @abstractmethod
    def truth(self, target: str) -> Truth | None:
        """The exact divergence of that key, such as ``kl_qp``.

        None where no exact method serves.
        """

    @abstractmethod
    def finite_moment(self, order: float, weight_order: float = 0.0) -> bool:
        """Return whether ``E[w^weight_order r^order]`` is finite over the sampling distribution,
        ``w = q/mu``.
        """

    @abstractmethod
    def exact(self, estimators: Sequence[Estimator]) -> list[ExactMoments | None]:
        """Exact mean and standard deviation of each estimator's term.

        None where no exact method serves.
        """

    def gradient_task(self) -> GradientTask | Skip:
        """The policy as something with parameters, for the studies of gradients.

        Or why it is none.
        """
        return Skip(f"{self.kind} pairs have no policy gradient here")

    # What follows is klbench.types.CompletionSource, of a pair without completions.

    def completions(self, seed: int, shard: int, n: int) -> Completions | Skip:
        """Completions of shard ``shard``, at most ``n``; fewer where there are no more.

        Or why there are no tokens here.
        """
        return Skip(f"{self.kind} pairs have no tokens")

    @property
    def available(self) -> int | None:
        """The number of completions; None if it is unlimited."""
        return None

    @property
    def fingerprint(self) -> str:
        """A text that changes when the file does that completions are read from.

        Empty where there is none.
        """
        return ""

    @property
    def unread(self) -> tuple[str, ...]:
        """Columns of that file that are not read."""
        return ()

    @property
    def compute_device(self) -> str:
        """The device that the pair computes on: ``cpu`` or ``cuda``."""
        return "cpu"

    @property
    def chosen_kernel(self) -> str:
        """The kernel that scores; empty where none does."""
        return ""

    def placed(self, device: str) -> Self:
        """The same pair on that device, where it can be there."""
        return self

    def prepare(self) -> None:
        """Load, and where it is the first time build, all that the pair needs."""

    def on_policy(self) -> Self | None:
        """The pair whose completions give this one's truth: the policy's own.

        None where no others are needed.
        """
        return None

    def rescored(self, completions: Completions, dtype: Dtype) -> Completions | Skip:
        """The same tokens, scored in another dtype; or why not."""
        return Skip(f"{self.kind} pairs score nothing again")

    def truncated(self, completions: Completions, ks: Sequence[int]) -> list[Truncated] | Skip:
        """Return, for each k, the exact divergences when only k tokens are distinguished, or the
        reason why there are none.
        """
        return Skip(f"{self.kind} pairs score nothing again")

    def decode(self, token_ids: Sequence[int] | np.ndarray) -> list[str]:
        """The text of each token; empty where it is not known."""
        return [""] * len(token_ids)

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self:
        """Return a copy with other fields, which keeps nothing that was computed from the old
        ones.
        """
        copied = super().model_copy(update=update, deep=deep)
        for name in set(copied.__dict__) - set(type(self).model_fields):
            del copied.__dict__[name]
        return copied

    @cached_property
    def title(self) -> str:
        """The label in use."""
        return self.label or self.describe()

    def finite_second_moment(self, estimator: Estimator) -> bool:
        """Return whether the estimator's terms have a finite variance here."""
        return self._finite(estimator, 2.0)

    def finite_mean(self, estimator: Estimator) -> bool:
        """Return whether the estimator's terms have a finite mean here."""
        return self._finite(estimator, 1.0)

    def _finite(self, estimator: Estimator, power: float) -> bool:
        weight = power if estimator.needs_weight else 0.0
        return self.finite_moment(power * estimator.growth, weight) and self.finite_moment(
            -power * estimator.growth_at_zero, weight
        )

    def tail_index(self) -> float:
        """The Pareto k of the ratio's upper tail over the samples.

        1 over the largest finite order; 0 for lighter tails.
        """
        low, high = 0.0, 1e6
        if self.finite_moment(high):
            return 0.0
        for _ in range(100):
            middle = (low + high) / 2
            low, high = (middle, high) if self.finite_moment(middle) else (low, middle)
        return math.inf if low == 0.0 else 1.0 / low


def at_temperatures(sampled: float, scored: float) -> str:
    """Return in words whose distributions samples are of, and which are compared.

    Empty at a temperature of 1 throughout.

    With logits divided by T these are three: KL(q‖p) of the models as they are, KL(q_T‖p_T) of both
    at T, and the mean of ``log q/p`` over samples of q_T, which is no KL.
    """
    if sampled == scored == 1.0:
        return ""
    whose = "q and p" if scored == 1.0 else f"both q and p at T={scored:g}"
    return f", sampled at T={sampled:g}, scored by {whose}"


class Density(Options, ABC):
    """A one-dimensional density with a fixed family: its parameters are its fields."""

    lower: ClassVar[float] = -math.inf

    @abstractmethod
    def log_density(self, x: np.ndarray) -> np.ndarray:
        """Log-density at ``x``, any shape."""

    @abstractmethod
    def sample(self, stream: np.random.Generator, n: int) -> np.ndarray:
        """``n`` samples."""

    @property
    @abstractmethod
    def modes(self) -> tuple[tuple[float, float], ...]:
        """Location and scale of each mode; kinks are at modes only."""

    @abstractmethod
    def shifted(self, by: float) -> Self:
        """The density of ``x + by``."""

    @abstractmethod
    def __str__(self) -> str: ...


class ScalarPair(Pair):
    """A pair of one-dimensional densities.

    Truths by quadrature, unless a subclass knows a closed form.
    """

    q: Any
    p: Any
    mu: Any = None

    @property
    def off_policy(self) -> bool:
        return self.mu is not None

    def describe(self) -> str:
        return f"{self.q} ‖ {self.p}" + (f" from {self.mu}" if self.off_policy else "")

    @property
    def sampler(self) -> Any:
        """The density the samples come from."""
        return self.q if self.mu is None else self.mu

    def draw(self, stream: np.random.Generator, n: int) -> Draws:
        return self.draws_at(self.sampler.sample(stream, n))

    def draws_at(self, x: np.ndarray) -> Draws:
        """The draws that samples ``x`` make."""
        log_q = self.q.log_density(x)
        return Draws(
            self.p.log_density(x) - log_q,
            log_q - self.mu.log_density(x) if self.off_policy else None,
        )

    def closed_form(self, target: str) -> Truth | None:
        """The divergence of that key in closed form, where the family has one."""
        return None

    def truth(self, target: str) -> Truth | None:
        divergence = divergences.get(target)
        if not (
            self._on_policy_finite(divergence.growth)
            and self._on_policy_finite(-divergence.growth_at_zero)
        ):
            return Truth(math.inf, 0.0, "closed-form")
        known = self.closed_form(target)
        if known is not None:
            return known
        (value,), (error,), _, _ = quadrature.moments(
            self.q, self.p, None, [bregman(divergence)], [False]
        )
        return Truth(float(value), float(error), "quadrature")

    def _on_policy_finite(self, order: float) -> bool:
        return self.model_copy(update={"mu": None}).finite_moment(order)

    def exact(self, estimators: Sequence[Estimator]) -> list[ExactMoments | None]:
        return exact_moments(self, self.q, self.p, self.mu, estimators)


def exact_moments(
    pair: Pair,
    q: quadrature.Density,
    p: quadrature.Density,
    mu: quadrature.Density | None,
    estimators: Sequence[Estimator],
) -> list[ExactMoments | None]:
    """Return the exact moments of the estimators that have a mean on the pair, whose log-ratio
    these densities have.
    """
    usable = [
        e
        for e in estimators
        if e.batch is None and (mu is not None or not e.needs_weight) and pair.finite_mean(e)
    ]
    if not usable:
        return [None] * len(estimators)
    finite = [pair.finite_second_moment(e) for e in usable]
    stds, std_errors = np.full(len(usable), math.inf), np.zeros(len(usable))
    means, mean_errors, stds[finite], std_errors[finite] = quadrature.moments(
        q, p, mu, usable, finite
    )
    known = {
        e.name: ExactMoments(float(m), float(me), float(s), float(se), "quadrature")
        for e, m, me, s, se in zip(usable, means, mean_errors, stds, std_errors, strict=True)
    }
    return [known.get(e.name) for e in estimators]
