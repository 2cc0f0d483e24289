"""One pass over a file: sums, kept rollouts, and what the columns themselves look like."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from itertools import starmap
from typing import Any

import numpy as np

from klbench.doctor.kept import Kept
from klbench.doctor.preferences import Pairs
from klbench.doctor.series import BUCKETS, Place, Series, Tokens, add, larger
from klbench.rollouts.batches import Reading
from klbench.workers import on_processes

ROLES = ("policy", "sampler", "old", "reference")
ROUNDED = 0.125
"""The most that rounding to bfloat16 adds to a log-probability of 0."""
WORTH_SHARING = 2**26
"""Bytes of several files that are worth starting workers for."""
APART = 1_000_003
"""The numbers of rollouts of one file and of the next are so far apart, a prime."""
MOST_STEPS = 10_000
"""Steps of which each has sums of its own."""


@dataclass(frozen=True)
class Ratio:
    """A log-ratio that is looked at: the columns above and below."""

    above: str
    below: str


def ratios(roles: frozenset[str]) -> dict[str, Ratio]:
    """Return the ratios that columns of these roles give, by name.

    ``sampler``: the trainer at sampling time over the sampler. ``lag``: today's policy over the
    trainer at sampling time. ``penalty``: reference over policy. ``reference``: reference over
    whoever sampled, where that is not the policy.
    """
    result = {}
    then = "old" if {"old", "sampler"} <= roles else "policy"
    source = "sampler" if "sampler" in roles else "old" if "old" in roles else "policy"
    if "sampler" in roles and then in roles:
        result["sampler"] = Ratio(then, "sampler")
    elif "old" in roles and "policy" in roles:
        result["sampler"] = Ratio("policy", "old")
    if {"old", "sampler", "policy"} <= roles:
        result["lag"] = Ratio("policy", "old")
    if "reference" in roles:
        if "policy" in roles:
            result["penalty"] = Ratio("reference", "policy")
        if source != "policy":
            result["reference"] = Ratio("reference", source)
    return result


@dataclass
class Column:
    """Counts over the counted tokens of one column."""

    n: int = 0
    missing: int = 0
    above: int = 0
    rounded: int = 0
    unit: int = 0
    infinite: int = 0
    total: float = 0.0
    lowest: Place = field(default_factory=Place)
    highest: Place = field(default_factory=Place)

    def add(self, tokens: Tokens, values: np.ndarray) -> None:
        """Add the counted tokens of a batch."""
        finite = np.isfinite(values)
        self.infinite += int(np.sum(values == -np.inf))
        self.missing += int(np.sum(~finite & (values != -np.inf)))
        good = values if finite.all() else values[finite]
        if not good.size:
            return
        self.n += good.size
        self.total += float(good.sum())
        self.above += int(np.sum(good > ROUNDED))
        self.rounded += int(np.sum((good > 0.0) & (good <= ROUNDED)))
        self.unit += int(np.sum((good >= 0.0) & (good <= 1.0)))
        index = np.flatnonzero(finite)
        low, high = int(index[np.argmin(good)]), int(index[np.argmax(good)])
        self.lowest = larger(self.lowest, tokens.place(low, -values[low], float(values[low])))
        self.highest = larger(
            self.highest, tokens.place(high, values[high] + 1e-300, float(values[high]))
        )

    def merge(self, later: Column) -> None:
        """Take in another's counts."""
        for name in ("n", "missing", "above", "rounded", "unit", "infinite", "total"):
            setattr(self, name, getattr(self, name) + getattr(later, name))
        self.lowest = larger(self.lowest, later.lowest)
        self.highest = larger(self.highest, later.highest)


@dataclass
class Gathered:
    """The result of one pass.

    Parameters
    ----------
    rollouts, empty, tokens
        Rollouts with a token that counts, those without, and tokens that count.
    logged
        Tokens with a logged ``kl``, and how many of these are k3, k1 and k2 of the log-ratio to
        rounding.
    begin
        The number of the first rollout, by which rollouts fall into buckets.
    """

    begin: int = 0
    rollouts: int = 0
    empty: int = 0
    tokens: int = 0
    rows: int = 0
    longest: int = 0
    columns: dict[str, Column] = field(default_factory=dict)
    series: dict[str, Series] = field(default_factory=dict)
    steps: dict[int, dict[str, Series]] = field(default_factory=dict)
    kept: Kept = field(default_factory=Kept)
    logged: Counter[str] = field(default_factory=Counter)
    said: list[str] = field(default_factory=list)
    pairs: Pairs = field(default_factory=Pairs)
    several: bool = False

    def add(self, batch: Any, step: int | None = None) -> None:
        """Add a batch; ``step`` is the file's, where rollouts have none of their own."""
        tokens = Tokens.of(batch)
        values = {role: values[tokens.at] for role, values in batch.columns.items()}
        n = batch.offsets.size - 1
        counts = np.bincount(tokens.row, minlength=n)
        for role in ROLES:
            if role in values:
                self.columns.setdefault(role, Column()).add(tokens, values[role])
        bucket = (self.begin + self.rows + np.arange(n)) % BUCKETS
        prompt = bucket if batch.prompt is None else (batch.prompt * 2654435761 >> 7) % BUCKETS
        found = ratios(frozenset(set(values) & set(ROLES)))
        for name, ratio in found.items():
            series = self.series.setdefault(name, Series())
            add(series, tokens, values[ratio.above], values[ratio.below], bucket, prompt)
        self._by_step(batch, tokens, values, found, step)
        self._logged(values)
        self.kept.add(batch, self.begin + self.rows)
        self.rows += n
        self.rollouts += int(np.sum(counts > 0))
        self.empty += int(np.sum(counts == 0))
        self.tokens += tokens.at.size
        self.longest = max(self.longest, int(counts.max(initial=0)))
        self.said += [each for each in getattr(batch, "findings", ()) if len(self.said) < 20]

    def _by_step(
        self,
        batch: Any,
        tokens: Tokens,
        values: dict[str, np.ndarray],
        found: dict[str, Ratio],
        step: int | None,
    ) -> None:
        n = batch.offsets.size - 1
        if batch.step is None and step is None:
            return
        steps = np.full(n, step) if batch.step is None else batch.step
        of_token = steps[tokens.row]
        order = np.argsort(of_token, kind="stable")
        ends = np.flatnonzero(np.diff(of_token[order])) + 1
        for chosen in np.split(order, ends) if order.size else ():
            each = int(of_token[chosen[0]])
            if each not in self.steps and len(self.steps) >= MOST_STEPS:
                continue
            own = self.steps.setdefault(each, {})
            part = Tokens(tokens.row[chosen], tokens.position[chosen], tokens.at[chosen], batch)
            bucket = np.arange(n) % SMALL
            for name in found.keys() & {"sampler", "penalty", "lag"}:
                ratio = found[name]
                series = own.setdefault(name, Series(*_small()))
                add(
                    series,
                    part,
                    values[ratio.above][chosen],
                    values[ratio.below][chosen],
                    bucket,
                    bucket,
                )

    def _logged(self, values: dict[str, np.ndarray]) -> None:
        if "kl" not in values or not {"policy", "reference"} <= values.keys():
            return
        with np.errstate(all="ignore"):
            x = values["reference"] - values["policy"]
            near = {"k3": np.expm1(x) - x, "k1": -x, "k2": x * x / 2.0}
            good = np.isfinite(x) & np.isfinite(values["kl"])
            self.logged["n"] += int(good.sum())
            for name, term in near.items():
                off = np.abs(values["kl"] - term)
                self.logged[name] += int(np.sum(good & (off <= 1e-5 + 1e-3 * np.abs(term))))

    def merge(self, later: Gathered) -> None:
        """Take in what another file holds."""
        for name in ("rollouts", "empty", "tokens", "rows"):
            setattr(self, name, getattr(self, name) + getattr(later, name))
        self.longest = max(self.longest, later.longest)
        for role, column in later.columns.items():
            self.columns.setdefault(role, Column()).merge(column)
        for name, series in later.series.items():
            self.series.setdefault(name, Series()).merge(series)
        for step, own in later.steps.items():
            mine = self.steps.setdefault(step, {})
            for name, series in own.items():
                mine.setdefault(name, Series(*_small())).merge(series)
        self.kept.merge(later.kept)
        self.logged += later.logged
        self.pairs.merge(later.pairs)
        self.said += later.said


SMALL = 64
"""Buckets of the sums of a single step."""


def _small() -> tuple[np.ndarray, np.ndarray]:
    shape = (SMALL, Series().rollouts.shape[1])
    return np.zeros(shape), np.zeros(shape)


def gather(reading: Reading, workers: int = 1) -> Gathered:
    """Return what one pass over all files finds; several files may be steps.

    Large files are shared out to workers, one a file, and merged in their order.
    """
    files = list(dict.fromkeys(reading.files))
    parts = [
        (part, files.index(part.files[0]) if len(files) > 1 else None, APART * i)
        for i, part in enumerate(reading.parts())
    ]
    shared = workers > 1 and len(parts) > 1 and reading.bytes > WORTH_SHARING
    found = (
        on_processes(_gather, parts, min(workers, len(parts)))
        if shared
        else starmap(_gather, parts)
    )
    result = Gathered(several=len(files) > 1)
    for each in found:
        result.merge(each)
    return result


def _gather(reading: Reading, step: int | None, begin: int) -> Gathered:
    result = Gathered(begin=begin)
    for batch in reading.batches():
        result.add(batch, step)
        if reading.paired and "policy" in batch.columns:
            result.pairs.add(batch)
    return result
