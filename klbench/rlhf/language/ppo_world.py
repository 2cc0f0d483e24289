"""A causal language model as what :func:`klbench.rlhf.ppo.train` trains.

A policy, its reference, a reward, perhaps a critic.

A stack of one, ``(1, 1, n, T)``: every combination is a world of its own, and all of them draw with
the same uniforms after the same prompts. The loop's arithmetic, a few numbers a token, is done in
float64 on the CPU; the models stay where they are, and autograd finds its way back to them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from klbench import streams
from klbench.kernels import token_divergences
from klbench.lm.batching import Batch
from klbench.lm.generation import generate
from klbench.lm.model import LanguageModel
from klbench.lm.sampling import Sampling
from klbench.lm.scalar import Scalar
from klbench.lm.scoring import token_logits
from klbench.lm.trained import precision, trainable
from klbench.rlhf.language.descent import Descent
from klbench.rlhf.ppo import PpoBatch
from klbench.types import Rollouts

Judge = Callable[[Sequence[Sequence[int]], np.ndarray, np.ndarray], np.ndarray]
"""Prompts, and completions ``(n, T)`` with what counts of them, to rewards ``(n,)``."""


@dataclass
class Completed:
    """Completions, and what scores them again.

    Parameters
    ----------
    prompt
        Which prompt each answers, ``(n,)``.
    token, mask
        As in :class:`klbench.lm.generation.Sampled`, ``(n, T)``.
    reward
        ``(n,)``.
    log_mu
        The policy's own log-probabilities when it sampled, ``(n, T)``: from the pass that scores
        them first, as trainers do it, and not from the one that generates, whose rounding differs.
    log_p
        The reference's, from the same pass.
    """

    prompt: np.ndarray
    token: np.ndarray
    mask: np.ndarray
    reward: np.ndarray
    log_mu: Tensor | None = None
    log_p: Tensor | None = None

    @property
    def batch(self) -> PpoBatch:
        """The same as the loop takes it."""
        return PpoBatch(
            torch.from_numpy(self.reward)[None, None], torch.from_numpy(self.mask)[None, None], self
        )


@dataclass(frozen=True)
class Setting:
    """The settings of a language model's training.

    Parameters
    ----------
    prompts_each, group, tokens
        Prompts of a batch, completions of each, and most tokens of one.
    rate, clip, steps
        Of :class:`klbench.rlhf.language.descent.Descent`.
    critic
        Whether there are values: another copy of the model, with an output of its own.
    dtype
        ``float32``, or ``bfloat16`` for the layers; parameters, log-probabilities and divergences
        are float32.
    batch
        Completions that are generated or, without a gradient, scored at once.
    exact
        Whether every pass over a batch needs the exact KL of each token. The first one has it in
        any case; without, later ones leave the reference alone.
    """

    prompts_each: int
    group: int
    tokens: int
    rate: float
    clip: float | None
    steps: int | None
    critic: bool = False
    dtype: str = "float32"
    batch: int = 64
    exact: bool = True


@contextmanager
def held(lm: LanguageModel) -> Iterator[None]:
    """Score a reference without gradients, by the kernels that its policy is scored by.

    Some of torch's are chosen by whether a model's parameters are to be learned, and round
    otherwise: a policy that is its reference would differ from it.
    """
    lm.model.requires_grad_(True)
    try:
        with torch.no_grad():
            yield
    finally:
        lm.model.requires_grad_(False)


class Language:
    """A policy that starts as ``start``, is held to ``reference`` and rewarded by ``judge``.

    Parameters
    ----------
    prompts
        Token ids of each prompt; a batch answers some of them.
    names
        Of its random streams: (seed, names...).
    """

    def __init__(
        self,
        start: LanguageModel,
        reference: LanguageModel,
        prompts: Sequence[Sequence[int]],
        judge: Judge,
        setting: Setting,
        names: tuple[int | str, ...],
    ) -> None:
        self.policy, self.reference = trainable(start), reference
        self.prompts, self.judge, self.setting, self.names = prompts, judge, setting, names
        self.critic = Scalar(start) if setting.critic else None
        self.descent = Descent(
            list(self.named_parameters().values()),
            setting.rate,
            setting.clip,
            setting.steps,
            fused=not start.small,
        )
        self._fits = Batch(setting.batch)
        self.latest: tuple[Completed, Rollouts] | None = None
        """The last whole batch, without gradients."""

    def named_parameters(self) -> dict[str, Tensor]:
        """All that is learned."""
        own = {f"policy.{name}": each for name, each in self.policy.model.named_parameters()}
        return own | (
            {}
            if self.critic is None
            else {f"critic.{k}": v for k, v in self.critic.named_parameters().items()}
        )

    def stream(self, *names: int | str) -> np.random.Generator:
        """A stream of the world's own."""
        seed, *first = self.names
        return streams.generator(int(seed), *first, *names)

    def sample(self, update: int, lag: int) -> PpoBatch:
        """``group`` completions of each of some prompts, all prompts equally often in the long
        run.
        """
        assert lag == 0, "a language model's older parameters are not kept"
        stream = self.stream("samples", update)
        chosen = np.resize(stream.permutation(len(self.prompts)), self.setting.prompts_each)
        uniform = stream.random(
            (self.setting.prompts_each * self.setting.group, self.setting.tokens)
        )
        return self.completed(chosen.repeat(self.setting.group), uniform).batch

    def completed(self, prompt: np.ndarray, uniform: np.ndarray) -> Completed:
        """Completions of these prompts, and their rewards."""
        prompts = [self.prompts[i] for i in prompt]
        with precision(self.setting.dtype, self.policy.device):
            found = generate(self.policy, prompts, uniform, Sampling(), self._fits)
        return Completed(
            prompt, found.token, found.mask, self.judge(prompts, found.token, found.mask)
        )

    def rollouts(self, batch: PpoBatch) -> Rollouts:
        """The batch under the policy of now."""
        done = batch.inputs
        assert isinstance(done, Completed)
        whole = batch.rows is None
        rows = np.arange(len(done.prompt)) if batch.rows is None else batch.rows.numpy()
        if not whole and not self.setting.exact:
            assert done.log_p is not None
            log_q, log_p = self._in_batches(self._own, done, rows, 1)[0], done.log_p[rows]
            kl = torch.full_like(log_q, torch.nan)  # lest it be used unseen
        else:
            log_q, log_p, kl = self._in_batches(self._scored, done, rows, 3)
        if done.log_mu is None:
            assert whole, "a batch is scored as a whole first"
            done.log_mu, done.log_p = log_q.detach(), log_p.detach()
        mask = torch.from_numpy(done.mask[rows])
        found = Rollouts(
            *(each[None, None] for each in (log_q, log_p.detach(), done.log_mu[rows], kl, mask))
        )
        if whole:
            self.latest = done, found.each(Tensor.detach)
        return found

    def values(self, batch: PpoBatch) -> Tensor:
        """The critic's values."""
        done = batch.inputs
        assert isinstance(done, Completed)
        rows = np.arange(len(done.prompt)) if batch.rows is None else batch.rows.numpy()
        return self._in_batches(self._valued, done, rows, 1)[0][None, None]

    def _in_batches(
        self,
        work: Callable[[list[Sequence[int]], np.ndarray, np.ndarray], list[Tensor]],
        done: Completed,
        rows: np.ndarray,
        k: int,
    ) -> Tensor:
        """``k`` numbers a token of these rows, ``(k, rows, T)``, float64."""
        where = torch.from_numpy(done.mask[rows])
        step = (
            len(rows) if torch.is_grad_enabled() else self.setting.batch
        )  # a graph would be held of all of it anyway
        found = []
        with precision(self.setting.dtype, self.policy.device):
            for first in range(0, len(rows), step):
                these = rows[first : first + step]
                prompts = [self.prompts[i] for i in done.prompt[these]]
                found.append(
                    torch.stack(
                        [
                            each.cpu().double()
                            for each in work(prompts, done.token[these], done.mask[these])
                        ]
                    )
                )
        return torch.zeros(k, *where.shape, dtype=torch.float64).masked_scatter(
            where, torch.cat(found, dim=1)
        )

    def _scored(
        self, prompts: list[Sequence[int]], token: np.ndarray, mask: np.ndarray
    ) -> list[Tensor]:
        ours = token_logits(self.policy, prompts, token, mask)
        with held(self.reference):
            theirs = token_logits(self.reference, prompts, token, mask)
        found = token_divergences(ours, theirs, torch.from_numpy(token[mask]).to(ours.device))
        return [found.log_q, found.log_p, found.kl_qp]

    def _own(
        self, prompts: list[Sequence[int]], token: np.ndarray, mask: np.ndarray
    ) -> list[Tensor]:
        """The policy's log-probabilities by the kernel of :meth:`_scored`, to the same bits."""
        ours = token_logits(self.policy, prompts, token, mask)
        chosen = torch.from_numpy(token[mask]).to(ours.device)
        return [token_divergences(ours, ours.detach(), chosen).log_q]

    def _valued(
        self, prompts: list[Sequence[int]], token: np.ndarray, mask: np.ndarray
    ) -> list[Tensor]:
        assert self.critic is not None
        return [self.critic.before_each(prompts, token, mask)]

    def order(self, update: int, epoch: int, n: int) -> Tensor:
        """The same in every process and for every combination."""
        return torch.from_numpy(self.stream("order", update, epoch).permutation(n))

    def step(self, loss: Tensor, update: int) -> None:
        """One step of AdamW down the loss of the one policy."""
        self.descent.step(loss.sum(), update)
