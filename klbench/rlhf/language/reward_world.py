"""A reward model made of a language model, which learns from preferences between completions.

    # first this, then PPO for what it says
    python -m klbench +exp=ppo_lm reward_model=true
    python -m klbench +exp=ppo_lm reward_model=true preferences=pairs.jsonl label_scale=1

It is one that :func:`klbench.rlhf.reward_model.train` trains.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from klbench.lm.model import LanguageModel
from klbench.lm.scalar import Scalar
from klbench.lm.trained import precision, put_back
from klbench.rlhf.language import sft
from klbench.rlhf.language.descent import Descent
from klbench.rlhf.language.dpo_world import Preferences
from klbench.rlhf.language.ppo_world import Judge
from klbench.rlhf.language.sft import Examples
from klbench.rlhf.reward_model import HELD_OUT, Scored


class Rater:
    """A model whose score of a completion, after its last token, is a reward that learns from
    preferences; it begins at 0.

    Parameters
    ----------
    start
        Whose layers it begins with.
    preferences
        Every fifth is held out; there must be two at least.
    each, batch
        Pairs of a step, and completions that are scored at once without a gradient.
    rate, steps
        Of :class:`klbench.rlhf.language.descent.Descent`; the rate falls to 0 along a line.
    names
        Of the stream that orders the pairs: (seed, names...).
    """

    def __init__(
        self,
        start: LanguageModel,
        preferences: Preferences,
        *,
        each: int,
        batch: int,
        rate: float,
        steps: int,
        dtype: str,
        names: tuple[int | str, ...],
    ) -> None:
        self.model, self.preferences, self.batch, self.dtype = (
            Scalar(start),
            preferences,
            batch,
            dtype,
        )
        held_out = np.arange(len(preferences)) % HELD_OUT == 0
        self._own, self._held_out = np.flatnonzero(~held_out), np.flatnonzero(held_out)
        self._order = sft.batches(len(self._own), each, names)
        self.descent = Descent(list(self.model.named_parameters().values()), rate, 1.0, steps)
        self.kept = {
            name: each.detach().clone() for name, each in self.model.named_parameters().items()
        }

    def training(self, step: int) -> Scored:
        """The next pairs; each stands once in every pass over them."""
        which = self._own[next(self._order)]
        return Scored(
            *(
                _scores(self.model, part, which, self.dtype)
                for part in (self.preferences.chosen, self.preferences.rejected)
            )
        )

    def held_out(self) -> Scored:
        """All that are held out."""
        return Scored(
            *(
                self._all(part, self._held_out)
                for part in (self.preferences.chosen, self.preferences.rejected)
            )
        )

    def _all(self, examples: Examples, which: np.ndarray) -> Tensor:
        parts = np.array_split(which, -(-len(which) // self.batch))
        return torch.cat([_scores(self.model, examples, part, self.dtype) for part in parts])

    def step(self, loss: Tensor, step: int) -> None:
        """One step of AdamW."""
        self.descent.step(loss, step)

    def keep(self, better: Tensor) -> None:
        """Remember parameters."""
        if bool(better):
            self.kept = {
                name: each.detach().clone() for name, each in self.model.named_parameters().items()
            }

    def back(self) -> float:
        """Put the kept parameters back, and say the mean score of the pairs it learned from."""
        put_back(self.model.named_parameters(), self.kept)
        with torch.no_grad():
            parts = (self.preferences.chosen, self.preferences.rejected)
            return float(torch.cat([self._all(part, self._own) for part in parts]).mean())


def _scores(model: Scalar, examples: Examples, which: np.ndarray, dtype: str) -> Tensor:
    """Return the scores of whole completions, ``(n,)``, float64 on the CPU."""
    with precision(dtype, model.device):
        found = model.after_all(
            [examples.prompts[i] for i in which], examples.token[which], examples.mask[which]
        )
    return found.cpu().double()


def judging(model: Scalar, *, level: float, scale: float, batch: int, dtype: str) -> Judge:
    """Return a judge whose reward is ``(score - level) / scale``, in the units of the rewards that
    the labels come from.

    Pairs say nothing of the level: it is such that those that the model learned from have 0 on
    average. (Ouyang et al. 2022, "Training language models to follow instructions with human
    feedback", section 3.5, where demonstrations do.)
    """

    def judge(asked: Sequence[Sequence[int]], token: np.ndarray, mask: np.ndarray) -> np.ndarray:
        examples = Examples(asked, token, mask)
        parts = np.array_split(np.arange(len(asked)), -(-len(asked) // batch))
        with torch.no_grad():
            score = torch.cat([_scores(model, examples, part, dtype) for part in parts])
        found: np.ndarray = ((score - level) / scale).numpy()
        return found

    return judge
