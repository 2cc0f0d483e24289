"""The parts of a combination, and which of them go together."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from operator import attrgetter
from typing import Any, Literal, get_args

from pydantic import ConfigDict

from klbench import estimators
from klbench.registry import unknown
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
Correction = Literal["none", "token_ratio", "prefix_ratio", "sequence_ratio", "truncated_ratio"]
Baseline = Literal["none", "batch_mean", "leave_one_out", "token_kl"]
Gradient = Literal["grad KL(q‖p)", "grad KL(p‖q)", "grad KL(q‖p) - grad KL(p‖q)", "0", "biased"]

EXACT = "full_kl"
"""The name of the estimator that a full placement has: the exact KL over the next token."""
SCORED = ("reward", "reward_to_go", "loss_and_reward", "full_with_score")
GROUPED = ("batch_mean", "leave_one_out")
"""The baselines that tie a group of samples together."""
DIFFERENTIATED = ":differentiated"
MEAN = ":mean"
CAP = 2.0
"""The default limit of ``truncated_ratio``."""


@dataclass(frozen=True)
class Combination:
    """An estimator of the value, its placement, its level, the off-policy correction and the baseline.

    Parameters
    ----------
    estimator
        Name of a value estimator; ``full_kl`` for the placements ``full`` and ``full_with_score``.
    placement
        ``loss``: differentiated as it stands. ``reward`` and ``reward_to_go``: detached, times the score of the whole sequence
        or of the tokens up to it. ``loss_and_reward``: both. ``straight_through``: the value of ``estimator``, the gradient
        of ``gradient_of``. ``full``: the exact KL over each next token, differentiated; ``full_with_score`` adds the score of
        the tokens before it, and is the Rao-Blackwell gradient.
    level
        The estimator is applied to each token's log-ratio and summed, or to the log-ratio of the whole sequence.
    length_mean
        The sum over tokens is divided by the sequence's own length, as some trainers do; only in the loss.
    correction
        The weight q/mu on each term: of its token, of all tokens up to it, of the whole sequence, or cut off at ``cap`` (the
        token's at token level, the sequence's at sequence level).
    ratio_gradient
        Whether the weight is differentiated too; only where the term stands in the loss.
    baseline
        Subtracted from what multiplies the score: the mean of the group of samples of one prompt, the mean of the others of
        the group, or the exact KL of the token's own distribution.
    claim
        The expected gradient on-policy, on sequences of several tokens.
    off_policy
        The claim holds whoever samples.
    one_token
        The claim for sequences of one token, where it differs.
    called_unbiased_by
        Which trainer calls its gradient that of KL(q‖p), where it is so only of each token's own KL.
    """

    __pydantic_config__ = ConfigDict(extra="forbid")

    name: str
    estimator: str
    placement: Placement
    level: Level = "token"
    correction: Correction = "none"
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
                self.baseline != "none" and self.placement not in ("reward", "reward_to_go"),
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
                self.length_mean and self.placement in SCORED,
                "only what stands in the loss is divided by the length",
            ),
            (
                self.ratio_gradient and self.placement not in ("loss", "straight_through", "full"),
                "a score's weight is detached",
            ),
            (
                self.level == "sequence"
                and self.correction in ("token_ratio", "prefix_ratio")
                and self.placement not in ("reward",),
                f"one term for the whole sequence cannot have a {self.correction}",
            ),
        )
        return next((text for wrong, text in rules if wrong), "")

    @property
    def spec(self) -> str:
        """The parts, as :func:`parse` reads them."""
        value = f"{self.estimator}@{self.gradient_of}" if self.gradient_of else self.estimator
        level = self.level + (MEAN if self.length_mean else "")
        cap = f":{self.cap:g}" if self.correction == "truncated_ratio" and self.cap != CAP else ""
        ratio = self.correction + cap + (DIFFERENTIATED if self.ratio_gradient else "")
        return f"{value}/{self.placement}/{level}/{ratio}/{self.baseline}"

    def claimed(self, *, tokens: int, stale: bool) -> Gradient | None:
        """Return the claimed gradient for sequences of ``tokens``, sampled by the policy itself or (``stale``) by another."""
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
    """Return the polynomial that multiplies the score of one draw, without weight and baseline; None if there is none.

    Where the estimator is both differentiated and scored its highest powers of r may cancel: ``r - 1 - log r`` in the reward
    and ``1 - r``, its slope, leave ``-log r``.
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


def parse(spec: str) -> Combination:
    """A combination from ``estimator/placement[/level[/correction[/baseline]]]``.

    ``k3@k2`` is a value of k3 and a gradient of k2; ``token:mean`` divides by the length; ``truncated_ratio:5`` is cut off
    at 5; ``token_ratio:differentiated`` is a weight that is differentiated too.

    Raises
    ------
    ConfigError
        A part is unknown, or the parts do not go together.
    """
    given = spec.split("/")
    if not 2 <= len(given) <= 5:
        raise ConfigError(
            f"combination {spec!r}: expected estimator/placement/level/correction/baseline"
        )
    value, placement, level, correction, baseline = (
        *given,
        *("", "", "token", "none", "none")[len(given) :],
    )
    estimator, _, gradient_of = value.partition("@")
    ratio_gradient = correction.endswith(DIFFERENTIATED)
    correction, _, cap = correction.removesuffix(DIFFERENTIATED).partition(":")
    if cap and correction != "truncated_ratio":
        raise ConfigError(f"combination {spec!r}: only truncated_ratio takes a number")
    for name in filter(None, (estimator, gradient_of)):
        if name != EXACT:
            estimators.get(name)
    return Combination(
        spec,
        estimator,
        _word("placement", placement, Placement),
        _word("level", level.removesuffix(MEAN), Level),
        _word("correction", correction, Correction),
        _word("baseline", baseline, Baseline),
        ratio_gradient=ratio_gradient,
        gradient_of=gradient_of,
        length_mean=level.endswith(MEAN),
        cap=_number(spec, cap) if cap else CAP,
    )


def _number(spec: str, text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise ConfigError(
            f"combination {spec!r}: expected a number after truncated_ratio, got {text!r}"
        ) from None


def _word(kind: str, word: str, words: Any) -> Any:
    if word not in get_args(words):
        raise unknown(kind, word, get_args(words))
    return word


def grid(
    names: Sequence[str],
    placements: Sequence[Placement],
    levels: Sequence[Level],
    corrections: Sequence[Correction],
    baselines: Sequence[Baseline],
) -> Iterator[Combination]:
    """Return every combination of these parts that go together; a full placement comes once, whatever the estimators.

    Raises
    ------
    ConfigError
        An estimator is unknown, or has no gradient of its own.
    """
    for name in names:
        Combination(name, name, "loss")
    seen = set()
    for name, placement, level, correction, baseline in product(
        names, placements, levels, corrections, baselines
    ):
        estimator = EXACT if placement in ("full", "full_with_score") else name
        if placement == "straight_through" and estimator == "k2":
            continue  # k2 in the loss
        value = f"{estimator}@k2" if placement == "straight_through" else estimator
        ratios: list[str] = [correction]
        if correction != "none" and placement in ("loss", "straight_through", "full"):
            ratios.append(correction + DIFFERENTIATED)
        for ratio in ratios:
            spec = f"{value}/{placement}/{level}/{ratio}/{baseline}"
            if spec in seen:
                continue
            seen.add(spec)
            try:
                yield parse(spec)
            except ConfigError:
                continue
