"""The inputs that a function is probed with.

Log-probabilities of tokens, and full distributions where it takes logits.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, cast

import numpy as np

from klbench import streams
from klbench.audit.arguments import Plan

VOCABULARY = 61
"""Large enough for the top-k sums in use, and no number that a sum is divided by."""
SHAPE = (3, 5)
"""Rows and tokens of a probe.

Neither is 1 or equals the other, so that nothing broadcasts by accident.
"""


SHIFTS = {"policy": 1.0, "reference": -0.6, "old": 0.3}
"""Multiples of the offset that the logits of each side get."""


@dataclass(frozen=True)
class Batch:
    """Tokens as they were sampled, ``(B, T)``, float64, in nats.

    Parameters
    ----------
    log_q, log_p, log_mu
        Log-probabilities of the sampled tokens.
    mask
        Which tokens count.
    rest_q, rest_p
        Shares of the other tokens in what the sampled one leaves, ``(B, T, VOCABULARY - 1)``; each
        sums to 1.
    token
        Ids of the sampled tokens.
    offset
        Added to all logits of a position, ``(B, T)``: a softmax does not see it.
    advantages
        ``(B,)``.
    """

    log_q: np.ndarray
    log_p: np.ndarray
    log_mu: np.ndarray
    mask: np.ndarray
    rest_q: np.ndarray
    rest_p: np.ndarray
    token: np.ndarray
    offset: np.ndarray
    advantages: np.ndarray
    given_logits: tuple[np.ndarray, np.ndarray, np.ndarray] | None = None

    @property
    def log_ratio(self) -> np.ndarray:
        """``log p - log q``."""
        return self.log_p - self.log_q

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and tokens."""
        return self.log_q.shape[0], self.log_q.shape[1]

    def full(self, side: str) -> np.ndarray:
        """Return the log-probabilities of all tokens on one side (``q``, ``p``, ``mu``), ``(B,
        T, V)``.
        """
        if self.given_logits is not None:
            return self.given_logits[["q", "p", "mu"].index(side)]
        chosen = {"q": self.log_q, "p": self.log_p, "mu": self.log_mu}[side]
        rest = self.rest_p if side == "p" else self.rest_q
        left = np.log(-np.expm1(np.minimum(chosen, -1e-12)))[..., None] + np.log(rest)
        at = np.arange(rest.shape[-1] + 1)
        others = np.where(at < self.token[..., None], at, at - 1).clip(0, rest.shape[-1] - 1)
        result = np.take_along_axis(left, others, axis=-1)
        return np.where(at == self.token[..., None], chosen[..., None], result)

    @cached_property
    def full_q(self) -> np.ndarray:
        """All of ``log q``."""
        return self.full("q")

    @cached_property
    def full_p(self) -> np.ndarray:
        """All of ``log p``."""
        return self.full("p")

    def arrays(self, plan: Plan) -> dict[str, np.ndarray]:
        """Return what the function's array parameters get, by role."""
        of = {"q": self.log_q, "p": self.log_p, "mu": self.log_mu}
        result: dict[str, np.ndarray] = {}
        for role in plan.roles.values():
            side = role.removesuffix("_logits")
            if role.endswith("_logits"):
                # Of each side another one: a difference of logits is no log-ratio.
                shift = 0.0 if plan.normalized else SHIFTS[side] * self.offset[..., None]
                result[role] = self.full(plan.sides[side]) + shift
            elif role in plan.sides:
                result[role] = of[plan.sides[role]]
            elif role == "log_ratio":
                result[role] = self.log_ratio
            elif role == "tokens":
                result[role] = self.token
            elif role in ("mask", "advantages"):
                result[role] = getattr(self, role)
        return result

    def with_ratio(self, log_ratio: np.ndarray) -> Batch:
        """Return the same with other log-ratios, by another ``log p``.

        Where that would be above 0, all are lowered.
        """
        lower = np.maximum(log_ratio + self.log_q + 0.05, 0.0)
        return replace(
            self,
            log_q=self.log_q - lower,
            log_mu=self.log_mu - lower,
            log_p=self.log_q - lower + log_ratio,
        )

    def same(self) -> Batch:
        """Return the same policy with itself for reference."""
        given = (
            None
            if self.given_logits is None
            else (self.given_logits[0], self.given_logits[0], self.given_logits[2])
        )
        return replace(self, log_p=self.log_q, rest_p=self.rest_q, given_logits=given)

    def repeated(self, rows: int, tokens: int) -> Batch:
        """Return a batch all of whose tokens are this one's first."""

        def wide(x: np.ndarray) -> np.ndarray:
            return np.broadcast_to(x[:1, :1], (rows, tokens, *x.shape[2:])).copy()

        advantages = np.broadcast_to(self.advantages[:1], (rows,)).copy()
        return Batch(
            wide(self.log_q),
            wide(self.log_p),
            wide(self.log_mu),
            np.ones((rows, tokens), bool),
            wide(self.rest_q),
            wide(self.rest_p),
            wide(self.token),
            wide(self.offset),
            advantages,
        )

    def take(self, rows: np.ndarray | slice, tokens: slice = slice(None)) -> Batch:
        """Return some rows and tokens."""
        names = ("log_q", "log_p", "log_mu", "mask", "rest_q", "rest_p", "token", "offset")
        return replace(
            self,
            **{name: getattr(self, name)[rows, tokens] for name in names},
            advantages=self.advantages[rows],
        )


def stacked(batches: Sequence[Batch]) -> Batch:
    """Return the first token of each batch, a row each."""
    first = [batch.take(slice(1), slice(1)) for batch in batches]
    names = (
        "log_q",
        "log_p",
        "log_mu",
        "mask",
        "rest_q",
        "rest_p",
        "token",
        "offset",
        "advantages",
    )
    joined = replace(
        first[0],
        **cast(
            dict[str, Any],
            {name: np.concatenate([getattr(each, name) for each in first]) for name in names},
        ),
    )
    return replace(joined, given_logits=(joined.full("q"), joined.full("p"), joined.full("mu")))


def random(
    name: str,
    rows: int = SHAPE[0],
    tokens: int = SHAPE[1],
    spread: float = 0.6,
    masked: bool = False,
) -> Batch:
    """Return a batch of log-ratios of that standard deviation, the same for the same name.

    ``masked`` rows differ in length.
    """
    stream = streams.generator(0, "audit", name)
    log_q = -0.3 - stream.exponential(1.2, (rows, tokens))
    log_ratio = spread * stream.standard_normal((rows, tokens))
    mask = np.ones((rows, tokens), bool)
    if masked:
        for row in range(rows):
            mask[row, tokens - row % (tokens - 1) :] = (
                False  # two tokens at least: some functions shift by one
            )
    shares = [stream.dirichlet(np.full(VOCABULARY - 1, 1.0), (rows, tokens)) for _ in range(2)]
    token, offset = (
        stream.integers(0, VOCABULARY, (rows, tokens)),
        stream.standard_normal((rows, tokens)),
    )
    advantages = stream.standard_normal(rows) + 0.1
    batch = Batch(log_q, log_q, log_q, mask, shares[0], shares[1], token, offset, advantages)
    return batch.with_ratio(log_ratio)


def uniform(
    log_ratio: float,
    rows: int = SHAPE[0],
    tokens: int = SHAPE[1],
    log_q: float = -1.1,
    name: str = "one",
) -> Batch:
    """Return a batch of equal tokens, whose log-ratio is that."""
    one = random(name, 1, 1)
    wide = replace(
        one,
        log_q=np.full((1, 1), log_q),
        log_p=np.full((1, 1), log_q),
        log_mu=np.full((1, 1), log_q),
    )
    return wide.with_ratio(np.full((1, 1), log_ratio)).repeated(rows, tokens)
