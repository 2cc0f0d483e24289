"""The table of the staleness study: combinations by what a lag of the sampler does to them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from klbench.report.combinations import QP, Data, Group, Row

ALWAYS, FRESH, NEVER = "always", "fresh", "never"


@dataclass(frozen=True, eq=False)
class Lagging:
    """Curves of one pair over the lag, ``KL(q‖μ)`` in nats."""

    data: Data
    pair: str

    @cached_property
    def lags(self) -> list[float]:
        """Rising."""
        return sorted({row.lag for row in self.data.rows if row.pair == self.pair and math.isfinite(row.lag)})

    def curve(self, name: str) -> list[Row]:
        """A combination's rows by rising lag."""
        rows = [row for row in self.data.rows if row.pair == self.pair and row.combination == name and math.isfinite(row.lag)]
        return sorted(rows, key=lambda row: row.lag)

    @cached_property
    def names(self) -> list[str]:
        """Combinations that were measured on this pair."""
        return [name for name in self.data.names if self.curve(name)]

    @cached_property
    def kinds(self) -> dict[str, str]:
        """Of each combination: exact at every lag, only on samples of the policy itself, or not even there."""
        found = {}
        for name in self.names:
            exact = [row.exact for row in self.curve(name)]
            found[name] = ALWAYS if all(exact) else FRESH if exact[0] else NEVER
        return found

    def groups(self, kind: str) -> list[Group]:
        """Those of a kind, the ones with equal numbers together."""
        return self.data.groups(name for name in self.names if self.kinds[name] == kind)

    def last(self, name: str) -> Row:
        """At its largest lag."""
        return self.curve(name)[-1]

    @cached_property
    def sizes(self) -> list[tuple[float, float, float]]:
        """Lag, effective sample size of whole sequences and of tokens."""
        first = {row.lag: row for row in reversed(self.data.rows) if row.pair == self.pair}
        return [(lag, first[lag].ess, first[lag].ess_token) for lag in self.lags]


def by_pair(data: Data) -> list[Lagging]:
    """One each, without those that have no lag."""
    return [each for pair in data.pairs if (each := Lagging(data, pair)).lags]


def beaten_up_to(biased: Row, exact: Row) -> float:
    """The largest batch in which the biased one errs less than the exact one: error² = bias² + noise² / batch."""
    gain = exact.noise**2 - biased.noise**2
    if QP in biased.matches or biased.bias == 0:
        return math.inf if gain > 0 else 0.0
    return max(gain, 0.0) / biased.bias**2


def benchmarks(lagging: Lagging) -> Sequence[str]:
    """Whom to compare with at the largest lag: the least noisy exact one, and the least noisy that needs no full vocabulary."""
    names = [group.leader for group in lagging.groups(ALWAYS) if math.isfinite(lagging.last(group.leader).noise)]
    sampled = [name for name in names if not lagging.last(name).placement.startswith("full")]

    def quietest(some: Sequence[str]) -> list[str]:
        return [min(some, key=lambda name: lagging.last(name).noise)] if some else []

    return list(dict.fromkeys(quietest(names) + quietest(sampled)))
