"""Sequences of a few tokens, all enumerated.

What claims about gradients and about alignment are decided on.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import TYPE_CHECKING

from klbench import pairs
from klbench.types import Atoms, GradientTask, Rollouts

if TYPE_CHECKING:
    from torch import Tensor

Coefficient = Callable[[Rollouts], "Tensor"]
"""Rollouts to what multiplies each token's score, ``(n, T)`` or, the same for all tokens, ``(n,
1)``.
"""
LAG = 0.2
"""``KL(q‖mu)`` in nats where samples are stale."""
MISMATCH = 0.1
"""``KL(old‖mu)`` in nats where the engine has other probabilities than the trainer."""


@functools.cache
def task(lag: float = 0.0, horizon: int = 3, mismatch: float = 0.0) -> GradientTask:
    """A small recurrent policy 0.5 nats from its reference.

    Two prompts, three tokens and an end.
    """
    settings = {
        "kl": 0.5,
        "lag": lag,
        "mismatch": mismatch,
        "vocabulary": 3,
        "horizon": horizon,
        "prompts": 2,
    }
    pair = pairs.get("sequence").model_validate(settings)
    found: GradientTask = pair.gradient_task()  # type: ignore[assignment]
    return found


def enumerated(of: GradientTask) -> list[Atoms]:
    """Return all sequences, a list of one item a prompt."""
    atoms = of.atoms()
    assert atoms is not None
    return list(atoms)


def penalty(rollouts: Rollouts) -> Tensor:
    """``log q/p`` of the whole sequence, ``(n, 1)``, in nats."""
    return (rollouts.log_q - rollouts.log_p).sum(-1, keepdim=True)


def expected(of: GradientTask, coefficient: Coefficient) -> Tensor:
    """``E[sum over t of coefficient s_t]``, shape ``(parameters,)``: the mean over prompts."""
    import torch

    total = []
    for atoms in enumerated(of):
        token = atoms.probability[:, None] * coefficient(atoms.rollouts) * atoms.rollouts.mask
        total.append(atoms.scores.pull(token))
    return torch.stack(total).mean(0)


def noise(of: GradientTask, coefficient: Coefficient) -> float:
    """The root of the trace of the covariance of one sequence's gradient, given its prompt."""
    total = 0.0
    for atoms in enumerated(of):
        c = coefficient(atoms.rollouts) * atoms.rollouts.mask
        tokens = c.shape[-1]
        squares = ((c[:, None, :] @ atoms.scores.gram()[:, :tokens, :tokens]) * c[:, None, :]).sum(
            (-1, -2)
        )
        mean = atoms.scores.pull(atoms.probability[:, None] * c)
        total += float(atoms.probability @ squares - mean @ mean)
    return math.sqrt(total / len(enumerated(of)))


def distance(gradient: Tensor, target: Tensor) -> float:
    """``‖gradient - target‖ / ‖target‖``."""
    return float((gradient - target).norm() / target.norm())


def cosine(gradient: Tensor, target: Tensor) -> float:
    """Return the cosine of the angle between two gradients."""
    return float(gradient @ target / (gradient.norm() * target.norm()))
