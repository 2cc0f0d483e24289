"""The settings that trainers' losses need besides tensors, and the trainer of a method."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock

import torch

Function = Callable[..., Any]


class Settings(SimpleNamespace):
    """A trainer's configuration: attributes, and ``get`` as a dictionary has it."""

    def get(self, name: str, default: Any = None) -> Any:
        """Return a setting, or the default where there is none."""
        return getattr(self, name, default)


class Unset(Settings):
    """A configuration in which every other setting is None."""

    def __getattr__(self, name: str) -> None:
        if name.startswith("__"):
            raise AttributeError(name)


CLIP = 0.2
VERL = Settings(
    clip_ratio=CLIP,
    clip_ratio_low=CLIP,
    clip_ratio_high=CLIP,
    clip_ratio_c=3.0,
    global_batch_info={},
    tau_pos=1.0,
    tau_neg=1.05,
    policy_loss=Settings(
        clip_cov_ratio=0.0002,
        clip_cov_ub=5.0,
        clip_cov_lb=1.0,
        kl_cov_ratio=0.0002,
        ppo_kl_coef=1.0,
        dro_beta=0.1,
    ),
)
"""verl's defaults."""
SKYRL = Settings(
    policy_loss_type="regular",
    eps_clip_low=CLIP,
    eps_clip_high=CLIP,
    clip_ratio_c=3.0,
    loss_reduction="sequence_mean",
    off_policy_correction=Unset(),
    sapo=Settings(tau_pos=1.0, tau_neg=1.05),
    cispo=Settings(cispo_eps_clip_low=CLIP, cispo_eps_clip_high=CLIP),
    dppo=Settings(dppo_type="binary_tv", delta_low=CLIP, delta_high=CLIP),
    clip_cov=Settings(clip_ratio=0.0002, clip_cov_lb=1.0, clip_cov_ub=5.0),
    kl_cov=Settings(kl_cov_frac=0.2, ppo_kl_coef=1.0),
)
"""SkyRL's settings; sums, whose divisors are in the advantages."""
SKYRL_JAX = {"loss_fn_config": Settings(clip_low_threshold=1 - CLIP, clip_high_threshold=1 + CLIP)}


def trl_grpo(theirs: Function, loss_type: str, use_bias_correction_kl: bool) -> Function:
    """Return TRL's GRPO loss, a method, as a function of what its model and its batch hold."""
    for name, each in (("nanmin", torch.min), ("nanmax", torch.max)):
        theirs.__globals__[name] = each  # of its metrics

    trainer = MagicMock(
        top_entropy_quantile=1.0,
        off_policy_mask_threshold=None,
        epsilon_low=CLIP,
        epsilon_high=5.0 if loss_type == "cispo" else CLIP,
        use_vllm=False,
        importance_sampling_level="token",
        loss_type=loss_type,
        aux_loss_enabled=False,
        _entropy_bonus_enabled=False,
        max_completion_length=64,
        args=SimpleNamespace(
            use_bias_correction_kl=use_bias_correction_kl,
            delta=None,
            sapo_temperature_pos=1.0,
            sapo_temperature_neg=1.05,
        ),
        model=SimpleNamespace(training=False),
        accelerator=MagicMock(num_processes=1, gather=lambda x: x, gather_for_metrics=lambda x: x),
        get_sapo_token_loss=lambda r, t: torch.sigmoid(t * (r - 1)) * 4 / t,
    )

    def loss(  # type: ignore[no-untyped-def]
        logprobs, ref_logprobs, old_logprobs, advantages, mask, beta=0.04
    ):
        trainer.beta = beta
        found = (logprobs, torch.ones_like(logprobs), None)
        trainer._get_per_token_logps_and_entropies = lambda *_, **__: found
        ids = torch.zeros(logprobs.shape, dtype=torch.long)
        return theirs(
            trainer,
            None,
            {
                "prompt_ids": ids[:, :1],
                "prompt_mask": torch.ones(len(ids), 1),
                "completion_ids": ids,
                "completion_mask": mask.long(),
                "advantages": advantages,
                "old_per_token_logps": old_logprobs,
                "ref_per_token_logps": ref_logprobs,
                "num_items_in_batch": mask.sum(),
            },
        )

    return loss


def verl(theirs: Function) -> Function:
    """Return verl's policy loss with its defaults; some look at their configuration's class."""
    theirs.__globals__.update(ActorConfig=Settings, AlgoConfig=MagicMock)

    def loss(log_prob, old_log_prob, advantages, response_mask):  # type: ignore[no-untyped-def]
        return theirs(old_log_prob, log_prob, advantages, response_mask, config=VERL)

    return loss


def liger(theirs: Function, loss_type: str, use_bias_correction_kl: bool) -> Function:
    """Return Liger's GRPO loss of log-probabilities."""

    def loss(  # type: ignore[no-untyped-def]
        logprobs, ref_logprobs, old_logprobs, advantages, mask, beta=0.04
    ):
        counted = mask.to(logprobs.dtype)
        return theirs(
            logprobs,
            counted,
            advantages,
            counted,
            ref_per_token_logps=ref_logprobs,
            old_per_token_logps=old_logprobs,
            beta=beta,
            loss_type=loss_type,
            max_completion_length=64,
            epsilon_high=5.0 if loss_type == "cispo" else CLIP,
            use_bias_correction_kl=use_bias_correction_kl,
        )

    return loss


def unsloth(theirs: Function, loss_type: str, use_bias_correction_kl: bool) -> Function:
    """Return Unsloth's GRPO loss of log-probabilities."""

    def loss(  # type: ignore[no-untyped-def]
        logprobs, ref_logprobs, old_logprobs, advantages, mask, beta=0.04
    ):
        return theirs(
            ref_logprobs,
            logprobs,
            old_logprobs,
            None,
            torch.zeros(mask.shape, dtype=torch.long),
            mask,
            beta,
            advantages,
            loss_type=loss_type,
            use_bias_correction_kl=use_bias_correction_kl,
            max_completion_length=64,
            num_items_in_batch=mask.sum(),
            epsilon_high=5.0 if loss_type == "cispo" else CLIP,
        )

    return loss


def openrlhf(theirs: Function, policy_loss_type: str) -> Function:
    """Return OpenRLHF's policy loss, the method of a module."""
    module = Settings(
        policy_loss_type=policy_loss_type,
        clip_eps_low=CLIP,
        clip_eps_high=CLIP,
        dual_clip=None,
        is_correction_level="off",
        token_level_loss=policy_loss_type != "gspo",
    )

    def loss(log_probs, old_log_probs, advantages, action_mask):  # type: ignore[no-untyped-def]
        return theirs(module, log_probs, old_log_probs, advantages, action_mask)

    return loss


def areal(theirs: Function, importance_sampling_level: str) -> Function:
    """Return AReaL's loss without a decoupled policy: the proximal one is the one that sampled."""

    def loss(logprobs, old_logprobs, advantages, mask):  # type: ignore[no-untyped-def]
        return theirs(
            logprobs,
            old_logprobs,
            old_logprobs,
            advantages,
            CLIP,
            mask,
            importance_sampling_level=importance_sampling_level,
        )

    return loss
