"""The forms that a function may have.

Estimators, sums over the vocabulary, and what is written in their place.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np

from klbench import divergences, estimators
from klbench.audit.batches import Batch
from klbench.gradients import EXACT
from klbench.types import ConfigError

Terms = Callable[[Batch], np.ndarray]
QP, PQ = "KL(q‖p)", "KL(p‖q)"


@dataclass(frozen=True)
class Form:
    """A function of the sampled token's log-ratio, or of both full distributions.

    Parameters
    ----------
    name
        As :mod:`klbench.estimators` has it; a formula in words where it is no estimator.
    divergence
        The symbol of the divergence it estimates; empty where it estimates none.
    terms
        A batch to terms ``(B, T)``.
    fault
        The kind of finding that it is; empty for one of the registry.
    """

    name: str
    divergence: str
    terms: Terms
    fault: str = ""
    full: bool = False
    of_ratio: Callable[[np.ndarray], np.ndarray] | None = None

    def at_level(self, level: str) -> Callable[[Batch], np.ndarray]:
        """Return the terms at a level: ``(B, T)``, or ``(B, 1)`` of whole sequences."""
        if level != "sequence" or self.of_ratio is None:
            return self.terms
        of = self.of_ratio
        return lambda batch: of(np.where(batch.mask, batch.log_ratio, 0.0).sum(-1, keepdims=True))


def _ratio(
    name: str, divergence: str, of: Callable[[np.ndarray], np.ndarray], fault: str = ""
) -> Form:
    return Form(name, divergence, lambda batch: of(batch.log_ratio), fault, of_ratio=of)


def terms_of(name: str) -> Callable[[np.ndarray], np.ndarray]:
    """Return an estimator's terms as a function of the log-ratio, float64."""
    estimator = estimators.get(name)

    def of(log_ratio: np.ndarray) -> np.ndarray:
        with np.errstate(all="ignore"):
            result: np.ndarray = estimator.terms(np.asarray(log_ratio, dtype=np.float64))
        return result

    return of


def estimator(name: str) -> Form:
    """Return the form of a registered estimator, or of the sum over the vocabulary.

    Raises
    ------
    ConfigError
        No such estimator, or one that is no function of the log-ratio alone.
    """
    for full in _full():
        if full.name == name:
            return full
    found = estimators.get(name)
    if found.needs_weight or found.batch is not None:
        raise ConfigError(
            f"estimator {name!r} is no function of one log-ratio; expected one such as k1, k2, k3,"
            f" {EXACT}"
        )
    symbol = divergences.get(found.target).symbol
    return _ratio(name, "" if found.name == "abs" else symbol, terms_of(name))


SHORTEST = (
    "k1",
    "k2",
    "k3",
    "abs",
    "bregman_kl_pq",
    "bregman_js",
    "bregman_hellinger",
    "bregman_chi2",
    "bregman_alpha:-1",
    "bregman_alpha:0.5",
    "bregman_alpha:2",
)
"""Estimators with values of their own; the names that others have for the same are longer."""


def sampled() -> Iterator[Form]:
    """Yield the forms of one log-ratio that are estimators."""
    for name in SHORTEST:
        yield estimator(name)


def _two_to_the(log_ratio: np.ndarray) -> np.ndarray:
    return np.exp2(log_ratio) - 1.0 - log_ratio


def _upside_down(name: str) -> Callable[[np.ndarray], np.ndarray]:
    of = terms_of(name)
    return lambda log_ratio: of(-log_ratio)


def wrong() -> Iterator[Form]:
    """Yield what is written in place of an estimator."""
    for name in ("k3", "bregman_kl_pq", "bregman_chi2"):
        form = f"{name} of the log-ratio the other way up"
        yield _ratio(form, "", _upside_down(name), "direction")
    yield _ratio("r log r", PQ, lambda x: np.exp(x) * x)
    yield _ratio("k3 with 2^log r for r", "", _two_to_the, "log-base")
    yield _ratio("k3 with 10^log r for r", "", lambda x: 10.0**x - 1.0 - x, "log-base")
    yield _ratio("r - log r", "", lambda x: np.exp(x) - x, "not-a-kl")
    yield _ratio("(log r)^2 / r", "", lambda x: x * x * np.exp(-x), "not-a-kl")
    yield _ratio("r - 1, whose mean is 0", "", np.expm1, "not-a-kl")
    yield _ratio("1/r - 1", "", lambda x: np.expm1(-x), "not-a-kl")
    yield _ratio("r", "", np.exp, "not-a-kl")
    yield _ratio("1/r", "", lambda x: np.exp(-x), "not-a-kl")
    yield _ratio("|r - 1|", "", lambda x: np.abs(np.expm1(x)), "not-a-kl")
    yield _ratio(
        "squared hellinger of the log-ratio the other way up",
        "",
        lambda x: 0.5 * np.expm1(-x / 2) ** 2,
        "direction",
    )
    yield _ratio("log(1 + r)", "", lambda x: np.logaddexp(0.0, x), "not-a-kl")

    def q(batch: Batch) -> np.ndarray:
        return np.exp(batch.log_q)

    def p(batch: Batch) -> np.ndarray:
        return np.exp(batch.log_p)

    own = "a term of the sum over the vocabulary, of the sampled token only"
    yield Form(f"q log(q/p), {own}", "", lambda b: q(b) * -b.log_ratio, "not-a-kl")
    yield Form(f"p log(p/q), {own}", "", lambda b: p(b) * b.log_ratio, "not-a-kl")
    yield Form(f"p log(q/p), {own}", "", lambda b: p(b) * -b.log_ratio, "not-a-kl")
    yield Form("log q, in place of a log-ratio", "", lambda b: b.log_q, "not-a-kl")
    yield Form("log p, in place of a log-ratio", "", lambda b: b.log_p, "not-a-kl")
    yield Form("q - p", "", lambda b: q(b) - p(b), "not-a-kl")
    yield Form("log p + log q", "", lambda b: b.log_p + b.log_q, "not-a-kl")
    # Fed with negative log-probabilities in mind, or the mixture of both.
    yield Form(
        "k3 with probabilities for log-probabilities",
        "",
        lambda b: np.expm1(p(b) - q(b)) - (p(b) - q(b)),
        "not-a-kl",
    )
    yield Form("(q - p)^2 / 2", "", lambda b: 0.5 * (q(b) - p(b)) ** 2, "not-a-kl")


def _sums(batch: Batch, name: str) -> np.ndarray:
    return divergences.terms(name, batch.full_q, batch.full_p).sum(-1)


MIXED = (0.1, 0.2, 0.25, 0.3, 0.4, 0.6, 0.7, 0.75, 0.8, 0.9)
"""The reference's shares of the mixtures that distillation takes the divergence to."""


def _mixed(name: str, divergence: str, of_q: float, of_p: float, share: float) -> Form:
    """Return ``of_q KL(q‖m) + of_p KL(p‖m)``, ``m`` the mixture with that share of the reference,
    over the vocabulary.
    """

    def terms(batch: Batch) -> np.ndarray:
        q, p = batch.full_q, batch.full_p
        m = np.logaddexp(q + math.log1p(-share), p + math.log(share))
        total: np.ndarray = (of_q * np.exp(q) * (q - m) + of_p * np.exp(p) * (p - m)).sum(-1)
        return total

    return Form(f"{name}:{share:g}", divergence, terms, full=True)


def _full() -> tuple[Form, ...]:
    return (
        Form(EXACT, QP, lambda b: _sums(b, "kl_qp"), full=True),
        Form(f"{EXACT}_pq", PQ, lambda b: _sums(b, "kl_pq"), full=True),
        Form("full_js", "JS(q, p)", lambda b: _sums(b, "js"), full=True),
        Form("full_jeffreys", f"{QP} + {PQ}", lambda b: _sums(b, "kl_qp+kl_pq"), full=True),
        Form("full_hellinger", "H²(q, p)", lambda b: _sums(b, "hellinger"), full=True),
        *(_mixed("full_js", f"JS_{x:g}(q, p)", 1.0 - x, x, x) for x in MIXED),
        *(_mixed("full_skew_kl", f"KL(q‖{x:g} p + {1 - x:g} q)", 1.0, 0.0, x) for x in MIXED),
        *(_mixed("full_skew_kl_pq", f"KL(p‖{x:g} p + {1 - x:g} q)", 0.0, 1.0, x) for x in MIXED),
    )


def _top(side: str, weight: str, k: int, clamped: bool, renormalized: bool) -> Form:
    def terms(batch: Batch) -> np.ndarray:
        q, p = batch.full_q, batch.full_p
        best = np.argsort(-(q if side == "q" else p), axis=-1, kind="stable")[..., :k]
        q, p = (np.take_along_axis(x, best, axis=-1) for x in (q, p))
        if renormalized:
            q, p = (x - np.logaddexp.reduce(x, axis=-1, keepdims=True) for x in (q, p))
        total: np.ndarray = (np.exp(q) * (q - p) if weight == "q" else np.exp(p) * (p - q)).sum(-1)
        return np.maximum(total, 0.0) if clamped else total

    words = f"{QP if weight == 'q' else PQ} over the {k} best tokens of {side}"
    words += ", renormalised" if renormalized else ""
    return Form(words + (", clamped at 0" if clamped else ""), "", terms, "not-a-kl", full=True)


TOP = (1, 2, 3, 4, 5, 6, 8, 10, 16, 20, 32, 50)
"""The number of tokens that truncated sums keep."""


def full() -> Iterator[Form]:
    """Yield the forms of both full distributions."""
    yield from _full()
    yield Form(
        "minus KL(p‖q)",
        "",
        lambda b: (np.exp(b.full_p) * (b.full_q - b.full_p)).sum(-1),
        "sign",
        full=True,
    )
    yield Form(
        "log-ratios summed over the vocabulary",
        "",
        lambda b: (b.full_q - b.full_p).sum(-1),
        "not-a-kl",
        full=True,
    )
    yield Form(
        "k3 summed over the vocabulary without probabilities",
        "",
        lambda b: (np.expm1(b.full_p - b.full_q) - (b.full_p - b.full_q)).sum(-1),
        "not-a-kl",
        full=True,
    )
    yield Form(
        "the cross-entropy of q and p",
        "",
        lambda b: -(np.exp(b.full_q) * b.full_p).sum(-1),
        "not-a-kl",
        full=True,
    )
    yield Form(
        "the cross-entropy of p and q",
        "",
        lambda b: -(np.exp(b.full_p) * b.full_q).sum(-1),
        "not-a-kl",
        full=True,
    )
    for k in TOP:
        for side in "qp":
            for weight in "qp":
                for clamped in (False, True):
                    for renormalized in (False, True):
                        if not (clamped and renormalized):
                            yield _top(side, weight, k, clamped, renormalized)


def clamped(form: Form, clamp: dict[str, float]) -> Form:
    """Return a form that is constant beyond two log-ratios."""
    of = form.of_ratio
    assert of is not None

    def cut(log_ratio: np.ndarray) -> np.ndarray:
        inside = of(np.clip(log_ratio, clamp["low"], clamp["high"]))
        below, above = clamp.get("value_low", math.nan), clamp.get("value_high", math.nan)
        inside = np.where(log_ratio < clamp["low"], below, inside)
        return np.where(log_ratio > clamp["high"], above, inside)

    return replace(form, terms=lambda batch: cut(batch.log_ratio), of_ratio=cut)
