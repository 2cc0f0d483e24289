"""Settings of the training loop, which the studies on both scales have."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from pydantic import AfterValidator, Field, model_validator

from klbench import gradients
from klbench.policies import Name, check_number, leaves
from klbench.types import Options

Baseline = Literal["none", "batch_mean", "leave_one_out"]
Whitening = Literal["none", "batch", "group", "group_trl", "batch_verl", "batch_openrlhf"]
Normalisation = Literal["sum", "token", "sequence"]
TargetPer = Literal["sequence", "token"]
GROUPED = ("group", "group_trl")
"""Whitenings within groups, which a baseline has to have centred."""

Weight = Annotated[float, Field(gt=0.0, le=1e3)]
Rate = Annotated[float, Field(gt=0.0, le=10.0)]
Seeds = Annotated[int, Field(ge=1, le=4096)]
Updates = Annotated[int, Field(ge=1, le=100_000)]

REFERENCE = "k1_reward"
"""The combination that every other one is compared with, where it is one of them."""
NONE = "none"
"""Stands among the combinations for no penalty at all."""


def _known(names: tuple[str, ...]) -> tuple[str, ...]:
    """Names for aliases; each combination once."""
    found = [name if name == NONE else gradients.get(name).name for name in names]
    specs = [name if name == NONE else gradients.get(name).spec for name in found]
    twice = [name for name, spec in zip(found, specs, strict=True) if specs.count(spec) > 1]
    if twice:
        raise ValueError(f"{' and '.join(twice)} are the same combination")
    return tuple(found)


Names = Annotated[tuple[str, ...], AfterValidator(_known)]


def compared_with(names: Sequence[str]) -> str:
    """Return the combination that the others are compared with: k1_reward, or else the first."""
    return REFERENCE if REFERENCE in names else names[0]


class ShapeOptions(Options):
    """The shape of policies whose every sequence is enumerated.

    Parameters
    ----------
    model, vocabulary, horizon, prompts, width
        As in ``pair=sequence``.
    """

    model: Name
    vocabulary: int = Field(ge=2, le=64)
    horizon: int = Field(ge=1, le=10)
    prompts: int = Field(ge=1, le=256)
    width: int = Field(ge=1, le=64)

    @property
    def leaves(self) -> int:
        """The number of sequences after one prompt."""
        return leaves(self.vocabulary, self.horizon)


class LoopOptions(Options):
    """Settings of the loop.

    Their values are those of the experiment's file and of the algorithm that it names.

    Parameters
    ----------
    algorithm
        The file of ``conf/algorithm/`` that the settings come from, unless they were typed.
    beta
        The penalty's weight against the reward.
    combinations
        Names of combinations, ``estimator/placement/level/correction/baseline``, or ``none``.
    updates, group, epochs, minibatches
        Batches sampled; sequences of each prompt in one; passes over it; the parts of a pass.
    learning_rate, decay, gradient_clip
        Of Adam; whether it falls to 0 along a line; the largest norm of a gradient (null: any).
    clip, dual_clip, ratio_limit, baseline, whitening, normalisation, clamp, target_kl, kl_horizon,
    target_per
        As in :class:`klbench.rlhf.ppo.Recipe`.
    critic, trace, value_weight, value_clip, pretraining_weight
        As in :class:`klbench.rlhf.ppo.Recipe`.
    every
        Updates between evaluations.
    """

    algorithm: str
    beta: Weight
    combinations: Names = Field(min_length=1)
    updates: Updates
    group: int = Field(ge=1, le=4096)
    epochs: int = Field(ge=1, le=100)
    minibatches: int = Field(ge=1, le=1024)
    learning_rate: Rate
    decay: bool
    gradient_clip: float | None = Field(gt=0.0)
    clip: float | None = Field(gt=0.0, lt=1.0)
    dual_clip: float | None = Field(gt=1.0)
    ratio_limit: float | None = Field(gt=0.0)
    baseline: Baseline
    whitening: Whitening
    normalisation: Normalisation
    clamp: float | None = Field(gt=0.0)
    target_kl: float | None = Field(gt=0.0)
    kl_horizon: float | None = Field(gt=0.0)
    target_per: TargetPer
    critic: bool
    trace: float = Field(ge=0.0, le=1.0)
    value_weight: float = Field(gt=0.0)
    value_clip: float | None = Field(gt=0.0)
    pretraining_weight: float = Field(ge=0.0, le=1e3)
    every: int = Field(ge=1)

    @model_validator(mode="after")
    def _check_loop(self) -> LoopOptions:
        odd = [
            each for each in self.combinations if each != NONE and not gradients.get(each).trainable
        ]
        if odd:
            raise ValueError(
                f"{odd[0]} is measured by +exp=gradient and +exp=staleness; training has no weights"
                " that are normalised, per decision or decided by the advantage, and no gamma"
                " but 1"
            )
        if self.whitening in GROUPED and (self.critic or self.baseline == "none"):
            raise ValueError(
                f"whitening={self.whitening} divides what the mean of a group has centred: it needs"
                " baseline=batch_mean or leave_one_out and critic=false, got"
                f" baseline={self.baseline} and critic={str(self.critic).lower()}"
            )
        if self.group < 2 and (
            self.baseline == "leave_one_out" or self.whitening in GROUPED or self._grouped()
        ):
            raise ValueError(
                f"group={self.group}: baselines and spreads within a group need at least 2"
                " sequences"
            )
        mean = [
            name for name in self.combinations if name != NONE and gradients.get(name).length_mean
        ]
        if mean and self.normalisation == "sequence":
            raise ValueError(
                f"normalisation=sequence divides by each sequence's length, which {', '.join(mean)}"
                " does already"
            )
        return self

    @property
    def reference_combination(self) -> str:
        """The combination that the others are compared with."""
        return compared_with(self.combinations)

    def _grouped(self) -> bool:
        chosen = [gradients.get(name) for name in self.combinations if name != NONE]
        return any(each.baseline in ("batch_mean", "leave_one_out") for each in chosen)


class TestbedOptions(ShapeOptions, LoopOptions):
    """Settings of the loop on enumerated policies, beside their shape.

    What a preset sets, a key of one's own overrides.

    Attributes
    ----------
    most_sequences, counted_for
        Sequences of all prompts that one seed may have, and what is done with all of them.

    Parameters
    ----------
    preset
        The file of ``conf/preset/`` that changes the experiment's settings.
    seeds
        How many; each draws its own reference, reward and samples.
    """

    most_sequences: ClassVar[int]
    counted_for: ClassVar[str]
    preset: str
    seeds: Seeds

    @model_validator(mode="after")
    def _check_size(self) -> TestbedOptions:
        if self.minibatches > self.prompts * self.group:
            raise ValueError(
                f"minibatches={self.minibatches}: a batch has {self.prompts * self.group} sequences"
            )
        check_number(
            self, self.leaves * self.prompts, "sequences", self.most_sequences, self.counted_for
        )
        return self


CHIPO = "kl_qp+alpha:-1"
"""The divergence of chi-squared preference optimisation, KL(pi‖ref) + chi^2(pi‖ref)/2.

``phi'(t) = log t + t - 1``.
"""

PairLoss = Literal["sigmoid", "hinge", "ipo", "kto"]
Score = Literal["ratio", "ratio_per_token", "log_prob_per_token"]


@dataclass(frozen=True)
class DpoArm:
    """A loss that is compared: see :mod:`klbench.rlhf.preferences`.

    Parameters
    ----------
    name
        What it is called in tables.
    beta
        The penalty's weight, in units in which the labels' probability is ``sigma`` of a difference
        of rewards.
    divergence, smoothing
        The penalty by its name in :mod:`klbench.divergences`, and the share of labels that the loss
        takes to be wrong.
    loss
        The function of the difference of the rewards that the policy implies; ``kto`` has one for
        each of the two answers.
    score
        What implies a reward: ``phi'(pi/ref)``, or the mean over tokens of ``log pi/ref`` or of
        ``log pi``.
    margin
        The difference of rewards that ``sigmoid`` is centred on.
    """

    name: str
    beta: float
    divergence: str = "kl_qp"
    smoothing: float = 0.0
    loss: PairLoss = "sigmoid"
    score: Score = "ratio"
    margin: float = 0.0
