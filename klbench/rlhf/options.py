"""Settings of the training loop, which the studies on both scales have."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, model_validator

from klbench import gradients
from klbench.rlhf.losses import GROUPED, Baseline, Normalisation, Whitening
from klbench.types import Options

Algorithm = Literal["ppo", "reinforce", "grpo", "trl_grpo", "verl_ppo", "openrlhf_ppo"]
Weight = Annotated[float, Field(gt=0.0, le=1e3)]

REFERENCE = "k1_reward"
"""What every other combination is compared with."""
NONE = "none"
"""Stands among the combinations for no penalty at all."""

ALGORITHMS: dict[str, dict[str, Any]] = {
    "ppo": {"clip": 0.2, "epochs": 2, "baseline": "leave_one_out", "whitening": "none"},
    "reinforce": {"clip": None, "epochs": 1, "baseline": "leave_one_out", "whitening": "none"},
    "grpo": {"clip": 0.2, "epochs": 2, "baseline": "batch_mean", "whitening": "group"},
    "trl_grpo": {"clip": 0.2, "epochs": 1, "baseline": "batch_mean", "whitening": "group_trl", "normalisation": "token"},
    "verl_ppo": {
        "clip": 0.2, "epochs": 1, "baseline": "none", "whitening": "batch_verl", "normalisation": "token", "critic": True,
        "trace": 1.0, "value_clip": 0.5, "dual_clip": 3.0, "ratio_limit": 20.0,
    },
    "openrlhf_ppo": {
        "clip": 0.2, "epochs": 1, "baseline": "none", "whitening": "batch_openrlhf", "normalisation": "token", "critic": True,
        "trace": 1.0, "value_clip": 0.5, "ratio_limit": 20.0,
    },
}  # fmt: skip


def _known(names: tuple[str, ...]) -> tuple[str, ...]:
    """Names for aliases; each combination once."""
    found = [name if name == NONE else gradients.get(name).name for name in names]
    specs = [name if name == NONE else gradients.get(name).spec for name in found]
    twice = [name for name, spec in zip(found, specs, strict=True) if specs.count(spec) > 1]
    if twice:
        raise ValueError(f"{' and '.join(twice)} are the same combination")
    return tuple(found)


Names = Annotated[tuple[str, ...], AfterValidator(_known)]


class LoopOptions(Options):
    """Settings of the loop. What an algorithm sets, a key of one's own overrides.

    Parameters
    ----------
    algorithm
        ``ppo``: clipped surrogate, 2 epochs, and no critic but the mean of a group's others. ``reinforce``: no clip, 1 epoch,
        the same baseline, which is RLOO. ``grpo``: group mean, returns (less the penalty, where it stands in them) in units of
        their group's spread. All three sum over tokens. ``trl_grpo`` (1.16, which has its penalty in the loss), ``verl_ppo``
        (0.9), ``openrlhf_ppo`` (0.11): the advantages and losses of these trainers, by their defaults, means over tokens.
    beta
        The penalty's weight against the reward.
    combinations
        Names of combinations, ``estimator/placement/level/correction/baseline``, or ``none``.
    updates, group, epochs, minibatches
        Batches sampled; sequences of each prompt in one; passes over it; the parts of a pass.
    learning_rate, decay, gradient_clip
        Of Adam; whether it falls to 0 along a line; the largest norm of a gradient (null: any).
    clip, dual_clip, ratio_limit, baseline, whitening, normalisation, clamp, target_kl
        As in :class:`klbench.rlhf.ppo.Recipe`.
    critic, trace, value_weight, value_clip, pretraining_weight
        As in :class:`klbench.rlhf.ppo.Recipe`.
    every
        Updates between evaluations.
    """

    algorithm: Algorithm = "ppo"
    beta: Weight = 0.2
    combinations: Names = Field(min_length=1)
    updates: int = Field(ge=1, le=100_000)
    group: int = Field(default=8, ge=1, le=4096)
    epochs: int = Field(ge=1, le=100)
    minibatches: int = Field(default=1, ge=1, le=1024)
    learning_rate: float = Field(default=0.02, gt=0.0, le=10.0)
    decay: bool = True
    gradient_clip: float | None = Field(default=1.0, gt=0.0)
    clip: float | None = Field(gt=0.0, lt=1.0)
    dual_clip: float | None = Field(default=None, gt=1.0)
    ratio_limit: float | None = Field(default=None, gt=0.0)
    baseline: Baseline
    whitening: Whitening
    normalisation: Normalisation = "sum"
    clamp: float | None = Field(default=None, gt=0.0)
    target_kl: float | None = Field(default=None, gt=0.0)
    critic: bool = False
    trace: float = Field(default=0.95, ge=0.0, le=1.0)
    value_weight: float = Field(default=0.5, gt=0.0)
    value_clip: float | None = Field(default=None, gt=0.0)
    pretraining_weight: float = Field(default=0.0, ge=0.0, le=1e3)
    every: int = Field(default=10, ge=1)

    @model_validator(mode="before")
    @classmethod
    def _fill(cls, given: Any) -> Any:
        if not isinstance(given, dict):
            return given
        return cls.filled(given) | given

    @classmethod
    def filled(cls, given: dict[str, Any]) -> dict[str, Any]:
        """What the chosen algorithm sets."""
        return ALGORITHMS.get(str(given.get("algorithm", "ppo")), ALGORITHMS["ppo"])

    @model_validator(mode="after")
    def _check_loop(self) -> LoopOptions:
        if REFERENCE not in self.combinations:
            raise ValueError(f"combinations must have {REFERENCE}, with which the others are compared")
        if self.whitening in GROUPED and (self.critic or self.baseline == "none"):
            raise ValueError(
                f"whitening={self.whitening} divides what the mean of a group has centred: it needs baseline=batch_mean or "
                f"leave_one_out and critic=false, got baseline={self.baseline} and critic={str(self.critic).lower()}"
            )
        if self.group < 2 and (self.baseline == "leave_one_out" or self.whitening in GROUPED or self._grouped()):
            raise ValueError(f"group={self.group}: baselines and spreads within a group need at least 2 sequences")
        mean = [name for name in self.combinations if name != NONE and gradients.get(name).length_mean]
        if mean and self.normalisation == "sequence":
            raise ValueError(f"normalisation=sequence divides by each sequence's length, which {', '.join(mean)} does already")
        return self

    def _grouped(self) -> bool:
        chosen = [gradients.get(name) for name in self.combinations if name != NONE]
        return any(each.baseline in ("batch_mean", "leave_one_out") for each in chosen)
