"""The arguments of a function by name.

Which is the policy's, the reference's, the older policy's, the mask.

``q`` samples and ``p`` is what it is held to. Where there is no reference but an older policy, that
one sampled: it is ``q``, and the policy is ``p``.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from klbench.audit.sources import signature
from klbench.types import ConfigError

USES = ("kl", "reward", "loss")
SIDES = ("policy", "reference", "old")
PER_TOKEN, LOGITS = "logprobs", "logits"

_REFERENCE = re.compile(
    r"(^|_)(ref|base|init|sft|frozen|anchor|prior|teacher|target_policy)"
    r"|^p$|^log_?p_?ref|_base($|_)"
)
_SAMPLER = re.compile(
    r"(^|_)(old|rollout|sampling|sampler|behaviou?r|vllm|generation|inference|prev|mu)(_|$)"
    r"|^old|log_?mu"
)
_ROLLOUT = re.compile(r"(^|_)(rollout|sampling|sampler|behaviou?r|vllm|generation|inference)(_|$)")
_LOGPROBS = re.compile(r"log_?p(rob|i|s|_|$)|logq|log_q|log_?mu|(^|_)lps?($|_)")
_DISTRIBUTION = re.compile(r"(^|_)(full|all|dist|distribution|vocab)(_|$)")
_TOKENS = re.compile(
    r"(^|_)(tokens?|token_ids|ids|labels?|actions?|index|indices|targets|responses?"
    r"|completions?|samples)$"
)
_COUNT = re.compile(r"^(max|min|num|n|total|count)_")
_MASK = re.compile(r"mask|^(valid|is_valid)$")
_ADVANTAGES = re.compile(
    r"^(adv|advs|advantages?|rewards?|scores?|returns?)$|_(advantages?|rewards?|scores?)$"
)
_COEFFICIENT = re.compile(
    r"^(beta|coef|coeff|coefficient)$|kl_?(coef|beta|weight|ctl|lambda|penalty_coef)|_beta$|^kl_c$"
)
WORDS = (
    "logprobs, ref_logprobs, old_logprobs (rollout_*, sampling_*), student_*, teacher_*, log_ratio,"
    " logits, ref_logits, tokens, mask, advantages (rewards), beta, _ (leave its default)"
)


@dataclass(frozen=True)
class Plan:
    """The input that each parameter of a function gets.

    Parameters
    ----------
    roles
        Parameter to role: one of ``SIDES`` (``_logits`` appended for those), ``log_ratio``,
        ``tokens``, ``mask``, ``advantages``, ``beta``; ``rollout`` where another older policy is
        there too.
    fixed
        Parameters with a value of their own.
    sides
        Which of ``q``, ``p`` and ``mu`` each side of ``SIDES`` is.
    normalized
        What is called logits has been through ``log_softmax``.
    distilled
        Sides are called student and teacher: either direction is in use between them.
    """

    roles: Mapping[str, str]
    fixed: Mapping[str, Any]
    sides: Mapping[str, str]
    normalized: bool = False
    distilled: bool = False

    def has(self, role: str) -> bool:
        """Return whether a parameter has that role."""
        return role in self.roles.values()

    def parameter(self, role: str) -> str:
        """Return the parameter of a role, for messages; its logits count too."""
        return next(
            (name for name, each in self.roles.items() if each in (role, f"{role}_logits")), role
        )

    def without(self, role: str) -> Plan:
        """Return the plan without a role: its parameter keeps its default."""
        return replace(self, roles={n: each for n, each in self.roles.items() if each != role})

    @property
    def form(self) -> str:
        """The form of the inputs: ``logprobs``, ``log_ratio`` or ``logits``."""
        if self.has("log_ratio"):
            return "log_ratio"
        return LOGITS if self.has("policy_logits") else PER_TOKEN

    def side(self, name: str) -> bool:
        """Return whether the function is given that side, in either form."""
        return self.has(name) or self.has(f"{name}_logits")

    @property
    def learned(self) -> str:
        """The role that a gradient is wanted of."""
        return {"log_ratio": "log_ratio", LOGITS: "policy_logits"}.get(self.form, "policy")

    def described(self) -> dict[str, str]:
        """Return parameter by parameter what it was taken for."""
        names = {"q": "log q (samples)", "p": "log p", "mu": "log mu (sampled)"}
        result = {}
        for parameter, role in self.roles.items():
            side = role.removesuffix("_logits")
            result[parameter] = (names[self.sides[side]] if side in self.sides else role) + (
                " as logits" if side != role else ""
            )
        return result | {name: f"fixed: {value!r}" for name, value in self.fixed.items()}


def role(name: str) -> str | None:
    """Return the role that a parameter's name stands for.

    None where it is none of the words in use.
    """
    word = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower().strip("_")
    if _COUNT.search(word):
        return None
    if _MASK.search(word):
        return "mask"
    if _ADVANTAGES.search(word):
        return "advantages"
    if re.search(r"log_?ratios?$|^log_?r$", word):
        return "log_ratio"
    if _COEFFICIENT.search(word):
        return "beta"
    logits = "logit" in word or bool(_DISTRIBUTION.search(word))
    if not (logits or _LOGPROBS.search(word)):
        if _TOKENS.search(word):
            return "tokens"
        bare = {
            "policy",
            "new",
            "student",
            "actor",
            "q",
            "ref",
            "reference",
            "base",
            "teacher",
            "p",
            "old",
            "mu",
        }
        if word not in bare:
            return None
    side = "reference" if _REFERENCE.search(word) else "old" if _SAMPLER.search(word) else "policy"
    return side + ("_logits" if logits else "")


def _roles(names: Sequence[str]) -> dict[str, str | None]:
    found = {name: role(name) for name in names}
    words = {name: name.lower().strip("_") for name in names}
    if any(
        re.fullmatch(r"log_?q|q|q_?log_?p(robs?)?|log_?p(robs?)?_q|q_?logits|logits_?q", word)
        for word in words.values()
    ):  # p beside q
        for name, word in words.items():
            if re.fullmatch(r"log_?p|p|p_?log_?p(robs?)?|log_?p(robs?)?_p", word):
                found[name] = "reference"
            elif re.fullmatch(r"p_?logits|logits_?p", word):
                found[name] = "reference_logits"
    return found


def plan(
    function: Callable[..., Any],
    used_as: str = "kl",
    args: str | Sequence[str] | None = None,
    fixed: Mapping[str, Any] | None = None,
    sampled_by: str | None = None,
) -> Plan:
    """Return what each parameter gets, by its name or, with ``args``, by its place.

    Raises
    ------
    ConfigError
        A parameter that is needed has no name in use, two have the same role, or nothing is left to
        compare.
    """
    fixed = dict(fixed or {})
    if used_as not in USES:
        raise ConfigError(f"as={used_as!r}: expected one of {', '.join(USES)}")
    parameters = _parameters(function, args)
    for name in fixed:
        if name not in parameters and not any(
            each.kind is each.VAR_KEYWORD for each in parameters.values()
        ):
            raise ConfigError(
                f"with {name}: the function has no such parameter; there are:"
                f" {', '.join(parameters)}"
            )
    named = [
        name
        for name, each in parameters.items()
        if name not in fixed and each.kind not in (each.VAR_POSITIONAL, each.VAR_KEYWORD)
    ]
    words: list[str] = []
    if args is None:
        found = _roles(named)
        for name in named:  # a number or a switch is no array, whatever it is called
            if found[name] != "beta" and isinstance(parameters[name].default, int | float | str):
                found[name] = None
    else:
        words = [each.strip() for each in (args.split(",") if isinstance(args, str) else args)]
        if len(words) > len(named):
            raise ConfigError(
                f"args: {len(words)} words for {len(named)} parameters:"
                f" {', '.join(named) or 'none'}"
            )
        as_words = _roles([each for each in words if each not in ("", "_", "-")])
        unknown = [each for each, known in as_words.items() if known is None]
        if unknown:
            raise ConfigError(f"args: {unknown[0]!r} is none of the words in use: {WORDS}")
        found = {name: as_words.get(word) for name, word in zip(named, words, strict=False)}
    lost = [
        name
        for name in named
        if found.get(name) is None and parameters[name].default is inspect.Parameter.empty
    ]
    if lost:
        raise ConfigError(
            f"argument {lost[0]!r} is not known; give the arguments in order by --args ({WORDS}), "
            f"or fix it by --with {lost[0]}=VALUE"
        )
    roles = {name: each for name, each in found.items() if each is not None}
    roles = {
        name: each
        for name, each in roles.items()
        if each != "beta" or used_as == "kl" or _numeric(parameters[name])
    }
    for each in set(roles.values()) - {
        "old",
        "old_logits",
        "mask",
    }:  # who sampled may come twice, rollout and old policy, and masks
        same = [name for name, other in roles.items() if other == each]
        if len(same) > 1:
            raise ConfigError(
                f"arguments {' and '.join(map(repr, same))} would both be {each}; tell them apart"
                " by --args"
            )
    said = words if args is not None else list(roles)
    older = [name for name, each in roles.items() if each == "old"]
    called = dict(zip(named, words, strict=False)) if words else {name: name for name in roles}
    sampled = [name for name in older if _ROLLOUT.search(called[name].lower())]
    if len(sampled) < len(older):
        roles |= dict.fromkeys(sampled, "rollout")
    return _sided(roles, fixed, used_as, sampled_by, said)


def _numeric(parameter: inspect.Parameter) -> bool:
    return parameter.default is inspect.Parameter.empty or isinstance(
        parameter.default, int | float
    )


def _parameters(function: Callable[..., Any], args: Any) -> dict[str, inspect.Parameter]:
    try:
        return dict(signature(function).parameters)
    except (TypeError, ValueError):
        if args is None:
            raise ConfigError(
                "the function does not say its arguments; give them in order by --args"
            ) from None
    words = args.split(",") if isinstance(args, str) else args
    return {
        f"{k}": inspect.Parameter(f"argument{k}", inspect.Parameter.POSITIONAL_ONLY)
        for k in range(len(words))
    }


def _sided(
    roles: dict[str, str],
    fixed: dict[str, Any],
    used_as: str,
    sampled_by: str | None,
    said: Sequence[str],
) -> Plan:
    values = set(roles.values())
    logits = any(each.endswith("_logits") for each in values)
    given = [side for side in SIDES if {side, f"{side}_logits"} & values]
    if logits and any(side in values for side in SIDES):
        mixed = [name for name, each in roles.items() if each in SIDES or each.endswith("_logits")]
        raise ConfigError(
            f"{', '.join(mixed)}: logits and log-probabilities of tokens together are not"
            " understood; see --args"
        )
    sides = {"policy": "q", "reference": "p", "old": "mu"}
    if "policy" not in given and "log_ratio" not in values:
        raise ConfigError(
            f"no argument is the policy's; there are: {', '.join(roles) or 'none'}; see --args"
            f" ({WORDS})"
        )
    if "log_ratio" in values and given:
        raise ConfigError(
            "a log-ratio and log-probabilities together are not understood; see --args"
        )
    if used_as != "loss" and "reference" not in given and "log_ratio" not in values:
        if "old" not in given:
            raise ConfigError(
                "no argument is the reference's or an older policy's; there are:"
                f" {', '.join(roles)}; see --args"
            )
        sides = {"policy": "p", "old": "q"}
    if sampled_by is not None:
        side = roles.get(sampled_by, "").removesuffix("_logits").replace("rollout", "old")
        if side not in sides:
            raise ConfigError(
                f"sampled-by {sampled_by}: expected one of"
                f" {', '.join(n for n in roles if roles[n] in SIDES)}"
            )
        if side == "reference":
            sides = {"policy": "p", "reference": "q", "old": "mu"}
        elif side == "policy" and sides["policy"] == "p":
            sides = {"policy": "q", "old": "p"}
    names = " ".join((*roles, *said)).lower()
    return Plan(
        roles,
        fixed,
        {side: sides[side] for side in given}
        | ({"rollout": sides["old"]} if "rollout" in values else {}),
        normalized=logits
        and any(_DISTRIBUTION.search(n.lower()) and "logit" not in n.lower() for n in said),
        distilled="teacher" in names,
    )
