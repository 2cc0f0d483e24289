"""Faults of the columns themselves: what they hold, how they are laid out, and which is which."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

import numpy as np

from klbench.doctor.findings import Cause
from klbench.doctor.kept import Counted, Kept
from klbench.doctor.measures import SMALL, Measured
from klbench.doctor.reading import Gathered
from klbench.doctor.signs import correlation, rms

BASES = {"base 2": math.log(2.0), "base 10": math.log(10.0)}
PADDED_ROWS = 0.02
"""Rows with padding at the end are at least this share, and three, where padding is counted."""
FILLERS = (0.0, 1.0)
ENGINE = 0.012
"""The most that half of the tokens differ by when one model is run by two programs, in bfloat16
too.
"""


def causes(gathered: Gathered, found: Mapping[str, Measured]) -> Iterator[Cause]:
    """Yield the faults of columns that the file shows."""
    wrong = list(not_logprobs(gathered))
    yield from wrong
    yield from padding(gathered.kept)
    if wrong:
        return
    counted = gathered.kept.counted
    wrong = [*shifted(counted), *log_base(counted, found)]
    yield from wrong
    if not wrong:
        yield from swapped(counted, found)
        yield from end_token(gathered.kept)


def not_logprobs(gathered: Gathered) -> Iterator[Cause]:
    """Recognise probabilities, and log-probabilities with the sign turned."""
    for role, column in gathered.columns.items():
        positive = column.above + column.rounded
        if not column.n or positive <= 0.5 * column.n:
            continue
        what = (
            "probabilities" if column.highest.value <= 1.0 + 1e-6 else "negative log-probabilities"
        )
        yield Cause(
            "not_logprobs",
            0.99,
            f"{positive / column.n:.0%} of the {role}'s numbers are above 0, up to "
            f"{column.highest.value:.3g}: "
            f"these are {what}",
            fault=True,
        )


def _runs(values: np.ndarray, row: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return starts, sizes and whether each ends its row, of runs of equal values within rows."""
    change = np.ones(values.size, dtype=bool)
    change[1:] = (values[1:] != values[:-1]) | (row[1:] != row[:-1])
    start = np.flatnonzero(change)
    size = np.diff(start, append=values.size)
    end = start + size
    closes = np.ones(start.size, dtype=bool)
    closes[:-1] = row[end[:-1]] != row[end[:-1] - 1]
    return start, size, closes


def padding(kept: Kept) -> Iterator[Cause]:
    """Recognise tokens at the ends of rows that fill them up, and count."""
    counted = kept.counted
    rows = int((counted.counts > 0).sum())
    if rows < 3 or counted.row.size < 2 * rows:
        return
    enough = max(3.0, PADDED_ROWS * rows)
    signals = dict(counted.columns)
    if counted.tokens is not None:
        signals["tokens"] = counted.tokens
    for name, values in signals.items():
        start, size, closes = _runs(values, counted.row)
        least = np.where(np.isin(values[start], FILLERS) | (values[start] <= -100.0), 2, 3)
        if name == "tokens":
            least = np.full(start.size, 3)
        long = size >= least
        filled = long & closes
        inside = np.sum(long & ~closes) / max(np.sum(~closes), 1)
        share = filled.sum() / rows
        if filled.sum() < enough or share < 5.0 * inside + PADDED_ROWS:
            continue
        fill, times = np.unique(values[start[filled]], return_counts=True)
        common = times.max() / times.sum()
        if common < 0.8:
            continue
        tokens = int(size[filled].sum())
        what = (
            f"id {int(fill[times.argmax()])}" if name == "tokens" else f"{fill[times.argmax()]:.6g}"
        )
        yield Cause(
            "padding_counted",
            0.97,
            f"{filled.sum():,} of {rows:,} rows end in the same {what} again and again in "
            f"{name}: {tokens:,} tokens "
            f"({tokens / counted.row.size:.0%}) that no mask leaves out",
            fault=True,
        )
        return


def shifted(counted: Counted) -> Iterator[Cause]:
    """Recognise a column that is one token ahead of another, or behind."""
    near = counted.neighbours()
    roles = list(counted.columns)
    moved: dict[str, list[tuple[str, float, float]]] = {}
    for i, one in enumerate(roles):
        for other in roles[i + 1 :]:
            a, b = counted.columns[one], counted.columns[other]
            with np.errstate(invalid="ignore"):
                good = np.isfinite(a) & np.isfinite(b)
            both = near[good[near] & good[near + 1]]
            if both.size < 30:
                continue
            same = correlation(a[good], b[good])
            ahead, behind = correlation(a[both], b[both + 1]), correlation(a[both + 1], b[both])
            best = max(ahead, behind)
            if best > 0.5 and best > same + 0.3:
                word = "ahead of" if ahead > behind else "behind"
                moved.setdefault(one, []).append((f"{word} {other}", best, same))
                moved.setdefault(other, []).append((f"off {one}", best, same))
    if not moved:
        return
    role = max(moved, key=lambda each: len(moved[each]))
    said, best, same = moved[role][0]
    yield Cause(
        "shifted_by_one",
        0.98,
        f"{role} is one token {said}: their correlation is {best:.2f} at a shift of one, "
        f"{same:.2f} as they stand",
        fault=True,
    )


def log_base(counted: Counted, found: Mapping[str, Measured]) -> Iterator[Cause]:
    """Recognise logarithms to base 2 or 10.

    Of two columns that are near each other one is a constant multiple of the other, token by token.
    A reference is not near: but the mean of its ratio is 1, and its KL above 0, only in the right base.
    """
    roles = list(counted.columns)
    for i, one in enumerate(roles):
        for other in roles[i + 1 :]:
            a, b = counted.columns[one], counted.columns[other]
            with np.errstate(all="ignore"):
                good = np.isfinite(a) & np.isfinite(b) & (np.abs(b) > 0.2) & (np.abs(a) > 0.05)
                ratio = a[good] / b[good]
            if ratio.size < 30:
                continue
            low, middle, high = np.quantile(ratio, (0.25, 0.5, 0.75))
            for base, log in BASES.items():
                for role, expected in ((one, 1.0 / log), (other, log)):
                    if abs(middle / expected - 1.0) < 0.01 and high - low < 0.05 * middle:
                        yield Cause(
                            "wrong_log_base",
                            0.98,
                            f"{one} is {middle:.4g} times {other}, as logarithms to {base} of the {role} "
                            "would make it",
                            fault=True,
                        )
                        return
    yield from _base_of_reference(counted, found)


def _base_of_reference(counted: Counted, found: Mapping[str, Measured]) -> Iterator[Cause]:
    """Recognise a reference, or a policy that is alone with it, whose ratio is right in another base only."""
    m = found.get("reference") or found.get("penalty")
    if m is None or not (m.negative or m.holds == "fails" or abs(m["excess"].z) > 4.0):
        return
    if "sampler" in found and found["sampler"]["gap_token"].value > SMALL:
        return  # what fails may be the sampler's
    source = "sampler" if "sampler" in counted.columns else "policy"
    above, below = counted.columns["reference"], counted.columns.get(source)
    if below is None:
        return
    with np.errstate(invalid="ignore"):
        good = np.isfinite(above) & np.isfinite(below)
    above, below, row = above[good], below[good], counted.row[good]
    # In bits a log-probability is larger than it should be, and times ln 2 it is right.
    tried = [("reference", log, 1.0, base) for base, log in BASES.items()]
    if source == "policy":
        tried += [("policy", 1.0, log, base) for base, log in BASES.items()]
    tried += [("columns", log, log, base) for base, log in BASES.items()]
    for role, p, q, base in tried:
        x = np.clip(p * above - q * below, -300.0, 300.0)
        excess, kl = _clustered_z(np.expm1(x), row), _clustered_z(-x, row)
        # Only a mean that is 1 by as much as these data can show speaks for a base.
        if (
            abs(excess) < 3.0
            and kl > -3.0
            and abs(float(np.expm1(x).mean())) < 0.1
            and x.max() < 8.0
        ):
            yield Cause(
                "wrong_log_base",
                0.65 if role == "columns" else 0.93,  # a temperature would explain both, too
                f"the mean of reference / {source} is {1.0 + m['excess'].value:.3g} as it stands, and "
                f"{1.0 + float(np.expm1(x).mean()):.3g} if the {role}'s logarithms are to {base}",
                fault=role != "columns",
            )
            return


def swapped(counted: Counted, found: Mapping[str, Measured]) -> Iterator[Cause]:
    """Recognise columns under each other's names.

    Their KL is below 0 and right the other way round, or the reference is what sampled.
    """
    for name, words in (("sampler", "policy and sampler"), ("penalty", "policy and reference")):
        m = found.get(name)
        if m is None or (name == "penalty" and "reference" in found) or m.identical:
            continue
        below_zero = m["kl_token"].value < -SMALL and m["kl_token"].z < -2.0
        if not below_zero or (m["kl_token"].z > -3.5 and not m["excess"].z > 4.0):
            continue
        above, below = {
            "sampler": ("policy", "sampler"),
            "penalty": ("reference", "policy"),
        }[name]
        if name == "sampler" and "old" in counted.columns:
            above, below = ("old", "sampler") if "sampler" in counted.columns else ("policy", "old")
        x, index = counted.ratio(above, below)
        back = np.expm1(np.clip(-x, -300.0, 300.0))
        z = _clustered_z(back, counted.row[index])
        if abs(z) > 5.0 and abs(float(back.mean())) > abs(m["excess"].value):
            continue
        yield Cause(
            "columns_swapped",
            0.9,
            f"the KL of {words} as named is {m['kl_token'].value:.3g} a token, "
            f"{-m['kl_token'].z:.0f} standard errors below 0; "
            "the other way round it is above 0, and the mean ratio is "
            f"{1 + float(back.mean()):.3g}",
            fault=m.negative,
        )
    yield from sampled_by_the_reference(counted)


def _clustered_z(values: np.ndarray, row: np.ndarray) -> float:
    sums = np.bincount(row, values)
    return float(sums.sum() / max(math.sqrt(float(np.sum(sums * sums))), 1e-300))


def sampled_by_the_reference(counted: Counted) -> Iterator[Cause]:
    """Recognise a sampler whose log-probabilities are the reference's and not the policy's.

    Either the engine serves the reference, because an adapter is not merged into it, or policy
    and reference are swapped. Samples are the same in both cases. The policy is the sharper of
    the two as a rule: the entropy of both over the sampler's contexts tells which that is, the
    policy's weighted by r.
    """
    if not {"policy", "sampler", "reference"} <= counted.columns.keys():
        return
    q, mu, p = (counted.columns[role] for role in ("policy", "sampler", "reference"))
    with np.errstate(invalid="ignore"):
        good = np.isfinite(q) & np.isfinite(mu) & np.isfinite(p)
    q, mu, p, row = q[good], mu[good], p[good], counted.row[good]
    if q.size < 30:
        return
    same, apart = float(np.median(np.abs(p - mu))), float(np.median(np.abs(q - mu)))
    if not (rms(p - mu) < 0.3 * rms(q - mu) and same < min(0.2 * apart, ENGINE) and apart > 0.01):
        return
    d = np.clip(q - mu, -50.0, 20.0)
    sharper = np.exp(d) * -q + mu  # entropy of the policy less that of the sampler
    z, gap = _clustered_z(sharper, row), float(sharper.mean())
    skew = float(np.mean((d - d.mean()) ** 3) / d.std() ** 3)
    known = abs(z) > 2.5 and abs(gap) > 0.05
    merged = gap < 0.0 if known else skew < -0.13
    why = (
        f"the policy's entropy is {gap:+.2f} nats a token from the sampler's"
        if known
        else "entropies do not tell which of the two was trained"
    )
    says = (
        f"the sampler's log-probabilities are the reference's (median difference {same:.2g}, "
        f"the policy's {apart:.2g}); {why}"
    )
    high, low = (0.95, 0.8) if known else (0.92, 0.88)
    yield Cause("adapter_not_merged", high if merged else low, says)
    yield Cause("columns_swapped", low if merged else high, says)


def end_token(kept: Kept) -> Iterator[Cause]:
    """Recognise rollouts that end before the longest does, and not in a token that ends them.

    A token that ends rollouts stands nowhere else, or is the last one of nearly all.
    """
    counted = kept.counted
    if counted.tokens is None:
        return
    longest = int(counted.counts.max(initial=0))
    short = np.flatnonzero((counted.counts > 0) & (counted.counts < longest - 1))
    if short.size < 6 or longest < 4:
        return
    last = np.cumsum(counted.counts)[short] - 1
    ids, times = np.unique(counted.tokens[last], return_counts=True)
    commonest = times.argsort()[::-1][:5]
    common = times[commonest]
    everywhere = np.array([int(np.sum(counted.tokens == each)) for each in ids[commonest]])
    ending = float(common[(common >= 0.98 * everywhere) & (common >= 2)].sum()) / short.size
    first = float(times.max()) / short.size
    after = _first_left_out(kept, short)
    if ending > 0.7 or (first > 0.9 and after is None):
        return
    yield Cause(
        "end_token_dropped",
        0.75 if after is None else 0.9,
        f"{short.size:,} rollouts are shorter than the longest, and only {ending:.0%} of them "
        "end in a token that stands at ends "
        f"alone{'' if after is None else f'; the mask leaves out id {after} after them'}",
    )


def _first_left_out(kept: Kept, short: np.ndarray) -> int | None:
    """Return the id that the mask leaves out after nearly all of these rollouts, if any."""
    if kept.tokens is None:
        return None
    begins = np.cumsum(kept.lengths) - kept.lengths
    last = np.zeros(kept.lengths.size, dtype=np.int64)
    places = np.flatnonzero(kept.mask)
    last[kept.every_row[places]] = places
    after = last[short] + 1
    there = after < begins[short] + kept.lengths[short]
    if there.mean() < 0.8:
        return None
    ids, times = np.unique(kept.tokens[after[there]], return_counts=True)
    return int(ids[times.argmax()]) if times.max() > 0.8 * there.sum() else None
