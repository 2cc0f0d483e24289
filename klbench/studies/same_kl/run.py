"""Pairs with the same KL(q‖p) and another shape.

Chi-squared against 2J says who wins, the KL does not.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pandas as pd
from scipy.optimize import brentq

from klbench import estimators, gradients, pairs, streams
from klbench.context import Context
from klbench.gradients import exact
from klbench.pairs import Pair
from klbench.pairs.categorical import normalized
from klbench.rows import Row
from klbench.schema import Tables
from klbench.studies.gradient.rows import exactly
from klbench.studies.same_kl.columns import GRADIENTS, predicted
from klbench.studies.same_kl.options import SameKlOptions, Shape
from klbench.study import Summary
from klbench.types import ConfigError, Skip


def _two_levels(mass: float, size: int, at_one: bool) -> np.ndarray:
    """Log-probabilities: ``mass`` on the first category, or shared by the first half.

    The rest shared by the others.
    """
    first = 1 if at_one else size // 2
    probabilities = np.concatenate(
        [np.full(first, mass / first), np.full(size - first, (1 - mass) / (size - first))]
    )
    return np.log(probabilities)


def _families(
    options: SameKlOptions, seed: int
) -> dict[Shape, tuple[Callable[[float], tuple[np.ndarray, np.ndarray]], float]]:
    """Return, for each shape, a function from strength to ``(log q, log p)``, and the largest
    strength that makes sense.
    """
    stream = streams.generator(seed, "same_kl", options.size)
    p = normalized(stream.standard_normal(options.size))
    noise = stream.standard_normal(options.size)
    ramp = np.linspace(-1.0, 1.0, options.size)
    size, depth, rarity = options.size, options.depth, options.rarity

    def hole(mass: float) -> tuple[np.ndarray, np.ndarray]:
        return _two_levels(depth * mass, size, False), _two_levels(mass, size, False)

    def spike(mass: float) -> tuple[np.ndarray, np.ndarray]:
        return _two_levels(rarity + mass * (1 - rarity), size, True), _two_levels(
            rarity, size, True
        )

    return {
        "tilt": (lambda s: (normalized(p + s * ramp), p), 50.0),
        "noise": (lambda s: (normalized(p + s * noise), p), 50.0),
        "sharpened": (lambda s: (normalized(p * (1 + s)), p), 50.0),
        "flattened": (lambda s: (p, normalized(p * (1 + s))), 50.0),
        "hole": (hole, 1 - 1e-9),
        "spike": (spike, 1 - 1e-9),
    }


def make_pair(shape: Shape, kl: float, options: SameKlOptions, seed: int) -> Pair:
    """The categorical pair of that shape whose ``KL(q‖p)`` is ``kl``.

    Raises
    ------
    ConfigError
        The shape cannot reach it.
    """
    family, limit = _families(options, seed)[shape]

    def excess(log_strength: float) -> float:
        log_q, log_p = family(math.exp(log_strength))
        return float(np.exp(log_q) @ (log_q - log_p)) - kl

    high = math.log(limit)
    if excess(high) < 0.0:
        raise ConfigError(
            f"kls={kl:g}: the shape {shape} reaches {excess(high) + kl:.3g} at most here"
        )
    log_q, log_p = family(math.exp(brentq(excess, -25.0, high, xtol=1e-14, rtol=1e-14)))
    sides = {"q": {"logits": log_q.tolist()}, "p": {"logits": log_p.tolist()}}
    return pairs.get("categorical").model_validate(sides | {"label": f"{shape}, KL={kl:g}"})


def measure(shape: Shape, pair: Pair) -> Row:
    """One task: one pair's divergences, and the noise of estimators and gradients on it."""
    task = pair.gradient_task()
    assert not isinstance(task, Skip)
    kl_qp, kl_pq, chi2 = (exactly(pair, target) for target in ("kl_qp", "kl_pq", "chi2"))
    k1, k3 = (
        each.std if each else math.nan
        for each in pair.exact([estimators.get("k1"), estimators.get("k3")])
    )
    row = {
        "pair": pair.title,
        "shape": shape,
        "kl_qp": kl_qp,
        "kl_pq": kl_pq,
        "chi2": chi2,
        "two_j": 2 * (kl_qp + kl_pq),
        "x_over_2j": chi2 / (2 * (kl_qp + kl_pq)),
        "value_std_k1": k1,
        "value_std_k3": k3,
        "value_winner": "k1" if k1 < k3 else "k3",
    }
    gradient = task.gradient("kl_qp")
    scale = float(gradient.norm())
    for name, found in zip(
        GRADIENTS, exact.all_moments([gradients.get(name) for name in GRADIENTS], task), strict=True
    ):
        row[f"gradient_rel_bias_{name}"] = float((found.mean - gradient).norm()) / scale
        row[f"gradient_rel_std_{name}"] = math.sqrt(found.variance) / scale
    return row


def run(options: SameKlOptions, context: Context) -> Tables:
    """Table ``shapes``: one row a shape and a KL."""
    made = [
        (shape, make_pair(shape, kl, options, context.seed))
        for shape in options.shapes
        for kl in sorted(options.kls)
    ]
    rows = context.collect(
        measure, [(f"{shape}, {pair.title}", (shape, pair)) for shape, pair in made], short=True
    )
    return {"shapes": predicted(pd.DataFrame(rows))} if rows else {}


def summarize(results: Tables) -> list[Summary]:
    """The shapes at the largest KL that all have."""
    table = results["shapes"]
    rows = table[np.isclose(table["kl_qp"], table.groupby("shape")["kl_qp"].max().min())]
    return [
        Summary.of(
            f"the same KL(q‖p) = {rows['kl_qp'].iloc[0]:.3g} nats in other shapes",
            ("shape", ">KL(p‖q)", ">chi2 / 2J", ">sd of k1", ">sd of k3", "less noise"),
            (
                "{shape}",
                *("{kl_pq:.3g}", "{x_over_2j:.3g}", "{value_std_k1:.3g}", "{value_std_k3:.3g}"),
                "{value_winner}",
            ),
            rows,
        )
    ]
