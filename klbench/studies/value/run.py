"""The bias and noise of each estimator's value, over pairs and batch sizes, against the exact
divergence.
"""

from __future__ import annotations

import ctypes
import hashlib
import math
import sys
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import pairwise

import numpy as np

from klbench import estimators, streams
from klbench.context import Checkpoint, Context
from klbench.metrics.batches import Counts, PanelMeter, Plan
from klbench.metrics.moments import Moments
from klbench.metrics.tails import pareto_khat
from klbench.pairs import Pair
from klbench.schema import Tables
from klbench.studies.value.options import ValueOptions
from klbench.studies.value.tables import Exact, Measured, skip_reason, tables, tail_variable
from klbench.threads import one_thread
from klbench.types import Draws, Estimator, Notice

PANEL = 65_536
"""Samples measured at once.

Few enough that a panel's arrays stay in cache, many enough that calls cost little.
"""
SHARD = 2**20
"""Most samples of one task and one random stream."""
KEPT_ERRORS = 4_096
"""Batch errors kept of each kind, for their distribution; they come from the first few shards."""
KEEPING_SHARDS = 16
TAIL_SAMPLES = 2**17
DIGITS = 6
"""Digits of an exact divergence below which a line says so."""
NOTHING = 1e-12
"""Error in nats, such as rounding leaves where the two sides are one, that no line is made of."""


def panel_sizes(samples: int, largest_batch: int) -> tuple[int, int, int]:
    """Panel size, panels a shard and number of shards for so many samples.

    At least 32 panels, since the spread between panels says how sure the variances are; at least 16
    samples each; and room for 4 of the largest batches where there are samples enough.
    """
    panel = max(PANEL, 4 * largest_batch)
    if samples < 32 * panel:
        panel = max(16, 2 ** ((samples // 32).bit_length() - 1)) if samples >= 32 else 16
    # 16 shards at least, so that there is work to share out; large ones where there is much of it.
    per_shard = max(1, min(SHARD, samples // 16) // panel)
    panels = max(1, samples // panel)
    return panel, per_shard, -(-panels // per_shard)


def whole_batches(samples: int, sizes: tuple[int, ...]) -> dict[int, int]:
    """Return how many whole batches of each size the panels of so many samples hold."""
    panel, _, _ = panel_sizes(samples, sizes[-1])
    full = max(1, samples // panel) - 1
    return {n: full * (panel // n) + (samples - full * panel) // n for n in sizes}


def _panels(samples: int, largest_batch: int, shard: int) -> list[int]:
    """The panel sizes of one shard; the very last panel takes what is left over."""
    panel, per_shard, shards = panel_sizes(samples, largest_batch)
    if shard < shards - 1:
        return [panel] * per_shard
    left = samples - shard * per_shard * panel
    count = max(1, left // panel)
    return [panel] * (count - 1) + [left - (count - 1) * panel]


@dataclass(frozen=True)
class Found:
    """The result of one or more shards.

    Moments over panels, counts over batches, and from the first one the tail's shape.
    """

    moments: Moments
    counts: Counts
    khats: dict[str, tuple[float, float, int]]

    def merge(self, later: Found) -> Found:
        """Return the results of both; the order matters to the last bit."""
        counts = self.counts.merge(later.counts, KEPT_ERRORS)
        return Found(self.moments.merge(later.moments), counts, self.khats or later.khats)

    def flat(self) -> dict[str, np.ndarray]:
        """Return everything as arrays by name."""
        counts, moments = self.counts, self.moments
        return {
            "count": np.array(moments.count),
            "weight": np.array(moments.weight),
            "mean": moments.mean,
            "scatter": moments.scatter,
            "batches": counts.batches,
            "negative": counts.negative,
            "covered": counts.covered,
            "tested": counts.tested,
            "nonfinite": counts.nonfinite,
            "errors": np.concatenate([e for row in counts.errors for e in row]),
            "error_sizes": np.array([[e.size for e in row] for row in counts.errors]),
            "khat_names": np.array(list(self.khats)),
            "khats": np.array(list(self.khats.values())),
        }

    @classmethod
    def restored(cls, stored: Mapping[str, np.ndarray]) -> Found:
        """Return the result that :meth:`flat` was made from."""
        ends = np.cumsum(stored["error_sizes"].ravel())
        pieces = [stored["errors"][a:b] for a, b in pairwise([0, *ends])]
        columns = stored["error_sizes"].shape[1]
        errors = [pieces[k : k + columns] for k in range(0, len(pieces), columns)]
        khats = zip(stored["khat_names"], stored["khats"], strict=True)
        return cls(
            Moments(
                int(stored["count"]), float(stored["weight"]), stored["mean"], stored["scatter"]
            ),
            Counts(
                stored["batches"],
                stored["negative"],
                stored["covered"],
                stored["tested"],
                stored["nonfinite"],
                errors,
            ),
            {str(name): (float(khat), float(se), int(n)) for name, (khat, se, n) in khats},
        )


def _khats(draws: Sequence[Draws], plan: Plan) -> dict[str, tuple[float, float, int]]:
    log_ratio = np.concatenate([d.log_ratio for d in draws])[:TAIL_SAMPLES]
    variables = {"r": log_ratio}
    if draws[0].log_weight is not None:
        log_weight = np.concatenate([d.log_weight for d in draws])[:TAIL_SAMPLES]
        variables |= {"w": log_weight, "wr": log_weight + log_ratio}
    needed = {tail_variable(e) for e in plan.estimators}
    return {name: (*pareto_khat(x), x.size) for name, x in variables.items() if name in needed}


@cache
def _prepare() -> None:
    """Load compiled code, and tell glibc to keep freed memory, once in a process.

    Arrays of a panel come and go thousands of times; given back to the system each time, they would
    cost more in page faults than in arithmetic.
    """
    if sys.platform == "linux":
        mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
        if mallopt is not None:
            mallopt(-1, 2**28)  # M_TRIM_THRESHOLD
            mallopt(-3, 2**25)  # M_MMAP_THRESHOLD


def measure_shard(
    pair: Pair, plan: Plan, seed: int, stream: str, samples: int, diagnostic: int, shard: int
) -> Found:
    """One task: draw a shard's samples, panel by panel, and measure them.

    Pure: the same arguments give the same bits.
    """
    generator = streams.generator(seed, "value", stream, shard)
    largest = plan.batches[-1]
    panel, per_shard, _ = panel_sizes(samples, largest)
    # what the shards before keep is not sent again
    kept = (shard * per_shard * (panel // n) for n in plan.batches)
    keep = [max(0, KEPT_ERRORS - n) if shard < KEEPING_SHARDS else 0 for n in kept]
    meter = PanelMeter(plan, keep)
    first: list[Draws] = []
    _prepare()
    with one_thread(torch=False):
        for k, size in enumerate(_panels(samples, largest, shard)):
            start = (shard * per_shard + k) * panel
            draws = pair.draw(generator, size)
            if start < TAIL_SAMPLES:
                first.append(draws)
            meter.add(draws, diagnose=start < diagnostic)
        return Found(
            Moments.of(*meter.vectors()),
            meter.counts,
            _khats(first, plan) if first and shard == 0 else {},
        )


def solve(pair: Pair, chosen: tuple[Estimator, ...]) -> Exact:
    """One task: all that is exact about a pair."""
    targets = {e.target for e in chosen} | {"kl_qp", "kl_pq", "chi2"}
    return Exact(
        {target: pair.truth(target) for target in sorted(targets)},
        pair.exact(chosen),
        [pair.finite_mean(e) for e in chosen],
        [pair.finite_second_moment(e) for e in chosen],
        pair.tail_index(),
    )


def _tell_lost_digits(pair: Pair, exact: Exact) -> None:
    """Tell in a line where fewer than ``DIGITS`` digits of the divergence are sure."""
    truth = exact.truths["kl_qp"]
    if (
        truth is not None
        and math.isfinite(truth.value)
        and truth.error > max(10.0**-DIGITS * truth.value, NOTHING)
    ):
        off = truth.error / truth.value if truth.value else math.inf
        error = f"by {off:.0e} of its value" if off < 1.0 else "in its first digit"
        text = (
            f"{pair.title}: the exact KL(q‖p) may be off {error}; the parameters are"
            " ill-conditioned"
        )
        warnings.warn(text, Notice, stacklevel=2)


def stream_name(pair: Pair) -> str:
    """The name of a pair's random stream.

    Its parameters, not its place in the list, so that other pairs change nothing.
    """
    content = f"{pair.kind} {pair.parameters_text()}"
    return hashlib.sha256(content.encode()).hexdigest()[:16]


def run(options: ValueOptions, context: Context) -> Tables:
    """Draw, measure, merge.

    Then the tables ``values``, ``differences``, ``errors``, ``pairs`` and ``estimators``.
    """
    chosen = tuple(estimators.get(name) for name in options.estimators)
    usable = [tuple(e for e in chosen if skip_reason(e, pair) is None) for pair in options.pairs]
    _, _, shards = panel_sizes(options.samples, options.batches[-1])
    total = len(options.pairs) * (shards + 1)
    exacts: list[Exact] = []
    plans: list[Plan] = []
    states: list[Checkpoint[Found]] = []
    try:
        for exact in context.map(solve, zip(options.pairs, usable, strict=True), short=True):
            exacts.append(exact)
            _tell_lost_digits(options.pairs[len(exacts) - 1], exact)
            context.progress(len(exacts), total, "exact values")
        for pair, some, exact in zip(options.pairs, usable, exacts, strict=True):
            values = tuple(
                truth.value if (truth := exact.truths[e.target]) else np.nan for e in some
            )
            plans.append(Plan(some, values, options.batches))
            states.append(Checkpoint(context, f"value-{stream_name(pair)}", Found))
        order = [(i, k) for i, state in enumerate(states) for k in range(state.shards, shards)]
        done = total - len(order)
        tasks = (
            (
                options.pairs[i],
                plans[i],
                context.seed,
                stream_name(options.pairs[i]),
                options.samples,
                options.diagnostic_samples,
                k,
            )
            for i, k in order
        )
        for (i, k), shard in zip(order, context.map(measure_shard, tasks, short=True), strict=True):
            states[i].add(shard, last=k == shards - 1)
            done += 1
            context.progress(done, total, options.pairs[i].title)
    except KeyboardInterrupt:
        context.interrupted = True
        for state in states:
            if 0 < state.shards < shards:
                state.save()
    formed = whole_batches(options.samples, options.batches)
    finished = [
        Measured(
            pair, exact, plan, state.found.moments, state.found.counts, state.found.khats, formed
        )
        for pair, exact, plan, state in zip(options.pairs, exacts, plans, states, strict=False)
        if state.shards == shards and state.found is not None
    ]
    return tables(finished, chosen, options.samples)
