"""Policies whose next token depends on a state alone: any length is exact, by dynamic programming over the states.

A family draws a reference, a policy and a sampler at random. ``mixing`` forgets where it was; ``absorbing`` falls, once in a
thousand tokens, into a part that it never leaves; ``mode`` chooses its part with the first token.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal, get_args

import numpy as np
from scipy.optimize import brentq

Family = Literal["mixing", "absorbing", "mode"]
FAMILIES: tuple[Family, ...] = get_args(Family)
STATES = 6
ESCAPE = 1e-3
"""The probability with which a token of ``absorbing`` leaves the first part for good."""


@dataclass(frozen=True)
class Chain:
    """A policy, its reference and its sampler on the same states.

    Parameters
    ----------
    start
        The distribution of the first state, ``(states,)``; no parameter of the policy.
    after
        The state that a token leads to, ``(states, tokens)``.
    log_q, log_p, log_mu
        Log-probabilities of the next token in each state, ``(states, tokens)``; ``-inf`` where it never comes.
    """

    start: np.ndarray
    after: np.ndarray
    log_q: np.ndarray
    log_p: np.ndarray
    log_mu: np.ndarray

    @property
    def edges(self) -> tuple[np.ndarray, np.ndarray]:
        """State and token of all that the policy can do."""
        state, token = np.nonzero(np.isfinite(self.log_q))
        return state, token

    def kernel(self, log_probs: np.ndarray) -> np.ndarray:
        """Return the transition matrix, ``(states, states)``, of one of the three."""
        states, tokens = self.after.shape
        result = np.zeros((states, states))
        np.add.at(
            result,
            (np.repeat(np.arange(states), tokens), self.after.ravel()),
            np.exp(log_probs).ravel(),
        )
        return result

    def token_kl(self, other: np.ndarray) -> np.ndarray:
        """Return ``KL(q(.|s) ‖ other(.|s))`` in each state, nats, ``(states,)``."""
        return divergence(self.log_q, other)

    def occupancy(self, log_probs: np.ndarray, tokens: int) -> np.ndarray:
        """Return how often each state is left within ``tokens`` tokens, on average: ``(states,)``."""
        kernel, result, at = self.kernel(log_probs), np.zeros(len(self.start)), self.start
        if tokens & (tokens - 1) == 0:  # sum of P^t below 2^k: product of (1 + P^(2^i))
            for _ in range(tokens.bit_length() - 1):
                at, kernel = at + at @ kernel, kernel @ kernel
            return at
        for _ in range(tokens):
            result, at = result + at, at @ kernel
        return result

    def kl(self, tokens: int, other: np.ndarray | None = None) -> float:
        """Return ``KL(q‖p)`` of sequences of that length, or from ``other`` in place of p; nats."""
        each = self.token_kl(self.log_p if other is None else other)
        return float(self.occupancy(self.log_q, tokens) @ each)


def divergence(log_q: np.ndarray, log_p: np.ndarray) -> np.ndarray:
    """Return ``KL(q‖p)`` of each row of log-probabilities, nats."""
    possible = np.isfinite(log_q)
    gap = np.subtract(log_q, log_p, where=possible, out=np.zeros_like(log_q))
    result: np.ndarray = (np.exp(log_q) * gap).sum(-1)
    return result


def normalised(logits: np.ndarray) -> np.ndarray:
    """Return log-probabilities, row by row."""
    top = logits.max(-1, keepdims=True)
    result: np.ndarray = logits - top - np.log(np.exp(logits - top).sum(-1, keepdims=True))
    return result


def stationary(kernel: np.ndarray) -> np.ndarray:
    """Return the distribution that a transition matrix leaves as it is."""
    size = len(kernel)
    equations = np.vstack([kernel.T - np.eye(size), np.ones(size)])
    result: np.ndarray = np.linalg.lstsq(equations, np.append(np.zeros(size), 1.0), rcond=None)[0]
    return result


def relaxation(kernel: np.ndarray) -> float:
    """Return ``1 / (1 - |second eigenvalue|)``: the tokens in which a chain forgets its start by a factor e, or nearly.

    inf where there is a second eigenvalue of 1, up to rounding: some of it is never forgotten.
    """
    gap = 1.0 - float(np.sort(np.abs(np.linalg.eigvals(kernel)))[-2])
    return 1.0 / gap if gap > 1e-9 else math.inf


def random_chain(stream: np.random.Generator) -> Chain:
    """Return a policy and a reference of independent standard normal logits; the first state is drawn evenly."""
    q, p = (normalised(stream.standard_normal((STATES, STATES))) for _ in range(2))
    after = np.tile(np.arange(STATES), (STATES, 1))
    return Chain(np.full(STATES, 1.0 / STATES), after, q, p, q)


def make(
    family: Family, stream: np.random.Generator, kl_token: float, lag_token: float, tokens: int
) -> Chain:
    """Return a chain whose KLs to reference and sampler are so many nats a token, over ``tokens`` tokens.

    The policy is the reference plus a multiple of a random direction, the sampler the policy plus one of another.
    """
    start, after, logits = _SHAPES[family](stream)
    away, behind = (
        np.where(np.isfinite(logits), stream.standard_normal(logits.shape), 0.0) for _ in range(2)
    )
    reference = normalised(logits)

    def policy(scale: float) -> Chain:
        moved = normalised(logits + scale * away)
        chain = Chain(start, after, moved, reference, moved)
        if family != "mixing":
            return chain
        return replace(chain, start=stationary(chain.kernel(moved)))

    scale = _solve(lambda scale: policy(scale).kl(tokens) / tokens, kl_token)
    chain = policy(scale)
    if not lag_token:
        return chain
    ahead = np.where(np.isfinite(chain.log_q), chain.log_q, -np.inf)

    def lag(scale: float) -> float:
        return chain.kl(tokens, normalised(ahead + scale * behind)) / tokens

    return replace(chain, log_mu=normalised(ahead + _solve(lag, lag_token) * behind))


def _solve(value: Callable[[float], float], wanted: float) -> float:
    """Return the scale at which an increasing function has the wanted value."""
    high = 1e-3
    while value(high) < wanted:
        high *= 2.0
        if high > 1e4:
            raise ValueError(f"no policy of this family is {wanted:g} nats a token away")
    return float(brentq(lambda scale: value(scale) - wanted, 0.0, high, xtol=1e-15, rtol=1e-14))


def _mixing(stream: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    after = np.tile(np.arange(STATES), (STATES, 1))
    return np.full(STATES, 1.0 / STATES), after, stream.standard_normal((STATES, STATES))


def _absorbing(stream: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return four states, and two that are never left once the fifth token came."""
    logits = stream.standard_normal((STATES, STATES))
    inner, outer = slice(0, 4), slice(4, 6)
    logits[inner, 5], logits[outer, inner] = -np.inf, -np.inf
    rest = np.log(np.exp(logits[inner, inner]).sum(-1))
    logits[inner, 4] = rest + math.log(ESCAPE / (1.0 - ESCAPE))
    after = np.tile(np.arange(STATES), (STATES, 1))
    return np.eye(STATES)[0], after, logits


def _mode(stream: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return a first state, whose two tokens each lead to three states of their own."""
    states, tokens = 1 + STATES, STATES // 2
    logits = stream.standard_normal((states, tokens))
    logits[0, 2:] = -np.inf
    after = np.zeros((states, tokens), dtype=np.int64)
    after[0, :2] = 1, 4
    after[1:4], after[4:7] = np.arange(1, 4), np.arange(4, 7)
    return np.eye(states)[0], after, logits


_SHAPES: dict[
    Family, Callable[[np.random.Generator], tuple[np.ndarray, np.ndarray, np.ndarray]]
] = {
    "mixing": _mixing,
    "absorbing": _absorbing,
    "mode": _mode,
}
