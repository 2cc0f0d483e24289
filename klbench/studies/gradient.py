"""What each combination's gradient really is: its mean against the exact gradients, and its noise."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, get_args

from pydantic import AfterValidator, Field, model_validator

from klbench import estimators, gradients, streams
from klbench.gradients import Combination
from klbench.gradients._combination import Baseline, Correction, Level, Placement, grid
from klbench.pairs import Pair
from klbench.studies import Context, Study, Summary, register
from klbench.types import GradientTask, Options, Skip

if TYPE_CHECKING:
    import pandas as pd
    from torch import Tensor

TOLERANCE = 1e-8
"""Relative distance below which an enumerated gradient is the exact one, up to rounding."""
SURPRISE = 5.0
"""Standard errors within which a sampled gradient is the exact one."""
BATCHES = 256


def _differentiable(pair: Pair) -> Pair:
    task = pair.gradient_task()
    if isinstance(task, Skip):
        raise ValueError(f"{task.reason}; pairs with a policy gradient: {', '.join(_kinds())}")
    return pair


def _kinds() -> list[str]:
    from klbench import pairs

    return [name for name in pairs.names() if pairs.get(name).gradient_task is not Pair.gradient_task]


def _known(names: tuple[str, ...]) -> tuple[str, ...]:
    found = [gradients.get(name) for name in names]
    specs = [each.spec for each in found]
    twice = [each.name for each, spec in zip(found, specs, strict=True) if specs.count(spec) > 1]
    if twice:
        raise ValueError(f"{' and '.join(twice)} are the same combination")
    return tuple(each.name for each in found)


Differentiable = Annotated[Pair, AfterValidator(_differentiable)]
Combinations = Annotated[tuple[str, ...], Field(min_length=1), AfterValidator(_known)]


class GradientOptions(Options):
    """Settings of the gradient study.

    Parameters
    ----------
    combinations
        Names of combinations, or ``estimator/placement/level/correction/baseline``; all that have a name where neither these
        nor the next are given.
    estimators, placements, levels, corrections, baselines
        Instead: every combination of these that goes together.
    group
        Samples of one prompt that share a baseline.
    samples
        Samples of each pair whose gradients are known neither by enumeration nor in closed form.
    """

    pairs: tuple[Differentiable, ...] = Field(min_length=1)
    combinations: Combinations | None = None
    estimators: tuple[str, ...] | None = None
    placements: tuple[Placement, ...] | None = None
    levels: tuple[Level, ...] | None = None
    corrections: tuple[Correction, ...] | None = None
    baselines: tuple[Baseline, ...] | None = None
    group: int = Field(default=8, ge=2, le=4096)
    samples: int = Field(default=65_536, ge=512, le=10**9)

    @model_validator(mode="after")
    def _some(self) -> GradientOptions:
        if not self.chosen():
            raise ValueError("no combination of these estimators, placements, levels, corrections and baselines goes together")
        return self

    def chosen(self) -> list[Combination]:
        """The combinations to measure."""
        axes = (self.estimators, self.placements, self.levels, self.corrections, self.baselines)
        if self.combinations is not None or axes == (None,) * 5:
            return [gradients.get(name) for name in self.combinations or gradients.names()]
        return list(
            grid(
                self.estimators or ("k1", "k2", "k3"),
                self.placements or get_args(Placement),
                self.levels or get_args(Level),
                self.corrections or ("none",),
                self.baselines or ("none",),
            )
        )  # fmt: skip


def candidates(task: GradientTask) -> dict[str, Tensor]:
    """What an expected gradient may turn out to be."""
    qp, pq = task.gradient("kl_qp"), task.gradient("kl_pq")
    return {"KL(q‖p)": qp, "KL(p‖q)": pq, "KL(q‖p) - KL(p‖q)": qp - pq, "0": 0.0 * qp}


def _comparison(found: Tensor, task: GradientTask) -> dict[str, Any]:
    """Distances of an expected gradient, known up to rounding, from the exact ones."""
    exact = candidates(task)
    scale = float(exact["KL(q‖p)"].norm())
    distances = {name: float((found - each).norm()) / scale for name, each in exact.items()}
    matching = [name for name, distance in distances.items() if distance < TOLERANCE]
    return {
        "rel_bias": distances["KL(q‖p)"], "rel_bias_se": 0.0, "rel_bias_pq": distances["KL(p‖q)"],
        "matches": " = ".join(matching) or "none",
    }  # fmt: skip


def _noisy_comparison(found: Any, task: GradientTask) -> dict[str, Any]:
    """The same for sampled gradients: the distances without the noise's share, and matches within 5 standard errors."""
    exact = candidates(task)
    scale = float(exact["KL(q‖p)"].norm())
    squares = {name: found.squared_distance(each) for name, each in exact.items()}
    matching = [name for name, (value, _, null_se) in squares.items() if value <= SURPRISE * null_se]
    square, se, _ = squares["KL(q‖p)"]
    bias = math.sqrt(max(square, 0.0))
    return {
        "rel_bias": bias / scale, "rel_bias_se": (se / (2 * bias) if bias**2 > 2 * se else math.sqrt(se)) / scale,
        "rel_bias_pq": math.sqrt(max(squares["KL(p‖q)"][0], 0.0)) / scale, "matches": " = ".join(matching) or "none",
    }  # fmt: skip


def _row(mean: Tensor, variance: float, total: float | None, task: GradientTask) -> dict[str, Any]:
    exact = task.gradient("kl_qp")
    scale, norm = float(exact.norm()), float(mean.norm())
    # The mean of what has mean zero is rounding, and has no direction.
    direction = float(mean @ exact) / (norm * scale) if norm > TOLERANCE * scale else math.nan
    return {
        "cosine": direction, "norm_ratio": norm / scale, "variance": variance, "rel_std": math.sqrt(max(variance, 0.0)) / scale,
        "total_rel_std": math.nan if total is None else math.sqrt(max(total, 0.0)) / scale,
        "snr": norm / math.sqrt(variance) if variance > 0 else math.inf,
    }  # fmt: skip


def _status(row: Mapping[str, Any], claim: str | None) -> str:
    if not math.isfinite(row["variance"]):
        return "infinite variance"
    if claim is None or claim == "biased":
        return "ok"
    promised = claim.removeprefix("grad ").replace(" - grad ", " - ")
    return "ok" if promised in row["matches"].split(" = ") else "claim broken"


def _described(combination: Combination) -> dict[str, Any]:
    return {
        "combination": combination.name, "estimator": combination.estimator, "placement": combination.placement,
        "level": combination.level, "correction": combination.correction, "ratio_gradient": combination.ratio_gradient,
        "baseline": combination.baseline, "gradient_of": combination.gradient_of,
    }  # fmt: skip


def measure(
    pair: Pair, chosen: Sequence[Combination], group: int, samples: int, seed: int
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """One task: rows of ``gradients`` and of ``arrows`` for one pair."""
    task = pair.gradient_task()
    assert not isinstance(task, Skip)
    truths = {target: pair.truth(target) for target in ("kl_qp", "kl_pq")}
    shared = {"pair": pair.title, "series": pair.series, "staleness": task.staleness}
    shared |= {target: math.nan if truth is None else truth.value for target, truth in truths.items()}
    rows, arrows = [], []
    for combination, (mean, row) in zip(chosen, _measured(pair, task, chosen, group, samples, seed), strict=True):
        bias = row["rel_bias"] * float(task.gradient("kl_qp").norm()) if row["rel_bias"] > TOLERANCE else 0.0
        claim = combination.claimed(tokens=task.tokens, stale=task.staleness > 0.0)
        row |= {
            "balance_batch": row["variance"] / bias**2 if bias else math.inf,
            "claim": claim or "", "unbiased_claim": claim == "grad KL(q‖p)", "status": _status(row, claim),
        }  # fmt: skip
        rows.append(shared | _described(combination) | row)
        arrows.append(shared | _described(combination) | _components(mean))
    arrows += [shared | {"combination": f"exact {name}"} | _components(each) for name, each in candidates(task).items()]
    return rows, arrows if task.parameters == 2 else []


def _components(vector: Tensor) -> dict[str, float]:
    return {"first": float(vector[0]), "second": float(vector[-1])}


def _measured(
    pair: Pair, task: GradientTask, chosen: Sequence[Combination], group: int, samples: int, seed: int
) -> list[tuple[Tensor, dict[str, Any]]]:
    """Mean gradient of each combination and what is to be said of it: by enumeration, in closed form, or from samples."""
    from klbench.gradients import closed, exact, sampled

    known: Sequence[exact.GradientMoments | None]
    if task.atoms() is not None:
        method, known = "enumeration", exact.all_moments(chosen, task, group)
    else:
        method, known = "closed-form", [closed.moments(each, task) for each in chosen]
    size = group * max(1, samples // (BATCHES * group))
    unknown = [each for each, moments in zip(chosen, known, strict=True) if moments is None]
    stream = streams.generator(seed, "gradient", pair.title)
    drawn = iter(sampled.sample(unknown, task, stream, BATCHES, size, group) if unknown else ())
    result = []
    for combination, moments in zip(chosen, known, strict=True):
        if moments is not None:
            row = _row(moments.mean, moments.variance, moments.total_variance, task) | _comparison(moments.mean, task)
            result.append((moments.mean, row | {"variance_se": 0.0, "method": method, "samples": 0}))
        else:
            found = next(drawn)
            variance = found.variance if _finite_variance(pair, combination) else math.inf
            row = _row(found.mean, variance, None, task) | _noisy_comparison(found, task)
            row |= {"variance_se": found.variance_se, "method": "sampling", "samples": BATCHES * size}
            result.append((found.mean, row))
    return result


def _finite_variance(pair: Pair, combination: Combination) -> bool:
    """Whether the gradient's coefficient, which grows like the estimator's terms, has a finite second moment."""
    names = {combination.estimator, combination.gradient_of or combination.estimator} - {gradients.EXACT}
    return all(pair.finite_second_moment(estimators.get(name)) for name in names)


ORDER = (
    "pair", "combination", "estimator", "placement", "level", "correction", "baseline", "staleness", "rel_bias", "rel_bias_se",
    "cosine", "variance", "variance_se", "rel_std", "matches", "claim", "unbiased_claim", "method", "status",
)  # fmt: skip


def combinations_table(chosen: Sequence[Combination]) -> pd.DataFrame:
    """One row a combination: what it is and who uses it."""
    import pandas as pd

    return pd.DataFrame(
        [
            _described(each)
            | {
                "aliases": ", ".join(each.aliases), "used_by": each.used_by, "claim": each.claim or "",
                "off_policy": each.off_policy, "one_token": each.one_token or "", "source": each.source,
            }
            for each in chosen
        ]
    )  # fmt: skip


def run(options: GradientOptions, context: Context) -> dict[str, pd.DataFrame]:
    """Tables ``gradients``, ``combinations`` and, for policies of two parameters, ``arrows``."""
    import pandas as pd

    chosen = options.chosen()
    tasks = ((pair, chosen, options.group, options.samples, context.seed) for pair in options.pairs)
    rows: list[dict[str, Any]] = []
    arrows: list[dict[str, Any]] = []
    try:
        for done, (more, drawn) in enumerate(context.map(measure, tasks), 1):
            rows += more
            arrows += drawn
            context.progress(done, len(options.pairs), more[0]["pair"])
    except KeyboardInterrupt:
        context.interrupted = True
    if not rows:
        return {}
    table = pd.DataFrame(rows)
    tables = {"gradients": table[[*ORDER, *(c for c in table if c not in ORDER)]], "combinations": combinations_table(chosen)}
    return tables | ({"arrows": pd.DataFrame(arrows)} if arrows else {})


def summarize(results: Mapping[str, pd.DataFrame]) -> list[Summary]:
    """The sequence pair that is furthest from its reference, or the pair that is."""
    table = results["gradients"]
    rows = table[table["kl_qp"] == table["kl_qp"].max()]
    return [
        Summary(
            f"{rows['pair'].iloc[0]}: expected gradient against grad KL(q‖p), and one sample's noise",
            ("combination", ">bias / exact", ">cosine", ">sd / exact", "is the gradient of", "flag"),
            [
                (
                    row["combination"], _share(row["rel_bias"]), "" if math.isnan(row["cosine"]) else f"{row['cosine']:.3f}",
                    f"{row['rel_std']:.3g}", row["matches"], "" if row["status"] == "ok" else row["status"],
                )
                for row in rows.to_dict("records")
            ],
        )
    ]  # fmt: skip


def _share(value: float) -> str:
    return "0" if value < TOLERANCE else f"{value:.3g}"


register(Study("gradient", "what each combination's gradient is, against the exact ones", GradientOptions, run, summarize))
