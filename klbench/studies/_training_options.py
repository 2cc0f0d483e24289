"""Settings of the training study."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, model_validator

from klbench import gradients
from klbench.pairs._policies import Name
from klbench.pairs._tree import Tree
from klbench.rlhf.losses import Baseline, Normalisation, Whitening
from klbench.types import Options

Algorithm = Literal["ppo", "reinforce", "grpo"]
Preset = Literal["default", "thorough"]
Weight = Annotated[float, Field(gt=0.0, le=1e3)]

REFERENCE = "k1_reward"
"""What every other combination is compared with."""
NONE = "none"
"""Stands among the combinations for no penalty at all."""
MOST_LEAVES = 200_000
"""Sequences of all prompts that one seed may have: they are enumerated at every evaluation."""

DEFAULT: dict[str, Any] = {
    "combinations": (
        "k1_reward", "k1_reward_to_go", "k2_sequence_loss", "full_with_score", "k2_loss", "k3_ratio_loss",
        "full_loss", "k3_loss", "k3_sequence_loss", "k3_reward", "k1_loss", "none",
    ),
    "frontier": ("k1_reward", "full_loss", "k3_loss", "k3_sequence_loss"),
    "betas": (0.1, 0.4), "seeds": 8, "updates": 200, "frontier_seeds": 4, "noise_free_seeds": 4,
}  # fmt: skip
PRESETS: dict[str, dict[str, Any]] = {
    "default": DEFAULT,
    "thorough": {
        "combinations": (
            *DEFAULT["combinations"], "k3_plus", "k1_reward_leave_one_out", "k1_reward_batch_mean", "k3_loss_and_reward",
            "k3_sequence_ratio_loss", "k1_prefix_ratio_loss", "openrlhf_unbiased_gradient", "k3_verl_loss", "k2_reward",
            "abs_reward", "k3_sequence_reward",
        ),
        "frontier": (*DEFAULT["frontier"], "k1_reward_to_go", "full_with_score", "k2_loss", "k3_ratio_loss", "k3_reward"),
        "betas": (0.025, 0.05, 0.1, 0.4, 0.8), "seeds": 16, "updates": 400, "frontier_seeds": 8, "noise_free_seeds": 16,
    },
}  # fmt: skip
ALGORITHMS: dict[str, dict[str, Any]] = {
    "ppo": {"clip": 0.2, "epochs": 2, "baseline": "leave_one_out", "whitening": "none"},
    "reinforce": {"clip": None, "epochs": 1, "baseline": "leave_one_out", "whitening": "none"},
    "grpo": {"clip": 0.2, "epochs": 2, "baseline": "batch_mean", "whitening": "group"},
}


def _known(names: tuple[str, ...]) -> tuple[str, ...]:
    """Names for aliases; each combination once."""
    found = [name if name == NONE else gradients.get(name).name for name in names]
    specs = [name if name == NONE else gradients.get(name).spec for name in found]
    twice = [name for name, spec in zip(found, specs, strict=True) if specs.count(spec) > 1]
    if twice:
        raise ValueError(f"{' and '.join(twice)} are the same combination")
    return tuple(found)


Names = Annotated[tuple[str, ...], AfterValidator(_known)]


class TrainingOptions(Options):
    """Settings of the training study. What a preset or an algorithm sets, a key of one's own overrides.

    Parameters
    ----------
    preset
        ``default``, or ``thorough``: more combinations, seeds, updates and weights.
    algorithm
        ``ppo``: clipped surrogate, 2 epochs, leave-one-out. ``reinforce``: no clip, 1 epoch. ``grpo``: group mean, advantages
        in units of the group's spread.
    model, vocabulary, horizon, prompts, width
        Of the policies, as in ``pair=sequence``.
    beta
        The penalty's weight against rewards in (-1, 1).
    combinations
        Names of combinations, ``estimator/placement/level/correction/baseline``, or ``none``.
    frontier, betas, frontier_seeds
        Combinations that are trained with these other weights too, on so many of the seeds.
    noise_free_seeds
        Seeds on which the exact expected gradients are followed too.
    seeds, updates, group, epochs, minibatches
        Seeds; batches sampled; sequences of each prompt in one; passes over it; the parts of a pass.
    learning_rate, decay, gradient_clip
        Of Adam; whether it falls to 0 along a line; the largest norm of a gradient (null: any).
    clip, baseline, whitening, normalisation, lag, clamp, target_kl, critic, trace, value_weight
        As in :class:`klbench.rlhf.ppo.Recipe`.
    pretraining_weight, pretraining
        The weight of the log-probability of the reference's sequences, as in :class:`klbench.rlhf.ppo.Recipe`; of ``exact``:
        all of them, or of ``sampled`` ones, as many as in a batch.
    every
        Updates between evaluations.
    """

    preset: Preset = "default"
    algorithm: Algorithm = "ppo"
    model: Name = "gru"
    vocabulary: int = Field(default=6, ge=2, le=64)
    horizon: int = Field(default=4, ge=1, le=10)
    prompts: int = Field(default=8, ge=1, le=256)
    width: int = Field(default=8, ge=1, le=64)
    beta: Weight = 0.2
    combinations: Names = Field(min_length=1)
    frontier: Names
    betas: tuple[Weight, ...]
    frontier_seeds: int = Field(ge=0, le=4096)
    noise_free_seeds: int = Field(ge=0, le=4096)
    seeds: int = Field(ge=1, le=4096)
    updates: int = Field(ge=1, le=100_000)
    group: int = Field(default=8, ge=1, le=4096)
    epochs: int = Field(ge=1, le=100)
    minibatches: int = Field(default=1, ge=1, le=1024)
    learning_rate: float = Field(default=0.02, gt=0.0, le=10.0)
    decay: bool = True
    gradient_clip: float | None = Field(default=1.0, gt=0.0)
    clip: float | None = Field(gt=0.0, lt=1.0)
    baseline: Baseline
    whitening: Whitening
    normalisation: Normalisation = "sum"
    lag: int = Field(default=0, ge=0, le=1000)
    clamp: float | None = Field(default=None, gt=0.0)
    target_kl: float | None = Field(default=None, gt=0.0)
    critic: bool = False
    trace: float = Field(default=0.95, ge=0.0, le=1.0)
    value_weight: float = Field(default=0.5, gt=0.0)
    pretraining_weight: float = Field(default=0.0, ge=0.0, le=1e3)
    pretraining: Literal["sampled", "exact"] = "sampled"
    every: int = Field(default=10, ge=1)

    @model_validator(mode="before")
    @classmethod
    def _fill(cls, given: Any) -> Any:
        if not isinstance(given, dict):
            return given
        preset = PRESETS.get(str(given.get("preset", "default")), DEFAULT)
        algorithm = ALGORITHMS.get(str(given.get("algorithm", "ppo")), ALGORITHMS["ppo"])
        return preset | algorithm | given

    @model_validator(mode="after")
    def _check(self) -> TrainingOptions:
        if REFERENCE not in self.combinations:
            raise ValueError(f"combinations must have {REFERENCE}, with which the others are compared")
        if self.frontier and REFERENCE not in self.frontier:
            raise ValueError(f"frontier must have {REFERENCE}, with which the others are compared, or be empty")
        missing = [name for name in self.frontier if name not in self.combinations]
        if missing:
            raise ValueError(f"frontier has {', '.join(missing)}, which combinations has not")
        if self.group < 2 and (self.baseline == "leave_one_out" or self.whitening == "group" or self._grouped()):
            raise ValueError(f"group={self.group}: baselines and spreads within a group need at least 2 sequences")
        if self.minibatches > self.prompts * self.group:
            raise ValueError(f"minibatches={self.minibatches}: a batch has {self.prompts * self.group} sequences")
        mean = [name for name in self.combinations if name != NONE and gradients.get(name).length_mean]
        if mean and self.normalisation == "sequence":
            raise ValueError(f"normalisation=sequence divides by each sequence's length, which {', '.join(mean)} does already")
        leaves = Tree(self.vocabulary, self.horizon).leaves * self.prompts
        if leaves > MOST_LEAVES:
            raise ValueError(
                f"vocabulary={self.vocabulary}, horizon={self.horizon} and prompts={self.prompts} make {leaves:,} sequences, "
                f"at most {MOST_LEAVES:,} are enumerated at every evaluation"
            )
        return self

    @property
    def altered_by(self) -> str:
        """Settings by which training follows another gradient than that of ``E r - beta * penalty``, as ``key=value``.

        Fixed points are those of the objective as written; these change what the reward's gradient is, or its weight against
        a penalty in the loss.
        """
        changed = {
            "baseline": self.baseline == "batch_mean", "whitening": self.whitening != "none",
            "normalisation": self.normalisation == "sequence", "clamp": self.clamp is not None,
            "target_kl": self.target_kl is not None, "critic": self.critic, "lag": self.lag > 0,
            "pretraining_weight": self.pretraining_weight > 0,
        }  # fmt: skip
        return ", ".join(f"{key}={getattr(self, key)}" for key, is_so in changed.items() if is_so)

    def _grouped(self) -> bool:
        chosen = [gradients.get(name) for name in self.combinations if name != NONE]
        return any(each.baseline in ("batch_mean", "leave_one_out") for each in chosen)
