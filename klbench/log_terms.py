"""Terms of estimators in log space, where the terms themselves overflow."""

from __future__ import annotations

import numpy as np

from klbench.types import Draws, Estimator


def log_terms(estimator: Estimator, draws: Draws) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return signs and log-sizes of an estimator's terms, where the terms themselves overflow too,
    and which are doubtful.

    Where the formula overflows, the terms follow from its polynomial, or else from its growth. They
    are doubtful where the growth is not a pure power of ``r``, and no polynomial says what else is
    in it.
    """
    log_ratio = draws.log_ratio
    weighted = estimator.needs_weight
    doubtful = np.zeros(log_ratio.shape, bool)
    with np.errstate(all="ignore"):
        # Such terms are proportional to the weight, which joins in log space.
        terms = _formula(estimator, log_ratio)
        sign, size = np.sign(terms), np.log(np.abs(terms))
        far = ~np.isfinite(terms) & np.isfinite(log_ratio)
        if far.any():
            sign[far], size[far], doubtful[far] = _far_terms(estimator, log_ratio[far])
    return sign, size + draws.log_weight if weighted else size, doubtful


def _formula(estimator: Estimator, log_ratio: np.ndarray) -> np.ndarray:
    """Return the terms, but for the weight that some are proportional to."""
    terms: np.ndarray = estimator.formula(
        Draws(log_ratio, np.zeros_like(log_ratio) if estimator.needs_weight else None)
    )
    return terms


def _far_terms(
    estimator: Estimator, log_ratio: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray | bool]:
    if estimator.polynomial is not None:
        parts = [part for part in estimator.polynomial if part[0]]
        c, a, b = (np.array(column)[:, None] for column in zip(*parts, strict=True))
        size = np.log(np.abs(c)) + a * log_ratio + b * np.log(np.abs(log_ratio))
        top = size.max(axis=0)
        total = np.sum(np.sign(c) * np.sign(log_ratio) ** b * np.exp(size - top), axis=0)
        return np.sign(total), top + np.log(np.abs(total)), False
    growth = np.where(log_ratio > 0.0, estimator.growth, estimator.growth_at_zero)
    # At two places short of the overflow: between them, a pure power of r grows by no more and no
    # less than that power.
    near, nearer = (np.copysign(x / np.maximum(growth, 1.0), log_ratio) for x in (600.0, 300.0))
    terms = _formula(estimator, near)
    size = np.log(np.abs(terms))
    grown = size - np.log(np.abs(_formula(estimator, nearer)))
    pure = np.abs(grown - growth * np.abs(near - nearer)) < 1e-9
    return np.sign(terms), size + growth * np.abs(log_ratio - near), ~pure
