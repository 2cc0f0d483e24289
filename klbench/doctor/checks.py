"""Checks of what must hold of a run's log-probabilities."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

from klbench.doctor.findings import Check
from klbench.doctor.measures import SMALL, Found, Measured
from klbench.doctor.reading import Gathered
from klbench.doctor.series import Place, Series
from klbench.metrics.tails import CANNOT_TELL, HOLDS

ENOUGH = 0.9
"""The least effective sample size of whole rollouts, as a share, that is no alarm."""
FEW_ROLLOUTS, FEW_TOKENS = 10, 100
"""No alarm is made of the share that one makes among fewer."""
SHARE = 0.5
VISIBLE = 0.05
"""A log-ratio below is no outlier, whatever share it makes."""
IMPOSSIBLE = 1e-6
"""A probability that does not occur."""
RATIO = {
    "sampler": "trainer / sampler",
    "reference": "reference / sampler",
    "penalty": "reference / policy",
    "lag": "policy now / policy at sampling",
}
OF = {"sampler": "the trainer", "reference": "the reference", "penalty": "the reference"}

CHECKS: list[Callable[[Gathered, Found], Iterator[Check]]] = []


def check(
    function: Callable[[Gathered, Found], Iterator[Check]],
) -> Callable[[Gathered, Found], Iterator[Check]]:
    """Register a check."""
    CHECKS.append(function)
    return function


def checks(gathered: Gathered, found: Found) -> list[Check]:
    """Return all checks of a file, in order."""
    return [each for function in CHECKS for each in function(gathered, found)]


def tested(found: Found) -> Iterator[Measured]:
    """Yield the ratios over whoever sampled: their mean must be 1."""
    for name in ("sampler", "reference" if "reference" in found else "penalty"):
        if name in found:
            yield found[name]


def where(place: Place, gathered: Gathered) -> str:
    """Return the words for a place: file (of several), row, position and id, counted from 1."""
    file = f"{place.file} " if gathered.several else ""
    position = f", token {place.position + 1}" if place.position >= 0 else ""
    token = f" (id {place.token})" if place.token >= 0 else ""
    text = f" {place.text!r}" if place.text else ""
    return f"{file}row {place.row + 1:,}{position}{token}{text}"


@check
def mean_ratio(gathered: Gathered, found: Found) -> Iterator[Check]:
    """Check that the mean of each ratio over its own samples is 1."""
    for m in tested(found):
        excess = m["excess"]
        if m.identical:
            continue
        off = abs(excess.value) > SMALL
        ok = None if m.holds == CANNOT_TELL else m.holds == HOLDS or not off
        says = {
            None: (
                "these data cannot tell: too few rollouts carry the mean, or its tail is too heavy"
            ),
            True: "as it must be" if m.holds == HOLDS else "too little to matter",
            False: f"it must be 1, and is off by {abs(excess.z):.0f} standard errors",
        }[ok]
        error = f" ± {excess.se:.2g}" if math.isfinite(excess.se) else ""
        yield Check(
            f"mean_ratio_{m.name}",
            ok,
            f"mean of {RATIO[m.name]} over tokens: {1 + excess.value:.4g}{error}; {says}",
            1.0 + excess.value,
            excess.se,
        )


@check
def not_negative(gathered: Gathered, found: Found) -> Iterator[Check]:
    """Check that no divergence is below 0 by more than noise."""
    for m in tested(found):
        kl = m["kl_token"]
        if m.identical or not math.isfinite(kl.value):
            continue
        if kl.value >= 0.0:
            words = "not negative"
        elif m.negative:
            words = f"negative by {-kl.z:.0f} standard errors: not noise"
        elif m.holds == HOLDS:
            words = f"negative: noise, expected in {percent_below(m):.0f} % of batches of this size"
        else:
            words = "negative, within noise"
        yield Check(
            f"kl_{m.name}",
            not m.negative,
            f"k1 of {RATIO[m.name]}: {kl.value:.3g} a token, {words}",
            kl.value,
            kl.se,
        )


def percent_below(m: Measured) -> float:
    """Return in how many percent of batches of this size k1 is negative.

    If the KL is what k3 says, and the mean is normal; NaN of a single rollout.
    """
    kl, truth = m["kl_token"], max(m["gap_token"].value, 0.0)
    if not kl.se > 0.0:
        return kl.se  # 0 where no batch differs, and NaN where that is not known
    return 100.0 * 0.5 * math.erfc(truth / kl.se / math.sqrt(2.0))


@check
def possible(gathered: Gathered, found: Found) -> Iterator[Check]:
    """Check that no ratio is larger than samples can have.

    The mean of r over samples of its denominator is 1, so that among n of them one above ``e^x``
    has at most the probability ``n e^-x`` (Markov's inequality); that holds for tokens and for
    whole rollouts, whatever the tail.
    """
    for m in tested(found):
        for key, count, what in (
            ("above", m.tokens, "token"),
            ("rollout_above", m.rollouts, "rollout"),
        ):
            place = m.series.places.get(key, Place())
            chance = count * math.exp(-min(max(place.value, 0.0), 700.0))
            if chance >= IMPOSSIBLE:
                continue
            yield Check(
                f"possible_{m.name}_{what}",
                False,
                f"log of {RATIO[m.name]} is {place.value:.3g} at {where(place, gathered)}: "
                f"among {count:,} samples that has a probability below {chance:.1g}",
                place.value,
            )
            break


@check
def one_token(gathered: Gathered, found: Found) -> Iterator[Check]:
    """Check that no token, and no rollout, makes more than half of a mean."""
    for m in (found[name] for name in ("sampler", "penalty", "reference") if name in found):
        if m.name == "reference" and "penalty" in found:
            continue
        worst: Check | None = None
        for key, what in (
            ("size", "|log r|"),
            ("gap", "k3"),
            ("rollout_size", "|log r|"),
            ("rollout_gap", "k3"),
        ):
            place, total = m.series.places.get(key, Place()), m.series.of(key.split("_")[-1])
            share = place.size / total if total > 0.0 else 0.0
            whole = key.startswith("rollout")
            enough = m.rollouts >= 2 * FEW_ROLLOUTS if whole else m.tokens >= FEW_TOKENS
            if share > SHARE and enough and (whole or abs(place.value) > VISIBLE):
                one = "rollout" if whole else "token"
                text = f"one {one} makes {share:.0%} of the mean of {what}, {RATIO[m.name]}"
                worst = worst or Check(
                    f"one_token_{m.name}",
                    False,
                    f"{text}: {where(place, gathered)}, log r {place.value:.3g}",
                    share,
                )
        yield worst or Check(
            f"one_token_{m.name}", True, f"no token makes half of a mean of {RATIO[m.name]}"
        )


@check
def effective_size(gathered: Gathered, found: Found) -> Iterator[Check]:
    """Check that weighted rollouts are worth nearly their number."""
    if "sampler" not in found or found["sampler"].rollouts < FEW_ROLLOUTS:
        return
    ess = found["sampler"]["ess_sequence"]
    yield Check(
        "ess_sequence",
        ess.value >= ENOUGH,
        f"weighted by trainer / sampler, {found['sampler'].rollouts:,} rollouts are worth "
        f"{ess.value:.3g} of "
        f"their number{'' if ess.value >= ENOUGH else ': below .9'}",
        ess.value,
        ess.se,
    )


@check
def identical(gathered: Gathered, found: Found) -> Iterator[Check]:
    """Check that columns which come from two computations are not one and the same."""
    for m in found.values():
        if not m.identical:
            continue
        why = {
            "sampler": (
                "so they are one column under two names, or trainer and sampler are one program"
            ),
            "penalty": "so the policy has not moved yet, or the adapter is off in both",
            "reference": "so the reference's column is the sampler's",
            "lag": "so the policy has not moved since it sampled",
        }[m.name]
        yield Check(
            f"identical_{m.name}",
            m.name == "lag",
            f"both columns of {RATIO[m.name]} are the same at every token, {why}",
            alarm=False,
        )


@check
def logged(gathered: Gathered, found: Found) -> Iterator[Check]:
    """Check that a logged kl is no estimate that is then taken for the truth."""
    n = gathered.logged["n"]
    for name in ("k3", "k1", "k2"):
        if n >= 10 and gathered.logged[name] > 0.99 * n:
            yield Check(
                "logged_kl",
                False,
                f"the logged kl is {name} at every token: an estimate from the same tokens, no "
                "truth",
                alarm=False,
            )
            return


@check
def numbers(gathered: Gathered, found: Found) -> Iterator[Check]:
    """Check that no column is without a number at every token that counts."""
    for role, column in gathered.columns.items():
        if not column.n and column.missing and not column.infinite:
            yield Check(
                f"numbers_{role}",
                False,
                f"the {role}'s column has no number at any of {column.missing:,} counted tokens",
                0.0,
            )


@check
def support(gathered: Gathered, found: Found) -> Iterator[Check]:
    """Check that no token has a probability of 0."""
    for name in ("sampler", "penalty", "reference"):
        series = gathered.series.get(name, Series())
        if series.zero_above:
            yield Check(
                f"support_{name}",
                False,
                f"{OF[name]} gives {series.zero_above:,} sampled tokens a probability of 0: "
                "the KL is infinite; "
                "they are left out of the means",
                float(series.zero_above),
            )
        if series.zero_below:
            yield Check(
                f"sampled_{name}",
                False,
                f"{series.zero_below:,} tokens have a probability of 0 under who sampled them: "
                "impossible",
                float(series.zero_below),
            )


@check
def rounding(gathered: Gathered, found: Found) -> Iterator[Check]:
    """Check how many log-probabilities are a little above 0."""
    for role, column in gathered.columns.items():
        if column.rounded and not column.above:
            yield Check(
                f"above_zero_{role}",
                True,
                f"{column.rounded:,} log-probabilities of the {role} are above 0 by up to "
                f"{column.highest.value:.3g}, "
                "as rounding to bfloat16 leaves them",
                alarm=False,
            )
