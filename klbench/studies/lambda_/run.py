"""The best lambda of ``-log r + lambda (r - 1)``: for the value, and for the gradient."""

from __future__ import annotations

import math

import pandas as pd

from klbench import estimators
from klbench.context import Context
from klbench.pairs import Pair
from klbench.rows import Row
from klbench.schema import Tables
from klbench.studies.gradient.rows import exactly, length, over
from klbench.studies.lambda_.columns import compared
from klbench.studies.lambda_.options import LambdaOptions
from klbench.study import Summary
from klbench.types import Skip


def measure(pair: Pair) -> Row:
    """One task: both best lambdas of one pair, and what is lost at others.

    For the value, the variance of k1 + lambda (r - 1) is least at ``J / X``. For the gradient the
    estimator is put in the loss with the sequence's ratio differentiated, which is exact for every
    lambda: the score of the sequence is multiplied by ``u + 1 - lambda``, ``u = log q/p``, so that
    lambda is a baseline; the best is ``1 + E[u ‖s‖^2] / E[‖s‖^2]``.
    """
    task = pair.gradient_task()
    assert not isinstance(task, Skip)
    prompts = task.atoms()
    assert prompts is not None
    found = []
    for atoms in prompts:
        p, rollouts = atoms.probability, atoms.rollouts
        u = (rollouts.log_q - rollouts.log_p).sum(-1)
        tokens = u.new_ones(rollouts.mask.shape)
        norm = atoms.scores.gram()[:, : task.tokens, : task.tokens].sum((1, 2))
        expected = atoms.scores.pull((p * u)[:, None] * tokens)
        found.append((p * norm, u + 1, float(expected @ expected)))
    scores, product = (
        sum(float(w.sum()) for w, _, _ in found),
        sum(float(w @ x) for w, x, _ in found),
    )
    scale = length(task.gradient("kl_qp"))

    def gradient_noise(weight: float) -> float:
        # Not from moments of u: far from the reference they cancel.
        variance = sum(float(w @ (x - weight) ** 2) - square for w, x, square in found) / len(found)
        return over(math.sqrt(max(variance, 0.0)), scale)

    kl_qp, kl_pq, chi2 = (exactly(pair, target) for target in ("kl_qp", "kl_pq", "chi2"))
    value_best, gradient_best = over(kl_qp + kl_pq, chi2), over(product, scores)
    values = pair.exact([estimators.get(name) for name in ("k1", "k3", f"k_lambda:{value_best!r}")])
    k1, k3, best = (math.nan if each is None else each.std for each in values)
    noise, best_noise = gradient_noise(value_best), gradient_noise(gradient_best)
    return {
        "pair": pair.title,
        "series": pair.series,
        "kl_qp": kl_qp,
        "kl_pq": kl_pq,
        "chi2": chi2,
        "lambda_value": value_best,
        "lambda_gradient": gradient_best,
        "value_std_k1": k1,
        "value_std_k3": k3,
        "value_std_best": best,
        "gradient_rel_std_0": gradient_noise(0.0),
        "gradient_rel_std_1": gradient_noise(1.0),
        "gradient_rel_std_value_best": noise,
        "gradient_rel_std_gradient_best": best_noise,
        "noise_lost": noise / best_noise - 1.0 if best_noise else math.nan,
    }


def run(options: LambdaOptions, context: Context) -> Tables:
    """Table ``lambda``: one row a pair."""
    rows = context.collect(measure, [(pair.title, (pair,)) for pair in options.pairs], short=True)
    return {"lambda": compared(pd.DataFrame(rows))} if rows else {}


def summarize(results: Tables) -> list[Summary]:
    """Return both lambdas of each pair."""
    return [
        Summary.of(
            "the lambda with the least noise",
            ("pair", ">KL(q‖p)", ">for the value", ">for the gradient"),
            ("{pair}", "{kl_qp:.3g}", "{lambda_value:.3f}", "{lambda_gradient:.3f}"),
            results["lambda"],
        )
    ]
