"""Faults of the columns themselves: what they hold, how they are laid out, and which is which."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
from scipy.stats import rankdata

from klbench.doctor.causes_of_rows import end_token, padding
from klbench.doctor.findings import Cause
from klbench.doctor.kept import Counted
from klbench.doctor.measures import SMALL, Found
from klbench.doctor.reading import Gathered
from klbench.doctor.signs import correlation, rms

BASES = {"base 2": math.log(2.0), "base 10": math.log(10.0)}
SURE = 3.0
"""Standard errors from which the sign of a correlation is believed."""
ENGINE = 0.012
"""The most that half of the tokens differ by when one model is run by two programs, in bfloat16
too.
"""


def causes(gathered: Gathered, found: Found) -> Iterator[Cause]:
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
        yield from sampled_by_the_reference(counted, gathered.kept.reward)
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


def log_base(counted: Counted, found: Found) -> Iterator[Cause]:
    """Recognise logarithms to base 2 or 10.

    Of two columns that are near each other one is a constant multiple of the other, token by token.
    A reference is not near: but the mean of its ratio is 1, and its KL above 0, only in the right
    base.
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
                            f"{one} is {middle:.4g} times {other}, as logarithms to {base} of the"
                            f" {role} would make it",
                            fault=True,
                        )
                        return
    yield from _base_of_reference(counted, found)


def _base_of_reference(counted: Counted, found: Found) -> Iterator[Cause]:
    """Recognise a reference, or a policy that is alone with it, whose ratio is right in another
    base only.
    """
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
                f"the mean of reference / {source} is {1.0 + m['excess'].value:.3g} as it stands,"
                f" and {1.0 + float(np.expm1(x).mean()):.3g} if the {role}'s logarithms are to"
                f" {base}",
                fault=role != "columns",
            )
            return


def swapped(counted: Counted, found: Found) -> Iterator[Cause]:
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


def _clustered_z(values: np.ndarray, row: np.ndarray) -> float:
    sums = np.bincount(row, values)
    return float(sums.sum() / max(math.sqrt(float(np.sum(sums * sums))), 1e-300))


def sampled_by_the_reference(counted: Counted, reward: np.ndarray | None) -> Iterator[Cause]:
    """Recognise a sampler whose log-probabilities are the reference's and not the policy's.

    Either the engine serves the reference, because an adapter is not merged into it, or policy
    and reference are swapped. Samples are the same in both cases, and which of the two models was
    trained is told by what training does: rollouts of more reward become more probable under it;
    and, without rewards, it is the sharper one as a rule.
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
    paid = _paid(counted, np.bincount(row, d, minlength=counted.counts.size), reward)
    if abs(paid) > SURE:
        merged, high, low = paid > 0.0, 0.95, 0.8
        which = "policy" if merged else "sampler"
        why = f"the {which}'s model was trained: it gives rollouts of more reward more probability"
    elif abs(z) > 2.5 and abs(gap) > 0.05:
        merged, high, low = gap < 0.0, 0.92, 0.88
        why = f"the policy's entropy is {gap:+.2f} nats a token from the sampler's"
    else:
        merged, high, low = True, 0.92, 0.88
        why = "rewards and entropies do not tell which of the two was trained"
    says = (
        f"the sampler's log-probabilities are the reference's (median difference {same:.2g}, "
        f"the policy's {apart:.2g}); {why}"
    )
    yield Cause("adapter_not_merged", high if merged else low, says)
    yield Cause("columns_swapped", low if merged else high, says)


def _paid(counted: Counted, log_ratio: np.ndarray, reward: np.ndarray | None) -> float:
    """Return the z-score of the rank correlation of rewards and log-ratios of rollouts.

    Both less their mean over the prompt, where prompts repeat; 0 where there are no rewards.
    """
    if reward is None:
        return 0.0
    use = (counted.counts > 0) & np.isfinite(reward)
    x, y = log_ratio[use], reward[use]
    if counted.prompt is not None:
        _, group, n = np.unique(counted.prompt[use], return_inverse=True, return_counts=True)
        if n.mean() >= 2.0:
            x, y = (each - (np.bincount(group, each) / n)[group] for each in (x, y))
    if x.size < 20 or x.std() < 1e-9 or y.std() < 1e-9:
        return 0.0
    return correlation(rankdata(x), rankdata(y)) * math.sqrt(x.size - 1)
