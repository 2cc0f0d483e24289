"""Expected gradients and their variance over everything that can be sampled: no Monte Carlo noise."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from klbench.gradients._combination import Combination
from klbench.gradients.surrogate import Parts, parts
from klbench.types import Atoms, GradientTask, Rollouts

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from torch import Tensor


@dataclass(frozen=True)
class GradientMoments:
    """What is known of a combination's gradient.

    Parameters
    ----------
    mean
        The expected gradient, shape ``(parameters,)``.
    variance
        Trace of the covariance of one sequence's gradient, given its prompt, averaged over prompts; where a baseline ties a
        group together, that of the group's mean times the size of the group.
    total_variance
        The same of the whole objective's gradient, reward and penalty together, at the optimum: the policy is the best one for
        the reward ``log q/p``, and both share one baseline, the exact mean. None off-policy.
    """

    mean: Tensor
    variance: float
    total_variance: float | None = None


@dataclass(frozen=True)
class Coefficients:
    """What multiplies each sequence's vectors: ``(n, T)`` of the scores and of the gradients of ``kl``."""

    token: Tensor
    full: Tensor

    def pull(self, atoms: Atoms) -> Tensor:
        """The expected gradient, ``(parameters,)``."""
        weight = atoms.probability[:, None]
        return atoms.scores.pull(weight * self.token, weight * self.full)

    def second_moment(self, atoms: Atoms, gram: Tensor) -> float:
        """``E ‖g‖^2``."""
        import torch

        vectors = torch.cat([self.token, self.full], dim=-1)
        return float(atoms.probability @ torch.einsum("ni,nij,nj->n", vectors, gram, vectors))


def taken_apart(combination: Combination, rollouts: Rollouts) -> tuple[Coefficients, Parts]:
    """The coefficients of the direct part, by differentiating the surrogate loss itself, and its parts."""
    import torch

    log_q, kl = (x.detach().clone().requires_grad_() for x in (rollouts.log_q, rollouts.kl))
    pieces = parts(combination, Rollouts(log_q, rollouts.log_p, rollouts.log_mu, kl, rollouts.mask))
    if not pieces.direct.requires_grad:
        return Coefficients(torch.zeros_like(log_q), torch.zeros_like(kl)), pieces
    token, full = torch.autograd.grad(pieces.direct.sum(), (log_q, kl), allow_unused=True, materialize_grads=True)
    return Coefficients(token * rollouts.mask, full * rollouts.mask), pieces


def _total(direct: Coefficients, pieces: Parts, atoms: Atoms) -> Coefficients:
    """Coefficients of reward and penalty together, where the reward is ``log q/p`` and every return is centred."""
    rollouts = atoms.rollouts
    reward = -(rollouts.log_p - rollouts.log_q).sum(-1, keepdim=True)
    token = direct.token - (reward - atoms.probability @ reward) * rollouts.mask
    if pieces.weights is not None and pieces.returns is not None:
        token = token + pieces.weights * (pieces.returns - atoms.probability @ pieces.returns)
    return Coefficients(token, direct.full)


@dataclass(frozen=True)
class _Group:
    """A group of ``n`` samples of one prompt whose returns have the mean of the others subtracted.

    Its gradient is a U-statistic with the kernel ``h(x, y) = (B(x) + B(y) - C(x, y) - C(y, x)) / 2``, where ``B`` is the
    gradient without a baseline and ``C(x, y) = sum over t of R_t(y) W_t(x)``, the weighted score times the other's return.
    (Hoeffding 1948, section 5, for the variance.)
    """

    atoms: Atoms
    gram: Tensor
    weights: Tensor
    returns: Tensor

    def moments(self, n: int) -> tuple[Tensor, float]:
        """Expected gradient, and ``n`` times the variance of the group's."""
        import torch

        p, tokens = self.atoms.probability, self.weights.shape[-1]
        scores = self.gram[:, :tokens, :tokens]
        b = self.weights * self.returns
        mean_return = p @ self.returns
        both = torch.einsum("n,ns,nt->st", p, self.returns, self.returns)
        products = torch.einsum("n,ns,nt,nst->st", p, self.weights, self.weights, scores)
        b_scores = torch.einsum("n,ns,nt,nst->t", p, b, self.weights, scores)
        squared = float(torch.einsum("n,ns,nt,nst->", p, b, b, scores))

        mean_b = self._pull(b)
        ones = torch.ones_like(self.returns)
        mean_w = torch.stack([self._column(ones, t) for t in range(tokens)])  # (T, P)
        v = torch.stack([torch.stack([self._column(self.returns[:, [s]], t) for t in range(tokens)]) for s in range(tokens)])
        return_b = torch.stack([self._pull(b * self.returns[:, [t]]) for t in range(tokens)])
        gradient = mean_b - mean_return @ mean_w

        crossed = float(torch.einsum("stp,tsp->", v, v))
        kernel = (
            2 * squared + 2 * float(mean_b @ mean_b) + 2 * float((both * products).sum()) + 2 * crossed
            - 4 * float(mean_return @ b_scores) - 4 * float((return_b * mean_w).sum())
        ) / 4  # fmt: skip

        d = self.weights * (self.returns - mean_return)
        mean_d, mean_n = self._pull(d), mean_return @ mean_w
        return_d = return_b - torch.einsum("t,stp->sp", mean_return, v)
        projected = (
            float(torch.einsum("n,ns,nt,nst->", p, d, d, scores)) + float(mean_b @ mean_b)
            + float((both * (mean_w @ mean_w.T)).sum()) + 2 * float(mean_d @ mean_b)
            - 2 * float((return_d * mean_w).sum()) - 2 * float(mean_b @ mean_n)
        ) / 4  # fmt: skip

        square = float(gradient @ gradient)
        variance = 2 / (n * (n - 1)) * (2 * (n - 2) * (projected - square) + kernel - square)
        return gradient, n * variance

    def _pull(self, token: Tensor) -> Tensor:
        import torch

        return Coefficients(token, torch.zeros_like(token)).pull(self.atoms)

    def _column(self, factor: Tensor, t: int) -> Tensor:
        """``E[factor W_t]``."""
        import torch

        token = torch.zeros_like(self.weights)
        token[:, t] = (factor[:, t] if factor.shape[-1] > 1 else factor[:, 0]) * self.weights[:, t]
        return self._pull(token)


def _prompt(
    combination: Combination, atoms: Atoms, gram: Tensor, group: int, *, on_policy: bool
) -> tuple[Tensor, float, float | None]:
    direct, pieces = taken_apart(combination, atoms.rollouts)
    total = None
    if on_policy:
        both = _total(direct, pieces, atoms)
        mean = both.pull(atoms)
        total = both.second_moment(atoms, gram) - float(mean @ mean)
    if combination.baseline in ("batch_mean", "leave_one_out"):
        assert pieces.weights is not None
        assert pieces.returns is not None
        gradient, variance = _Group(atoms, gram, pieces.weights, pieces.returns).moments(group)
        shrink = 1 - 1 / group if combination.baseline == "batch_mean" else 1.0
        return shrink * gradient, shrink**2 * variance, total
    token = direct.token
    if pieces.weights is not None and pieces.returns is not None:
        token = token + pieces.weights * pieces.returns
    whole = Coefficients(token, direct.full)
    mean = whole.pull(atoms)
    return mean, whole.second_moment(atoms, gram) - float(mean @ mean), total


def all_moments(combinations: Sequence[Combination], task: GradientTask, group: int = 8) -> list[GradientMoments]:
    """Expected gradient and variance of each combination, by enumeration; one pass over the prompts for all of them.

    Raises
    ------
    ValueError
        There is no end of what the task can sample.
    """
    prompts: Iterator[Atoms] | None = task.atoms()
    if prompts is None:
        raise ValueError("this task cannot be enumerated")
    found: list[list[tuple[Tensor, float, float | None]]] = []
    for atoms in prompts:
        gram = atoms.scores.gram()
        found.append([_prompt(each, atoms, gram, group, on_policy=task.staleness == 0.0) for each in combinations])
    return [_averaged([of_prompt[k] for of_prompt in found]) for k in range(len(combinations))]


def _averaged(rows: Sequence[tuple[Tensor, float, float | None]]) -> GradientMoments:
    import torch

    means, variances, totals = zip(*rows, strict=True)
    total = None if totals[0] is None else sum(totals) / len(rows)
    return GradientMoments(torch.stack(means).mean(0), sum(variances) / len(rows), total)


def moments(combination: Combination, task: GradientTask, group: int = 8) -> GradientMoments:
    """:func:`all_moments` of one combination."""
    return all_moments([combination], task, group)[0]
