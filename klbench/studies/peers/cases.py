"""The comparisons: each thing that trainers compute, by klbench and by others, on the same inputs.

A *subject* takes two tensors and gives one, differentiable in the first: log-probabilities of the
sampled tokens under policy and reference, or the logits of both. KL(q‖p) and KL(p‖q) have q for the
policy and p for the reference, in nats.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from scipy.special import rel_entr
from torch import Tensor
from torch.distributions import Categorical, kl_divergence

from klbench import divergences, estimators, gradients, streams, trainers
from klbench.kernels import token_divergences
from klbench.studies.peers.columns import HERE
from klbench.trainers.installed import expression, function
from klbench.types import Draws

Two = Callable[[Any, Any], Any]
TRL, VERL, OPENRLHF, LIGER = "trl", "verl", "openrlhf", "liger-kernel"


@dataclass(frozen=True)
class Peer:
    """Somebody's implementation.

    Parameters
    ----------
    library, name
        The distribution, and what it calls the thing.
    make
        Gives the function of both inputs; raises ``MissingError`` where it is not to be had.
    twin
        klbench's estimator of the same numbers.
    """

    library: str
    name: str
    make: Callable[[], Two]
    twin: str = ""


@dataclass(frozen=True)
class Subject:
    """A function to compute; the exact one takes float64."""

    name: str
    inputs: Literal["log-probs", "logits"]
    exact: Two
    peers: Sequence[Peer]


def _ours(name: str) -> Callable[[], Two]:
    return lambda: lambda log_q, log_p: estimators.get(name).terms(log_p - log_q)


def _where(words: str) -> tuple[str, str, str]:
    """Distribution, file and function of what a trainer computes with these options."""
    found = trainers.parse(words)
    file, _, name = found.where.partition(":")
    return trainers.get(found.trainer).package, file, name


def _twin(words: str) -> str:
    """The estimator of the same numbers."""
    return gradients.get(trainers.parse(words).combination).estimator


def _verl(kind: str) -> Peer:
    words = f"verl kl_loss_type={kind}"

    def make() -> Two:
        penalty = function(*_where(words))
        return lambda log_q, log_p: penalty(log_q, log_p, kind)

    return Peer(VERL, f"kl_penalty {kind}", make, _twin(words))


def _openrlhf(kind: str) -> Peer:
    words = f"openrlhf use_loss=true kl.estimator={kind}"

    def make() -> Two:
        approx = function(*_where(words))
        return lambda log_q, log_p: approx(log_q, log_p, kl_estimator=kind)

    return Peer(OPENRLHF, f"compute_approx_kl {kind}", make, _twin(words))


def _trl_k3() -> Two:
    return expression(
        *_where("trl_grpo"), "per_token_kl", ("per_token_logps", "ref_per_token_logps")
    )


def _liger_k3() -> Two:
    distribution, file, _ = _where("liger")
    k3 = function(distribution, file, "k3_loss_fn")
    return lambda log_q, log_p: k3(log_p, log_q)


def _tokens(logits: Tensor) -> Tensor:
    """The tokens whose log-probability is asked for.

    Of the 8 first, one a row, so that a masked one is never asked for.
    """
    return torch.arange(len(logits), device=logits.device) % 8


def _log_prob(distribution: str, file: str, name: str) -> Callable[[], Two]:
    def make() -> Two:
        log_prob = function(distribution, file, name)
        return lambda policy, _: log_prob(policy, _tokens(policy))

    return make


def _categorical_log_prob() -> Two:
    made: Any = Categorical  # without types of its own
    return lambda policy, _: made(logits=policy, validate_args=False).log_prob(_tokens(policy))


def _categorical_kl() -> Two:
    def kl(policy: Tensor, reference: Tensor) -> Any:
        return kl_divergence(
            Categorical(logits=policy, validate_args=False),
            Categorical(logits=reference, validate_args=False),
        )

    return kl


def _scipy_kl() -> Two:
    """``rel_entr`` has no gradient: it is NumPy's."""

    def kl(policy: Tensor, reference: Tensor) -> Tensor:
        q, p = (each.detach().float().softmax(-1).numpy() for each in (policy, reference))
        return torch.from_numpy(rel_entr(q, p).sum(-1))

    return kl


def _kernel(result: str) -> Callable[[], Two]:
    return lambda: (
        lambda policy, reference: getattr(
            token_divergences(policy, reference, _tokens(policy)), result
        )
    )


def _js(policy: Tensor, reference: Tensor) -> Any:
    """``sum of q gap(log p/q)``, a sum over the vocabulary.

    Where both are 0 there is nothing to add.
    """
    log_q, log_p = (
        x.double().log_softmax(-1) if x.dtype.itemsize == 8 else x.float().log_softmax(-1)
        for x in (policy, reference)
    )
    absent = log_q.isneginf() & log_p.isneginf()
    log_q, log_p = log_q.masked_fill(absent, 0.0), log_p.masked_fill(absent, 0.0)
    gap = divergences.get("js").gap(Draws(log_p - log_q))
    return (log_q.exp() * gap).masked_fill(absent, 0.0).sum(-1)


def _liger_js() -> Two:
    loss = function(
        LIGER,
        "liger_kernel/chunked_loss/jsd_loss.py",
        "LigerFusedLinearJSDFunction.distillation_loss_fn",
    )

    def js(policy: Tensor, reference: Tensor) -> Any:
        return torch.stack(
            [loss(q[None], p[None]) for q, p in zip(policy, reference, strict=True)]
        )  # it sums over rows

    return js


def _exact_kl(policy: Tensor, reference: Tensor) -> Any:
    return token_divergences(policy, reference, _tokens(policy), kernel="reference").kl_qp


SUBJECTS = (
    Subject(
        "k1",
        "log-probs",
        _ours("k1")(),
        (
            Peer(HERE, "k1", _ours("k1")),
            _verl("k1"),
            _openrlhf("k1"),
        ),
    ),
    Subject(
        "k2",
        "log-probs",
        _ours("k2")(),
        (
            Peer(HERE, "k2", _ours("k2")),
            _verl("k2"),
            _openrlhf("k2"),
        ),
    ),
    Subject(
        "k3",
        "log-probs",
        _ours("k3")(),
        (
            Peer(HERE, "k3", _ours("k3")),
            Peer(TRL, "GRPO per_token_kl", _trl_k3, _twin("trl_grpo")),
            _verl("k3"),
            _openrlhf("k3"),
            Peer(LIGER, "k3_loss_fn", _liger_k3, _twin("liger")),
        ),
    ),
    Subject(
        "log-probability",
        "logits",
        lambda q, p: q.log_softmax(-1).gather(-1, _tokens(q)[:, None])[:, 0],
        (
            Peer(HERE, "token_divergences", _kernel("log_q")),
            Peer(
                TRL,
                "selective_log_softmax",
                _log_prob(TRL, "trl/trainer/utils.py", "selective_log_softmax"),
            ),
            Peer(
                VERL,
                "logprobs_from_logits",
                _log_prob(VERL, "verl/utils/torch_functional.py", "logprobs_from_logits"),
            ),
            Peer("torch", "distributions.Categorical", _categorical_log_prob),
        ),
    ),
    Subject(
        "KL(q‖p)",
        "logits",
        _exact_kl,
        (
            Peer(HERE, "token_divergences", _kernel("kl_qp")),
            Peer("torch", "distributions.kl_divergence", _categorical_kl),
            Peer("scipy", "special.rel_entr", _scipy_kl),
        ),
    ),
    Subject(
        "Jensen-Shannon",
        "logits",
        _js,
        (
            Peer(HERE, "divergences js", lambda: _js),
            Peer(LIGER, "chunked JSD", _liger_js),
        ),
    ),
)

REGIMES = {
    "log-probs": ("near", "usual", "far", "extreme"),
    "logits": ("near", "usual", "far", "masked"),
}
SPREADS = {"near": 1e-3, "usual": 0.3, "far": 3.0, "masked": 0.3}
EXTREMES = (-199.0, -100.0, -50.0, -15.0, 15.0, 50.0, 80.0, 100.0, 199.0)
"""Log-ratios of the last regime, in nats."""


def inputs(
    kind: str, regime: str, shape: tuple[int, ...], seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return both inputs of a subject, float64, with the log-ratio's spread that the regime
    stands for.
    """
    stream = streams.generator(seed, "peers", kind, regime)
    if kind == "logits":
        policy = 3.0 * stream.standard_normal(shape)
        reference = policy + SPREADS[regime] * stream.standard_normal(shape)
        if regime == "masked":
            policy[:, 8::10] = reference[:, 8::10] = -np.inf
        return policy, reference
    extreme = regime == "extreme"
    log_ratio = (
        np.resize(EXTREMES, shape) if extreme else SPREADS[regime] * stream.standard_normal(shape)
    )
    log_q = -stream.exponential(1.5, shape) - np.maximum(log_ratio, 0.0)  # so that log p is below 0
    return log_q, log_q + log_ratio
