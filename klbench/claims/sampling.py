"""Claims about samplers that are not the policy itself: what a temperature does to the KL."""

from __future__ import annotations

import functools
from collections.abc import Callable

import numpy as np

from klbench import claims
from klbench.claims._base import EXACT, Finding, error, percent, show, verdict
from klbench.claims._finite import Finite, finite, random_pairs
from klbench.numerics import tempered

claim = functools.partial(claims.claim, topic="sampling")
TEMPERATURES = (0.6, 1.5)
Weight = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""Probabilities of the policy and of the sampler to the weight of each outcome."""
THREE = [np.exp(x) / np.exp(x).sum() for x in ([1.0, 0.0, -1.0], [0.4, 0.0, -0.4])]


def unweighted(q: np.ndarray, sampler: np.ndarray) -> np.ndarray:
    """Return a weight of 1 for each outcome."""
    return np.ones_like(q)


def _mean(pair: Finite, temperature: float, weight: Weight) -> float:
    """``E[w log q/p]`` over samples of q_T."""
    sampler = np.exp(tempered(np.log(pair.q), temperature))
    return float(sampler * weight(pair.q, sampler) @ -pair.log_ratio)


@claim(
    "temperature_keeps_kl",
    "Whatever the sampling temperature, the mean of log q/p with the models' own log-probabilities"
    " is KL(q‖p).",
    r"\mathbb{E}_{x \sim q_T}\left[\log q(x)/p(x)\right] = \mathrm{KL}(q \Vert p),"
    r"\ \ q_T \propto q^{1/T}",
    "vLLM, 2026: log-probabilities before the temperature by default, logprobs_mode=raw_logprobs",
)
def temperature_keeps_kl(seed: int, weight: Weight = unweighted) -> Finding:
    """The mean over q_T by enumeration, as it is and with weights q/q_T."""
    off = mended = 0.0
    for pair in random_pairs(seed, "temperature_keeps_kl", 50):
        for temperature in TEMPERATURES:
            found = _mean(pair, temperature, weight)
            right = _mean(pair, temperature, lambda q, sampler: q / sampler)
            off = max(off, abs(found - pair.kl_qp) / pair.kl_qp)
            mended = max(mended, abs(right - pair.kl_qp))
    three = finite(*(each.tolist() for each in THREE))
    cold, warm = (_mean(three, temperature, weight) for temperature in TEMPERATURES)
    return Finding(
        verdict(mended < EXACT, off < EXACT, "each sample is weighted with q/q_T"),
        f"For logits (1, 0, −1) and (0.4, 0, −0.4), KL(q‖p) is {show(three.kl_qp)} nats; the mean"
        f" is {show(cold)} over samples at T = {TEMPERATURES[0]}, and {show(warm)} at"
        f" {TEMPERATURES[1]}. On 50 pairs it is off by up to {percent(off)}, and with weights q/q_T"
        f" by {error(mended)} nats.",
        off,
        0.0,
    )
