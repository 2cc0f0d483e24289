"""Claims about distillation from the k most probable tokens of a teacher p, or of the student q itself.

All on softmaxes of a few outcomes, whose gradients in the student's logits are written out here.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import numpy as np

from klbench import claims, streams
from klbench.claims._base import EXACT, Finding, error, percent, show, verdict
from klbench.claims._finite import Finite

claim = functools.partial(claims.claim, topic="distillation")

EMA_PG = "Zhang and Ba 2026, EMA policy gradient, arXiv:2602.04417; its README and code at 19d2196"
PAIRS = 20
SIZE = 16
STEPS, RATE = 2_000, 0.5


def _pairs(seed: int) -> list[Finite]:
    """Softmaxes of normal logits, the student's tilted by as much again."""
    stream = streams.generator(seed, "claims", "distillation")
    found = []
    for _ in range(PAIRS):
        logits, tilt = 1.5 * stream.standard_normal(SIZE), stream.standard_normal(SIZE)
        found.append(Finite(*(np.exp(x) / np.exp(x).sum() for x in (logits + tilt, logits))))
    return found


def _top(probabilities: np.ndarray, k: int) -> np.ndarray:
    return np.isin(np.arange(len(probabilities)), np.argsort(-probabilities, kind="stable")[:k])


def _slope(q: np.ndarray, coefficient: np.ndarray) -> np.ndarray:
    """``sum of q c grad log q`` in the logits of q."""
    result: np.ndarray = q * (coefficient - q @ coefficient)
    return result


def detached_tail(log_ratio: np.ndarray) -> np.ndarray:
    """``log q/p``, a constant times the sampled token's score."""
    return -log_ratio


@claim(
    "topk_tail_unbiased",
    "The top-k KL with a sampled tail has an unbiased value and an unbiased gradient at any k.",
    r"\nabla \sum_{a \in K} q \log\tfrac{q}{p} + \mathbb{E}_q\left[1_{a \notin K} \log\tfrac{q}{p} \nabla \log q\right] = "
    r"\nabla \mathrm{KL}(q \Vert p)",
    EMA_PG,
)
def topk_tail_unbiased(
    seed: int, tail: Callable[[np.ndarray], np.ndarray] = detached_tail
) -> Finding:
    """The sum over the support differentiated, and what multiplies the score outside, at each k from 1 to the vocabulary.

    The slope of ``q log q/p`` is ``log q/p + 1`` times that of q. Inside the support both stand, outside the 1 is missing.
    """
    off = mended = value = unlike = 0.0
    for pair in _pairs(seed):
        u = -pair.log_ratio
        exact = _slope(pair.q, u)
        for k in range(1, SIZE):
            kept = _top(pair.q, k)
            found = _slope(pair.q, np.where(kept, u + 1.0, tail(-u)))
            right = _slope(pair.q, np.where(kept, u + 1.0, u + 1.0))
            mass = _slope(pair.q, kept.astype(float))
            scale = float(np.linalg.norm(exact))
            off = max(off, float(np.linalg.norm(found - exact)) / scale)
            mended = max(mended, float(np.linalg.norm(right - exact)) / scale)
            unlike = max(unlike, float(np.linalg.norm(found - exact - mass)) / scale)
            sampled = pair.q[kept] @ u[kept] + pair.q[~kept] @ u[~kept]
            value = max(value, abs(float(sampled - pair.q @ u)))
    return Finding(
        verdict(
            max(mended, value) < EXACT,
            off < EXACT,
            "the tail is differentiated too: its term is log q/p + 1 times the score",
        ),
        f"On {PAIRS} pairs of {SIZE} tokens the value is off by {error(value)}. With log q/p detached outside the support, "
        f"the gradient is off by up to {percent(off)}, and by the gradient of the student's mass on the support but for "
        f"{error(unlike)}; with log q/p + 1 it is off by {error(mended)}.",
        off,
        0.0,
    )


def _descended(p: np.ndarray, k: int, tail: float) -> np.ndarray:
    """Return the student after gradient descent from the teacher; ``tail``: the weight of a bucket of all other tokens."""
    logits = np.log(p)
    for _ in range(STEPS):
        q = np.exp(logits - logits.max())
        q /= q.sum()
        kept = _top(q, k)
        rest = np.log(q[~kept].sum() / p[~kept].sum())
        logits = logits - RATE * _slope(q, np.where(kept, np.log(q / p) + 1.0, tail * (rest + 1.0)))
    return q


@claim(
    "topk_mass_collapse",
    "KL(q‖p) summed over the student's k most probable tokens drives mass off them, even from the teacher itself.",
    r"\nabla \sum_{a \in K} q \log\tfrac{q}{p} = \nabla q(K)\quad \mathrm{where}\ q = p",
    "verl, RFC on distillation from top-k tokens, 2026",
)
def topk_mass_collapse(seed: int, tail: float = 0.0) -> Finding:
    """Exact gradient descent that starts where student and teacher are one, without and with a bucket for the tail."""
    k, lost, kept_by_bucket = 4, [], 0.0
    for pair in _pairs(seed)[:5]:
        before = np.sort(pair.p)[-k:].sum()
        after = np.sort(_descended(pair.p, k, tail))[-k:].sum()
        lost.append(float(before - after))
        bucket = np.sort(_descended(pair.p, k, 1.0))[-k:].sum()
        kept_by_bucket = max(kept_by_bucket, abs(float(bucket - before)))
    return Finding(
        verdict(
            min(lost) > 1e-3,
            kept_by_bucket > 1e-3,
            "nothing stands for the tokens that are left out",
        ),
        f"From the teacher, the mass on the top {k} of {SIZE} tokens falls by {show(min(lost))} to {show(max(lost))} in "
        f"{STEPS:,} steps; with a bucket for the tail it moves by {error(kept_by_bucket)}.",
        min(lost),
        0.0,
    )


@claim(
    "topk_advantage_nothing",
    "A top-k KL used as an advantage has no gradient: it does not depend on the sampled token.",
    r"\mathbb{E}_q[c\, \nabla \log q] = 0",
    "miles, on a top-k KL in the reward, 2026",
)
def topk_advantage_nothing(
    seed: int, advantage: Callable[[Finite, float], np.ndarray] = lambda pair, c: np.full(SIZE, c)
) -> Finding:
    """The raw sum over the teacher's k most probable tokens times the score of the token that was sampled."""
    worst = 0.0
    for pair in _pairs(seed):
        u = -pair.log_ratio
        for k in range(1, SIZE + 1):
            kept = _top(pair.p, k)
            mean = _slope(pair.q, advantage(pair, float(pair.q[kept] @ u[kept])))
            worst = max(worst, float(np.linalg.norm(mean) / np.linalg.norm(_slope(pair.q, u))))
    return Finding(
        verdict(worst < EXACT),
        f"On {PAIRS} pairs of {SIZE} tokens, at each k, its mean gradient is {error(worst)} of that of KL(q‖p).",
        worst,
        0.0,
    )


@claim(
    "topk_is_a_kl",
    "The sum over the teacher's k most probable tokens, clamped at 0, is a KL of the kept tokens.",
    r"\max\left(0, \sum_{a \in K} q \log\tfrac{q}{p}\right) = \mathrm{KL}(q_K \Vert p_K)",
    "verl, forward_kl_topk and its clamp at 0, 2026",
)
def topk_is_a_kl(seed: int, tail: Callable[[float, float], float] = lambda q, p: 0.0) -> Finding:
    """At k = 1 of q = (.6, .4), p = (.9, .1), and how often it is negative on random pairs, against the KL with a tail."""
    example = 0.6 * float(np.log(0.6 / 0.9)) + tail(0.4, 0.1)
    negative, worst, count = 0, 0.0, 0
    for pair in _pairs(seed):
        for k in range(1, SIZE):
            kept = _top(pair.p, k)
            rest = float(pair.q[~kept].sum()), float(pair.p[~kept].sum())
            raw = float(pair.q[kept] @ -pair.log_ratio[kept])
            exact = raw + rest[0] * float(np.log(rest[0] / rest[1]))
            found = raw + tail(*rest)
            negative, count = negative + (found < 0.0), count + 1
            worst = max(worst, abs(max(found, 0.0) - exact))
    return Finding(
        verdict(worst < EXACT),
        f"For q = (0.6, 0.4) and p = (0.9, 0.1) the first token's term is {show(example)} nats, and clamped 0, where the KL of "
        f"that token and the rest is 0.311. On {PAIRS} pairs of {SIZE} tokens it is negative in {percent(negative / count)} "
        f"of all k, and off from the KL with a tail by up to {show(worst)} nats.",
        worst,
        0.0,
    )
