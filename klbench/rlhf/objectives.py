"""The names of objectives of distillation.

What a student learns by whom a teacher stands in the reference's place.

The student is ``q`` and samples, the teacher is ``p``. By name:

======================= ===========================================================================
``full``                KL(q‖p) over the whole vocabulary; ``full:NAME`` a divergence of
                        :mod:`klbench.divergences`
``jsd:b``               ``b KL(p‖m) + (1 - b) KL(q‖m)``, ``m = b p + (1 - b) q`` (Agarwal et al.
                        2024, "GKD", eq. 1)
``skew:a``              KL(q‖a q + (1 - a) p) (Ko et al. 2024, "DistiLLM", section 3.1)
``topk_raw``            ``sum over the support of q log q/p``: no KL, and negative where p has more
                        there than q
``topk_clamped``        the same, 0 where it is negative
``topk_renormalized``   KL(q‖p) of both made to sum to 1 over the support
``topk_tail_bucket``    the raw sum and a bucket of all other tokens: KL(q‖p) of coarser
                        distributions
``topk_sampled_tail``   the raw sum differentiated, and ``log q/p`` of the sampled token, detached,
                        times its score, where it is outside the support (Zhang and Ba 2026, "EMA
                        policy gradient", as read in their code at 19d2196)
``topk_corrected_tail`` the same with ``log q/p + 1`` there, the slope of ``q log q/p``
``topk_reward``         the raw sum as an advantage: times the score of the sampled token
``k1_reward:g``         ``log q/p`` of the sampled token and of later ones, discounted by g, times
                        its score; ``k1_reward:g:token_kl`` less KL(q‖p) of its state (the baseline
                        of vOPD, arXiv:2605.07865)
``k3_loss``             k3 of the sampled token, differentiated
``k3_ratio_loss``       the same times q over its detached self
``f_reward:NAME``       ``f(p/q)`` of the sampled token in the reward, and differentiated
``f_reward_stopped:NAME``  the same in the reward alone, as a stop-gradient leaves it
======================= ===========================================================================

``skew`` and ``topk_*`` with ``:kl_pq`` are those of KL(p‖q). What stands in the loss has no score
for the states that its tokens lead to; ``full_with_score`` and the like add it.
:mod:`klbench.rlhf.distillation` computes them. A file in :mod:`klbench.rlhf.topk` is one more
``topk_NAME``, and a divergence of :mod:`klbench.divergences` one more of ``full``, ``f_reward``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, cast, get_args

from klbench import divergences
from klbench.registry import unknown
from klbench.rlhf import topk
from klbench.types import ConfigError

Sent = Literal["vocabulary", "support", "support and token", "token"]
NUMBER_BYTES = 4
"""The bytes of a log-probability, float32, and of a token's id, int32."""
MOST_TOKENS = 10**9
"""The largest support, beyond any vocabulary."""
WITH_SCORE = "_with_score"
TAILS = ("topk_sampled_tail", "topk_corrected_tail")
K3 = ("k3_loss", "k3_ratio_loss")
F_REWARDS = ("f_reward", "f_reward_stopped")


@dataclass(frozen=True)
class Objective:
    """An objective by its parts.

    Parameters
    ----------
    kind
        The name without numbers, direction and score.
    target
        The name of the full objective whose value and gradient it is held to.
    sent
        What the teacher sends for each token.
    discount
        Of the values of later states in what multiplies a token's score; 0: its score knows nothing
        of them.
    swapped
        Whether it is of KL(p‖q).
    number
        ``beta`` or ``alpha``.
    divergence
        A name of :mod:`klbench.divergences`.
    baseline
        Whether the state's own KL(q‖p) is subtracted from what multiplies the score.
    """

    name: str
    kind: str
    target: str
    sent: Sent
    discount: float = 0.0
    swapped: bool = False
    number: float = math.nan
    divergence: str = ""
    baseline: bool = False

    @property
    def has_support(self) -> bool:
        """Return whether it depends on a support."""
        return self.sent.startswith("support")

    def bytes_per_token(self, k: int, vocabulary: int) -> int:
        """Return the bytes that the teacher sends for each token.

        log-probabilities, and ids of a support.
        """
        numbers = {
            "vocabulary": vocabulary,
            "support": 2 * min(k, vocabulary),
            "support and token": 2 * min(k, vocabulary) + 1,
            "token": 1,
        }
        return NUMBER_BYTES * numbers[self.sent]


def names() -> list[str]:
    """Return one name of each kind of objective."""
    return [
        *("full", "full:kl_pq", "full_with_score", "full_with_score:kl_pq"),
        *("jsd:0.5", "jsd_with_score:0.5", "skew:0.1", "skew_with_score:0.1"),
        *(*topk.names(), "topk_raw:kl_pq", "topk_tail_bucket:kl_pq", *TAILS, "topk_reward"),
        *("k1_reward:0", "k1_reward:0.9", "k1_reward:1"),
        *("k1_reward:0:token_kl", "k1_reward:0.9:token_kl", "k1_reward:1:token_kl", *K3),
        *("f_reward:js", "f_reward_stopped:js"),
    ]


def get(name: str) -> Objective:
    """Return the objective of a name, as the table above has it.

    Raises
    ------
    ConfigError
        There is no such objective, or its number or direction is not one that it takes.
    """
    head, *given = name.split(":")
    kind, score = head.removesuffix(WITH_SCORE), float(head.endswith(WITH_SCORE))
    if kind in ("full", "jsd", "skew"):
        return _of_vocabulary(name, kind, given, score)
    if kind in topk.names() or (kind in (*TAILS, "topk_reward") and not score):
        if given not in ([], ["kl_qp"], ["kl_pq"]):
            raise ConfigError(
                f"objective {name!r}: {kind} takes a direction, kl_qp or kl_pq, got"
                f" {':'.join(given)!r}"
            )
        sent: Sent = "support and token" if kind in TAILS else "support"
        target = _whole(given[0] if given else "kl_qp")
        return Objective(name, kind, target, sent, score, swapped=given == ["kl_pq"])
    if kind == "k1_reward" and not score:
        baseline = given[-1:] == ["token_kl"]
        numbers = given[: len(given) - baseline]
        discount = _number(name, numbers, 1.0, "a discount from 0 to 1", ends=True)
        sent = "vocabulary" if baseline else "token"
        return Objective(name, kind, _whole("kl_qp"), sent, discount, baseline=baseline)
    if kind in K3 and not given and not score:
        return Objective(name, kind, _whole("kl_qp"), "token")
    if kind in F_REWARDS and not score:
        of = divergences.get(":".join(given) or "js").name
        return Objective(name, kind, _whole(of), "token", divergence=of)
    raise unknown("objective", name, names())


def _whole(divergence: str) -> str:
    """Return the name of the full objective with all its gradient."""
    return f"full{WITH_SCORE}" if divergence == "kl_qp" else f"full{WITH_SCORE}:{divergence}"


def _of_vocabulary(name: str, kind: str, given: list[str], score: float) -> Objective:
    if kind == "full":
        of = divergences.get(":".join(given) or "kl_qp").name
        return Objective(name, kind, _whole(of), "vocabulary", score, divergence=of)
    swapped = kind == "skew" and given[-1:] == ["kl_pq"]
    numbers = given[: len(given) - swapped]
    default, what = (0.5, "beta") if kind == "jsd" else (0.1, "alpha")
    limits = ", whose limits are full:kl_pq and full" if kind == "jsd" else ""
    number = _number(name, numbers, default, f"{what} inside 0 and 1{limits}")
    target = f"{kind}{WITH_SCORE}:{number!r}" + ":kl_pq" * swapped
    return Objective(name, kind, target, "vocabulary", score, swapped=swapped, number=number)


def _number(name: str, given: list[str], default: float, what: str, *, ends: bool = False) -> float:
    """Return the one number of a name, between 0 and 1; with ``ends``, it may be one of them.

    Raises
    ------
    ConfigError
        There are several, or it is none, or outside.
    """
    try:
        value = float(*given) if given else default
    except (TypeError, ValueError):
        value = math.nan
    if not (0.0 <= value <= 1.0 if ends else 0.0 < value < 1.0):
        raise ConfigError(f"objective {name!r}: expected {what}, got {':'.join(given)!r}")
    return value


Owner = Literal["student", "teacher"]


@dataclass(frozen=True)
class Arm:
    """An objective in training.

    Parameters
    ----------
    name
        How the run was asked for it: ``OBJECTIVE``, ``OBJECTIVE/SUPPORT/K``, and ``@teacher`` after
        it.
    owner, k
        Whose k most probable tokens are kept; of objectives without a support, ``student`` and 0.
    prefixes
        Who writes the sequences at whose states the objective is taken.
    """

    name: str
    objective: Objective
    owner: Owner = "student"
    k: int = 0
    prefixes: Owner = "student"


def _is_count(text: str) -> bool:
    return text.isdecimal() and len(text) < 20 and 1 <= int(text) <= MOST_TOKENS


def arm(name: str) -> Arm:
    """Return the arm of a name.

    Raises
    ------
    ConfigError
        There is no such objective, or support, or it needs tokens that the student has sampled
        itself.
    """
    spec, _, prefixes = name.partition("@")
    head, *given = spec.split("/")
    objective = get(head)
    if (prefixes or "student") not in get_args(Owner):
        raise unknown("writer of prefixes", prefixes, get_args(Owner))
    if objective.has_support != bool(given):
        wanted = f"{head}/teacher/8" if objective.has_support else head
        raise ConfigError(f"training {name!r}: expected {wanted}, with or without @teacher")
    if not given:
        owner, k = "student", 0
    elif len(given) == 2 and given[0] in get_args(Owner) and _is_count(given[1]):
        owner, k = given[0], int(given[1])
    else:
        raise ConfigError(
            f"training {name!r}: expected student or teacher and a number of tokens up to"
            f" {MOST_TOKENS:,} after {head}, such as {head}/teacher/8"
        )
    sampled = objective.sent.endswith("token") or objective.baseline or objective.discount > 0.0
    if prefixes == "teacher" and (sampled or objective.kind == "topk_reward"):
        raise ConfigError(
            f"training {name!r}: {head} multiplies scores of the student's own tokens, the teacher"
            " writes these"
        )
    return Arm(name, objective, cast("Owner", owner), k, cast("Owner", prefixes or "student"))
