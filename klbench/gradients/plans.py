"""The parts of a combination that a recursion over the states of a Markov policy can follow."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from klbench.gradients._combination import PER_DECISION, SCORED, TRUNCATED_DECISION, Combination
from klbench.gradients.corrections import Factor
from klbench.gradients.doubling import DISCOUNTED, PREFIX, PREFIX_REWARD, SUM, TO_GO, WHOLE
from klbench.gradients.edges import Edges, Plan
from klbench.gradients.exact import _whole, taken_apart
from klbench.gradients.kinds import KINDS


@dataclass(frozen=True)
class Parts:
    """A correction by what its factors are of.

    Each token, all tokens up to it, or the whole sequence.

    Parameters
    ----------
    local
        The factors of single tokens, as a correction.
    tilt
        The power of the sequence's ratio; with ``geometric`` it is to be divided by the length.
    kept
        Masks that the largest number of a sequence decides: factors of single tokens that stand for
        the whole.
    """

    local: str
    tilt: int = 0
    geometric: bool = False
    prefix: bool = False
    kept: tuple[Factor, ...] = ()


def split(combination: Combination) -> Parts | None:
    """Return a combination's correction by parts.

    None where it is no product over tokens, or the group's.
    """
    if combination.normalised or combination.signed:
        return None
    if combination.correction == "truncated_ratio":
        return Parts("truncated_ratio") if combination.level == "token" else None
    if any(each.kind in ("block_ratio", TRUNCATED_DECISION) for each in combination.factors):
        return None
    whole = "level" if combination.level == "sequence" else ""
    local, tilt, kept, geometric, prefix = [], 0, [], False, False
    texts = combination.correction.split("*")
    for text, factor in zip(texts, combination.factors, strict=False):
        kind = KINDS[factor.kind]
        if factor.kind in ("sequence_ratio", "geometric_ratio"):
            # The chain's trainer computes what its engine does: old is mu.
            tilt += factor.new == "q"
            geometric = geometric or factor.kind == "geometric_ratio"
        elif kind.over in ("max", "every"):
            kept.append(factor)
        elif kind.scope == "sequence" or kind.over in ("sum", "mean") or whole == kind.scope:
            return None
        else:
            prefix = prefix or factor.kind in ("prefix_ratio", PER_DECISION)
            local.append(text)
    if (prefix and len(texts) > 1) or (geometric and tilt > 1):
        return None
    return Parts(
        "none" if prefix else "*".join(local) or "none", tilt, geometric, prefix, tuple(kept)
    )


def plan(combination: Combination, edges: Edges, tokens: int) -> Plan | None:
    """Return what a combination of token level makes of each token.

    None where no recursion closes.
    """
    parts = split(combination)
    if parts is None:
        return None
    placement, zero, one = combination.placement, edges.zero, edges.one
    local = replace(
        combination,
        length_mean=False,
        baseline="none",
        gamma=1.0,
        correction=parts.local,
        ratio_gradient=combination.ratio_gradient and parts.local != "none",
    )
    power = parts.tilt / tokens if parts.geometric else float(parts.tilt)
    kept = edges.kept(parts.kept)
    weight = np.exp(edges.log_weight) if parts.prefix else one
    decision = combination.per_decision
    if placement not in SCORED:
        whole, _, pieces = _whole(local, edges.rollouts)
        token = whole.token[:, 0].numpy()
        full = zero if whole.full is None else whole.full[:, 0].numpy()
        full = full if decision else weight * full
        rules = PREFIX if parts.prefix else SUM
        if not combination.ratio_gradient or not (power or parts.prefix):
            return Plan(rules, zero, one, weight * token, full, weight, power, kept)
        value = pieces.direct.detach().numpy() * (1.0 if parts.prefix else power)
        rules = PREFIX if parts.prefix else WHOLE
        gradient = weight * (token + value)
        return Plan(rules, weight * value, one, gradient, full, weight, power, kept)
    direct, of_kl, pieces = taken_apart(local, edges.rollouts)
    if pieces.weights is None or pieces.returns is None:
        return None
    token, full, score = (each[:, 0].numpy() for each in (direct, of_kl, pieces.weights))
    number, own = (
        (edges.kl, zero) if placement == "full_with_score" else (pieces.returns[:, 0].numpy(),) * 2
    )
    baseline = edges.kl if combination.baseline == "token_kl" else zero
    to_go = placement in ("reward_to_go", "full_with_score")
    if decision:
        if placement == "full_with_score":
            # The baseline stands for the next token's KL and for all after it.
            number = number + baseline - weight * baseline
            return Plan(PREFIX, number, one, -weight * baseline, full, weight, power, kept)
        number, own = weight * (number - baseline) + baseline, weight * (own - baseline)
        return Plan(PREFIX, number, one, own, zero, weight, power, kept)
    gradient = weight * (token + score * (own - baseline))
    if parts.prefix and not to_go:
        return None
    if combination.gamma != 1.0:
        if parts.prefix:
            return None
        discount = combination.gamma * one
        return Plan(DISCOUNTED, discount * number, score, gradient, zero, discount, power, kept)
    rules = PREFIX_REWARD if parts.prefix else TO_GO if to_go else WHOLE
    return Plan(rules, number, weight * score, gradient, weight * full, weight, power, kept)
