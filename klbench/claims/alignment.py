"""Claims about what the divergence is for: the KL-regularised objective, DPO and Bradley-Terry."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from klbench import claims, streams
from klbench.claims._base import EXACT, Finding, close, error, percent, show, verdict
from klbench.claims._sequences import distance, enumerated, task

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from klbench.types import Atoms

BETA = 0.5
RAFAILOV = "Rafailov et al. 2023, DPO, arXiv:2305.18290"
claim = functools.partial(claims.claim, topic="alignment")


def _best(log_ref: Tensor, reward: Tensor, beta: float = BETA) -> tuple[Tensor, Tensor]:
    """``log pi*`` and ``log Z`` of the regularised objective, from log-probabilities and rewards
    of all answers, ``(n,)``.
    """
    tilted = log_ref + reward / beta
    log_z = tilted.logsumexp(0)
    return tilted - log_z, log_z


def _objective(log_pi: Tensor, log_ref: Tensor, reward: Tensor) -> float:
    """``E_pi[R] - beta KL(pi‖ref)``."""
    return float(log_pi.exp() @ (reward - BETA * (log_pi - log_ref)))


def _prompts(seed: int, name: str) -> list[tuple[Atoms, Tensor, Tensor, np.random.Generator]]:
    """Return each prompt's sequences, their log-probabilities under the reference, and standard
    normal rewards.
    """
    import torch

    stream = streams.generator(seed, "claims", name)
    return [
        (
            atoms,
            log_ref := atoms.rollouts.log_p.sum(-1),
            torch.from_numpy(stream.standard_normal(len(log_ref))),
            stream,
        )
        for atoms in enumerated(task())
    ]


@claim(
    "regularised_optimum",
    "The KL-regularised objective is best served by the reference times exp(R/β), normalised.",
    r"\pi^* = p\, e^{R/\beta} / Z,\ \ J(\pi^*) - J(\pi) = \beta\, \mathrm{KL}(\pi \Vert \pi^*)",
    "Korbak et al. 2022, arXiv:2205.11275; Rafailov et al. 2023, eq. 4",
)
def regularised_optimum(
    seed: int, best: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]] = _best
) -> Finding:
    """Check that every policy falls short of the optimum by ``beta KL(pi‖pi*)``, which is never
    negative.
    """
    import torch

    worst, least, count = 0.0, math.inf, 0
    for atoms, log_ref, reward, stream in _prompts(seed, "regularised_optimum"):
        log_best, log_z = best(log_ref, reward)
        top = _objective(log_best, log_ref, reward)
        worst = max(worst, abs(top - BETA * float(log_z)))
        logits = [
            size * torch.from_numpy(stream.standard_normal(len(reward)))
            for size in (0.1, 1.0, 3.0) * 30
        ]
        others = [
            moved.log_softmax(0) for each in logits for moved in (each, log_best + 0.01 * each)
        ]
        for log_pi in [atoms.rollouts.log_q.sum(-1), log_ref, *others]:
            lost = top - _objective(log_pi, log_ref, reward)
            worst = max(worst, abs(lost - BETA * float(log_pi.exp() @ (log_pi - log_best))))
            least, count = min(least, lost), count + 1
    return Finding(
        verdict(worst < EXACT and least > 0.0),
        f"Over all sequences of two prompts with random rewards, {count} other policies fall short"
        f" of its objective by {show(least)} or more, and by just β KL(π‖π*): the two differ by"
        f" {error(worst)}.",
        worst,
        0.0,
    )


@claim(
    "reward_from_policy",
    "A reward can be written with its best policy, and in a comparison of two answers Z cancels.",
    r"R = \beta \log\frac{\pi^*}{p} + \beta \log Z",
    f"{RAFAILOV}, eq. 5",
)
def reward_from_policy(
    seed: int, best: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]] = _best
) -> Finding:
    """Differences of ``beta log pi*/p`` against differences of rewards, for one prompt and
    across two.
    """
    implicit, rewards, constants = [], [], []
    for _, log_ref, reward, _ in _prompts(seed, "reward_from_policy"):
        log_best, log_z = best(log_ref, reward)
        implicit.append(BETA * (log_best - log_ref))
        rewards.append(reward)
        constants.append(BETA * float(log_z))
    excess = [each - reward for each, reward in zip(implicit, rewards, strict=True)]
    rewritten = max(
        float((each + constant).abs().max())
        for each, constant in zip(excess, constants, strict=True)
    )
    within = max(float((each[:, None] - each[None, :]).abs().max()) for each in excess)
    across = float((excess[0][:, None] - excess[1][None, :]).abs().max())
    return Finding(
        verdict(
            max(rewritten, within) < EXACT, across < EXACT, "both answers are to the same prompt"
        ),
        f"The rewritten reward is off by {error(rewritten)}, and the difference between two answers"
        f" to one prompt by {error(within)}; between answers to two prompts it is off by"
        f" {show(across)}, the difference of their β log Z.",
        across,
        0.0,
    )


def _sigmoid(x: Tensor) -> Tensor:
    return x.sigmoid()


@claim(
    "dpo_gradient",
    "DPO's gradient is the rejected answer's score minus the chosen one's, times β σ(−margin).",
    r"\nabla L = -\beta\, \sigma(-m)\, [\nabla \log \pi(c) - \nabla \log \pi(r)]",
    f"{RAFAILOV}, section 4",
)
def dpo_gradient(
    seed: int, weight: Callable[[Tensor], Tensor] = lambda margin: _sigmoid(-margin)
) -> Finding:
    """The formula against automatic differentiation of ``-log sigma(margin)``, on sampled pairs
    of answers.
    """
    import torch

    of = task()
    theta = of.theta().requires_grad_()
    rollouts = of.rollouts(theta, of.sample(streams.generator(seed, "claims", "dpo_gradient"), 40))
    log_pi, log_ref = rollouts.log_q.sum(-1), rollouts.log_p.sum(-1)
    worst = pairs = 0.0
    for c, r in zip(range(0, 40, 2), range(1, 40, 2), strict=True):
        margin = BETA * ((log_pi[c] - log_ref[c]) - (log_pi[r] - log_ref[r]))
        (true,) = torch.autograd.grad(
            -torch.nn.functional.logsigmoid(margin), theta, retain_graph=True
        )
        chosen, rejected = (
            torch.autograd.grad(log_pi[k], theta, retain_graph=True)[0] for k in (c, r)
        )
        if float(true.norm()) > EXACT:  # not the same answer twice
            worst = max(
                worst, distance(-BETA * weight(margin.detach()) * (chosen - rejected), true)
            )
            pairs += 1
    return Finding(
        verdict(worst < EXACT and pairs > 0),
        f"On {pairs:.0f} sampled pairs of answers, formula and automatic differentiation differ by"
        f" {error(worst)} of the gradient's length.",
        worst,
        0.0,
    )


@dataclass(frozen=True)
class _Step:
    """Log-probabilities of the chosen and the rejected answer, ``(2,)``, around a DPO step, and
    their slopes along it.
    """

    before: Tensor
    after: Tensor
    slopes: Tensor

    @property
    def as_said(self) -> bool:
        """Return whether the chosen answer rose and the rejected one fell."""
        moved = self.after - self.before
        return bool(moved[0] > 0.0 > moved[1])

    @property
    def foreseen(self) -> bool:
        """Return whether the condition is met."""
        return bool(self.slopes[0] > 0.0 > self.slopes[1])


def _step(features: Tensor, theta: Tensor, chosen: int, rejected: int, size: float) -> _Step:
    """A step of a softmax over answers with these features, the reference being the policy as it
    is: the margin is 0.
    """
    import torch

    at, answers = theta.clone().requires_grad_(), [chosen, rejected]
    both = (features @ at).log_softmax(0)[answers]
    scores = torch.stack([torch.autograd.grad(each, at, retain_graph=True)[0] for each in both])
    loss = -torch.nn.functional.logsigmoid(
        BETA * ((both[0] - both[1]) - (both[0] - both[1]).detach())
    )
    (gradient,) = torch.autograd.grad(loss, at)
    after = (features @ (theta - size * gradient)).log_softmax(0)[answers]
    return _Step(both.detach(), after, scores @ (scores[0] - scores[1]))


def _exceptions(atoms: Atoms) -> tuple[float, float]:
    """Shares of ordered pairs of sequences where a small DPO step lowers the first, which it
    prefers, or raises the second.
    """
    import torch

    n = len(atoms.probability)
    rows = torch.eye(n, dtype=torch.float64)[:, :, None] * atoms.rollouts.mask
    scores = torch.stack([atoms.scores.pull(row) for row in rows])
    gram = scores @ scores.T
    falls, rises = gram > gram.diagonal()[:, None], gram > gram.diagonal()[None, :]
    return float(falls.sum()) / (n * (n - 1)), float(rises.sum()) / (n * (n - 1))


@claim(
    "dpo_raises_chosen",
    "A DPO step raises the probability of the chosen answer and lowers that of the rejected one.",
    r"\theta' = \theta - \eta \nabla L:\ \ \log \pi_{\theta'}(c) > \log \pi_\theta(c),\ \ "
    r"\log \pi_{\theta'}(r) < \log \pi_\theta(r)",
    "a common reading of Rafailov et al. 2023; against it, Razin et al. 2024, arXiv:2410.08847",
)
def dpo_raises_chosen(
    seed: int,
    sinking: Sequence[float] = (1.0, 0.0, 3.0),
    rising: Sequence[float] = (2.0, 1.0, -3.0),
) -> Finding:
    """Check the first-order move of each log-probability, its score times ``∇log pi(c) - ∇log
    pi(r)``.

    In a table of free logits the claim holds; in other policies it need not.
    """
    import torch

    stream = streams.generator(seed, "claims", "dpo_raises_chosen")
    table = torch.eye(4, dtype=torch.float64)
    steps = [
        _step(table, torch.from_numpy(stream.standard_normal(4)), c, r, 1e-3)
        for _ in range(10)
        for c in range(4)
        for r in range(4)
        if c != r
    ]
    in_table = all(step.as_said for step in steps)
    # One parameter for all answers, the first chosen and the second rejected.
    shared = [
        (torch.tensor(each, dtype=torch.float64)[:, None], torch.tensor([at], dtype=torch.float64))
        for each, at in ((sinking, 1.0), (rising, 0.0))
    ]
    steps += [_step(*each, 0, 1, 1e-3) for each in shared]
    agree = all(step.as_said == step.foreseen for step in steps)
    falls, rises = (
        max(shares)
        for shares in zip(*(_exceptions(atoms) for atoms in enumerated(task())), strict=True)
    )
    condition = (
        "∇log π(chosen) · ∇log π(rejected) is below ‖∇log π(chosen)‖² and below ‖∇log π(rejected)‖²"
    )
    first, second = (_step(*each, 0, 1, 1.0) for each in shared)
    sunk, risen = (
        " to ".join(percent(float(at[k].exp())) for at in (step.before, step.after))
        for step, k in ((first, 0), (second, 1))
    )
    return Finding(
        verdict(
            agree and in_table,
            all(step.as_said for step in steps) and falls + rises == 0.0,
            condition,
        ),
        f"With a logit for each answer both moved as said in all of {len(steps) - 2} steps. With"
        f" one parameter for three answers the chosen one went from {sunk} with features"
        f" {_listed(sinking)}, and the rejected one from {risen} with features {_listed(rising)}."
        f" In a small recurrent policy the chosen one falls, to first order, for {percent(falls)}"
        f" of the ordered pairs of sequences, and the rejected one rises for {percent(rises)}:"
        " those with the two exchanged.",
        falls + rises,
        0.0,
    )


def _listed(numbers: Sequence[float]) -> str:
    return ", ".join(f"{number:g}".replace("-", "−") for number in numbers)


@claim(
    "bradley_terry_saturates",
    "The gradient of the Bradley-Terry loss vanishes as the margin grows.",
    r"-\frac{d}{dm} \log \sigma(m) = -(1 - \sigma(m))",
    "Bradley and Terry 1952; a common remark on reward models",
)
def bradley_terry_saturates(
    seed: int, slope: Callable[[Tensor], Tensor] = lambda margin: -(1.0 - _sigmoid(margin))
) -> Finding:
    """``1 - sigma(m)``, against automatic differentiation.

    1/2 at 0, and about ``exp(-m)`` far out.
    """
    import torch

    margin = torch.linspace(-10.0, 10.0, 401, dtype=torch.float64, requires_grad=True)
    (true,) = torch.autograd.grad(-torch.nn.functional.logsigmoid(margin).sum(), margin)
    off = float((slope(margin.detach()) - true).abs().max())
    size = true.abs()
    falling = bool((size.diff() < 0.0).all())
    at = {m: float(size[200 + 20 * m]) for m in (-5, 0, 2, 5, 10)}
    return Finding(
        verdict(off < EXACT and falling and at[10] < 1e-3 and close(at[0], 0.5)),
        f"It is {show(at[0])} at margin 0, {show(at[2])} at 2, {show(at[5])} at 5 and"
        f" {show(at[10])} at 10, and {show(at[-5])} for a pair that is in the wrong order by 5:"
        " only pairs that are right already stop teaching.",
        at[10],
        at[0],
    )
