"""What each combination's gradient really is: its mean against the exact gradients, and its noise."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, get_args

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from klbench import gradients
from klbench.context import Context
from klbench.gradients import Baseline, Combination, Correction, Level, Placement, grid
from klbench.pairs import Pair
from klbench.studies.gradient.rows import BATCHES, TOLERANCE, described, exactly, measure
from klbench.studies.gradient.tables import judged
from klbench.study import Summary
from klbench.types import Options, Skip

if TYPE_CHECKING:
    import pandas as pd


def _differentiable(pair: Pair) -> Pair:
    task = pair.gradient_task()
    if isinstance(task, Skip):
        raise ValueError(f"{task.reason}; pairs with a policy gradient: {', '.join(_kinds())}")
    if exactly(pair, "kl_qp") == 0.0:
        raise ValueError("policy and reference are the same: there is no gradient to compare with")
    return pair


def _kinds() -> list[str]:
    from klbench import pairs

    return [name for name in pairs.names() if pairs.get(name).gradient_task is not Pair.gradient_task]


def listed(value: Any) -> Any:
    """One word or number where a list may stand is a list of one."""
    return (value,) if isinstance(value, str | int | float) else value


def _known(names: tuple[str, ...]) -> tuple[str, ...]:
    if names == ("all",):
        return tuple(gradients.names())
    seen: dict[str, str] = {}
    for name in names:
        spec = gradients.get(name).spec
        if spec in seen:
            raise ValueError(f"{seen[spec]} and {name} are the same combination")
        seen[spec] = name
    return names


Differentiable = Annotated[Pair, AfterValidator(_differentiable)]
Combinations = Annotated[tuple[str, ...], BeforeValidator(listed), Field(min_length=1), AfterValidator(_known)]
Some = (BeforeValidator(listed), Field(min_length=1))


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
    estimators: Annotated[tuple[str, ...], *Some] | None = None
    placements: Annotated[tuple[Placement, ...], *Some] | None = None
    levels: Annotated[tuple[Level, ...], *Some] | None = None
    corrections: Annotated[tuple[Correction, ...], *Some] | None = None
    baselines: Annotated[tuple[Baseline, ...], *Some] | None = None
    group: int = Field(default=8, ge=2, le=4096)
    samples: int = Field(default=65_536, le=10**9)

    @model_validator(mode="after")
    def _check(self) -> GradientOptions:
        if self.combinations is not None and self._axes != (None,) * 5:
            raise ValueError("give combinations, or estimators, placements, levels, corrections and baselines, not both")
        if self.samples < BATCHES * self.group:
            raise ValueError(
                f"samples={self.samples} must be at least {BATCHES} times group={self.group}: {BATCHES * self.group}"
            )
        if not self.chosen():
            raise ValueError("no combination of these estimators, placements, levels, corrections and baselines goes together")
        return self

    @property
    def _axes(self) -> tuple[object, ...]:
        return (self.estimators, self.placements, self.levels, self.corrections, self.baselines)

    def chosen(self) -> list[Combination]:
        """The combinations to measure."""
        if self._axes == (None,) * 5:
            return [gradients.get(name) for name in self.combinations or gradients.names()]
        return list(
            grid(
                self.estimators or ("k1", "k2", "k3"),
                self.placements or get_args(Placement),
                self.levels or get_args(Level),
                self.corrections or ("none",),
                self.baselines or ("none",),
            )
        )


ORDER = (
    "pair", "combination", "estimator", "placement", "level", "correction", "baseline", "staleness", "rel_bias", "rel_bias_se",
    "cosine", "variance", "variance_se", "rel_std", "matches", "claim", "unbiased_claim", "method", "status",
)  # fmt: skip


def combinations_table(chosen: Sequence[Combination]) -> pd.DataFrame:
    """One row a combination: what it is and who uses it."""
    import pandas as pd

    return pd.DataFrame(
        [
            described(each)
            | {
                "aliases": ", ".join(each.aliases), "used_by": each.used_by,
                "called_unbiased_by": each.called_unbiased_by, "claim": each.claim or "",
                "off_policy": each.off_policy, "one_token": each.one_token or "", "source": each.source,
            }
            for each in chosen
        ]
    )  # fmt: skip


def typed(names: Sequence[str] | None) -> dict[str, str]:
    """Return by combination the names that were typed; none where all combinations were asked for."""
    return {} if names is None or set(names) == set(gradients.names()) else {gradients.get(name).name: name for name in names}


def run(options: GradientOptions, context: Context) -> dict[str, pd.DataFrame]:
    """Return ``gradients``, ``combinations``, ``verdicts``, ``options`` and, for policies of two parameters, ``arrows``."""
    import pandas as pd

    chosen = options.chosen()
    tasks = [(pair.title, (pair, chosen, options.group, options.samples, context.seed)) for pair in options.pairs]
    found = context.collect(measure, tasks, short=True)
    rows, arrows = ([row for part in found for row in part[k]] for k in (0, 1))
    if not rows:
        return {}
    table = pd.DataFrame(rows)
    tables = {"gradients": table[[*ORDER, *(c for c in table if c not in ORDER)]], "combinations": combinations_table(chosen)}
    return tables | judged(tables, typed(options.combinations)) | ({"arrows": pd.DataFrame(arrows)} if arrows else {})


def summarize(results: Mapping[str, pd.DataFrame]) -> list[Summary]:
    """The sequence pair that is furthest from its reference, or the pair that is."""
    table = results["gradients"]
    rows = table[table["kl_qp"] == table["kl_qp"].max()]
    return [
        Summary(
            f"{rows['pair'].iloc[0]}: expected gradient against grad KL(q‖p), and one sample's noise",
            ("combination", ">bias / exact", ">cosine", ">sd / exact", "is the gradient of", "flag"),
            [
                (row["combination"], *shown(row), "" if row["status"] == "ok" else row["status"])
                for row in rows.to_dict("records")
            ],
        )
    ]


def shown(row: Mapping[str, Any]) -> tuple[str, str, str, str]:
    """Bias, cosine, noise and what the gradient is of, in a few characters each."""
    sampled = row["method"] == "sampling" and row["matches"] not in ("", "none")
    return (
        "0" if row["rel_bias"] < TOLERANCE else f"{row['rel_bias']:.3g}",
        "" if math.isnan(row["cosine"]) else f"{row['cosine']:.3f}",
        f"{row['rel_std']:.3g}",
        ("≈ " if sampled else "") + row["matches"],
    )
