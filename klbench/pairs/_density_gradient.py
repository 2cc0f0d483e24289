"""The gradient task of pairs of densities in closed form: a sample is a sequence of one token."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from klbench.oracles import LARGEST
from klbench.pairs._scores import DenseScores
from klbench.types import Atoms, Rollouts

NODES = 64
"""The nodes of a Gauss rule: exact for polynomials of degree 127 and less."""
LOG_ROOT_2PI = 0.5 * math.log(2.0 * math.pi)


class DensityTask(ABC):
    """The gradient task of a pair whose three sides are of one family, each a parameter vector
    ``(parameters,)``.

    Samples are the points themselves, shape ``(n, dimension)``.
    """

    def __init__(self, q: np.ndarray, p: np.ndarray, mu: np.ndarray | None) -> None:
        self.parameters = len(q)
        self._q, self._p, self._mu = (
            torch.from_numpy(side) for side in (q, p, q if mu is None else mu)
        )
        self._off_policy = mu is not None
        self.tokens = 1
        self.staleness = float(self.divergence(self._q, self._mu))

    @staticmethod
    @abstractmethod
    def log_density(theta: Tensor, x: Tensor) -> Tensor:
        """Log-density at the points, shape ``(n,)``."""

    @staticmethod
    @abstractmethod
    def scores(theta: Tensor, x: Tensor) -> Tensor:
        """Return the gradient of the policy's log-density, shape ``(n, parameters)``."""

    @staticmethod
    @abstractmethod
    def divergence(theta: Tensor, other: Tensor) -> Tensor:
        """The KL divergence of the first from the second, a scalar."""

    @abstractmethod
    def gradient(self, target: str) -> Tensor:
        """The gradient of ``kl_qp`` or ``kl_pq`` in closed form."""

    @abstractmethod
    def sample(self, stream: np.random.Generator, n: int) -> Tensor:
        """Draw points from the sampler, shape ``(n, dimension)``."""

    @abstractmethod
    def rule(self, power: float) -> tuple[np.ndarray, np.ndarray] | None:
        """Points ``(n, dimension)`` and weights ``(n,)`` of ``E_q[r^power f]``.

        None where there is no such rule.
        """

    def theta(self) -> Tensor:
        """The policy's parameters."""
        return self._q.clone()

    def atoms(self) -> Iterator[Atoms] | None:
        """Return None: the samples cannot be enumerated."""
        return None

    def tilted(self, power: float) -> Atoms | None:
        """A Gauss rule on ``q^(1-power) p^power``, which is of the same family."""
        found = None if self._off_policy else self.rule(power)
        if found is None:
            return None
        x, weights = map(torch.from_numpy, found)
        rollouts = self.rollouts(self._q, x)
        token = torch.arange(len(x))[:, None]
        scores = DenseScores(
            self.scores(self._q, x),
            self.gradient("kl_qp")[None],
            token,
            torch.zeros_like(token),
            rollouts.mask,
        )
        return Atoms(weights, rollouts, scores)

    def rollouts(self, theta: Tensor, samples: Tensor) -> Rollouts:
        """The points under parameters ``theta``."""
        log_q, log_p, log_mu = (
            self.log_density(side, samples)[:, None] for side in (theta, self._p, self._mu)
        )
        kl = self.divergence(theta, self._p).expand(len(samples), 1)
        return Rollouts(log_q, log_p, log_mu, kl, torch.ones(len(samples), 1, dtype=torch.bool))


class GaussianTask(DensityTask):
    """Independent normals.

    The parameters are their means, then the logarithms of their standard deviations.
    """

    @staticmethod
    def log_density(theta: Tensor, x: Tensor) -> Tensor:
        mean, log_std = theta.chunk(2)
        z = (x - mean) * torch.exp(-log_std)
        return (-0.5 * z * z - log_std - LOG_ROOT_2PI).sum(1)

    @staticmethod
    def scores(theta: Tensor, x: Tensor) -> Tensor:
        mean, log_std = theta.chunk(2)
        z = (x - mean) * torch.exp(-log_std)
        return torch.cat([z * torch.exp(-log_std), z * z - 1.0], dim=1)

    @staticmethod
    def divergence(theta: Tensor, other: Tensor) -> Tensor:
        mean, log_std = theta.chunk(2)
        other_mean, other_log_std = other.chunk(2)
        step, shift = log_std - other_log_std, (mean - other_mean) * torch.exp(-other_log_std)
        return (0.5 * (torch.expm1(2.0 * step) + shift * shift) - step).sum()

    def gradient(self, target: str) -> Tensor:
        (mean, log_std), (mean_p, log_std_p) = self._q.chunk(2), self._p.chunk(2)
        ratio, shift = torch.exp(2.0 * (log_std - log_std_p)), mean - mean_p
        if target == "kl_qp":
            return torch.cat([shift * torch.exp(-2.0 * log_std_p), ratio - 1.0])
        if target == "kl_pq":
            precision = torch.exp(-2.0 * log_std)
            return torch.cat([shift * precision, 1.0 - 1.0 / ratio - shift * shift * precision])
        raise KeyError(target)

    def sample(self, stream: np.random.Generator, n: int) -> Tensor:
        mean, log_std = self._mu.chunk(2)
        return mean + torch.exp(log_std) * torch.from_numpy(stream.standard_normal((n, len(mean))))

    def rule(self, power: float) -> tuple[np.ndarray, np.ndarray] | None:
        if self.parameters != 2:
            return None
        (mean, log_std), (mean_p, log_std_p) = self._q.tolist(), self._p.tolist()
        of_q, of_p = (1.0 - power) * math.exp(-2.0 * log_std), power * math.exp(-2.0 * log_std_p)
        precision = of_q + of_p
        if precision <= 0.0:
            return None
        # The square is completed in the difference of the means, where nothing cancels.
        log_total = (power - 1.0) * log_std - power * log_std_p - 0.5 * math.log(precision)
        log_total -= 0.5 * of_q * of_p * (mean - mean_p) ** 2 / precision
        if log_total > LARGEST:
            return None
        z, weights = np.polynomial.hermite_e.hermegauss(NODES)
        x = mean + of_p * (mean_p - mean) / precision + z / math.sqrt(precision)
        return x[:, None], weights * (math.exp(log_total) / weights.sum())


class ExponentialTask(DensityTask):
    """An exponential; the parameter is the logarithm of its rate."""

    @staticmethod
    def log_density(theta: Tensor, x: Tensor) -> Tensor:
        return theta - torch.exp(theta) * x[:, 0]

    @staticmethod
    def scores(theta: Tensor, x: Tensor) -> Tensor:
        return 1.0 - torch.exp(theta) * x

    @staticmethod
    def divergence(theta: Tensor, other: Tensor) -> Tensor:
        step = other - theta
        return (torch.expm1(step) - step).sum()

    def gradient(self, target: str) -> Tensor:
        if target == "kl_qp":
            return -torch.expm1(self._p - self._q)
        if target == "kl_pq":
            return torch.expm1(self._q - self._p)
        raise KeyError(target)

    def sample(self, stream: np.random.Generator, n: int) -> Tensor:
        return torch.from_numpy(stream.standard_exponential((n, 1))) * torch.exp(-self._mu)

    def rule(self, power: float) -> tuple[np.ndarray, np.ndarray] | None:
        log_q, log_p = float(self._q), float(self._p)
        rate = (1.0 - power) * math.exp(log_q) + power * math.exp(log_p)
        if rate <= 0.0:
            return None
        log_total = (1.0 - power) * log_q + power * log_p - math.log(rate)
        if log_total > LARGEST:
            return None
        x, weights = np.polynomial.laguerre.laggauss(NODES)
        return x[:, None] / rate, weights * (math.exp(log_total) / weights.sum())
