"""The options of trainers beside the penalty: sampling, the weights of the engine, precision.

By what the doctor finds, each a text with the options as one writes them. Those of trainers whose
packages are at hand are looked up there by the tests.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from klbench import trainers

REMEDIES: dict[str, dict[str, str]] = {
    "trl_grpo": {
        "temperature": "GRPOConfig(temperature=...) is used for both; "
        "vllm_importance_sampling_correction=True",
        "stale_weights": "vllm_importance_sampling_correction=True, "
        "vllm_importance_sampling_mode='sequence_mask', vllm_importance_sampling_clip_max=3.0; "
        "num_iterations=1, steps_per_generation lower",
        "quantised": "vllm_importance_sampling_correction=True",
        "low_precision": "cast_lm_head_to_fp32=True",
        "top_p": "top_p=1.0",
        "top_k": "top_k=0",
        "dropout": "disable_dropout=True",
        "end_token_dropped": "mask_truncated_completions masks truncated completions only",
        "columns_swapped": "beta * KL takes per_token_logps and ref_per_token_logps in that order",
    },
    "verl": {
        "temperature": "actor_rollout_ref.rollout.temperature is read by actor and reference too",
        "stale_weights": "algorithm.rollout_correction.rollout_is=token, "
        "rollout_is_threshold=2.0; actor_rollout_ref.rollout.calculate_log_probs=True",
        "quantised": "algorithm.rollout_correction.rollout_is=token, rollout_is_threshold=2.0",
        "top_p": "actor_rollout_ref.rollout.top_p=1.0",
        "top_k": "actor_rollout_ref.rollout.top_k=-1",
        "padding_counted": "log response_mask beside old_log_probs and ref_log_prob",
    },
    "openrlhf": {
        "stale_weights": "--algo.advantage.is_correction_level token",
        "quantised": "--algo.advantage.is_correction_level token",
        "temperature": "--rollout.temperature is used by actor and reference",
        "top_p": "--rollout.top_p 1.0",
    },
    "nemo_rl": {
        "stale_weights": "loss_fn.use_importance_sampling_correction=true",
        "quantised": "loss_fn.use_importance_sampling_correction=true",
        "temperature": "policy.generation.temperature=1.0",
        "top_p": "policy.generation.top_p=1.0",
        "top_k": "policy.generation.top_k=null",
    },
    "skyrl": {
        "stale_weights": "trainer.algorithm.off_policy_correction.tis_ratio_type=token",
        "temperature": "generator.sampling_params.temperature=1.0",
        "top_p": "generator.sampling_params.top_p=1.0",
    },
    "slime": {
        "stale_weights": "--use-tis, or --use-rollout-logprobs",
        "temperature": "--rollout-temperature",
        "top_p": "--rollout-top-p 1.0",
        "top_k": "--rollout-top-k -1",
    },
    "prime_rl": {"stale_weights": "max_async_level lower"},
}
"""Options by trainer and cause, as far as they are known; a trainer by its first name here."""

_OPTION = re.compile(r"--([\w.-]+)|([\w.]+)=")


def of(trainer: str) -> Mapping[str, str]:
    """The texts of a trainer, by cause; none where it has none.

    Raises
    ------
    klbench.types.ConfigError
        No such trainer.
    """
    return REMEDIES.get(trainers.get(trainer).name, {})


def options(trainer: str) -> list[str]:
    """The options that a trainer's texts name, as the trainer spells them."""
    texts = " ".join(of(trainer).values())
    return [dashed or plain for dashed, plain in _OPTION.findall(texts)]
