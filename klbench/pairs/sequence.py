"""Small autoregressive policies whose every sequence is enumerated: what a language model is, with nothing unknown."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
from pydantic import (
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    model_validator,
)

from klbench import divergences, streams
from klbench.numerics import tempered
from klbench.oracles import EPS, ExactMoments, enumerate_moments
from klbench.pairs import register
from klbench.pairs._base import Pair, Temperature, at_temperatures
from klbench.policies import Name, check_number, leaves
from klbench.types import Capabilities, Completions, Draws, Estimator, GradientTask, Skip, Truth

if TYPE_CHECKING:
    from klbench.policies.shapes import Policy
    from klbench.policies.tree import Tree

MOST_SEQUENCES = 2_000_000
MOST_SCORE_BYTES = 2e9
LARGEST_LOG_RATIO = 300.0
FARTHEST = 5.0
"""Logarithm of the largest step, in units of the initial weights: policies there are certain of every token."""


@register
class SequencePair(Pair):
    """A reference with random weights, a policy moved away from it, and a sampler moved away from the policy.

    A sequence ends with its end token or is cut off at the horizon; prompts are equally likely. Everything is a sum over all
    sequences. The policy's parameters are the reference's plus a multiple of a random direction, so that
    ``KL(q‖p) = kl``, the mean over prompts. The sampler stands behind the policy, on the straight path from the reference
    (``behind=path``), or off it by another random direction (``behind=random``), so that ``KL(q‖mu) = lag``.

    With ``mismatch`` there are three: ``old``, the trainer's policy at sampling time, lags so, and
    the engine ``mu`` that sampled computes other probabilities, moved away from it by a random
    direction so that ``KL(old‖mu) = mismatch``.

    With ``temperature``, samples are of the policy with its logits divided by that; with
    ``scored_temperature``, q and p are policy and reference with theirs divided by that, and ``kl``
    stays what it is between the two without.
    """

    kind: ClassVar[str] = "sequence"
    summary: ClassVar[str] = (
        "enumerated token policies (model, vocabulary, horizon, prompts, kl, lag, behind, mismatch, temperature, "
        "scored_temperature)"
    )
    capabilities: ClassVar[Capabilities] = Capabilities(completions=True)
    later: ClassVar[Sequence[str]] = ("mismatch", "temperature", "scored_temperature")
    model: Name = "gru"
    vocabulary: int = Field(default=6, ge=2, le=64)
    horizon: int = Field(default=4, ge=1, le=10)
    prompts: int = Field(default=8, ge=1, le=256)
    kl: PositiveFloat = 0.5
    lag: NonNegativeFloat = 0.0
    behind: Literal["path", "random"] = "path"
    mismatch: NonNegativeFloat = 0.0
    seed: NonNegativeInt = 0
    width: int = Field(default=8, ge=1, le=64)
    temperature: Temperature = 1.0
    scored_temperature: Temperature = 1.0

    @model_validator(mode="after")
    def _check(self) -> SequencePair:
        check_number(
            self,
            leaves(self.vocabulary, self.horizon) * self.prompts,
            "sequences",
            MOST_SEQUENCES,
            "can be enumerated",
        )
        if (self.lag or self.mismatch) and self._warm:
            raise ValueError(
                "give lag and mismatch, or temperature and scored_temperature, not both"
            )
        _ = self.parameters  # whether kl and lag are within reach is part of the check
        if self._warm:
            log_ratio = self._atoms[0] if self._atoms[1] is None else np.stack(self._atoms[:2])  # type: ignore[arg-type]
            if float(np.abs(log_ratio).max()) > LARGEST_LOG_RATIO:
                raise ValueError(
                    f"temperature={self.temperature:g} and scored_temperature={self.scored_temperature:g} make log-ratios "
                    f"above {LARGEST_LOG_RATIO:g}, of which no second moment is a float"
                )
        return self

    @property
    def _warm(self) -> bool:
        """Return whether any logits are divided by a temperature."""
        return (self.temperature, self.scored_temperature) != (1.0, 1.0)

    @cached_property
    def tree(self) -> Tree:
        """The sequences after one prompt."""
        from klbench.policies.tree import Tree

        return Tree(self.vocabulary, self.horizon)

    @cached_property
    def policy(self) -> Policy:
        """The shape of all three: reference, policy, sampler."""
        from klbench.policies.shapes import POLICIES

        return POLICIES[self.model](self.tree, self.prompts, self.width)

    @cached_property
    def parameters(self) -> dict[str, np.ndarray]:
        """The parameter vectors of ``q``, ``p`` and, off-policy, ``mu``; of ``old`` where that is not ``mu``."""
        p = self._random("reference")
        at_p = self._leaves_under(p)
        q = self._moved("kl", p, self._random("policy"), lambda at_q: self._divergence(at_q, at_p))
        at_q = self._leaves_under(q)
        self._check_distance("kl", at_q - at_p)
        if not self.lag and not self.mismatch:
            return {"q": q, "p": p}
        old, at_old = q, at_q
        if self.lag:
            away = p - q if self.behind == "path" else self._random("sampler")
            old = self._moved("lag", q, away, lambda at_old: self._divergence(at_q, at_old))
            at_old = self._leaves_under(old)
            self._check_distance("lag", at_q - at_old)
        if not self.mismatch:
            return {"q": q, "p": p, "mu": old}
        engine = self._random("engine")
        mu = self._moved("mismatch", old, engine, lambda at_mu: self._divergence(at_old, at_mu))
        self._check_distance("mismatch", at_q - self._leaves_under(mu))
        return {"q": q, "p": p, "old": old, "mu": mu}

    def _check_distance(self, key: str, log_ratio: np.ndarray) -> None:
        largest = float(np.abs(log_ratio).max())
        if largest > LARGEST_LOG_RATIO:
            raise ValueError(
                f"{key}={getattr(self, key):g} is out of reach for this {self.model}: it takes log-ratios up to {largest:.3g}, "
                f"of which no second moment is a float"
            )

    def _random(self, name: str) -> np.ndarray:
        return self.policy.random(
            streams.generator(self.seed, "pair", "sequence", self.model, name)
        )

    def _divergence(self, log_q: np.ndarray, log_p: np.ndarray) -> float:
        """``KL(q‖p)``, the mean over prompts, of leaf log-probabilities ``(prompts, leaves)``."""
        log_ratio = log_p - log_q
        # Weighted by the larger of the two, so that no ratio overflows on the way to a policy that is too far off.
        smaller = Draws(-np.abs(log_ratio))
        from_q = np.exp(log_q) * divergences.get("kl_qp").gap(smaller)
        from_p = np.exp(log_p) * divergences.get("kl_pq").gap(smaller)
        return float(np.sum(np.where(log_ratio > 0.0, from_p, from_q))) / self.prompts

    def _moved(
        self,
        key: str,
        origin: np.ndarray,
        direction: np.ndarray,
        divergence: Callable[[np.ndarray], float],
    ) -> np.ndarray:
        """``origin + scale * direction`` where the divergence, of leaf log-probabilities, is the field ``key``."""
        from scipy.optimize import brentq

        kl: float = getattr(self, key)
        most = 0.0  # on the way: far out it may fall again

        def excess(log_scale: float) -> float:
            nonlocal most
            found = divergence(self._leaves_under(origin + math.exp(log_scale) * direction))
            most = max(most, found)
            return math.log(max(found, sys.float_info.min) / kl)

        # Divergences are quadratic in a small step, and the logarithm is nearly a line: start from where it leads.
        high = -4.0 - 0.5 * excess(-4.0)
        low = high - 0.01
        while excess(low) > 0.0:
            low -= 0.5
        while (missing := excess(high)) < 0.0:
            if high > FARTHEST:
                raise ValueError(
                    f"{key}={kl:g} is out of reach for this {self.model}: about {most:.3g} is possible here"
                )
            low, high = high, high + min(0.01 - 0.6 * missing, 0.5)
        return np.asarray(origin + math.exp(brentq(excess, low, high, xtol=1e-13)) * direction)

    def _log_probs_under(self, parameters: np.ndarray) -> np.ndarray:
        import torch

        with torch.no_grad():
            weights = self.policy.split(torch.from_numpy(parameters))
            logits = self.policy.everywhere(weights, torch.arange(self.prompts))
            result: np.ndarray = logits.log_softmax(-1).numpy()
        return result

    def _leaves_under(self, parameters: np.ndarray) -> np.ndarray:
        return self._leaves_of(self._log_probs_under(parameters))

    def _leaves_of(self, log_probs: np.ndarray) -> np.ndarray:
        import torch

        result: np.ndarray = self.tree.sum_along(torch.from_numpy(log_probs)).numpy()
        return result

    @cached_property
    def token_log_probs(self) -> dict[str, np.ndarray]:
        """Log-probabilities of the next token at every inner prefix, ``(prompts, nodes, tokens)``, of each side."""
        sides = {
            side: self._log_probs_under(parameters) for side, parameters in self.parameters.items()
        }
        if self.temperature != self.scored_temperature:
            sides["mu"] = tempered(sides["q"], self.temperature)
        return sides | {side: tempered(sides[side], self.scored_temperature) for side in "qp"}

    @cached_property
    def leaf_log_probs(self) -> dict[str, np.ndarray]:
        """Log-probabilities of every sequence after its prompt, ``(prompts, leaves)``, of each side."""
        return {
            side: self._leaves_of(log_probs) for side, log_probs in self.token_log_probs.items()
        }

    @cached_property
    def _atoms(self) -> tuple[np.ndarray, np.ndarray | None, np.ndarray]:
        """Log-ratio, log-weight and sampling probability of every prompt and sequence."""
        q, p = self.leaf_log_probs["q"].ravel(), self.leaf_log_probs["p"].ravel()
        mu = self.leaf_log_probs.get("mu", self.leaf_log_probs["q"]).ravel()
        return p - q, q - mu if self.off_policy else None, np.exp(mu) / self.prompts

    @cached_property
    def _cumulative(self) -> np.ndarray:
        total = np.cumsum(self._atoms[2])
        return total[:-1] / total[-1]

    def __getstate__(self) -> dict[Any, Any]:
        # The parameters travel too: what they take to be found again is more than they are.
        state = super().__getstate__()
        return state | {"__dict__": state["__dict__"] | {"parameters": self.parameters}}

    @property
    def off_policy(self) -> bool:
        return self.lag + self.mismatch > 0.0 or self.temperature != self.scored_temperature

    def describe(self) -> str:
        off_path = ", sampler off the path" if self.behind == "random" else ""
        return (
            f"Sequences {self.model}, {self.vocabulary} tokens, horizon {self.horizon}, {self.prompts} prompts, "
            f"KL={self.kl:g}, seed {self.seed}"
            + (f", lag {self.lag:g}" if self.lag else "")
            + off_path
            + (f", mismatch {self.mismatch:g}" if self.mismatch else "")
            + at_temperatures(self.temperature, self.scored_temperature)
        )

    def draw(self, stream: np.random.Generator, n: int) -> Draws:
        index = np.searchsorted(self._cumulative, stream.random(n), side="right")
        log_ratio, log_weight, _ = self._atoms
        return Draws(log_ratio[index], None if log_weight is None else log_weight[index])

    @cached_property
    def _token_kl(self) -> dict[str, np.ndarray]:
        """``kl_qp`` and ``kl_pq`` over the next token at every inner prefix, ``(prompts, nodes)``."""
        q, log_ratio = (
            self.token_log_probs["q"],
            self.token_log_probs["p"] - self.token_log_probs["q"],
        )
        return {
            key: np.sum(np.exp(q) * divergences.get(key).gap(Draws(log_ratio)), axis=-1)
            for key in ("kl_qp", "kl_pq")
        }

    @cached_property
    def _cumulative_tokens(self) -> np.ndarray:
        """The sampler's cumulative distribution of the next token at every inner prefix, ``(prompts, nodes, tokens - 1)``."""
        total = np.cumsum(np.exp(self.token_log_probs["mu" if self.off_policy else "q"]), axis=-1)
        return total[..., :-1] / total[..., -1:]

    def completions(self, seed: int, shard: int, n: int) -> Completions:
        """Sampled token by token; there are always ``n``. ``token`` is ``vocabulary`` where a sequence ends."""
        stream = streams.generator(seed, "completions", self.kind, self.parameters_text(), shard)
        prompt = stream.integers(self.prompts, size=n)
        uniform = stream.random((n, self.horizon))
        tree, end = self.tree, self.vocabulary
        node, alive = np.zeros(n, dtype=np.int64), np.ones(n, dtype=bool)
        nodes, token = np.zeros((2, n, self.horizon), dtype=np.int64)
        mask = np.zeros((n, self.horizon), dtype=bool)
        for depth in range(self.horizon):
            drawn = np.sum(
                uniform[:, depth, None] >= self._cumulative_tokens[prompt, node], axis=-1
            )
            nodes[:, depth], token[:, depth], mask[:, depth] = (
                node,
                np.where(alive, drawn, 0),
                alive,
            )
            alive = alive & (drawn != end)
            if depth < self.horizon - 1:
                after = (
                    tree.starts[depth + 1] + (node - tree.starts[depth]) * self.vocabulary + drawn
                )
                node = np.where(
                    alive, after, tree.starts[depth + 1]
                )  # wherever; what follows the end is masked
        at = prompt[:, None], nodes
        log_probs = {
            side: np.where(mask, each[*at, token], 0.0)
            for side, each in self.token_log_probs.items()
        }
        kl = {key: np.where(mask, each[at], 0.0) for key, each in self._token_kl.items()}
        return Completions(
            log_probs["q"],
            log_probs["p"],
            mask,
            log_probs.get("mu"),
            kl["kl_qp"],
            kl["kl_pq"],
            token,
            prompt,
        )

    def truth(self, target: str) -> Truth:
        q = np.exp(self.leaf_log_probs["q"].ravel()) / self.prompts
        terms = q * divergences.get(target).gap(Draws(self._atoms[0]))
        # A sequence's log-ratio is a sum along its tokens.
        return Truth(
            math.fsum(terms), 16 * EPS * self.horizon * math.fsum(np.abs(terms)), "enumeration"
        )

    def finite_moment(self, order: float, weight_order: float = 0.0) -> bool:
        return True

    def exact(self, estimators: Sequence[Estimator]) -> list[ExactMoments | None]:
        log_ratio, log_weight, probabilities = self._atoms
        draws = Draws(log_ratio, log_weight)
        return [
            None
            if e.batch is not None or (e.needs_weight and not self.off_policy)
            else enumerate_moments(probabilities, e.formula(draws))
            for e in estimators
        ]

    def gradient_task(self) -> GradientTask | Skip:
        products = self.tree.leaves * (2 * self.horizon) ** 2
        rows = (
            0
            if self.model == "table" and self.scored_temperature == 1.0
            else self.tree.nodes * (self.tree.tokens + 1) * self.policy.parameters
        )
        size = 8.0 * (products + rows)
        if size > MOST_SCORE_BYTES:
            most = f"at most {MOST_SCORE_BYTES / 1e9:g} are held"
            return Skip(
                f"the scores after one prompt and their products would take {size / 1e9:.1f} GB, {most}"
            )
        return self._task

    @cached_property
    def _task(self) -> GradientTask:
        from klbench.pairs._sequence_gradient import SequenceTask

        q, staleness = self.leaf_log_probs["q"], self.lag
        if self.off_policy and (self.mismatch or self._warm):
            staleness = self._divergence(q, self.leaf_log_probs["mu"])
        return SequenceTask(
            self.policy,
            self.prompts,
            self.parameters["q"],
            self.token_log_probs,
            staleness,
            self.scored_temperature,
        )
