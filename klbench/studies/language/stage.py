"""The start of training a language model, checked and loaded.

And the measures of its completions.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from klbench import estimators
from klbench.context import Context
from klbench.lm import loading, prompts, trained
from klbench.lm.model import LanguageModel
from klbench.pairs.lm import check_room, threads
from klbench.rlhf.language import rewards, sft
from klbench.rlhf.language.ppo_world import Judge
from klbench.rlhf.language.rewards import Written
from klbench.studies.language.options import LanguageOptions
from klbench.types import Rollouts


@dataclass(frozen=True)
class Place:
    """The place of a run: its seed, the device, the run folder if there is one."""

    seed: int
    device: str
    folder: Path | None

    @classmethod
    def of(cls, context: Context) -> Place:
        """Return the place of all runs of a study.

        Processes that share them keep their parts in one folder.
        """
        folder = context.group.from_main(context.folder.path.absolute() if context.folder else None)
        return cls(context.seed, context.device, folder)

    def part(self, name: str) -> Path | None:
        """The file that an unfinished run is continued from."""
        return None if self.folder is None else self.folder / "parts" / f"{name}.safetensors"


@dataclass(frozen=True)
class Stage:
    """The models, prompts and rewards that all runs of a study share.

    Parameters
    ----------
    start, reference
        Models, never changed.
    prompts
        Token ids of each.
    judge
        The reward that training is paid.
    gold
        The program's reward, where a reward model pays another; None: ``judge`` is the program's.
    """

    start: LanguageModel
    reference: LanguageModel
    prompts: list[list[int]]
    judge: Judge
    gold: Judge | None = None

    @property
    def threads(self) -> AbstractContextManager[None]:
        """One thread for small models.

        More would not be faster, and the last bits would depend on how many.
        """
        return threads(self.start)


def prepared(options: LanguageOptions, context: Context) -> tuple[Place, Stage]:
    """Return the place and the stage, in every process.

    The main one comes first and trains what comes before.
    """
    place, group = Place.of(context), context.group
    if group.size > 1:
        group.agreed(lambda: stage(options, place) if group.main else None)
    return place, group.agreed(lambda: stage(options, place))


def stage(options: LanguageOptions, place: Place) -> Stage:
    """Load it.

    Raises
    ------
    ConfigError
        A model, a tokenizer or the prompts cannot be used, or policy and reference are not over the
        same tokens.
    """
    start = loading.load(options.policy, options.revision or None, "float32", place.device)
    if options.sft:
        start = fine_tuned(start, options, place)
    reference = start
    if options.reference is not None:
        reference = loading.load(
            options.reference, options.reference_revision or None, "float32", place.device
        )
        loading.check_same_tokens(start, reference)
    encoded = [
        start.encode(prompt) for prompt in prompts.load(options.prompts, options.prompt_count)
    ]
    check_room((start, reference), encoded, options.max_new_tokens)
    return Stage(
        start, reference, encoded, programmed(options.reward, start, options.max_new_tokens)
    )


def fine_tuned(start: LanguageModel, options: LanguageOptions, place: Place) -> LanguageModel:
    """The model after its examples; kept while the run is unfinished."""
    file = place.part("sft")
    stored = None if file is None else trained.kept(file)
    if stored is None:
        with threads(start):
            lm, _ = sft.train(
                start,
                sft.load(options.sft, start),
                steps=options.sft_steps,
                rate=options.sft_rate,
                seed=place.seed,
                dtype=options.dtype,
            )
        if file is not None:
            trained.keep(file, dict(lm.model.named_parameters()), {})
    else:
        lm = trained.trainable(start)
        trained.put_back(dict(lm.model.named_parameters()), stored[0])
        lm.model.requires_grad_(False)
    return replace(lm, name=f"{start.name}, fine-tuned")


def programmed(name: str, lm: LanguageModel, most: int) -> Judge:
    """A program's reward of completions."""
    reward = rewards.get(name)

    def judge(asked: Sequence[Sequence[int]], token: np.ndarray, mask: np.ndarray) -> np.ndarray:
        texts = lm.texts(token, mask)
        return np.array(
            [
                reward(Written(text, int(n), most))
                for text, n in zip(texts, mask.sum(-1), strict=True)
            ]
        )

    return judge


def clustered(values: np.ndarray, cluster: np.ndarray) -> tuple[float, float]:
    """The mean, and its standard error where values of one cluster depend on each other.

    Those of one prompt do.

    ``sqrt(C / (C - 1)) sqrt(sum over clusters of (sum in it of x - mean)^2) / n``. NaN with one
    cluster. (Liang and Zeger 1986, for a mean.)
    """
    mean = float(values.mean())
    sums = np.bincount(cluster, values - mean)[np.unique(cluster)]
    if len(sums) < 2:
        return mean, float("nan")
    return mean, float(np.sqrt(len(sums) / (len(sums) - 1) * np.square(sums).sum()) / len(values))


def described(values: dict[str, np.ndarray], cluster: np.ndarray) -> dict[str, float]:
    """Means, and standard errors under ``NAME_se``."""
    found: dict[str, float] = {}
    for name, each in values.items():
        found[name], found[f"{name}_se"] = clustered(each, cluster)
    return found


def measures(
    reward: np.ndarray, rollouts: Rollouts, beta: float, end: Tensor
) -> dict[str, np.ndarray]:
    """Return per completion.

    Reward, KL (the sum of its tokens' exact KLs), the estimators of it, objective, length.

    ``rollouts`` is a stack of one, ``(1, 1, n, T)``; ``end`` says which completions came to one,
    ``(n,)``.
    """
    log_ratio = (rollouts.log_p - rollouts.log_q)[0, 0]
    kl = rollouts.kl[0, 0].sum(-1).numpy()
    found: dict[str, Any] = {"reward": reward, "kl": kl}
    for name in ("k1", "k2", "k3"):
        found[name] = (
            estimators.get(name).terms(log_ratio).where(rollouts.mask[0, 0], 0.0).sum(-1).numpy()
        )
    found["objective"] = reward - beta * kl
    found["tokens"] = rollouts.mask[0, 0].sum(-1).double().numpy()
    found["ended"] = end.double().numpy()
    return found
