"""Rounding error of estimators near r = 1 and far from it.

As written and as computed here, in each dtype.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import mpmath
import numpy as np
import pandas as pd
import torch

from klbench import divergences, streams
from klbench.context import Context
from klbench.estimators.bregman import bregman
from klbench.rows import Row
from klbench.schema import Tables
from klbench.studies.precision.columns import judged
from klbench.studies.precision.options import Name, PrecisionOptions

DIGITS = 60

GENERATORS: dict[Name, str] = {
    "k3": "kl_qp",
    "bregman_kl_pq": "kl_pq",
    "bregman_js": "js",
    "bregman_hellinger": "hellinger",
    "bregman_chi2": "chi2",
}


def _exact(name: str, log_ratio: float) -> tuple[Any, Any]:
    """The Bregman gap and its derivative with respect to the log-ratio, in multiple precision."""
    ell = mpmath.mpf(log_ratio)
    r = mpmath.exp(ell)
    formulas: Mapping[str, Callable[[], tuple[Any, Any]]] = {
        "kl_qp": lambda: (r - 1 - ell, r - 1),
        "kl_pq": lambda: (r * ell - r + 1, r * ell),
        "js": lambda: (
            (r * ell - (1 + r) * mpmath.log((1 + r) / 2)) / 2,
            r * (ell - mpmath.log((1 + r) / 2)) / 2,
        ),
        "hellinger": lambda: ((mpmath.sqrt(r) - 1) ** 2 / 2, (r - mpmath.sqrt(r)) / 2),
        "chi2": lambda: ((r - 1) ** 2, 2 * (r - 1) * r),
    }
    return formulas[name]()


def _variants(name: str) -> dict[str, Callable[[Any], Any]]:
    divergence = divergences.get(name)
    as_written = divergences.generator(name, divergence.f, divergence.df)

    def definition(log_ratio: Any) -> Any:
        r = torch.exp(log_ratio)
        one = torch.ones_like(r)
        return as_written.f(r) - as_written.f(one) - as_written.df(one) * (r - 1.0)

    variants = {"as written": definition, "here": bregman(divergence).terms}
    if name == "kl_qp":
        variants["as written"] = lambda ell: torch.exp(ell) - 1.0 - ell
        variants["with expm1"] = lambda ell: torch.expm1(ell) - ell
    return variants


def _points(options: PrecisionOptions, seed: int) -> list[tuple[int, int, np.ndarray]]:
    """``(decade, sign, log-ratios)``, log-uniform in each decade."""
    result = []
    for decade in range(options.smallest, options.largest):
        for sign in (-1, 1):
            stream = streams.generator(seed, "precision", decade, sign)
            result.append((decade, sign, sign * 10.0 ** (decade + stream.random(options.points))))
    return result


def _measure(
    variant: Callable[[Any], Any], name: str, dtype: str, points: np.ndarray
) -> Row | None:
    """Errors of one formula at some log-ratios, after these are rounded to the dtype.

    None where the exact value overflows.
    """
    kind = getattr(torch, dtype)
    log_ratio = torch.tensor(points, dtype=torch.float64).to(kind).requires_grad_()
    terms = variant(log_ratio)
    (gradient,) = torch.autograd.grad(terms.sum(), log_ratio)
    info = torch.finfo(kind)
    errors, gradient_errors, negative = [], [], 0
    for ell, value, slope in zip(
        log_ratio.tolist(), terms.tolist(), gradient.tolist(), strict=True
    ):
        exact, exact_slope = _exact(name, ell)
        if not info.tiny < exact < info.max or not info.tiny < abs(exact_slope) < info.max:
            continue
        errors.append(float(abs((value - exact) / exact)) if np.isfinite(value) else np.inf)
        gradient_errors.append(
            float(abs((slope - exact_slope) / exact_slope)) if np.isfinite(slope) else np.inf
        )
        negative += value < 0
    if not errors:
        return None
    return {
        "points": len(errors),
        "eps": info.eps,
        "max_rel_error": max(errors),
        "median_rel_error": float(np.median(errors)),
        "max_ulp": max(errors) / info.eps,
        "max_gradient_rel_error": max(gradient_errors),
        "frac_negative": negative / len(errors),
    }


def run(options: PrecisionOptions, context: Context) -> Tables:
    """Table ``precision``: one row an estimator, variant, dtype, decade and sign."""
    mpmath.mp.dps = DIGITS
    rows = []
    decades = _points(options, context.seed)
    total = len(options.estimators) * len(options.dtypes) * len(decades)
    done = 0
    for estimator in options.estimators:
        name = GENERATORS[estimator]
        for dtype in options.dtypes:
            for decade, sign, points in decades:
                for variant, formula in _variants(name).items():
                    found = _measure(formula, name, dtype, points)
                    if found is not None:
                        key = {
                            "estimator": estimator,
                            "variant": variant,
                            "dtype": dtype,
                            "decade": decade,
                            "sign": sign,
                        }
                        rows.append(key | {"log_ratio": sign * 10.0 ** (decade + 0.5)} | found)
                done += 1
                context.progress(done, total, f"{estimator} {dtype}")
    return {"precision": judged(pd.DataFrame(rows))}
