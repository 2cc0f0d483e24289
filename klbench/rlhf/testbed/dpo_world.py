"""Preferences on the testbed, a finite number of them or all that there are, and stacked policies
that learn from them.

Both answers to a prompt come from its reference; the better one by Bradley and Terry is the first
with probability ``sigma(scale * (r - r'))``. With ``beta_dpo = scale * beta`` the population's DPO
loss is least at ``pi* = ref exp(r / beta) / Z``. (Rafailov et al. 2023, eqs. 4 and 6.)
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from klbench import streams
from klbench.rlhf.dpo import Details, DpoBatch
from klbench.rlhf.testbed import Testbed
from klbench.rlhf.testbed.expected import log_probs
from klbench.rlhf.testbed.ppo_world import Adam


@dataclass(frozen=True)
class Preferences:
    """Places of two sequences among those of all prompts, ``prompt * leaves + leaf``, each
    ``(seeds, n)``.

    Parameters
    ----------
    chosen, rejected
        The better and the worse one, as they are labelled.
    wrong, weight
        As in :class:`klbench.rlhf.dpo.DpoBatch`.
    """

    chosen: Tensor
    rejected: Tensor
    wrong: Tensor | None = None
    weight: Tensor | None = None

    def take(self, rows: Tensor) -> Preferences:
        """Some of the pairs, all alike in weight."""
        wrong = None if self.wrong is None else self.wrong[:, rows]
        return Preferences(self.chosen[:, rows], self.rejected[:, rows], wrong)


def sampled(testbed: Testbed, n: int, scale: float, flips: float = 0.0) -> Preferences:
    """``n`` pairs of each seed, of which a share ``flips`` is labelled the wrong way.

    Fewer are the first of more.
    """
    places = []
    for index, k in enumerate(testbed.seeds):
        uniform = testbed.stream(k, "pairs").random((n, 5))
        prompt = (uniform[:, 0] * testbed.prompts).astype(np.int64)
        below = testbed.leaf_log_p[index].exp().cumsum(-1)[:, :-1].numpy()
        leaf = np.empty((2, n), dtype=np.int64)
        for x in range(testbed.prompts):
            mine = prompt == x
            leaf[:, mine] = np.searchsorted(below[x], uniform[mine, 1:3].T, side="right")
        first, second = (testbed.reward[index].numpy()[prompt, each] for each in leaf)
        better = uniform[:, 3] < 1.0 / (1.0 + np.exp(-scale * (first - second)))
        better ^= uniform[:, 4] < flips
        both = prompt * testbed.tree.leaves + leaf
        places.append(np.where(better, both, both[::-1]))
    chosen, rejected = torch.from_numpy(np.stack(places, axis=1))
    return Preferences(chosen, rejected)


def population(testbed: Testbed, scale: float, flips: float = 0.0) -> Preferences:
    """All pairs of each prompt in both orders at once.

    How often they come, and how often the second is the better one.
    """
    leaves = testbed.tree.leaves
    one, other = torch.triu_indices(leaves, leaves)
    p, reward = testbed.leaf_log_p.exp(), testbed.reward
    weight = p[..., one] * p[..., other] * torch.where(one == other, 1.0, 2.0) / testbed.prompts
    wrong = torch.sigmoid(scale * (reward[..., other] - reward[..., one]))
    wrong = flips + (1.0 - 2.0 * flips) * wrong
    first = torch.arange(testbed.prompts)[:, None] * leaves
    chosen, rejected = (
        (first + each).flatten().expand(len(testbed.seeds), -1) for each in (one, other)
    )
    return Preferences(chosen, rejected, wrong.flatten(1), weight.flatten(1))


def ratios(testbed: Testbed, log_q: Tensor, preferences: Preferences) -> DpoBatch:
    """Pairs under policies that are given by log-probabilities of sequences, ``(arms, seeds,
    prompts, leaves)``.
    """
    log_ratio = (log_q - testbed.leaf_log_p).flatten(-2)

    def at(places: Tensor) -> Tensor:
        return log_ratio.gather(-1, places.expand(len(log_ratio), -1, -1))

    return DpoBatch(
        at(preferences.chosen),
        at(preferences.rejected),
        preferences.wrong,
        preferences.weight,
        lambda: _details(testbed, log_ratio, preferences),
    )


def _details(testbed: Testbed, log_ratio: Tensor, preferences: Preferences) -> Details:
    both, leaves = (preferences.chosen, preferences.rejected), testbed.tree.leaves
    log_p, tokens = testbed.leaf_log_p.flatten(1), testbed.tree.lengths

    def mismatched(arms: slice) -> Tensor:
        if preferences.weight is not None:  # all pairs there are, so all pairs of prompts
            return expected_mismatch(
                testbed, log_ratio[arms].view(len(log_ratio[arms]), *testbed.leaf_log_p.shape)
            )[..., None]
        # As trainers have it: each prompt with the answers of the pair before it.
        places = torch.cat(
            [each - each % leaves + each.roll(1, -1) % leaves for each in both], dim=-1
        )
        own = log_ratio[arms]
        return own.gather(-1, places.expand(len(own), -1, -1))

    first, second = (log_p.gather(-1, each) for each in both)
    return Details(
        (first, second), (tokens[both[0] % leaves], tokens[both[1] % leaves]), mismatched
    )


def expected_mismatch(testbed: Testbed, log_ratio: Tensor) -> Tensor:
    """``E log pi/ref (y|x)`` with ``y ~ ref(.|x')`` and all ``x``, ``x'``.

    ``(..., prompts, leaves)`` to ``(...)``.
    """
    often = testbed.leaf_log_p.exp().mean(1, keepdim=True)
    return (often * log_ratio).sum(-1).mean(-1)


class PreferenceReplicas:
    """Policies ``(arms, seeds)`` on a testbed, as :func:`klbench.rlhf.dpo.train` wants them.

    All start from the reference.

    Parameters
    ----------
    preferences
        What they learn from, the same for all arms of a seed.
    rate, clip, steps
        Of :class:`klbench.rlhf.testbed.ppo_world.Adam`.
    batch
        Pairs in a step, each once in every epoch and in the same order for all replicas; None: all
        of them.
    free
        Whether every token after every prefix has a logit of its own, whatever the policy's shape.
    """

    def __init__(
        self,
        testbed: Testbed,
        arms: int,
        preferences: Preferences,
        *,
        rate: float,
        clip: float | None,
        steps: int | None,
        batch: int | None = None,
        free: bool = False,
    ) -> None:
        self.testbed, self.preferences, self.free = testbed, preferences, free
        n = preferences.chosen.shape[-1]
        self.batch = batch if batch is not None and batch < n else None
        start = testbed.log_p.flatten(1) if free else testbed.reference
        self.theta = start.repeat(arms, 1, 1).requires_grad_()
        self.optimizer = Adam(self.theta, rate, clip, steps)

    @property
    def log_q(self) -> Tensor:
        """Next-token log-probabilities of the policies of now, ``(arms, seeds, prompts, nodes,
        tokens)``.
        """
        return log_probs(self.testbed, self.theta, free=self.free)

    def log_ratios(self, step: int) -> DpoBatch:
        """The step's pairs."""
        preferences = (
            self.preferences
            if self.batch is None
            else self.preferences.take(self._rows(step, self.batch))
        )
        return ratios(self.testbed, self.testbed.tree.sum_along(self.log_q), preferences)

    def _rows(self, step: int, batch: int) -> Tensor:
        n = self.preferences.chosen.shape[-1]
        epoch, part = divmod(
            step, n // batch
        )  # what is left over at an epoch's end waits for another order
        order = streams.generator(self.testbed.seed, "training", "pairs", n, epoch).permutation(n)
        return torch.from_numpy(order[part * batch : (part + 1) * batch])

    def step(self, loss: Tensor, step: int) -> None:
        """One step of Adam."""
        self.optimizer.step(loss, step)
