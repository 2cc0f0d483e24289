"""The names that trainers and engines give the columns of their rollouts, and the role of each.

Names as the code of each project writes them: TRL 1.16 (``trainer/grpo_trainer.py``,
``dpo_trainer.py``), verl 0.9 (``trainer/ppo/ray_trainer.py``), OpenRLHF 0.11
(``trainer/ppo_utils/experience.py``), NeMo-RL 7ea279a (``algorithms/grpo.py``), prime-rl 559b447
(``trainer/rl/token_export.py``), slime 624b824 (``utils/types.py``,
``observability/train_data_utils.py``).
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from klbench.types import ConfigError

LOG_PROBS = ("policy", "sampler", "old", "reference")
"""The roles of log-probabilities.

Of today's policy, the sampler, the trainer when it sampled, and the reference.
"""
EXACT = ("kl", "kl_pq")
PER_TOKEN = (*LOG_PROBS, *EXACT, "mask", "tool_mask", "tokens")
"""The roles that a rollout has a number a token of."""
ROLES = (
    *PER_TOKEN,
    "prompt",
    "reward",
    "step",
    "version",
    "rollout_mask",
    "length",
    "rollout",
    "position",
)

NAMES: dict[str, str] = {
    "policy": (
        """logprobs policy_logprobs policy_log_probs log_probs logps log_prob per_token_logps
    new_logprobs new_log_probs current_logprobs curr_logprobs action_log_probs actor_log_probs
    train_log_probs train_logprobs trainer_logprobs trainer_log_probs logprob logp
    policy_logprob policy_logps"""
    ),
    "sampler": (
        """sampling_logprobs sampler_logprobs rollout_log_probs rollout_logprobs
    generation_logprobs sampling_per_token_logps inference_logprobs completion_logprobs
    vllm_logprobs vllm_log_probs sglang_logprobs behavior_logprobs behaviour_logprobs
    behavior_log_probs mu_logprobs engine_logprobs rollout_log_prob sampling_logps
    sampler_logprob rollout_logprob sampling_logprob generation_logprob inference_logprob
    engine_logprob response_logprobs logprobs.content token_logprobs output_token_logprobs
    prompt_logprobs input_token_logprobs"""
    ),
    "old": (
        """old_logprobs old_log_probs old_per_token_logps old_action_log_probs old_log_prob
    old_logps prev_logprobs proximal_logprobs prox_logp old_logprob"""
    ),
    "reference": (
        """ref_logprobs reference_logprobs ref_log_prob ref_log_probs ref_per_token_logps
    reference_log_probs reference_policy_logprobs base_action_log_probs base_logprobs
    base_log_probs ref_logps reference_logps ref_logprob reference_logprob ref_logp base_logps"""
    ),
    "kl": "kl per_token_kl token_kl kls kl_divergence",
    "kl_pq": "kl_pq",
    "mask": (
        """mask response_mask completion_mask action_mask loss_mask loss_masks token_loss_mask
    token_mask assistant_mask assistant_masks attention_mask"""
    ),
    "tool_mask": "tool_mask",
    "tokens": (
        """tokens token_ids completion_ids response_ids responses output_ids response_tokens
    output_token_ids completion_tokens input_ids sequences token_id token"""
    ),
    "prompt": (
        """prompt prompts messages question query input prompt_text prompt_ids prompt_token_ids
    prompt_id group_id group_index group"""
    ),
    "reward": (
        "reward rewards total_reward score scores token_level_scores token_level_rewards return"
        " filtered_rewards"
    ),
    "step": "step global_step training_step train_step iteration",
    "version": (
        """version policy_version weight_version weights_version model_version weight_versions
        generation_weight_version"""
    ),
    "rollout_mask": "sample_loss_mask sample_mask",
    "length": "response_length response_lengths completion_length completion_lengths lengths",
    "rollout": (
        """rollout_id rollout sequence_id sequence seq_id sample_id sample trajectory_id
    trajectory completion_id episode_id episode uid request_id id idx index row"""
    ),
    "position": "position pos token_index token_position token_idx t position_id",
}
"""The names of each role, the plainest first; letter case and ``-`` for ``_`` do not matter."""
ORDER = {name: i for role in NAMES for i, name in enumerate(NAMES[role].split())}
ROLE_OF = {name: role for role, names in NAMES.items() for name in names.split()}
ONLY_LONG = ("rollout", "position")
"""Roles that mean something where a row is a token."""
PLAIN = ("logprobs", "log_probs", "logps", "logprob", "log_prob", "logp")
"""Names that say nothing of whose log-probabilities they are."""

WEAK = {
    "attention_mask": "and it counts a prompt's tokens too, where they are there",
    "tool_mask": "and it counts padding too, where that is there",
}
"""Masks that do not say all that a mask should."""
SPELLED = {
    "logprobs": "policy",
    "old_logprobs": "old",
    "ref_logprobs": "reference",
    "ref": "reference",
    "token": "tokens",
    "rollout_logprobs": "sampler",
}
"""Other spellings of roles in a mapping."""


@dataclass(frozen=True)
class Columns:
    """Which column plays which role, what was chosen, and what may have been meant.

    ``rejected`` names the second of a pair of columns, ``chosen_*`` and ``rejected_*``, where there
    is one.
    """

    roles: Mapping[str, str]
    rejected: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    findings: tuple[str, ...] = ()


def role_of(name: str) -> tuple[str, str] | None:
    """Return a column's role, and the name by which it was found.

    Of a path the last two parts or the last.
    """
    low = name.lower().replace("-", "_")
    *_, last = low.split(".")
    two = ".".join(low.split(".")[-2:])
    return next(((ROLE_OF[each], each) for each in (two, last) if each in ROLE_OF), None)


def nearest(name: str, among: Iterable[str]) -> str:
    """Return ``; did you mean 'x'?``, or nothing where no name is near."""
    found = difflib.get_close_matches(name, list(among), n=1, cutoff=0.5)
    return f"; did you mean {found[0]!r}?" if found else ""


def listed(names: Iterable[str], most: int = 20) -> str:
    """Return names for a message, not too many."""
    names = list(names)
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return (", ".join(names[:most]) or "none") + more


def checked(mapping: Mapping[str, str], available: Sequence[str], file: str) -> dict[str, str]:
    """Return a user's mapping of roles to columns, with each role by its own name.

    Raises
    ------
    ConfigError
        A role or a column that there is not, with the nearest.
    """
    result: dict[str, str] = {}
    for given, column in mapping.items():
        role = SPELLED.get(given, given)
        if role not in ROLES:
            raise ConfigError(
                f"--map {given}={column}: no role {given!r}{nearest(given, [*ROLES, *SPELLED])} "
                f"(roles are {', '.join(ROLES)})"
            )
        if column not in available:
            raise ConfigError(
                f"{file}: --map {given}={column}: no column {column!r}{nearest(column, available)} "
                f"(columns are {listed(available)})"
            )
        result[role] = column
    return result


def found(available: Sequence[str], mapping: Mapping[str, str]) -> Columns:
    """Return the column of each role: what the user says, or else what its name says.

    ``old`` is the sampler's only where no engine's column is there, and the policy's where that is
    missing.
    """
    notes: list[str] = []
    rejected = _pairs(available)
    roles, taken = dict(mapping), {*mapping.values(), *rejected.values()}
    candidates: dict[str, list[tuple[int, str]]] = {}
    for name in available:
        known = role_of(_unpaired(name) if name in rejected else name)
        if known is not None and name not in taken:
            candidates.setdefault(known[0], []).append((ORDER[known[1]], name))
    named = {role: [name for _, name in sorted(each)] for role, each in candidates.items()}
    own = named.get("policy", [])
    if "sampler" not in named and "sampler" not in roles and "policy" not in roles and len(own) > 1:
        plain = [name for name in own if name.rsplit(".", 1)[-1].lower() in PLAIN]
        if (
            len(plain) == 1
        ):  # beside one that says it is the trainer's, the plain one is the engine's
            named["sampler"] = plain
            named["policy"] = [name for name in own if name not in plain]
    for role in ROLES:
        if role not in roles and role in named:
            first, *others = named[role]
            roles[role] = first
            if others and role not in ONLY_LONG:
                notes.append(
                    f"{role} is {first}, not {listed(others, 4)}; --map {role}=... chooses"
                )
    _place_old(roles, mapping, notes)
    masks = [name for name in available if "mask" in name.lower() and name not in roles.values()]
    unread = [name for name in masks if role_of(name) is None]
    findings = [
        f"column {name!r} is not read, though it may say which tokens count (--map mask={name})"
        for name in unread
    ]
    weak = [roles[role] for role in ("mask", "tool_mask") if role in roles]
    if len(weak) == 1 and weak[0].lower() in WEAK and "mask" not in mapping:
        findings.append(f"{weak[0]} is the only mask, {WEAK[weak[0].lower()]}")
    return Columns(
        roles,
        {role: rejected[name] for role, name in roles.items() if name in rejected},
        tuple(notes),
        tuple(findings),
    )


def _place_old(roles: dict[str, str], mapping: Mapping[str, str], notes: list[str]) -> None:
    """Let the trainer's log-probabilities at sampling time stand for what is missing.

    The policy's, or else the sampler's.
    """
    if "old" not in roles or "old" in mapping:
        return
    if "policy" not in roles:
        roles["policy"] = roles.pop("old")
        notes.append(f"policy is {roles['policy']}, of when it sampled: no later ones are there")
    elif "sampler" not in roles:
        roles["sampler"] = roles.pop("old")
        notes.append(f"sampler is {roles['sampler']}, the trainer's own: no engine's are there")


def _unpaired(name: str) -> str:
    return re.sub(r"_?/?chosen_?", "_", name.lower()).strip("_").replace("policy_", "")


def _pairs(available: Sequence[str]) -> dict[str, str]:
    """Return the column of rejected completions for each of chosen ones."""
    return {
        name: other
        for name in available
        if "chosen" in name.lower()
        and (other := name.replace("chosen", "rejected")) in available
        and role_of(_unpaired(name)) is not None
    }
