"""What trainers and engines call the columns of their rollouts, and which role each name plays.

Names as the code of each project writes them: TRL 1.16 (``trainer/grpo_trainer.py``, ``dpo_trainer.py``), verl 0.9
(``trainer/ppo/core_algos.py``, ``ray_trainer.py``), OpenRLHF 0.11 (``trainer/ppo_utils/experience_maker.py``), NeMo-RL
(``algorithms/grpo.py``), prime-rl (``orchestrator``), slime (``utils/types.py``), vLLM, SGLang and OpenAI's interface.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping

from klbench.types import ConfigError

LOG_PROBS = ("policy", "sampler", "old", "reference")
"""The roles of log-probabilities: of today's policy, the sampler, the trainer when it sampled, and the reference."""
EXACT = ("kl", "kl_pq")
ROLES = (*LOG_PROBS, "mask", "tokens", "prompt", "reward", "step", "version", *EXACT)

NAMES: dict[str, tuple[str, ...]] = {
    "policy": (
        "logprobs", "policy_logprobs", "policy_log_probs", "log_probs", "logps", "log_prob",
        "per_token_logps", "new_logprobs", "new_log_probs", "current_logprobs", "curr_logprobs",
        "action_log_probs", "actor_log_probs", "train_log_probs", "train_logprobs",
        "trainer_logprobs", "trainer_log_probs", "policy_chosen_logps",
        "logprob", "policy_logprob", "policy_logps",
    ),
    "sampler": (
        "sampling_logprobs", "sampler_logprobs", "rollout_log_probs", "rollout_logprobs",
        "generation_logprobs", "sampling_per_token_logps", "inference_logprobs",
        "completion_logprobs", "vllm_logprobs", "vllm_log_probs", "sglang_logprobs",
        "behavior_logprobs", "behaviour_logprobs", "behavior_log_probs", "mu_logprobs",
        "output_token_logprobs", "response_logprobs", "token_logprobs", "engine_logprobs",
        "sampler_logprob", "rollout_log_prob", "sampling_logps", "prompt_logprobs",
    ),
    "old": (
        "old_logprobs", "old_log_probs", "old_per_token_logps", "old_action_log_probs",
        "old_log_prob", "old_logps", "prev_logprobs", "proximal_logprobs", "prox_logp",
    ),
    "reference": (
        "ref_logprobs", "reference_logprobs", "ref_log_prob", "ref_log_probs",
        "ref_per_token_logps", "reference_log_probs", "reference_policy_logprobs",
        "base_action_log_probs", "base_logprobs", "base_log_probs", "ref_logps",
        "reference_logps", "ref_logprob", "reference_logprob", "ref_token_logprobs",
    ),
    "mask": (
        "mask", "response_mask", "completion_mask", "action_mask", "loss_mask", "loss_masks",
        "token_loss_mask", "token_mask", "tool_mask", "assistant_mask", "assistant_masks",
        "attention_mask", "sample_mask",
    ),
    "tokens": (
        "tokens", "token_ids", "completion_ids", "response_ids", "responses", "output_ids",
        "response_tokens", "completion_tokens", "output_token_ids", "input_ids", "token_id",
        "ids",
    ),
    "prompt": (
        "prompt", "prompts", "messages", "question", "prompt_text", "prompt_ids",
        "prompt_token_ids", "prompt_id", "input", "query", "group", "group_id", "group_index",
    ),
    "reward": ("reward", "rewards", "score", "scores", "total_reward", "return"),
    "step": ("step", "global_step", "training_step", "train_step", "rollout_id", "iteration"),
    "version": (
        "version", "policy_version", "weight_version", "weights_version", "model_version",
        "weight_versions", "generation_weight_version",
    ),
    "kl": ("kl", "per_token_kl", "token_kl", "kls", "approx_kl", "kl_divergence"),
    "kl_pq": ("kl_pq",),
}  # fmt: skip
"""The names of each role, the plainest first; letter case and ``-`` for ``_`` do not matter."""

SPELLED = {
    "logprobs": "policy",
    "old_logprobs": "old",
    "ref_logprobs": "reference",
    "ref": "reference",
    "token": "tokens",
}
"""Other spellings of roles in a mapping."""


def plain(name: str) -> str:
    """Return a name as it is compared: the last part of a path, in small letters."""
    return name.rsplit(".", 1)[-1].lower().replace("-", "_")


ROLE_OF = {name: role for role, names in NAMES.items() for name in names}


def nearest(name: str, among: Iterable[str]) -> str:
    """Return ``; did you mean 'x'?``, or nothing where no name is near."""
    found = difflib.get_close_matches(name, list(among), n=1, cutoff=0.5)
    return f"; did you mean {found[0]!r}?" if found else ""


def checked(mapping: Mapping[str, str], available: Iterable[str], file: str) -> dict[str, str]:
    """Return a user's mapping of roles to columns, with each role by its own name.

    Raises
    ------
    ConfigError
        A role or a column that there is not, with the nearest.
    """
    available, result = list(available), {}
    for given, column in mapping.items():
        role = SPELLED.get(given, given)
        if role not in ROLES:
            raise ConfigError(
                f"--map {given}={column}: no role {given!r}{nearest(given, ROLES)} "
                f"(roles are {', '.join(ROLES)})"
            )
        if column not in available:
            raise ConfigError(
                f"{file}: --map {given}={column}: no column {column!r}"
                f"{nearest(column, available)} (columns are {listed(available)})"
            )
        result[role] = column
    return result


def listed(names: Iterable[str], most: int = 20) -> str:
    """Return names for a message, not too many."""
    names = list(names)
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return (", ".join(names[:most]) or "none") + more


def found(available: Iterable[str], mapping: Mapping[str, str]) -> tuple[dict[str, str], list[str]]:
    """Return the column of each role, and in words what was chosen where more than one would do.

    ``old`` is the sampler's only where no engine's column is there, and the policy's where that is missing.
    """
    available, notes = list(available), []
    columns, taken = dict(mapping), set(mapping.values())
    for role in ROLES:
        order = {name: i for i, name in enumerate(NAMES[role])}
        named = sorted(
            (name for name in available if plain(name) in order and name not in taken),
            key=lambda name: order[plain(name)],
        )
        if role in columns or not named:
            continue
        columns[role] = named[0]
        taken.add(named[0])
        if len(named) > 1:
            notes.append(
                f"{role} is {named[0]}, not {', '.join(named[1:])}: --map {role}=... chooses"
            )
    if "old" in columns and "old" not in mapping:
        if "policy" not in columns:
            columns["policy"] = columns.pop("old")
            notes.append(f"policy is {columns['policy']}: no later log-probabilities are there")
        elif "sampler" not in columns:
            columns["sampler"] = columns.pop("old")
            notes.append(f"sampler is {columns['sampler']}: no engine's own are there")
    return columns, notes
