"""The bias of cutting off the ratio of the tokens that led to a term, and what bounds it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from klbench.gradients import exact
from klbench.gradients.spec import parse
from klbench.types import GradientTask


@dataclass(frozen=True)
class Truncation:
    """The length of the bias of a gradient whose ratios are cut off at a cap, and two bounds on it.

    With ``W`` the ratio of the tokens up to a term ``k``, and ``S`` the sum of their scores, the
    bias is ``-E_mu[sum of (W - cap)+ k S]``.

    Parameters
    ----------
    bias
        Its length, exact.
    triangle
        ``E_mu[sum of (W - cap)+ |k| ‖S‖]``: no direction cancels. A mean over samples estimates it.
    moments
        ``sum of sqrt(E_mu[W^2] / cap) sqrt(E_mu[W k^2 ‖S‖^2])``, by Cauchy and Schwarz under q and
        Markov's ``P_q(W > cap) <= E_mu[W^2] / cap``: it falls as the root of the cap.
    """

    bias: float
    triangle: float
    moments: float


def truncation(task: GradientTask, cap: float) -> Truncation:
    """Return bias and bounds of ``k1/reward_to_go`` with ``truncated_decision_ratio:cap``.

    Means over prompts; the unbiased gradient is that with ``decision_ratio``.

    Raises
    ------
    ValueError
        There is no end of what the task can sample.
    """
    prompts = task.atoms()
    if prompts is None:
        raise ValueError("this task cannot be enumerated")
    cut, whole = (
        parse(f"k1/reward_to_go/token/{ratio}")
        for ratio in (f"truncated_decision_ratio:{cap!r}", "decision_ratio")
    )
    found, plain = exact.all_moments([cut, whole], task)
    rows = []
    for atoms in prompts:
        rollouts, p = atoms.rollouts, atoms.probability
        ratio = (rollouts.log_q - rollouts.log_mu).cumsum(-1).exp()
        size = (rollouts.log_q - rollouts.log_p).abs() * _lengths(atoms.scores.gram(), ratio)
        excess = (ratio - cap).clamp(min=0.0) * size
        tail = (p @ (ratio**2 * rollouts.mask) / cap).sqrt()
        rows.append((float(p @ excess.sum(-1)), float(tail @ (p @ (ratio * size**2)).sqrt())))
    triangle, moments = (sum(each) / len(rows) for each in zip(*rows, strict=True))
    return Truncation(float((found.mean - plain.mean).norm()), triangle, moments)


def _lengths(gram: Tensor, like: Tensor) -> Tensor:
    """Return the length of the sum of the scores up to each token, ``(n, T)``."""
    tokens = like.shape[-1]
    scores = gram[:, :tokens, :tokens].cumsum(1).cumsum(2)
    return torch.diagonal(scores, dim1=1, dim2=2).clamp(min=0.0).sqrt()
