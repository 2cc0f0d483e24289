"""Kernels that compute from logits, in one pass, what a KL penalty needs of each token.

These are two log-probabilities, both divergences and the entropy.

Policy q and reference p are rows of logits over a vocabulary of V. With ``q = softmax(policy)`` and
``p = softmax(reference)``::

    log_q, log_p    of the token that was sampled
    kl_qp           KL(q‖p) = sum over the vocabulary of q (log q - log p)
    kl_pq           KL(p‖q) = sum over the vocabulary of p (log p - log q)
    entropy         -sum over the vocabulary of q log q

On request there are, from a second look at a row, which needs both normalisers::

    total_variation  sum |q - p| / 2: speculative decoding accepts a draft's token with probability
                     1 - it (Leviathan et al. 2023, corollary 3.6)
    jsd              beta KL(p‖m) + (1 - beta) KL(q‖m), m = beta p + (1 - beta) q
    top              masses of q and p on the k most probable tokens of either, for each k, and
                     KL(q‖p) with one bucket of all other tokens

Three implementations give them, to the same accuracy:

``reference``
    Plain torch in float64, a block of rows at a time, differentiated by autograd. Any device; slow.
``cpu``
    Compiled loops that read each logit once and hold no more than the exponentials of a row, for
    what is on request; as many threads as torch is allowed.
``triton``
    The same sums on a GPU, one program a row. ``TRITON_INTERPRET=1`` runs it without a GPU, for
    tests only.

**Accuracy.** Logits of 16 and 32 bits are taken as exact, and each result is within ``2e-6 (1 +
|result|)`` of the exact one for them; for float64 ones within 1e-13 of the same. The divergences
keep their digits when they are small: they are sums of Bregman gaps, ``q (p/q - 1 - log(p/q))``,
which are never negative, and not differences of normalisers. From 1e-8 to 50 nats ``kl_qp`` and
``kl_pq`` are within 1e-5 relative (measured: 3e-6), a constant between the logits of both
notwithstanding, if the largest logits differ about as much as the others do. Where a few improbable
tokens differ by more than all the rest, and the largest logit is one of them, only the absolute
accuracy is left.

**Masked vocabulary.** A logit of ``-inf``, or of -1e30 or less, as float32's least is, means a
probability of 0, whose ``log`` is ``-inf``. Where both are 0 nothing is added; where only p is,
``kl_qp = +inf``; where only q is, ``kl_pq = +inf``. A row that is ``-inf`` throughout, or holds NaN
or ``+inf``, gives NaN in all that depends on it.

**Gradients** reach the policy's logits alone, through all results but ``log_p``; the reference is a
constant. A divergence that is infinite has none: NaN. There are no second derivatives, except with
``reference``. What is on request has no gradient.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from klbench.kernels.autograd import divergences
from klbench.kernels.overlap import Asked, TopMass, further
from klbench.registry import unknown
from klbench.types import ConfigError

__all__ = ["TokenDivergences", "TopMass", "choose", "names", "token_divergences"]

# In the order in which one is chosen: the first that can be used.
_MODULES = {"triton": "gpu", "cpu": "cpu", "reference": "reference"}


@dataclass(frozen=True)
class TokenDivergences:
    """The result of :func:`token_divergences`.

    Five tensors of shape ``(n,)``, in nats, the kernel that computed them, and what else was asked
    for: None where it was not.

    float64 where policy or reference are float64, else float32.
    """

    log_q: Tensor
    log_p: Tensor
    kl_qp: Tensor
    kl_pq: Tensor
    entropy: Tensor
    kernel: str
    total_variation: Tensor | None = None
    jsd: Tensor | None = None
    top: TopMass | None = None


def names() -> list[str]:
    """Return the names of all kernels, also of those that cannot be used here."""
    return list(_MODULES)


def _obstacle(name: str, policy: Tensor, reference: Tensor) -> str | None:
    """Return why a kernel cannot take these logits; None if it can."""
    check: Callable[[Tensor, Tensor], str | None] = importlib.import_module(
        f"klbench.kernels.{_MODULES[name]}"
    ).obstacle
    return check(policy, reference)


def choose(policy: Tensor, reference: Tensor | None = None, *, kernel: str = "auto") -> str:
    """The name of the kernel that these logits get, or ``kernel`` itself after a check that it can
    be used.

    Only device and dtype decide: ``triton`` on a GPU where it is installed, ``cpu`` in main memory,
    ``reference`` for float64.

    Raises
    ------
    ConfigError
        No kernel of that name, or it cannot take these logits; the line says why, and which ones
        can.
    """
    reference = policy if reference is None else reference
    if kernel != "auto":
        if kernel not in _MODULES:
            raise unknown("kernel", kernel, ["auto", *_MODULES])
        obstacle = _obstacle(kernel, policy, reference)
        if obstacle is not None:
            able = [
                name
                for name in _MODULES
                if name != kernel and _obstacle(name, policy, reference) is None
            ]
            raise ConfigError(
                f"kernel {kernel!r} cannot be used: {obstacle}; available:"
                f" {', '.join(['auto', *able])}"
            )
        return kernel
    fit = (
        list(_MODULES)
        if policy.device.type != "cpu"
        else [name for name in _MODULES if name != "triton"]
    )  # not interpreted
    return next(name for name in fit if _obstacle(name, policy, reference) is None)


def _asked(total_variation: bool, jsd: float | None, top: Sequence[int], support: str) -> Asked:
    if jsd is not None and not 0.0 < jsd < 1.0:
        raise ConfigError(f"beta of jsd must be between 0 and 1, got {jsd}")
    if any(k < 1 for k in top):
        raise ConfigError(f"each k of top must be 1 or more, got {list(top)}")
    if support not in ("policy", "reference"):
        raise unknown("support", support, ["policy", "reference"])
    return Asked(total_variation, jsd, tuple(top), support == "policy")


def _check(policy: Tensor, reference: Tensor, tokens: Tensor, block_rows: int | None) -> None:
    if policy.ndim != 2 or policy.shape[1] == 0:
        raise ConfigError(
            f"policy logits must have shape (n, V) with V of 1 or more, got {tuple(policy.shape)}"
        )
    if reference.shape != policy.shape:
        raise ConfigError(
            f"policy and reference logits must have one shape, got {tuple(policy.shape)} and"
            f" {tuple(reference.shape)}"
        )
    if tokens.shape != policy.shape[:1]:
        raise ConfigError(
            f"tokens must be one a row of the logits, got {tuple(tokens.shape)} and"
            f" {tuple(policy.shape)}"
        )
    allowed = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
    if policy.dtype not in allowed or reference.dtype not in allowed:
        raise ConfigError(
            f"logits must be float64, float32, bfloat16 or float16, got {policy.dtype} and"
            f" {reference.dtype}".replace("torch.", "")
        )
    if tokens.dtype not in (torch.int64, torch.int32):
        raise ConfigError(
            f"tokens must be int64 or int32, got {tokens.dtype}".replace("torch.", "")
        )
    if not policy.device == reference.device == tokens.device:
        raise ConfigError(
            f"logits and tokens must be on one device, got {policy.device}, {reference.device} and"
            f" {tokens.device}"
        )
    if block_rows is not None and block_rows < 1:
        raise ConfigError(f"block_rows must be 1 or more, got {block_rows}")
    if len(tokens):
        low, high = (int(x) for x in torch.stack(torch.aminmax(tokens)).tolist())
        if low < 0 or high >= policy.shape[1]:
            raise ConfigError(
                f"tokens must be from 0 to {policy.shape[1] - 1}, got {low} to {high}"
            )


def token_divergences(
    policy: Tensor,
    reference: Tensor,
    tokens: Tensor,
    *,
    kernel: str = "auto",
    block_rows: int | None = None,
    total_variation: bool = False,
    jsd: float | None = None,
    top: Sequence[int] = (),
    support: str = "policy",
) -> TokenDivergences:
    """Log-probabilities of the tokens, KL(q‖p), KL(p‖q) and the entropy of q, a row each, in nats.

    And on request what takes a second look at the row.

    Parameters
    ----------
    policy, reference
        Logits of q and of p, shape ``(n, V)``, any strides; float32, bfloat16, float16 or float64,
        each of its own.
    tokens
        Ids, shape ``(n,)``, int64 or int32.
    kernel
        ``auto``, or the name of one (see :func:`names`).
    block_rows
        Rows at a time, with ``reference`` and ``cpu``; ``triton`` takes a row a program. None
        leaves it to the kernel.
    total_variation
        Whether to give ``sum |q - p| / 2``.
    jsd
        ``beta`` between 0 and 1: give ``beta KL(p‖m) + (1 - beta) KL(q‖m)``, ``m = beta p + (1 -
        beta) q``.
    top
        Values of k: give the masses of both on the k most probable tokens, and KL(q‖p) with one
        bucket of all others. Beyond V they are as V; of equal logits the first are taken.
    support
        Whose most probable tokens these are: ``policy`` or ``reference``.

    Returns
    -------
    Values whose accuracy, edge cases and gradients are described at the head of this package.

    Raises
    ------
    ConfigError
        Shapes, dtypes, devices or ids that do not fit; a kernel that does not exist or cannot be
        used here.
    """
    _check(policy, reference, tokens, block_rows)
    asked = _asked(total_variation, jsd, top, support)
    name = choose(policy, reference, kernel=kernel)
    reference = reference.detach()
    implementation: Any = importlib.import_module(f"klbench.kernels.{_MODULES[name]}")
    results: tuple[Tensor, Tensor, Tensor, Tensor, Tensor]
    if name == "reference":
        results = implementation.divergences(policy, reference, tokens, block_rows)
    else:
        results, looks = divergences(policy, reference, tokens, asked, implementation, block_rows)
    if not asked:
        return TokenDivergences(*results, name)
    with torch.no_grad():
        if name == "reference":
            looks = implementation.looks(policy, reference, asked, block_rows)
        more = further(asked, looks, results[0].dtype)
    return TokenDivergences(*results, name, *more)
