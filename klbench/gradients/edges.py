"""The tokens of a Markov policy, and the means of what sums over them leave behind."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from klbench.gradients import corrections
from klbench.gradients.corrections import Factor
from klbench.gradients.doubling import Monomial, Rules, Segment, closure, over_length
from klbench.policies.markov import Chain
from klbench.types import Rollouts


@dataclass(frozen=True)
class Plan:
    """The coefficients that a combination gives each token, ``(edges,)`` each, and how a sequence's
    gradient is made of it.

    Parameters
    ----------
    number
        What is summed over tokens: a reward, or the logarithm of a ratio.
    score, gradient, full
        What multiplies the token's score in Z and in G, and the gradient of its state's KL in G.
    weight
        W of the prefix rules, D of those with a discount.
    tilt
        The power of the weight of the whole sequence that multiplies all.
    kept
        0 for tokens whose sequence counts for nothing, else 1.
    """

    rules: Rules
    number: np.ndarray
    score: np.ndarray
    gradient: np.ndarray
    full: np.ndarray
    weight: np.ndarray
    tilt: float
    kept: np.ndarray


class Edges:
    """The tokens of a chain that can come, each with its state before and after."""

    def __init__(self, chain: Chain) -> None:
        self.chain = chain
        self.state, self.token = chain.edges
        self.after = chain.after[self.state, self.token]
        at = self.state, self.token
        self.log_q, self.log_p, self.log_mu = (
            each[at] for each in (chain.log_q, chain.log_p, chain.log_mu)
        )
        self.log_weight, self.log_ratio = self.log_q - self.log_mu, self.log_p - self.log_q
        self.kl = chain.token_kl(chain.log_p)[self.state]
        states, tokens = chain.after.shape
        q = np.exp(chain.log_q)
        rows = np.arange(len(self.state))
        scores = np.zeros((len(rows), states, tokens))
        scores[rows, self.state] = -q[self.state]
        scores[rows, self.state, self.token] += 1.0
        self.scores = scores.reshape(len(rows), -1)
        # d(s) = sum over a of q(a|s) (-log r) s_a(s), since the scores in a state average to zero
        by_state = np.zeros((states, states * tokens))
        np.add.at(
            by_state, self.state, (-np.exp(self.log_q) * self.log_ratio)[:, None] * self.scores
        )
        self.fulls = by_state[self.state]

    @property
    def rollouts(self) -> Rollouts:
        """Each as a sequence of one token."""
        q, p, mu, kl = (
            torch.from_numpy(np.ascontiguousarray(each))[:, None]
            for each in (self.log_q, self.log_p, self.log_mu, self.kl)
        )
        return Rollouts(q, p, mu, kl, torch.ones_like(q, dtype=torch.bool))

    @property
    def zero(self) -> np.ndarray:
        """0 for each."""
        return np.zeros(len(self.state))

    @property
    def one(self) -> np.ndarray:
        """1 for each."""
        return np.ones(len(self.state))

    def weight(self, correction: str, cap: float = math.inf) -> np.ndarray:
        """Return what a correction of single tokens makes of each."""
        if correction == "truncated_ratio":
            return np.minimum(np.exp(self.log_weight), cap)
        sides = {"q": self.log_q, "old": self.log_mu, "mu": self.log_mu}
        rows = {side: each[:, None] for side, each in sides.items()}
        found = corrections.weight(correction, rows, np.ones_like(rows["q"], dtype=bool))
        return np.broadcast_to(found, rows["q"].shape)[:, 0]

    def kept(self, masks: Sequence[Factor]) -> np.ndarray:
        """Return 1 for the tokens that masks on the largest of a sequence let pass, else 0."""
        mask, rows = np.ones((len(self.state), 1), dtype=bool), self.log_weight[:, None]
        weights = [
            each.weight(rows if each.new == "q" else 0.0 * rows, mask, log_old=self.log_mu[:, None])
            for each in masks
        ]
        return np.prod([self.one, *(each[:, 0] for each in weights)], axis=0)

    def segment(
        self, plan: Plan, monomials: Sequence[Monomial], tilt: float, ratio: float = 0.0
    ) -> Segment:
        """Return one token's means of products, under the sampler times powers of the weight and
        of ``r``.
        """
        letters = {
            "R": plan.number,
            "W": plan.weight,
            "D": plan.weight,
            "Z": plan.score[:, None] * self.scores,
            "G": plan.gradient[:, None] * self.scores + plan.full[:, None] * self.fulls,
        }
        log_kernel = self.log_mu + tilt * self.log_weight + ratio * self.log_ratio
        highest = float(log_kernel.max())
        kernel = np.exp(log_kernel - highest) * plan.kept
        means = {each: self._placed(kernel, each, letters) for each in monomials}
        return Segment(means, np.asarray(highest))

    def _placed(
        self, kernel: np.ndarray, monomial: Monomial, letters: Mapping[str, np.ndarray]
    ) -> np.ndarray:
        numbers = [letters[letter] for letter in monomial if letters[letter].ndim == 1]
        vectors = [letters[letter] for letter in monomial if letters[letter].ndim == 2]
        value = np.prod([kernel, *numbers], axis=0)
        if len(vectors) == 2:
            value = value * np.einsum("np,np->n", *vectors)
        elif vectors:
            value = value[:, None] * vectors[0]
        states = len(self.chain.start)
        result = np.zeros((states, states, *value.shape[1:]))
        np.add.at(result, (self.state, self.after), value)
        return result

    def means(
        self,
        plan: Plan,
        wanted: Sequence[Monomial],
        lengths: Sequence[int],
        tilt: float,
        ratio: float = 0.0,
    ) -> dict[int, tuple[dict[Monomial, np.ndarray], float]]:
        """Return at each length the means of products over all sequences, and the logarithm of
        their unit.
        """
        token = self.segment(plan, closure(tuple(wanted), plan.rules), tilt, ratio)
        return {
            length: (
                {each: segment.read(each, self.chain.start) for each in wanted},
                float(segment.log_scale),
            )
            for length, segment in over_length(token, lengths, plan.rules).items()
        }
