"""Off-policy corrections: weights that are pure functions of each token's log-ratio to its sampler.

A correction is written ``factor[*factor...]``, a factor ``kind[:bounds][@new:old]``, such as
``masked_ratio:0.5-5``, ``truncated_ratio:2*seq_mean_k1:0.99-1.01`` or ``sequence_mask:3@old:mu``.
Arrays may be NumPy's or torch's.

Three policies are kept apart: ``mu`` is the engine that sampled, ``old`` the trainer's policy at
that time, ``q`` the policy now. Bounds belong to what they keep, and have no gradient.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Literal, get_args

from array_api_compat import array_namespace

from klbench.gradients.kinds import KINDS, Over
from klbench.gradients.measured import Measured, sign
from klbench.registry import unknown
from klbench.types import Array, ConfigError

Policy = Literal["q", "old", "mu"]
NONE = "none"


@dataclass(frozen=True)
class Factor:
    """A factor of a correction.

    What is weighed, its bounds, and the two policies whose ratio it is.
    """

    kind: str
    low: float = 0.0
    high: float = math.inf
    new: Policy = "q"
    old: Policy = "mu"

    @property
    def whole(self) -> bool:
        """True for one number a sequence, whatever the level."""
        return KINDS[self.kind].scope == "sequence"

    @property
    def unbounded(self) -> bool:
        """True where nothing keeps the weight from growing with the ratio."""
        return self.kind in (*PLAIN, *PUSHED_BACK, "block_ratio") or KINDS[self.kind].statistic in (
            "binary_kl",
            "tv",
            "fall",
        )

    @property
    def on_policy(self) -> float:
        """The weight as long as its two policies are the same; of signed ones, where they keep."""
        cut_off = self.kind in (*CUT_OFF, "truncated_decision_ratio")
        if not cut_off and KINDS[self.kind].statistic not in ("ratio", "inverse"):
            return 1.0
        moved = min(max(1.0, self.low), self.high)
        return moved if cut_off else float(moved == 1.0)

    @property
    def reaches(self) -> bool:
        """True where a token's weight changes with the probabilities of other tokens, too."""
        return self.whole or self.kind in UP_TO

    def weight(
        self,
        log_ratio: Array,
        mask: Array,
        *,
        sequence: bool = False,
        log_old: Array | None = None,
        advantage: Array | None = None,
    ) -> Array:
        """Return the weights of tokens, ``(n, T)``, or of sequences, ``(n, 1)``.

        Parameters
        ----------
        log_ratio
            ``log new - log old`` of each sampled token in nats, ``(n, T)``, 0 where ``mask`` is
            False.
        mask
            Which tokens count.
        sequence
            The estimator stands at sequence level.
        log_old
            Log-probability of each token under the older policy: what binary divergences take
            besides.
        advantage
            What multiplies the score in the objective that is maximised, ``(n, T)``: what signed
            factors take besides.
        """
        xp = array_namespace(log_ratio)
        measured = Measured(xp, log_ratio, mask, log_old, advantage)
        ratio = measured.sum if self.whole or (sequence and self._by_level) else log_ratio
        ratio = measured.mean if self.kind.endswith("geometric_ratio") else ratio
        if self.kind == "block_ratio":
            return xp.exp(measured.blocks(int(self.high)))
        if self.kind == "truncated_decision_ratio":
            led = xp.exp(PLAIN["decision_ratio"](measured))
            return xp.where(led > self.high, xp.full_like(led, self.high), led)
        if self.kind in PLAIN:
            return xp.exp(PLAIN[self.kind](measured))
        if self.kind in CUT_OFF:
            weight = xp.where(xp.exp(ratio) > self.high, self.high, xp.exp(ratio))
            return xp.where(weight < self.low, self.low, weight) if self.low > 0.0 else weight
        if self.kind in ("faded_ratio", "gmpo"):
            slope = measured.faded if self.kind == "faded_ratio" else measured.moved
            return slope(self.low, self.high)
        inside = self._inside(measured, sequence)
        if KINDS[self.kind].keeps == "1":
            return xp.astype(inside, log_ratio.dtype)
        # Outside nothing is raised to a power: an overflow there would be 0 times infinity in the
        # gradient.
        kept = xp.exp(xp.where(inside, ratio, xp.zeros_like(ratio)))
        return xp.where(inside, kept, xp.zeros_like(kept))

    @property
    def _by_level(self) -> bool:
        return KINDS[self.kind].scope == "level"

    def _inside(self, measured: Measured, sequence: bool) -> Array:
        """Return where the factor is not 0."""
        kind, xp = KINDS[self.kind], measured.xp
        of_ratio = kind.statistic in ("ratio", "inverse")
        over: Over = kind.over
        if over == "level":
            over = "token" if not sequence else "sum" if of_ratio else "mean"
        found = measured.reduced(measured.statistic(kind.statistic), over)
        slack = measured.slack(found)
        if of_ratio:
            low, high = (
                math.log(each) if each > 0.0 else -math.inf for each in (self.low, self.high)
            )
            above, below = found >= low - slack, found <= high + slack
            if kind.signed and kind.keeps == "1":
                return below | (measured.towards >= 0.0)
            if kind.signed:
                above = above | (measured.towards >= 0.0)
                below = below | (measured.towards <= 0.0)
            return measured.all(above & below) if over == "every" else above & below
        near = found <= self.high + slack
        if not kind.signed:
            return near
        if kind.statistic == "log_inverse":
            return near | (measured.towards >= 0.0)
        # A step along the advantage takes the token back to where it was sampled, or on.
        back = sign(xp, measured.log_ratio) * sign(xp, measured.towards) <= 0.0
        return near | back


PLAIN: dict[str, Callable[[Measured], Array]] = {
    "token_ratio": lambda measured: measured.log_ratio,
    "prefix_ratio": lambda measured: measured.xp.cumulative_sum(measured.log_ratio, axis=-1),
    "decision_ratio": lambda measured: measured.xp.cumulative_sum(measured.log_ratio, axis=-1),
    "sequence_ratio": lambda measured: measured.sum,
    "geometric_ratio": lambda measured: measured.mean,
}
"""The factors without bounds, as logarithms."""


CUT_OFF = (
    "truncated_ratio",
    "clipped_ratio",
    "truncated_sequence_ratio",
    "clipped_sequence_ratio",
    "clipped_geometric_ratio",
)
"""The factors that are moved to the nearer bound."""
PUSHED_BACK = ("ppo_ratio", "ppo_geometric_ratio", "gmpo")
"""The factors that are bounded on the side to which the advantage pushes, and not on the other."""
UP_TO = ("prefix_ratio", "decision_ratio", "block_ratio", "truncated_decision_ratio")
"""The factors of all tokens up to some place."""


@cache
def factors(correction: str) -> tuple[Factor, ...]:
    """Return the factors of a correction; none of ``none``.

    Raises
    ------
    ConfigError
        A kind is unknown, a bound is no number or not where it can be, or a policy is none of the
        three.
    """
    return () if correction == NONE else tuple(map(_factor, correction.split("*")))


def _factor(text: str) -> Factor:
    shape, _, sides = text.partition("@")
    kind, _, numbers = shape.partition(":")
    if kind not in KINDS:
        raise unknown("correction", kind, [NONE, *KINDS])
    low, high = _bounds(kind, numbers)
    new, _, old = sides.partition(":") if sides else ("q", ":", "mu")
    if {new, old} - set(get_args(Policy)) or new == old:
        raise ConfigError(
            f"correction {text!r}: expected two of q, old and mu after @, as in {kind}@old:mu, got"
            f" {sides!r}"
        )
    if kind == "block_ratio" and not (math.isfinite(high) and high == int(high)):
        raise ConfigError(f"expected a whole number of tokens after {kind}, got {numbers!r}")
    return Factor(kind, low, high, new, old)  # type: ignore[arg-type]


def _bounds(kind: str, text: str) -> tuple[float, float]:
    """Return the bounds that are given, or the kind's own."""
    default = KINDS[kind].bounds
    shape = {0: "no number", 1: "a number", 2: "low-high"}[len(default)]
    if not text:
        found: tuple[float, ...] = default
    else:
        if not default:
            limited = ", ".join(name for name, each in KINDS.items() if each.bounds)
            raise ConfigError(
                f"correction {kind}:{text}: {kind} takes no number; those that do: {limited}"
            )
        words = text.replace("e-", "e~").split("-")
        try:
            found = tuple(float(word.replace("e~", "e-")) for word in words)
        except ValueError:
            found = ()
        if len(found) != len(default):
            raise ConfigError(f"expected {shape} after {kind}, got {text!r}")
    low, high = (0.0, *found)[-2:] if found else (0.0, math.inf)
    if not 0.0 <= low <= high or not high > 0.0:
        what = "a positive number" if len(default) == 1 else "0 <= low <= high"
        raise ConfigError(f"correction {kind}:{text}: expected {what} after {kind}, got {text!r}")
    return low, high


def weight(
    correction: str,
    log_probs: Mapping[str, Array],
    mask: Array,
    *,
    sequence: bool = False,
    advantage: Array | None = None,
) -> Array:
    """Return the weights of a correction, as :func:`factors` reads it; see :func:`product`."""
    return product(factors(correction), log_probs, mask, sequence=sequence, advantage=advantage)


def product(
    chosen: Iterable[Factor],
    log_probs: Mapping[str, Array],
    mask: Array,
    *,
    sequence: bool = False,
    advantage: Array | None = None,
) -> Array:
    """Return the product of factors.

    ``(n, T)``, or ``(n, 1)`` where all tokens have the sequence's.

    Parameters
    ----------
    chosen
        The factors; without any the weight is 1.
    log_probs
        Log-probability in nats of each token under ``q``, ``old`` and ``mu``, ``(n, T)`` each, 0
        where ``mask`` is False.
    mask, sequence, advantage
        As in :meth:`Factor.weight`.
    """
    first = log_probs["q"]
    result = array_namespace(first).ones_like(first[..., :1])
    for each in chosen:
        log_ratio = log_probs[each.new] - log_probs[each.old]
        result = result * each.weight(
            log_ratio, mask, sequence=sequence, log_old=log_probs[each.old], advantage=advantage
        )
    return result
