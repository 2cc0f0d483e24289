"""Supervised fine-tuning: the log-probability of examples, made large.

    # first this, then PPO from what comes of it
    python -m klbench +exp=ppo_lm sft=examples.jsonl

Of an example with a prompt the completion and its end are learned, of one without all of it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from klbench import streams
from klbench.lm import rows
from klbench.lm.answers import Text
from klbench.lm.model import LanguageModel
from klbench.lm.scoring import token_logits
from klbench.lm.trained import precision, trainable
from klbench.rlhf.language.descent import Descent
from klbench.rlhf.language.ppo_world import Language
from klbench.types import ConfigError, RunError

BATCH = 32
"""Examples of a step."""


@dataclass(frozen=True)
class Examples:
    """Token ids: prompts, and what follows each, ``(n, T)`` with what counts of it.

    The end token does.
    """

    prompts: Sequence[Sequence[int]]
    token: np.ndarray
    mask: np.ndarray

    def take(self, which: np.ndarray) -> Examples:
        """Some of them, no wider than they are."""
        mask = self.mask[which]
        width = int(mask.sum(-1).max())
        prompts = [self.prompts[i] for i in which]
        return Examples(prompts, self.token[which][:, :width], mask[:, :width])

    def log_probs(self, lm: LanguageModel, which: np.ndarray) -> Tensor:
        """Return the log-probabilities, in nats, of tokens that count in ``which`` examples.

        ``(counted,)``, differentiable.
        """
        token, mask = self.token[which], self.mask[which]
        logits = token_logits(lm, [self.prompts[i] for i in which], token, mask)
        target = torch.from_numpy(token[mask]).to(logits.device)
        wide = logits.to(torch.promote_types(logits.dtype, torch.float32))
        return -torch.nn.functional.cross_entropy(wide, target, reduction="none")


def load(path: str, lm: LanguageModel) -> Examples:
    """The examples of a file, cut off where the model's context ends.

    Raises
    ------
    ConfigError
        The file, its line and key; or a prompt that leaves no room.
    """
    return encoded(
        [(row["prompt"], row["completion"]) for row in rows.load(path, rows.EXAMPLE)], lm
    )


def encoded(texts: Sequence[tuple[Text, Text]], lm: LanguageModel) -> Examples:
    """Prompts, which may be empty, and completions as token ids, the end token after each
    completion.

    Messages are written by the tokenizer's chat template.
    """
    prompts, answers = [], []
    for prompt, completion in texts:
        if not isinstance(prompt, str) and not isinstance(completion, str):
            before, after = lm.encode_chat(prompt, completion)
        else:
            before, after = (
                (lm.encode(str(prompt)), lm.continued(str(completion)))
                if prompt
                else split(lm.encode(str(completion)))
            )
            after = [*after, *lm.end[:1]]
        after = after[: None if lm.context is None else max(0, lm.context - len(before))]
        if not after:
            raise ConfigError(
                f"{lm.name}: after the prompt {str(prompt)[:40]!r} there is nothing left to learn"
                " in its context"
            )
        prompts.append(before)
        answers.append(after)
    token, mask = padded(answers, lm.pad)
    return Examples(prompts, token, mask)


def split(ids: list[int]) -> tuple[list[int], list[int]]:
    """A text by itself: nothing precedes its first token, so that it cannot be learned."""
    return ids[:1], ids[1:]


def padded(answers: Sequence[Sequence[int]], pad: int) -> tuple[np.ndarray, np.ndarray]:
    """Ragged token ids as ``(n, T)``, and what counts of them."""
    lengths = np.array([len(each) for each in answers])
    mask = np.arange(lengths.max()) < lengths[:, None]
    token = np.full(mask.shape, pad, dtype=np.int64)
    token[mask] = np.concatenate([np.asarray(each, dtype=np.int64) for each in answers])
    return token, mask


def train(
    start: LanguageModel, examples: Examples, *, steps: int, rate: float, seed: int, dtype: str
) -> tuple[LanguageModel, list[float]]:
    """A copy of the model after so many steps of AdamW, and the mean loss of each step's batch, in
    nats a token.

    The rate rises over the first tenth of the steps and falls to 0 along a line.

    Raises
    ------
    RunError
        A loss or gradient was not finite.
    """
    learner = trainable(start)
    descent = Descent(list(learner.model.parameters()), rate, 1.0, None)
    losses = []
    for step, which in zip(
        range(steps), batches(len(examples.prompts), BATCH, (seed, "language", "sft")), strict=False
    ):
        descent.rate = rate * min(1.0, 10 * (step + 1) / steps) * (1.0 - step / steps)
        with precision(dtype, learner.device):
            loss = -examples.log_probs(learner, which).mean()
        losses.append(float(loss.detach()))
        descent.step(loss, step)
        if descent.cause is not None:
            raise RunError(
                f"fine-tuning on examples ended at step {descent.cause[0]}: {descent.cause[1]}"
            )
    learner.model.requires_grad_(False)
    return learner, losses


def mean_log_prob(world: Language, examples: Examples, update: int) -> Tensor:
    """The mean log-probability of a whole sequence, over a batch of examples of each update's
    own; differentiable.
    """
    stream = world.stream("pretraining", update)
    which = stream.permutation(len(examples.prompts))[:BATCH]
    with precision(world.setting.dtype, world.policy.device):
        return examples.log_probs(world.policy, which).double().sum().cpu() / len(which)


def batches(n: int, size: int, names: tuple[int | str, ...]) -> Iterator[np.ndarray]:
    """Numbers of examples, batch after batch without end.

    Each once in every pass over them, in an order of its own.

    Orders come from the streams (seed, names..., pass).
    """
    passes = 0
    seed, *others = names
    while True:
        order = streams.generator(int(seed), *others, passes).permutation(n)
        yield from (order[first : first + size] for first in range(0, n, size))
        passes += 1
