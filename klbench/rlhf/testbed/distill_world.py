"""Students on the testbed: each is trained towards its seed's teacher, on samples or on exact gradients.

The teacher is the testbed's reference, and the student has its shape, so that the optimum of every divergence is known: it is
the teacher, where all of them are 0.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from klbench.rlhf.distillation import sequence_loss, support
from klbench.rlhf.objectives import Arm
from klbench.rlhf.ppo import PpoBatch
from klbench.rlhf.testbed import Testbed, padded
from klbench.rlhf.testbed.distilled import States
from klbench.rlhf.testbed.expected import FREE_LARGEST, FREE_STEP
from klbench.rlhf.testbed.ppo_world import Inputs, Replicas


class Reached(NamedTuple):
    """Exact values of students, each ``(arms, seeds)``: KLs of whole sequences in nats, and mean probabilities of tokens.

    ``mass`` is the student's on the teacher's k most probable tokens, at the student's own states; ``own_mass`` the student's
    on its own k; ``teacher_mass`` the teacher's on its own, at the same states.
    """

    kl: Tensor
    kl_pq: Tensor
    mass: Tensor
    own_mass: Tensor
    teacher_mass: Tensor


def starts(testbed: Testbed) -> Tensor:
    """Parameters of each seed's untrained student, ``(seeds, parameters)``, padded."""
    drawn = [
        testbed.policy.random(testbed.stream(k, testbed.model, "student")) for k in testbed.seeds
    ]
    return padded(np.stack(drawn))


def reached(testbed: Testbed, log_q: Tensor, k: int) -> Reached:
    """Exact values of students by their next-token log-probabilities, ``(arms, seeds, prompts, nodes, tokens)``."""
    tree, log_p = testbed.tree, testbed.log_p.expand_as(log_q)
    q, p = tree.sum_along(log_q), testbed.leaf_log_p
    often = States(tree, log_q, log_p).often

    def mass(of: Tensor, owner: Tensor) -> Tensor:
        inside = of.exp().masked_fill(~support(owner, k), 0.0).sum(-1)
        return (often * inside).sum((-2, -1)) / often.sum((-2, -1))

    kl, kl_pq = ((a.exp() * (a - b)).sum(-1).mean(-1) for a, b in ((q, p), (p, q)))
    return Reached(kl, kl_pq, mass(log_q, log_p), mass(log_q, log_q), mass(log_p, log_p))


class Students(Replicas):
    """Students ``(arms, seeds)``, an arm an objective; all arms of a seed start alike and draw with the same uniforms."""

    def __init__(
        self,
        testbed: Testbed,
        arms: Sequence[Arm],
        *,
        group: int,
        rate: float,
        clip: float | None,
        steps: int | None,
    ) -> None:
        super().__init__(
            testbed,
            len(arms),
            group=group,
            rate=rate,
            clip=clip,
            steps=steps,
            critic=False,
            lag=0,
        )
        self.objectives = tuple(arms)
        with torch.no_grad():
            self.theta.copy_(starts(testbed).expand_as(self.theta))

    def batch(self, update: int) -> PpoBatch:
        """``group`` sequences of each prompt, from the student or the teacher."""
        theirs = torch.tensor([each.prefixes == "teacher" for each in self.objectives])
        theta = torch.where(theirs[:, None, None], self.testbed.reference, self.policies)
        return self._written(theta, update)

    def loss(self, batch: PpoBatch) -> Tensor:
        """The loss of each student, ``(arms, seeds)``: the mean over its sequences of the sum over their tokens."""
        inputs, prompts = batch.inputs, self._prompts
        assert isinstance(inputs, Inputs)
        node, token = inputs.node, inputs.token
        log_q = self._along(self.theta, prompts, self._ordinary(token[..., :-1])).log_softmax(-1)
        log_p = self._reference(prompts, node)
        return torch.stack(
            [
                sequence_loss(each, log_q[i], log_p[i], token[i], batch.mask[i]).mean(-1)
                for i, each in enumerate(self.objectives)
            ]
        )


def sampled(students: Students, updates: int, every: int) -> Iterator[tuple[int, Tensor]]:
    """Train on samples, and yield log-probabilities everywhere before every ``every`` updates and at the end."""
    for update in range(updates + 1):
        if update % every == 0 or update == updates:
            with torch.no_grad():
                now = students.testbed.everywhere(students.policies)
            yield update, now
        if update < updates:
            students.step(students.loss(students.batch(update)), update)


def rest(testbed: Testbed, arm: Arm, steps: int) -> Iterator[Tensor]:
    """Let free students, a logit for each token after each prefix, descend an arm's exact expected gradient.

    By the sign alone of each logit's slope, with a step that grows while the sign stays (Riedmiller and Braun 1993), so that
    rare prefixes come to rest as soon as others. Yields log-probabilities, ``(1, seeds, prompts, nodes, tokens)``, after
    three quarters of the steps, and after all.
    """
    with torch.no_grad():
        logits = testbed.everywhere(starts(testbed))
    optimizer = torch.optim.Rprop([logits], lr=FREE_STEP, step_sizes=(1e-9, FREE_LARGEST))
    for step in range(1, steps + 1):
        logits.grad = _slope(testbed, arm, logits.log_softmax(-1))
        optimizer.step()
        if step in (3 * steps // 4, steps):
            yield logits.log_softmax(-1)[None]


def _slope(testbed: Testbed, arm: Arm, log_q: Tensor) -> Tensor:
    """The expected gradient in the logits of each seed's student, ``(seeds, prompts, nodes, tokens)``."""
    flat_q, flat_p = log_q.flatten(0, 1), testbed.log_p.flatten(0, 1)
    at = States(testbed.tree, flat_q, flat_p, flat_p if arm.prefixes == "teacher" else None)
    found = at.moments(arm.objective, at.support(arm.owner, arm.k)).gradient
    return found.view(log_q.shape) * len(log_q)
