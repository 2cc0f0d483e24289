"""Expected gradients and their variance over everything that can be sampled: no Monte Carlo noise."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from klbench.gradients._combination import GROUPED, Combination, coefficient
from klbench.gradients.surrogate import Parts, parts
from klbench.types import Atoms, GradientTask, Rollouts

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

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
    size
        The expected length of what the mean is a sum of, before anything cancels: rounding leaves the mean so many units in the
        last place. None where that is no more than one sample's gradient is long.
    """

    mean: Tensor
    variance: float
    total_variance: float | None = None
    size: float | None = None


@dataclass(frozen=True)
class Coefficients:
    """What multiplies each sequence's vectors: ``(n, T)`` of the scores and of the gradients of ``kl``."""

    token: Tensor
    full: Tensor

    def pull(self, atoms: Atoms) -> Tensor:
        """The expected gradient, ``(parameters,)``."""
        # A coefficient may be as large as its sequence is rare: half of the weight before the product, half after.
        root = _root(atoms)
        return atoms.scores.pull(root * (root * self.token), root * (root * self.full))

    def second_moment(self, atoms: Atoms, gram: Tensor) -> float:
        """``E ‖g‖^2``."""
        import torch

        vectors = _root(atoms) * torch.cat([self.token, self.full], dim=-1)
        return float(torch.einsum("ni,nij,nj->", vectors, gram, vectors))

    def size(self, atoms: Atoms, gram: Tensor) -> float:
        """The expected sum of the lengths of all that the gradient is a sum of."""
        import torch

        root = _root(atoms)
        lengths = gram.diagonal(dim1=1, dim2=2).sqrt()
        return float((root * (root * torch.cat([self.token, self.full], dim=-1).abs()) * lengths).sum())


def _root(atoms: Atoms) -> Tensor:
    """The root of each sequence's probability, ``(n, 1)``."""
    return (atoms.rollouts.log_mu.sum(-1, keepdim=True) / 2.0).exp()


def taken_apart(combination: Combination, rollouts: Rollouts) -> tuple[Coefficients, Parts]:
    """The coefficients of the direct part, by differentiating the surrogate loss itself, and its parts."""
    import torch

    log_q, kl = (x.detach().clone().requires_grad_() for x in (rollouts.log_q, rollouts.kl))
    pieces = parts(combination, Rollouts(log_q, rollouts.log_p, rollouts.log_mu, kl, rollouts.mask))
    if not pieces.direct.requires_grad:
        return Coefficients(torch.zeros_like(log_q), torch.zeros_like(kl)), pieces
    token, full = torch.autograd.grad(pieces.direct.sum(), (log_q, kl), allow_unused=True, materialize_grads=True)
    return Coefficients(token * rollouts.mask, full * rollouts.mask), pieces


NEAR = 1.0
"""Up to this log-ratio differentiation keeps all digits; beyond it, powers of r that should cancel leave their rounding."""


def _cancelled(combination: Combination, rollouts: Rollouts) -> tuple[Tensor, Tensor] | None:
    """Coefficients from the polynomial in which powers of r have cancelled, and where to take them; None where there are none.

    That is, of one score for all tokens: those of a whole sequence's ratio, and of sequences of one token.
    """
    import torch

    polynomial, correction = coefficient(combination), combination.correction
    whole = combination.level == "sequence" and correction in ("none", "sequence_ratio")
    single = rollouts.mask.shape[-1] == 1 and correction != "truncated_ratio"
    if polynomial is None or not (whole or single):
        return None
    log_ratio = (rollouts.log_p - rollouts.log_q).sum(-1, keepdim=True)
    total = sum((c * torch.exp(a * log_ratio) * log_ratio**b for c, a, b in polynomial), torch.zeros_like(log_ratio))
    if combination.baseline == "token_kl":
        total = total - rollouts.kl
    if correction != "none":
        total = total * (rollouts.log_q - rollouts.log_mu).sum(-1, keepdim=True).exp()
    return total * rollouts.mask, (log_ratio.abs() > NEAR).expand_as(rollouts.mask)


def _whole(combination: Combination, rollouts: Rollouts) -> tuple[Coefficients, Tensor, Parts]:
    """All that multiplies each sequence's vectors, how large the scores' part was before anything cancelled, and the parts."""
    import torch

    direct, pieces = taken_apart(combination, rollouts)
    token, size = direct.token, direct.token.abs()
    if combination.ratio_gradient:
        size = size + pieces.direct.detach().abs()[:, None]
    if pieces.weights is not None and pieces.returns is not None:
        scored = pieces.weights * pieces.returns
        token, size = token + scored, size + scored.abs()
    cancelled = _cancelled(combination, rollouts)
    if cancelled is not None:
        exact, far = cancelled
        token, size = torch.where(far, exact, token), torch.where(far, exact.abs(), size)
    return Coefficients(token, direct.full), size * rollouts.mask, pieces


def _total(whole: Coefficients, pieces: Parts, atoms: Atoms) -> Coefficients:
    """Coefficients of reward and penalty together, where the reward is ``log q/p`` and every return is centred."""
    rollouts, p = atoms.rollouts, atoms.probability
    token = whole.token
    if pieces.weights is not None and pieces.returns is not None:
        token = token - pieces.weights * (p @ pieces.returns)
    reward = -(rollouts.log_p - rollouts.log_q).sum(-1, keepdim=True)
    return Coefficients(token - (reward - p @ reward) * rollouts.mask, whole.full)


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


def _prompt(combination: Combination, atoms: Atoms, gram: Tensor, group: int, *, on_policy: bool) -> GradientMoments:
    whole, size, pieces = _whole(combination, atoms.rollouts)
    total = None
    if on_policy:
        both = _total(whole, pieces, atoms)
        mean = both.pull(atoms)
        total = both.second_moment(atoms, gram) - float(mean @ mean)
    if combination.baseline in GROUPED:
        assert pieces.weights is not None
        assert pieces.returns is not None
        gradient, variance = _Group(atoms, gram, pieces.weights, pieces.returns).moments(group)
        shrink = 1 - 1 / group if combination.baseline == "batch_mean" else 1.0
        mean, variance = shrink * gradient, shrink**2 * variance
    else:
        mean = whole.pull(atoms)
        variance = whole.second_moment(atoms, gram) - float(mean @ mean)
    return GradientMoments(mean, variance, total, Coefficients(size, whole.full).size(atoms, gram))


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
    found: list[list[GradientMoments]] = []
    for atoms in prompts:
        gram = atoms.scores.gram()
        found.append([_prompt(each, atoms, gram, group, on_policy=task.staleness == 0.0) for each in combinations])
    return [_averaged([of_prompt[k] for of_prompt in found]) for k in range(len(combinations))]


def _averaged(rows: Sequence[GradientMoments]) -> GradientMoments:
    """The mean over prompts."""
    import torch

    def mean(values: Iterable[float | None]) -> float | None:
        known = [value for value in values if value is not None]
        return sum(known) / len(rows) if known else None

    variance = sum(each.variance for each in rows) / len(rows)
    return GradientMoments(
        torch.stack([each.mean for each in rows]).mean(0), variance,
        mean(each.total_variance for each in rows), mean(each.size for each in rows),
    )  # fmt: skip


def moments(combination: Combination, task: GradientTask, group: int = 8) -> GradientMoments:
    """:func:`all_moments` of one combination."""
    return all_moments([combination], task, group)[0]
