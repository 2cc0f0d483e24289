"""Preferences between completions, and a language model that learns from them.

What :func:`klbench.rlhf.dpo.train` trains.

A stack of one: every loss is a world of its own, and all of them see the same pairs in the same
order.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import cycle, islice

import numpy as np
import torch
from torch import Tensor

from klbench.lm import answers
from klbench.lm.generation import generate
from klbench.lm.model import LanguageModel
from klbench.lm.sampling import Sampling
from klbench.lm.trained import precision
from klbench.rlhf.dpo import Details, DpoBatch
from klbench.rlhf.language import sft
from klbench.rlhf.language.ppo_world import Judge, Language, held
from klbench.rlhf.language.sft import Examples

PARTS = ("chosen", "rejected")


@dataclass(frozen=True)
class Preferences:
    """The better and the worse answer to each prompt, as they are labelled.

    Parameters
    ----------
    chosen, rejected
        Equally many.
    paired
        Whether answers of one place belong to one prompt; else each has a label of its own.
    """

    chosen: Examples
    rejected: Examples
    paired: bool = True

    def __len__(self) -> int:
        return len(self.chosen.prompts)


def load(path: str, lm: LanguageModel) -> Preferences:
    """The preferences of a file.

    Where each answer has a label of its own, the rarer label's are repeated until there are equally
    many: desirable and undesirable answers weigh alike in sum, as KTO advises.

    Raises
    ------
    ConfigError
        The file, its row and key; or a prompt that leaves no room.
    """
    found = answers.load(path)
    most = max(len(found.good), len(found.bad))
    good, bad = (
        sft.encoded([(each.prompt, each.completion) for each in islice(cycle(side), most)], lm)
        for side in (found.good, found.bad)
    )
    return Preferences(good, bad, found.paired)


def sampled(
    lm: LanguageModel,
    prompts: Sequence[Sequence[int]],
    judge: Judge,
    n: int,
    *,
    scale: float,
    tokens: int,
    batch: int,
    dtype: str,
    stream: np.random.Generator,
) -> Preferences:
    """``n`` pairs of the model's own completions, all prompts equally often as far as ``n`` allows.

    The first of two is labelled the better one with probability ``sigma(scale * (r - r'))``.
    (Bradley and Terry 1952.)
    """
    asked = [prompts[i] for i in np.resize(np.arange(len(prompts)), n).tolist()]
    uniform, label = stream.random((2, n, tokens)), stream.random(n)
    with precision(dtype, lm.device):
        found = generate(lm, [*asked, *asked], uniform.reshape(2 * n, tokens), Sampling(), batch)
    reward = judge([*asked, *asked], found.token, found.mask).reshape(2, n)
    first = label < 0.5 * (1.0 + np.tanh(0.5 * scale * (reward[0] - reward[1])))
    places = np.where(
        first, [np.arange(n), np.arange(n, 2 * n)], [np.arange(n, 2 * n), np.arange(n)]
    )
    chosen, rejected = (Examples(asked, found.token[each], found.mask[each]) for each in places)
    return Preferences(chosen, rejected)


def fitting(examples: Examples, context: int | None) -> Examples:
    """The same examples, cut off where the context ends."""
    if context is None:
        return examples
    room = context - np.array([len(each) for each in examples.prompts])[:, None]
    return replace(examples, mask=examples.mask & (np.arange(examples.mask.shape[1]) < room))


def joined(first: Examples, second: Examples) -> Examples:
    """The examples of both, one after the other."""
    width = max(first.mask.shape[1], second.mask.shape[1])

    def wide(name: str) -> np.ndarray:
        both = [getattr(each, name) for each in (first, second)]
        return np.concatenate([np.pad(x, ((0, 0), (0, width - x.shape[1]))) for x in both])

    return Examples([*first.prompts, *second.prompts], wide("token"), wide("mask"))


class Preferring:
    """A policy that learns from preferences.

    Parameters
    ----------
    learner
        The policy, its reference and its optimiser.
    batch
        Pairs of a step; each stands once in every pass over them.
    """

    def __init__(self, learner: Language, preferences: Preferences, batch: int) -> None:
        self.learner, self.preferences, self.batch = learner, preferences, batch
        self._reference = {
            part: torch.zeros(len(preferences), dtype=torch.float64) for part in PARTS
        }
        # In the batches of the first pass: what a batch pads rounds, and a policy that is its
        # reference has a ratio of 1.
        with held(learner.reference):
            for step in range(self._steps_a_pass):
                which = self.which(step)
                for part, found in zip(PARTS, self._whole(learner.reference, which), strict=True):
                    self._reference[part][which] = found

    def _whole(self, lm: LanguageModel, which: np.ndarray) -> tuple[Tensor, ...]:
        """Log-probabilities of whole completions, those of each part, ``(n,)`` each, float64."""
        both = [getattr(self.preferences, part) for part in PARTS]
        if lm.small:
            return tuple(self._summed(lm, each, which) for each in both)
        # In one pass, and what they answer once.
        found = self._summed(
            lm, joined(*(each.take(which) for each in both)), np.arange(2 * len(which))
        )
        return found.chunk(2)

    def _summed(self, lm: LanguageModel, examples: Examples, which: np.ndarray) -> Tensor:
        with precision(self.learner.setting.dtype, lm.device):
            found = examples.log_probs(lm, which).cpu().double()
        row = torch.from_numpy(np.nonzero(examples.mask[which])[0])
        return torch.zeros(len(which), dtype=torch.float64).index_add(0, row, found)

    @property
    def _steps_a_pass(self) -> int:
        return -(-len(self.preferences) // self.batch)

    def which(self, step: int) -> np.ndarray:
        """The pairs of a step."""
        each = self._steps_a_pass
        order = self.learner.stream("order of pairs", step // each).permutation(
            len(self.preferences)
        )
        return order[(step % each) * self.batch :][: self.batch]

    def log_ratios(self, step: int) -> DpoBatch:
        """The step's pairs under the policy of now."""
        which = self.which(step)
        chosen, rejected = (
            (found - self._reference[part][which])[None, None]
            for part, found in zip(PARTS, self._whole(self.learner.policy, which), strict=True)
        )
        return DpoBatch(chosen, rejected, details=lambda: self._details(which))

    def _details(self, which: np.ndarray) -> Details:
        both = [getattr(self.preferences, part) for part in PARTS]
        log_p = [self._reference[part][which][None] for part in PARTS]
        tokens = [torch.from_numpy(each.mask[which].sum(-1))[None] for each in both]

        def mismatched(arms: slice) -> Tensor:
            """Each prompt of the step with the answers of the pair before it."""
            found = []
            everywhere = np.arange(len(which))
            for each in both:
                prompts = [each.prompts[i] for i in which]
                before = np.roll(which, 1)
                other = fitting(
                    Examples(prompts, each.token[before], each.mask[before]),
                    self.learner.policy.context,
                )
                with torch.no_grad():
                    ours = self._summed(self.learner.policy, other, everywhere)
                with held(self.learner.reference):
                    found.append(ours - self._summed(self.learner.reference, other, everywhere))
            return torch.cat(found)[None, None]

        return Details((log_p[0], log_p[1]), (tokens[0], tokens[1]), mismatched)

    def step(self, loss: Tensor, step: int) -> None:
        """One step of AdamW down the loss of the one policy."""
        self.learner.step(loss, step)
