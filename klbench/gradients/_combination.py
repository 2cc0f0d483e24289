"""The parts of a combination, and which of them go together."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from operator import attrgetter
from typing import Literal

import numpy as np
from pydantic import ConfigDict

from klbench import estimators
from klbench.gradients import corrections
from klbench.gradients.corrections import Factor
from klbench.gradients.kinds import KINDS
from klbench.types import ConfigError, Estimator, Polynomial

Placement = Literal[
    "loss",
    "reward",
    "reward_to_go",
    "loss_and_reward",
    "straight_through",
    "full",
    "full_with_score",
]
Level = Literal["token", "sequence"]
Baseline = Literal["none", "batch_mean", "leave_one_out", "token_kl", "token_mean"]
Reference = Literal["reference", "sampler"]
Gradient = Literal["grad KL(q‖p)", "grad KL(p‖q)", "grad KL(q‖p) - grad KL(p‖q)", "0", "biased"]

EXACT = "full_kl"
"""The name of the estimator that a full placement has: the exact KL over the next token."""
SCORED = ("reward", "reward_to_go", "loss_and_reward", "full_with_score")
TOKEN_MEAN = "token_mean"
GROUPED = ("batch_mean", "leave_one_out", TOKEN_MEAN)
"""The baselines that tie a group of samples together."""
DIFFERENTIATED = ":differentiated"
NORMALISED = ":normalised"
MEAN = ":mean"
PER_DECISION = "decision_ratio"
TRUNCATED_DECISION = "truncated_decision_ratio"
SIMPLE = ("token_ratio", "prefix_ratio", "sequence_ratio", "truncated_ratio")
"""The corrections whose far-out products with powers of r are taken in log space."""
CAP = 2.0
"""The default limit of ``truncated_ratio``."""


@dataclass(frozen=True)
class Combination:
    """An estimator of the value, its placement, its level, the off-policy correction and the
    baseline.

    Parameters
    ----------
    estimator
        Name of a value estimator; ``full_kl`` for the placements ``full`` and ``full_with_score``.
    placement
        ``loss``: differentiated as it stands. ``reward`` and ``reward_to_go``: detached, times the
        score of the whole sequence or of the tokens up to it. ``loss_and_reward``: both.
        ``straight_through``: the value of ``estimator``, the gradient of ``gradient_of``. ``full``:
        the exact KL over each next token, differentiated; ``full_with_score`` adds the score of the
        tokens before it, and is the Rao-Blackwell gradient.
    level
        The estimator is applied to each token's log-ratio and summed, or to the log-ratio of the
        whole sequence.
    length_mean
        The sum over tokens is divided by the sequence's own length, as some trainers do; only in
        the loss, and for a token's own term beside its own score.
    correction
        The weight on each term, as :mod:`klbench.gradients.corrections` reads it. With
        ``decision_ratio`` each term has the ratio of the tokens that led to it, wherever its score
        stands: a token's own term that of all tokens up to it, the exact KL of a next token that of
        those before it; ``truncated_decision_ratio`` cuts that ratio off. (Precup, Sutton and Singh
        2000, "Eligibility traces for off-policy policy evaluation", per-decision importance
        sampling.)
    cap
        The limit of a plain ``truncated_ratio``.
    normalised
        The weights are divided by their mean over the group: over its tokens, or over its sequences
        where all tokens of one have the same. Rejections, which keep 1, come after that.
    ratio_gradient
        Whether the weight is differentiated too; only where the term stands in the loss.
    baseline
        Subtracted from what multiplies the score: the mean of the group of samples of one prompt,
        the mean of the others of the group, the mean term of all tokens of the group (subtracted
        from each term before any discounted sum), or the exact KL of the token's own distribution.
        With
        ``decision_ratio`` that KL stands for all that is to come, too, where later terms are
        weighted (doubly robust; Jiang and Li 2016, "Doubly robust off-policy value evaluation").
    gamma
        The discount of later terms in the reward to go: 0 leaves each token's own, 1 all that
        follow.
    reference
        Whom the log-ratio is to: the reference, or whoever sampled.
    claim
        The expected gradient on-policy, on sequences of several tokens.
    off_policy
        The claim holds whoever samples.
    one_token
        The claim for sequences of one token, where it differs.
    called_unbiased_by
        Which trainer calls its gradient that of KL(q‖p), where it is so only of each token's own
        KL.
    """

    __pydantic_config__ = ConfigDict(extra="forbid")

    name: str
    estimator: str
    placement: Placement
    level: Level = "token"
    correction: str = "none"
    baseline: Baseline = "none"
    ratio_gradient: bool = False
    gradient_of: str = ""
    length_mean: bool = False
    cap: float = CAP
    claim: Gradient | None = None
    off_policy: bool = False
    one_token: Gradient | None = None
    aliases: tuple[str, ...] = ()
    used_by: str = ""
    called_unbiased_by: str = ""
    source: str = ""
    normalised: bool = False
    gamma: float = 1.0
    reference: Reference = "reference"

    def __post_init__(self) -> None:
        problem = self._problem()
        if problem:
            raise ConfigError(f"combination {self.name!r}: {problem}")
        for name in (self.estimator, self.gradient_of):
            if (
                name
                and name != EXACT
                and (estimators.get(name).batch or estimators.get(name).needs_weight)
            ):
                raise ConfigError(
                    f"combination {self.name!r}: {name} is no mean of terms of the log-ratio alone"
                )

    def _problem(self) -> str:
        full = self.placement in ("full", "full_with_score")
        rules = (
            (
                full != (self.estimator == EXACT),
                f"{EXACT} and the placements full and full_with_score go together",
            ),
            (full and self.level != "token", f"{self.placement} is of level token"),
            (
                self.placement == "reward_to_go" and self.level != "token",
                "reward_to_go is of level token",
            ),
            (
                (self.placement == "straight_through") != bool(self.gradient_of),
                "straight_through needs gradient_of, and only it",
            ),
            (
                self.baseline != "none"
                and self.placement not in ("reward", "reward_to_go")
                and not (
                    self.placement == "full_with_score"
                    and self.per_decision
                    and self.baseline != "batch_mean"
                ),
                "only a reward has a baseline",
            ),
            (
                self.ratio_gradient and self.correction == "none",
                "there is no ratio to differentiate",
            ),
            (not self.cap > 0, f"the ratio is cut off at a positive number, not at {self.cap:g}"),
            (
                self.length_mean and self.level != "token",
                "only a sum over tokens can be divided by the length",
            ),
            (
                self.length_mean and self.placement in SCORED and self.gamma != 0.0,
                "only what stands in the loss is divided by the length",
            ),
            (
                self.ratio_gradient and self.placement not in ("loss", "straight_through", "full"),
                "a score's weight is detached",
            ),
            (
                self.level == "sequence"
                and any(KINDS[each.kind].scope == "token" for each in self.factors)
                and self.placement not in ("reward",),
                f"one term for the whole sequence cannot have a {self.correction}",
            ),
            *self._more_rules(full),
        )
        return next((text for wrong, text in rules if wrong), "")

    def _more_rules(self, full: bool) -> Iterator[tuple[bool, str]]:
        scored = self.placement in ("reward", "reward_to_go")
        yield (
            self.signed and not (scored and self.baseline not in GROUPED),
            f"{self.correction} takes an advantage of the sequence's own, which only a reward has",
        )
        yield (
            PER_DECISION in self.correction and not self.per_decision,
            f"{PER_DECISION} stands alone",
        )
        yield (
            self.per_decision and self.placement not in ("reward_to_go", "full", "full_with_score"),
            f"{PER_DECISION} is of the placements reward_to_go, full and full_with_score",
        )
        yield (
            self.normalised and (not self._weighs or self.ratio_gradient or self.per_decision),
            "what is normalised is a detached weight",
        )
        yield (
            self.normalised and self.baseline in GROUPED,
            "normalised weights and a baseline of the same group are not computed",
        )
        yield (
            self.baseline == TOKEN_MEAN
            and (self.placement != "reward_to_go" or self.per_decision or self.length_mean),
            f"{TOKEN_MEAN} is of reward_to_go, without {PER_DECISION} and token:mean",
        )
        yield (
            self.truncated_decision and self.baseline != "none",
            f"{TRUNCATED_DECISION} has no baseline: its weights are not those of the scores",
        )
        yield (not 0.0 <= self.gamma <= 1.0, f"gamma is from 0 to 1, not {self.gamma:g}")
        yield (self.gamma != 1.0 and self.placement != "reward_to_go", "gamma is of reward_to_go")
        yield (
            self.reference != "reference" and (full or self.baseline == "token_kl"),
            "the exact KL is that to the reference",
        )

    @cached_property
    def factors(self) -> tuple[Factor, ...]:
        """The factors of the correction."""
        if self.correction == "truncated_ratio":
            return (Factor("truncated_ratio", high=self.cap),)
        return corrections.factors(self.correction)

    @property
    def per_decision(self) -> bool:
        """True where each term has the ratio of the tokens that led to it."""
        return self.correction == PER_DECISION or self.truncated_decision

    @property
    def truncated_decision(self) -> bool:
        """True where the ratio of the tokens that led to a term is cut off."""
        return [each.kind for each in self.factors] == [TRUNCATED_DECISION]

    @property
    def signed(self) -> bool:
        """True where the weight depends on the sign of the advantage."""
        return any(KINDS[each.kind].signed for each in self.factors)

    @cached_property
    def unweighted(self) -> bool:
        """True where on-policy every weight is 1, whatever the sign of the advantage."""
        ones, advantage = np.ones((2, 1)), np.array([[-1.0], [1.0]])
        sides = dict.fromkeys(("q", "old", "mu"), -ones)
        weight = corrections.product(self.factors, sides, ones > 0.0, advantage=advantage)
        return bool((weight == 1.0).all())

    def computed(self, *, on_policy: bool) -> Combination:
        """Return what this combination computes, by its parts alone: without names and claims.

        On-policy also without detached weights that are 1.
        """
        weightless = (
            on_policy and self.unweighted and not (self.ratio_gradient or self.per_decision)
        )
        return replace(
            self,
            name="",
            correction="none" if weightless else self.correction,
            cap=CAP if weightless else self.cap,
            normalised=self.normalised and not weightless,
            claim=None,
            off_policy=False,
            one_token=None,
            aliases=(),
            used_by="",
            called_unbiased_by="",
            source="",
        )

    @property
    def _weighs(self) -> bool:
        """True where some factor keeps a ratio, and not 1."""
        return any(KINDS[each.kind].keeps == "ratio" for each in self.factors)

    @property
    def trainable(self) -> bool:
        """True for what the loops of training compute.

        Weights of a sequence's own, whose sign no reward decides.
        """
        own = not (self.normalised or self.per_decision or self.signed)
        return own and self.gamma == 1.0 and self.baseline != TOKEN_MEAN

    @property
    def simple(self) -> bool:
        """True without any of what not every trainer's loop can compute.

        The reference, and weights of q over the sampler.
        """
        return (
            self.correction in ("none", *SIMPLE)
            and not self.normalised
            and self.gamma == 1.0
            and self.reference == "reference"
        )

    @property
    def spec(self) -> str:
        """The parts, as :func:`parse` reads them."""
        value = f"{self.estimator}@{self.gradient_of}" if self.gradient_of else self.estimator
        level = self.level + (MEAN if self.length_mean else "")
        cap = f":{self.cap:g}" if self.correction == "truncated_ratio" and self.cap != CAP else ""
        ratio = self.correction + cap
        ratio += NORMALISED if self.normalised else DIFFERENTIATED if self.ratio_gradient else ""
        more = "" if self.gamma == 1.0 else f"/gamma={self.gamma:g}"
        more += "" if self.reference == "reference" else f"/reference={self.reference}"
        return f"{value}/{self.placement}/{level}/{ratio}/{self.baseline}{more}"

    def claimed(self, *, tokens: int, stale: bool) -> Gradient | None:
        """Return the claimed gradient for sequences of ``tokens``, sampled by the policy itself
        or (``stale``) by another.
        """
        if stale and not self.off_policy:
            return None
        return self.one_token if tokens == 1 and self.one_token else self.claim


def merged(polynomial: Iterable[tuple[float, float, int]]) -> Polynomial:
    """The same polynomial with one term for each pair of powers, and none where they cancel."""
    totals: dict[tuple[float, int], float] = {}
    for c, a, b in polynomial:
        totals[a, b] = totals.get((a, b), 0.0) + c
    return tuple((c, a, b) for (a, b), c in totals.items() if c)


def _slope(polynomial: Polynomial) -> Polynomial:
    """The derivative with respect to ``log q``, which is minus that with respect to ``log r``."""
    powers = tuple((-c * a, a, b) for c, a, b in polynomial if a)
    logs = tuple((-c * b, a, b - 1) for c, a, b in polynomial if b)
    return powers + logs


def coefficient(
    combination: Combination,
    polynomial_of: Callable[[Estimator], Polynomial | None] = attrgetter("polynomial"),
) -> Polynomial | None:
    """Return the polynomial that multiplies the score of one draw, without weight and baseline.

    None if there is none.

    Where the estimator is both differentiated and scored its highest powers of r may cancel: ``r -
    1 - log r`` in the reward and ``1 - r``, its slope, leave ``-log r``.
    """
    if combination.placement in ("full", "full_with_score"):
        return None
    value = polynomial_of(estimators.get(combination.estimator))
    path = (
        polynomial_of(estimators.get(combination.gradient_of)) if combination.gradient_of else value
    )
    if value is None or path is None:
        return None
    in_reward = combination.placement in ("reward", "reward_to_go")
    scored = in_reward or combination.placement == "loss_and_reward" or combination.ratio_gradient
    return merged((() if in_reward else _slope(path)) + (value if scored else ()))
