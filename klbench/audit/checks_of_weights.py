"""Checks of the weights of a policy term: its ratio, its clip, and a correction for the rollout.

PPO's term ``-min(r A, clip(r) A)``, ``r = pi/mu``, stops what has gone far enough: ``A > 0`` and
``r`` large, or ``A < 0`` and ``r`` small. It stops nothing else: a token that has gone the wrong
way must be able to come back. Schulman et al. 2017, eq. 7.

Where the rollout's policy is another one than the older one that is clipped against, the term is
weighted by old over rollout too: the whole weight is pi over rollout.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

import numpy as np

from klbench.audit.batches import SHAPE
from klbench.audit.case import Case, check
from klbench.audit.checks_of_policy_terms import ADVANTAGES, change, has_term
from klbench.audit.findings import Finding

DOWN, UP = 0.5, 1.6
"""Ratios beyond the usual clips, below those of a dual clip."""
RATIOS = np.exp(np.linspace(math.log(0.4), math.log(1.9), 24))
"""Ratios on both sides of the usual clips, in steps of 7 %."""
SIX = np.array([1.5, -1.5, 2.5, -0.9, 1.2, -1.1])
"""Three advantages of each sign: less their mean, which is not 0, they keep it."""
LARGE = 100.0
"""The factor of advantages of which a penalty may be a part."""
STEP, FAR = 0.05, 1.5
"""Differences of log-probabilities of rollout and older policy, within usual bounds and
beyond them.
"""


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


@check("dead-gradient")
def clip(case: Case) -> Iterator[Finding]:
    """Look for a clip that stops tokens where r is 1, or those that have gone the wrong way."""
    if not has_term(case) or not case.probe.plan.side("old"):
        return
    pulls = {r: -change(case, r, ADVANTAGES)[0].sum(-1) * ADVANTAGES for r in (DOWN, 1.0, UP)}
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
        if not (wrong_way or change(case, back, np.where(rows, ADVANTAGES, 0.0))[1]):
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
    pulls = np.array([-change(case, r, advantages, even=True)[0].sum(-1) for r in (1.0, *RATIOS)])
    if not np.isfinite(pulls).all() or not pulls[0].all():
        return
    shares = pulls[1:] / pulls[0]
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

    def pull(log_old: float, log_rollout: float) -> tuple[float, float]:
        """Return gradient and value of tokens that the samplers think so much less likely."""
        ratios = math.exp(log_old), math.exp(log_rollout)
        slope, value = change(case, ratios[0], ADVANTAGES, rollout=ratios[1])
        return float(np.abs(slope[0]).sum()), value

    base = pull(0.0, 0.0)[0]
    if not base or not math.isfinite(base):
        return
    powers = [math.log(max(pull(0.0, x)[0], 1e-300) / base) / x for x in (STEP, -STEP)]
    tokens = SHAPE[1]
    evidence = {"power_of_1_over_rollout": powers, "expected": 1.0}

    def among(*values: float) -> bool:
        return any(abs(power - each) < 0.02 * abs(each) for power in powers for each in values)

    if among(-1.0, -tokens):
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
        power = math.log(max(pull(STEP, 0.0)[0], 1e-300) / base) / STEP
        if all(same):
            yield case.finding(
                "direction",
                "warning",
                f"{rollout} weighs nothing in the policy term",
                **evidence,
            )
        elif abs(power - 1.0) < 0.02 and not all(map(max, same, left_out)):
            yield case.finding(
                "direction",
                "error",
                f"{old} and {rollout} are exchanged: the ratio is taken against {rollout}, and the"
                f" correction is {rollout} over {old}",
                **evidence,
            )
