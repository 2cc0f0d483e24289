"""The types that the parts of klbench hand to each other. Of klbench they import only its errors.

Convention, everywhere: ``q`` samples (the policy), ``p`` is what it is held to (the reference), ``x
~ q``, ``log_ratio = log p(x) - log q(x)`` and ``r = exp(log_ratio)``. Logarithms are natural;
values are nats.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol, Self

from array_api_compat import array_namespace
from pydantic import BaseModel, ConfigDict

from klbench.errors import ConfigError as ConfigError
from klbench.errors import Notice as Notice
from klbench.errors import RunError as RunError

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

Array = Any
"""An array of the array-API standard: NumPy's, torch's, array-api-strict's.

The standard has no common type to name.
"""

Polynomial = tuple[tuple[float, float, int], ...]
"""``sum of c * r^a * (log r)^b`` as ``((c, a, b), ...)``.

The form whose moments follow from ``E_q[r^s]`` alone.
"""


class Options(BaseModel):
    """Base of every typed, range-checked node of the configuration.

    Unknown keys and NaN are refused.
    """

    model_config = ConfigDict(
        extra="forbid", frozen=True, allow_inf_nan=False, validate_default=True
    )

    @classmethod
    def known(cls) -> list[str]:
        """Return the keys that an error offers in place of an unknown one."""
        return list(cls.model_fields)

    @classmethod
    def foreign(cls, node: Mapping[str, Any]) -> dict[str, str]:
        """Return keys that belong elsewhere in a configuration, each with the words that say
        where.
        """
        return {}

    @classmethod
    def as_checked(cls, node: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return plain data under the keys by which errors of validation locate what is in it."""
        return node

    def plain(self) -> dict[str, Any]:
        """Return every option as plain data, of which validation makes the same again."""
        return {name: _plain(getattr(self, name)) for name in type(self).model_fields}


def _plain(value: Any) -> Any:
    if isinstance(value, Options):
        return value.plain()
    if isinstance(value, Mapping):
        return {name: _plain(each) for name, each in value.items()}
    return [_plain(each) for each in value] if isinstance(value, tuple | list) else value


@dataclass(frozen=True)
class Draws:
    """Log-ratios of one set of samples, shared by all estimators.

    Parameters
    ----------
    log_ratio
        ``log p(x) - log q(x)`` in nats, shape ``(..., n)``; the last axis is the batch.
    log_weight
        ``log q(x) - log mu(x)``, same shape, when ``x ~ mu`` and not ``x ~ q``; None on-policy.

    Raises
    ------
    ValueError
        The two shapes differ.
    """

    log_ratio: Array
    log_weight: Array | None = None
    _derived: dict[Callable[[Array], Any], Any] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    def __post_init__(self) -> None:
        if self.log_weight is not None and self.log_weight.shape != self.log_ratio.shape:
            raise ValueError(
                f"log_weight must have log_ratio's shape {tuple(self.log_ratio.shape)}, got"
                f" {tuple(self.log_weight.shape)}"
            )

    def derived(self, function: Callable[[Array], Any]) -> Any:
        """``function(log_ratio)``, computed once and shared by all estimators that ask for it."""
        if function not in self._derived:
            self._derived[function] = function(self.log_ratio)
        return self._derived[function]


@dataclass(frozen=True)
class Truth:
    """An exact value with what is known of its error.

    ``error`` is a bound (closed form: rounding; quadrature: the rule's estimate) or, for
    ``monte-carlo``, a standard error.
    """

    value: float
    error: float
    method: Literal["closed-form", "quadrature", "enumeration", "monte-carlo"]


@dataclass(frozen=True)
class Skip:
    """The reason why an estimator cannot be measured here: a row of the table, not a crash."""

    reason: str


@dataclass(frozen=True)
class Claims:
    """The promises of an estimator.

    The contract tests check each one; the report prints claimed beside measured.

    Parameters
    ----------
    unbiased
        The mean of its terms over ``x ~ q`` (``x ~ mu`` for weighted ones) is its target, at every
        batch size.
    nonnegative
        No term is ever below zero.
    gradient
        On-policy, the expected gradient of its terms used as a loss, as an expression; None where
        it is of no named divergence.
    """

    unbiased: bool
    nonnegative: bool
    gradient: str | None = None


@dataclass(frozen=True)
class BatchForm:
    """The form of an estimator that is no mean of independent terms, but follows from sums over its
    batch.

    A batch of ``n`` is cut into ``folds`` consecutive parts, and ``features`` of the draws are
    summed over each.

    Parameters
    ----------
    estimate
        Sums, shape ``(features, folds, batches)``, and the size of each batch, shape
        ``(batches,)``, to the estimates, of the same shape.
    spread_features, variance
        With the sums of these appended to those of ``features``, ``variance`` gives the estimate's
        usual squared standard error, shape ``(batches,)``.
    """

    min_size: int
    folds: int
    features: Callable[[Draws], tuple[Array, ...]]
    estimate: Callable[[Array, Array], Array]
    spread_features: Callable[[Draws], tuple[Array, ...]]
    variance: Callable[[Array, Array], Array]


@dataclass(frozen=True)
class Clamp:
    """The log-ratios below ``low`` and above ``high``, at which terms are cut off.

    Constant, with a gradient of 0.
    """

    low: float = -math.inf
    high: float = math.inf

    def active(self, log_ratio: Array) -> Array:
        """Return whether each term is cut off: booleans, shape of ``log_ratio``; False at NaN."""
        return (log_ratio < self.low) | (log_ratio > self.high)


@dataclass(frozen=True)
class Estimator:
    """A value estimator: a pure function of the log-ratio, written once against the array API.

    Parameters
    ----------
    formula
        Draws to terms, shape ``(..., n)`` to ``(..., n)``; the estimate of a batch is the mean over
        the last axis.
    target
        Key of the divergence it estimates, in :mod:`klbench.divergences`.
    tex, summary, aliases, source
        The formula, one line on it, its names elsewhere, where it comes from.
    needs_weight
        It is for samples of a third distribution and cannot be computed without ``log_weight``.
    polynomial
        Its terms in ``r^a (log r)^b``, where they have that form: exact moments follow.
    growth, growth_at_zero
        Its terms grow like ``r^growth`` as ``r -> inf`` and like ``r^-growth_at_zero`` as ``r ->
        0``, up to logarithms: the second moment is finite where ``E[r^(2 growth)]`` and ``E[r^(-2
        growth_at_zero)]`` are.
    clamp
        Where its terms are cut off; None where they are nowhere.
    kinks
        The log-ratios at which its terms have no derivative: quadrature cuts there. The ends of
        ``clamp`` are added to them.
    batch
        Set for estimators that are no mean of independent terms.
    """

    name: str
    formula: Callable[[Draws], Array]
    target: str
    tex: str
    summary: str
    claims: Claims
    aliases: tuple[str, ...] = ()
    source: str = ""
    needs_weight: bool = False
    polynomial: Polynomial | None = None
    growth: float = 0.0
    growth_at_zero: float = 0.0
    clamp: Clamp | None = None
    kinks: tuple[float, ...] = ()
    batch: BatchForm | None = None

    def __post_init__(self) -> None:
        ends = () if self.clamp is None else (self.clamp.low, self.clamp.high)
        object.__setattr__(
            self, "kinks", tuple(sorted({*self.kinks, *filter(math.isfinite, ends)}))
        )

    def terms(self, draws: Draws | Array) -> Array:
        """Terms whose mean over the last axis is the estimate; shape and dtype of ``log_ratio``.

        16-bit input is computed in float32 and rounded once at the end. A bare array stands for
        ``Draws(array)``.

        Raises
        ------
        ValueError
            The estimator needs ``log_weight`` and the draws have none.
        """
        draws = draws if isinstance(draws, Draws) else Draws(draws)
        if self.needs_weight and draws.log_weight is None:
            raise ValueError(
                f"{self.name} needs samples of a third distribution: Draws(log_ratio,"
                " log_weight=log q - log mu)"
            )
        xp = array_namespace(draws.log_ratio)
        dtype = draws.log_ratio.dtype
        if not xp.isdtype(dtype, "real floating"):
            raise TypeError(f"log_ratio must have a real floating dtype, got {dtype}")
        if xp.finfo(dtype).bits >= 32:
            return self.formula(draws)
        weight = None if draws.log_weight is None else xp.astype(draws.log_weight, xp.float32)
        return xp.astype(self.formula(Draws(xp.astype(draws.log_ratio, xp.float32), weight)), dtype)

    def __call__(self, log_ratio: Draws | Array) -> Array:
        """The same as :meth:`terms`."""
        return self.terms(log_ratio)


@dataclass(frozen=True)
class Rollouts:
    """Sampled or enumerated sequences, token by token.

    All that a gradient estimator may use of them.

    Every field is a torch tensor of shape ``(n, T)``, float64 but for ``mask``, and set to 0 where
    ``mask`` is False, whatever is given there. Single draws are sequences of one token.

    Parameters
    ----------
    log_q, log_p, log_mu
        Log-probability in nats of each token given what precedes it: policy, reference, and whoever
        sampled (the policy's own where it did).
    kl
        ``KL(q(.|h) ‖ p(.|h))``, exact, over the next token at each prefix h that was reached.
    mask
        Whether the sequence was still going before the token: the end token counts, what follows it
        does not.
    log_old
        The same as the first three for the trainer's policy at the time of sampling, where its
        engine, ``mu``, computes other probabilities; ``log_mu`` without it.
    """

    log_q: Tensor
    log_p: Tensor
    log_mu: Tensor
    kl: Tensor
    mask: Tensor
    log_old: Tensor = None  # type: ignore[assignment]

    def __post_init__(self) -> None:
        for name in ("log_q", "log_p", "log_mu", "kl"):
            object.__setattr__(self, name, self.kept(getattr(self, name)))
        old = self.log_mu if self.log_old is None else self.kept(self.log_old)
        object.__setattr__(self, "log_old", old)

    @cached_property
    def _whole(self) -> bool:
        """True where all tokens count."""
        return bool(self.mask.all())

    def kept(self, values: Tensor) -> Tensor:
        """Return values ``(n, T)``, or ``(n, 1)`` of whole sequences, as ``(n, T)``, 0 where
        masked.

        Selected, not multiplied: padding may be -inf or NaN, which no product with 0 takes away.
        """
        return values.expand_as(self.mask) if self._whole else values.where(self.mask, 0.0)

    def each(self, change: Callable[[Tensor], Tensor]) -> Rollouts:
        """Return the rollouts with every field so changed: other rows, another shape, detached."""
        result = object.__new__(Rollouts)
        fields = {
            name: change(getattr(self, name)) for name in ("log_q", "log_p", "log_mu", "kl", "mask")
        }
        same = self.log_old is self.log_mu
        result.__dict__.update(fields, log_old=fields["log_mu"] if same else change(self.log_old))
        return result


class Scores(Protocol):
    """The vectors that a sequence's gradient is made of, ``(n, T)`` of each kind, each in the
    policy's parameters.

    ``s_t``, the score, is the gradient of ``log q`` of token t; ``d_t`` is the gradient of ``kl``
    at t. 0 where masked.
    """

    def pull(self, token: Tensor, full: Tensor | None = None) -> Tensor:
        """``sum of token[x, t] s_t(x) + full[x, t] d_t(x)`` over sequences and tokens.

        ``(..., n, T)`` to ``(..., parameters)``; without ``full`` of the scores alone.
        """

    def gram(self) -> Tensor:
        """Inner products of each sequence's own ``s_1 ... s_T, d_1 ... d_T``.

        Shape ``(n, 2T, 2T)``.
        """


@dataclass(frozen=True)
class Atoms:
    """Everything that can be sampled after one prompt.

    ``probability``, shape ``(n,)``, is the sampler's.
    """

    probability: Tensor
    rollouts: Rollouts
    scores: Scores


class GradientTask(Protocol):
    """A pair whose policy has parameters: what its estimators' gradients are measured on.

    Attributes
    ----------
    parameters
        Their number.
    tokens
        Most tokens in a sequence.
    staleness
        ``KL(q‖mu)`` in nats of the policy from whoever samples; 0 on-policy.
    """

    parameters: int
    tokens: int
    staleness: float

    def gradient(self, target: str) -> Tensor:
        """The exact gradient, shape ``(parameters,)``, of ``kl_qp`` or ``kl_pq``.

        The mean over prompts.
        """

    def atoms(self) -> Iterator[Atoms] | None:
        """One item a prompt, all prompts equally likely; None where there is no end of them."""

    def tilted(self, power: float) -> Atoms | None:
        """Points and weights with ``sum of probability * f = E_q[r^power f]``.

        None where that diverges or no rule is known.

        Exact where f is a polynomial of the sample, of degree 60 or less.
        """

    def theta(self) -> Tensor:
        """The parameters, shape ``(parameters,)``, float64."""

    def sample(self, stream: np.random.Generator, n: int) -> Any:
        """Draw a prompt, and ``n`` samples after it from the sampler, in a form of the task's
        own.
        """

    def rollouts(self, theta: Tensor, samples: Any) -> Rollouts:
        """Return the samples' rollouts under parameters ``theta``.

        ``log_q`` and ``kl`` can be differentiated.
        """


@dataclass(frozen=True)
class Completions:
    """Completions of language models, token by token, as NumPy arrays of shape ``(n, T)``.

    What ``mask`` leaves out is padding.

    The end-of-sequence token counts, the prompt does not. Log-probabilities and divergences are
    float64, in nats.

    Parameters
    ----------
    log_q, log_p
        Log-probability of each token under policy and reference.
    mask
        Which tokens count.
    log_mu
        Under the distribution that the tokens were sampled from, where that is not ``q``: another
        temperature, an older policy.
    kl_qp, kl_pq
        ``KL(q(.|h) ‖ p(.|h))`` and ``KL(p(.|h) ‖ q(.|h))`` over the next token, from the full
        distributions.
    token
        Token ids, int64.
    prompt
        Which prompt each completion answers, shape ``(n,)``, int64.
    seconds
        What making them took, by stage, where that is known.

    Raises
    ------
    ValueError
        A shape differs from ``log_q``'s.
    """

    log_q: np.ndarray
    log_p: np.ndarray
    mask: np.ndarray
    log_mu: np.ndarray | None = None
    kl_qp: np.ndarray | None = None
    kl_pq: np.ndarray | None = None
    token: np.ndarray | None = None
    prompt: np.ndarray | None = None
    seconds: Mapping[str, float] | None = None

    def __post_init__(self) -> None:
        shape = self.log_q.shape
        for name in ("log_p", "mask", "log_mu", "kl_qp", "kl_pq", "token"):
            value = getattr(self, name)
            if value is not None and value.shape != shape:
                raise ValueError(f"{name} must have log_q's shape {shape}, got {value.shape}")
        if self.prompt is not None and self.prompt.shape != shape[:1]:
            raise ValueError(f"prompt must have shape {shape[:1]}, got {self.prompt.shape}")


Dtype = Literal["float32", "bfloat16", "float16", "int8"]
"""The format that a language model computes in.

``int8`` is weights of 8 bits in float32 arithmetic.
"""


@dataclass(frozen=True)
class Truncated:
    """``KL(q(.|h) ‖ p(.|h))`` over the policy's k most probable tokens and one bucket of all
    others, in nats.

    Parameters
    ----------
    kl_qp
        Shape ``(n, T)``, 0 where masked.
    error
        How far that lies below the exact divergence, the same shape; never negative but for
        rounding.
    """

    k: int
    kl_qp: np.ndarray
    error: np.ndarray


@dataclass(frozen=True)
class Capabilities:
    """The abilities of a kind of pair that has completions.

    Parameters
    ----------
    completions
        It has completions.
    rescored, truncated
        It can score them again in another dtype, and with few tokens told apart.
    in_process
        It holds a model: work on it stays in the process, since no worker should load the model
        again.
    """

    completions: bool = False
    rescored: bool = False
    truncated: bool = False
    in_process: bool = False


class CompletionSource(Protocol):
    """A pair as the study of completions sees it.

    Attributes
    ----------
    capabilities
        What may be asked of it; known of the class, before there is a pair.
    title
        What the tables call it.
    available
        How many completions there are; None where there is no end of them.
    fingerprint
        A text that changes when the file does that completions are read from; empty where there is
        none.
    unread
        Columns of that file that are not read.
    compute_device
        Where it computes: ``cpu`` or ``cuda``.
    chosen_kernel
        The kernel that scores; empty where none does.
    """

    capabilities: ClassVar[Capabilities]

    @property
    def title(self) -> str: ...
    @property
    def available(self) -> int | None: ...
    @property
    def fingerprint(self) -> str: ...
    @property
    def unread(self) -> tuple[str, ...]: ...
    @property
    def compute_device(self) -> str: ...
    @property
    def chosen_kernel(self) -> str: ...

    def placed(self, device: str) -> Self:
        """Return the same pair on that device, where it can be there."""

    def prepare(self) -> None:
        """Load, and where it is the first time build, all that it needs."""

    def on_policy(self) -> Self | None:
        """Return the pair whose completions give this one's truth: the policy's own.

        None where no others are needed.
        """

    def completions(self, seed: int, shard: int, n: int) -> Completions | Skip:
        """Return completions of shard ``shard``, at most ``n``; fewer where there are no more.

        Or why there are no tokens.
        """

    def rescored(self, completions: Completions, dtype: Dtype) -> Completions | Skip:
        """Return the same tokens, scored in another dtype; or why not."""

    def truncated(self, completions: Completions, ks: Sequence[int]) -> list[Truncated] | Skip:
        """Return, for each k, the exact divergences when only k tokens are distinguished, or the
        reason why there are none.
        """

    def decode(self, token_ids: Sequence[int] | np.ndarray) -> list[str]:
        """Return the text of each token; empty where it is not known."""
