"""Checks of the weights of a policy term: its ratio, its clip, and a correction for the rollout.

PPO's term ``-min(r A, clip(r) A)``, ``r = pi/mu``, stops what has gone far enough: ``A > 0`` and
``r`` large, or ``A < 0`` and ``r`` small. It stops nothing else: a token that has gone the wrong
way must be able to come back. Schulman et al. 2017, eq. 7.

Where the rollout's policy is another one than the older one that is clipped against, the term is
weighted by old over rollout too: the whole weight is pi over rollout.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from klbench.audit.batches import SHAPE
from klbench.audit.case import Case, check
from klbench.audit.checks_of_policy_terms import ADVANTAGES, change, has_term
from klbench.audit.findings import Finding

DOWN, UP = 0.5, 1.9
"""Ratios beyond the usual clips, below those of a dual clip."""
LIKELY, USUAL = -0.8125, -1.125
"""Log-probabilities of tokens that are equally likely. Ratios of ``DOWN`` and ``UP`` move the first
probability by more than 0.2, where some stop; both are exact in binary, so that means of them are.
"""
RATIOS = np.exp(np.linspace(math.log(0.4), math.log(1.9), 24))
"""Ratios on both sides of the usual clips, in steps of 7 %."""
SIX = np.array([1.5, -1.5, 2.5, -0.9, 1.2, -1.1])
"""Three advantages of each sign: less their mean, which is not 0, they keep it."""
SMALL = 0.3
"""The factor that leaves all of them below 1."""
LARGE = 100.0
"""The factor of advantages of which a penalty may be a part."""
STEP, FAR = 0.05, 1.5
"""Differences of log-probabilities of rollout and older policy, within usual bounds and
beyond them.
"""
SMALL_STEP = 1e-4
"""Within the bounds of ratios of whole sequences."""


@check("direction")
def upside_down(case: Case) -> Iterator[Finding]:
    """Look for a weight mu/pi in place of pi/mu: tokens that became rare would pull harder."""
    if not has_term(case) or not case.probe.plan.side("old"):
        return
    down, one, up = (np.abs(change(case, r, ADVANTAGES)[0].sum(-1)) for r in (DOWN, 1.0, UP))
    positive = ADVANTAGES > 0.0
    near = np.abs(change(case, math.exp(STEP), ADVANTAGES)[0].sum(-1))
    with np.errstate(all="ignore"):
        power = np.log(near / one) / STEP
    far = (down > 1.3 * one)[positive].all() and (1.3 * up < one)[~positive].all()
    if far or (np.abs(power + 1.0) < 0.02).all():
        yield case.finding(
            "direction",
            "error",
            "the policy term is weighted by mu/pi, old over new; samples of mu take pi/mu",
            ratios=[DOWN, 1.0, UP],
            pull=[each.tolist() for each in (down, one, up)],
        )


@check("scale")
def squared(case: Case) -> Iterator[Finding]:
    """Look for a ratio that counts twice: a token's pull grows by its square."""
    if not has_term(case) or not case.probe.plan.side("old"):
        return
    for step in (STEP, SMALL_STEP):
        down, one, up = (
            np.abs(change(case, math.exp(x), ADVANTAGES)[0].sum(-1)) for x in (-step, 0.0, step)
        )
        with np.errstate(all="ignore"):
            power = np.log(np.array([up / one, one / down])) / step
        if (np.abs(power - 2.0) < 0.02).all():
            yield case.finding(
                "scale",
                "error",
                f"the ratio to {case.probe.plan.parameter('old')} counts twice: the pull on a token"
                " is in proportion to its square",
                power=power,
                expected=1.0,
            )
            return


@check("dead-gradient")
def clip(case: Case) -> Iterator[Finding]:
    """Look for a clip that stops tokens where r is 1, or those that have gone the wrong way.

    Tokens of many probabilities, and likely ones: some stop those whose probability has moved far.
    """
    if not has_term(case) or not case.probe.plan.side("old"):
        return
    for even in (0.0, LIKELY):
        found = next(_stopped(case, even), None)
        if found is not None:
            yield found
            return


def _stopped(case: Case, even: float) -> Iterator[Finding]:
    def pull(ratio: float, advantages: np.ndarray) -> tuple[np.ndarray, float]:
        return change(case, ratio, advantages, even=even)

    pulls = {r: -pull(r, ADVANTAGES)[0].sum(-1) * ADVANTAGES for r in (DOWN, 1.0, UP)}
    largest = max(np.abs(each).max() for each in pulls.values())
    if not largest or not math.isfinite(largest):
        return
    live = {r: np.abs(each) > 1e-9 * largest for r, each in pulls.items()}
    wrong_way = _wrong_way(live)
    for sign, back, on in ((1.0, DOWN, UP), (-1.0, UP, DOWN)):
        rows = np.sign(ADVANTAGES) == sign
        word = "positive" if sign > 0.0 else "negative"
        if not live[1.0][rows].any():
            yield case.finding(
                "dead-gradient",
                "error",
                f"tokens with a {word} advantage have no gradient where policy and sampler agree: "
                "the clip is not around 1",
                ratio=1.0,
                advantages=ADVANTAGES,
                pull=pulls[1.0],
            )
            return
        if live[back][rows].any():
            continue
        if not (wrong_way or pull(back, np.where(rows, ADVANTAGES, 0.0))[1]):
            continue  # a mask makes the value 0 too: it is meant
        other = f", and does not stop those at {on:g}" if live[on][rows].any() else ""
        yield case.finding(
            "dead-gradient",
            "error",
            f"the clip stops tokens with a {word} advantage at a ratio of {back:g}, "
            f"which have gone the wrong way{other}: the larger loss counts, clipped or not",
            ratio=back,
            advantages=ADVANTAGES,
            pull=pulls[back],
        )
        return


def _wrong_way(live: Mapping[float, np.ndarray]) -> bool:
    """Return whether tokens of either sign are stopped on the wrong side, and on that alone."""
    up = ADVANTAGES > 0.0
    stopped = not live[DOWN][up].any() and not live[UP][~up].any()
    return stopped and bool(live[UP][up].any() and live[DOWN][~up].any())


@check("scale")
def proportion(case: Case) -> Iterator[Finding]:
    """Look for a clip whose two sides have different advantages.

    With the same ones the pull on a token is its advantage times a function of the ratio, and what
    is not stopped is one interval of ratios. The tokens are equally likely: some stop those whose
    probability, not its logarithm, has moved far, or those whose advantage goes with it.
    """
    if not has_term(case) or not case.probe.plan.side("old"):
        return
    hidden = case.probe.compares and not case.probe.plan.has("beta")
    advantages = LARGE * SIX if hidden else SIX
    pulls = _pulls(case, advantages, (1.0, *RATIOS), rest=not hidden)
    if not np.isfinite(pulls).all() or not pulls[0].all():
        return
    shares = pulls[1:] / pulls[0]
    few = slice(None, None, 4)
    small = shares[few]
    if not hidden:
        small = _pulls(case, SMALL * advantages, RATIOS[few]) / (SMALL * pulls[0])
    tolerance = 0.05 if hidden else 1e-3
    for rows in (advantages > 0.0, advantages < 0.0):
        spread = np.ptp(shares[:, rows], axis=1)
        worst = int(spread.argmax())
        live = np.abs(shares[:, rows]) > 1e-9
        by_size = np.abs(pulls[0][rows])[np.abs(advantages[rows]).argsort()]
        if spread[worst] > tolerance:
            words = (
                f"the pull on a token is not in proportion to its advantage at a ratio of"
                f" {RATIOS[worst]:.3g}"
            )
        elif (np.diff(by_size) < -1e-6 * by_size.max()).any():
            words = "of two advantages the larger pulls less"
        elif _gap(live[:, 0]):
            words = "tokens are stopped at ratios between others at which they are not"
        elif (live[few] != (np.abs(small[:, rows]) > 1e-9)).any():
            words = "tokens are stopped at other ratios where their advantage is small"
        else:
            continue
        yield case.finding(
            "scale",
            "error",
            f"{words}: have the two sides of the clip different advantages?",
            advantages=advantages[rows],
            ratio=float(RATIOS[worst]),
            pull_over_that_at_1=shares[worst, rows],
        )
        return


def _pulls(
    case: Case, advantages: np.ndarray, ratios: Sequence[float] | np.ndarray, *, rest: bool = True
) -> np.ndarray:
    """Return the pull on rows of equally likely tokens at those ratios."""
    return np.array(
        [-change(case, r, advantages, even=USUAL, rest=rest)[0].sum(-1) for r in ratios]
    )


def _gap(live: np.ndarray) -> bool:
    """Return whether what is alive is more than one interval."""
    return bool((np.diff(np.flatnonzero(live)) > 1).any())


@check("direction")
def correction(case: Case) -> Iterator[Finding]:
    """Look for an older policy and a rollout's that are exchanged, or one that counts twice."""
    plan = case.probe.plan
    if not has_term(case) or not plan.has("rollout") or not plan.has("old"):
        return
    old, rollout = plan.parameter("old"), plan.parameter("rollout")

    def pull(log_old: float, log_rollout: float, off: float = 0.0) -> tuple[float, float]:
        """Return gradient and value of tokens that the samplers, and by ``off`` the reference,
        think so much less likely.
        """
        ratios = math.exp(log_old), math.exp(log_rollout)
        slope, value = change(case, ratios[0], ADVANTAGES, off=off, rollout=ratios[1])
        return float(np.abs(slope[0]).sum()), value

    base = pull(0.0, 0.0)[0]
    if not base or not math.isfinite(base):
        return

    def power(*less: float) -> list[float]:
        """Return the powers with which that grows the pull, on both sides of 0."""
        return [
            math.log(max(pull(*(x * each for each in less))[0], 1e-300) / base) / x
            for x in (STEP, -STEP)
        ]

    powers, of_old = power(0.0, 1.0), power(1.0, 0.0)
    of_reference = power(0.0, 0.0, 1.0) if plan.has("reference") else [0.0]
    tokens = SHAPE[1]
    evidence = {"power_of_1_over_rollout": powers, "expected": 1.0}

    def among(*values: float) -> bool:
        return any(_near(each, *values) for each in powers)

    if any(_near(each, 1.0, tokens) for x in of_reference for each in (x, -x)):
        yield case.finding(
            "direction",
            "error",
            f"the policy term is weighted by {plan.parameter('reference')}: the correction for"
            f" samples of the rollout is {old} over {rollout}",
            power_of_reference=of_reference,
        )
    elif all(_near(each, 1.0, tokens) for each in (*powers, *of_old)):
        yield case.finding(
            "direction",
            "error",
            f"the policy weighs twice, over {old} and over {rollout}: the correction for samples of"
            f" the rollout is {old} over {rollout}",
            power_of_1_over_old=of_old,
            **evidence,
        )
    elif among(-1.0, -tokens):
        yield case.finding(
            "direction",
            "error",
            f"the policy term is weighted by {rollout} over {old}; samples of the rollout take"
            f" {old} over {rollout}",
            **evidence,
        )
    elif among(2.0, tokens + 1.0, 2.0 * tokens):
        yield case.finding(
            "direction",
            "error",
            f"{rollout} weighs twice: in the correction, and in the ratio in place of {old}",
            **evidence,
        )
    elif max(map(abs, powers)) < 1e-3:
        far = [pull(0.0, x) for x in (FAR, -FAR)]
        same = [abs(slope / base - 1.0) < 1e-3 for slope, _ in far]
        left_out = [not math.isfinite(value) or slope == value == 0.0 for slope, value in far]
        if all(same):
            yield case.finding(
                "direction",
                "warning",
                f"{rollout} weighs nothing in the policy term",
                **evidence,
            )
        elif abs(of_old[0] - 1.0) < 0.02 and not all(map(max, same, left_out)):
            yield case.finding(
                "direction",
                "error",
                f"{old} and {rollout} are exchanged: the ratio is taken against {rollout}, and the"
                f" correction is {rollout} over {old}",
                **evidence,
            )


def _near(power: float, *values: float) -> bool:
    """Return whether a power is one of these, but for a clip that is not sharp."""
    return any(abs(power - each) < 0.02 * abs(each) for each in values)
