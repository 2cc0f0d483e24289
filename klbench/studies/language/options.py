"""Settings of the studies that train language models.

What is trained, after which prompts, against which reward.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from klbench import trackers
from klbench.lm import answers
from klbench.lm.fields import ExampleFile, ModelName, PromptFile, checked
from klbench.rlhf.language import rewards
from klbench.rlhf.options import DpoArm, LoopOptions, Rate, Seeds, Updates, Weight
from klbench.studies.dpo.options import Divergences, Losses, Smoothing, arms
from klbench.types import Options


class LanguageOptions(Options):
    """Settings that training language models shares, whatever the algorithm.

    Parameters
    ----------
    policy, revision
        What training starts from: ``embedded:NAME``, a folder, or a hub id at a revision.
    reference, reference_revision
        What the policy is held to; null: itself, before training.
    dtype
        Of the layers; parameters, log-probabilities and divergences are float32.
    batch
        Completions that are generated or, without a gradient, scored at once.
    prompts, prompt_count, max_new_tokens
        As in ``pair=lm``.
    reward
        A program's: see :mod:`klbench.rlhf.language.rewards`.
    sft, sft_steps, sft_rate
        A file of examples (``prompt``, ``completion``, or a text a line) on which the policy is
        trained first, for so many batches of 32; the reference is then what comes of it, unless it
        is named.
    seeds
        Runs of each kind, with streams of their own.
    samples
        Completions of every trained policy that are measured in the end.
    checkpoints
        Whether trained policies are saved, in transformers' format, under ``checkpoints/`` of the
        run folder.
    tracker
        Where the progress is logged too: see :mod:`klbench.trackers`.
    """

    policy: ModelName
    revision: str
    reference: ModelName | None
    reference_revision: str
    dtype: Literal["float32", "bfloat16"]
    batch: int = Field(ge=1, le=65_536)
    prompts: PromptFile
    prompt_count: int = Field(ge=1, le=1_000_000)
    max_new_tokens: int = Field(ge=1, le=1_000_000)
    reward: Annotated[str, checked(rewards.get, optional=False)]
    sft: ExampleFile
    sft_steps: int = Field(ge=1, le=10**7)
    sft_rate: float = Field(gt=0.0, le=10.0)
    seeds: Seeds
    samples: int = Field(ge=2, le=10**9)
    checkpoints: bool
    tracker: Annotated[
        Literal["none", "tensorboard", "wandb", "trackio"], checked(trackers.check, optional=False)
    ]


class RankedOptions(Options):
    """Settings of preferences, for what learns from them.

    Parameters
    ----------
    ranked_pairs, label_scale
        Pairs of the reference's completions, the first of which is labelled the better one with
        probability ``sigma(label_scale * (r - r'))``.
    preferences
        A file of labelled answers instead, in any form of :mod:`klbench.lm.answers`;
        ``label_scale=1`` makes beta that of the literature.
    pairs_each
        Pairs of a step.
    """

    ranked_pairs: int = Field(ge=2, le=10**7)
    label_scale: float = Field(gt=0.0, le=1e6)
    preferences: Annotated[str, checked(answers.check_path)]
    pairs_each: int = Field(ge=1, le=65_536)


class PpoLmOptions(LanguageOptions, RankedOptions, LoopOptions):
    """Settings of PPO on language models.

    Parameters
    ----------
    prompts_each
        Prompts of a batch; each has ``group`` completions.
    reward_model
        Whether training is paid by a reward model that learns from ranked pairs first; ``reward``
        is measured all the same.
    reward_steps, reward_rate
        Steps of it, and of its AdamW.
    pretraining
        A file of examples, as for ``sft``, whose log-probability ``pretraining_weight`` weighs.
    """

    prompts_each: int = Field(ge=1, le=65_536)
    reward_model: bool
    reward_steps: int = Field(ge=1, le=10**6)
    reward_rate: float = Field(gt=0.0, le=10.0)
    pretraining: ExampleFile

    @model_validator(mode="after")
    def _check_weight(self) -> PpoLmOptions:
        if bool(self.pretraining) != (self.pretraining_weight > 0):
            raise ValueError(
                f"pretraining={self.pretraining or 'none'} with"
                f" pretraining_weight={self.pretraining_weight:g}: a file of examples and a weight"
                " above 0 go together"
            )
        if self.preferences and not self.reward_model:
            raise ValueError("preferences are what a reward model learns from: reward_model=true")
        return self


class DpoLmOptions(LanguageOptions, RankedOptions):
    """Settings of DPO on language models.

    Parameters
    ----------
    beta
        The penalty's weight against the reward; the loss has ``label_scale * beta``, and for other
        divergences than KL(q‖p) that over ``f''(1)``, so that all weigh alike near the reference.
    divergences, smoothings
        Penalties by name; label smoothings of KL(q‖p).
    losses
        Losses of other kinds, as in ``+exp=dpo``; means over tokens weigh like a sum for
        ``max_new_tokens``.
    updates, learning_rate, decay, gradient_clip, every
        Steps; of AdamW; steps between evaluations.
    prompts_each, group
        Prompts, and completions of each, that are sampled at every evaluation.
    """

    beta: Weight
    divergences: Divergences
    smoothings: tuple[Smoothing, ...]
    losses: Losses
    updates: Updates
    learning_rate: Rate
    decay: bool
    gradient_clip: float | None = Field(gt=0.0)
    every: int = Field(ge=1)
    prompts_each: int = Field(ge=1, le=65_536)
    group: int = Field(ge=1, le=4096)

    @model_validator(mode="after")
    def _check_losses(self) -> DpoLmOptions:
        if not self.arms:
            raise ValueError(
                "divergences, smoothings and losses are all empty: name at least one loss"
            )
        return self

    @property
    def arms(self) -> tuple[DpoArm, ...]:
        """The arms to compare, the standard first where it is one of them."""
        return arms(
            self.divergences,
            self.smoothings,
            self.losses,
            self.label_scale * self.beta,
            self.max_new_tokens,
        )
