"""What a sampler that lags behind the policy does to each gradient, and what each correction costs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field, ValidationError, model_validator

from klbench import gradients
from klbench.context import Context
from klbench.gradients import Combination
from klbench.pairs import Pair
from klbench.pairs.sequence import SequencePair
from klbench.studies.gradient.rows import measure
from klbench.studies.gradient.run import Combinations, Differentiable, combinations_table, listed, shown, typed
from klbench.studies.staleness.tables import corrections
from klbench.study import Summary
from klbench.types import Options, Skip

if TYPE_CHECKING:
    import pandas as pd


def _can_lag(pair: Pair) -> Pair:
    if not isinstance(pair, SequencePair):
        raise ValueError(f"{pair.kind} pairs have no lag; staleness is measured on pair=sequence")
    if pair.lag:
        raise ValueError("its lag is set by lags=[...], which has several")
    return pair


def _behind(pair: Pair, lag: float) -> Pair:
    """The same pair with a sampler that lags; a new one, since a copy would keep what was cached."""
    fields = {name: getattr(pair, name) for name in type(pair).model_fields}
    return type(pair)(**fields | {"lag": lag, "label": pair.title})


class StalenessOptions(Options):
    """Settings of the staleness study.

    Parameters
    ----------
    lags
        ``KL(q‖mu)`` in nats of the policy from the sampler; each pair is measured at each of them.
    group
        Samples of one prompt that share a baseline.
    """

    pairs: tuple[Annotated[Differentiable, AfterValidator(_can_lag)], ...] = Field(min_length=1)
    lags: Annotated[tuple[Annotated[float, Field(ge=0.0)], ...], BeforeValidator(listed), Field(min_length=1)] = (
        0.0, 0.01, 0.03, 0.1, 0.3,
    )  # fmt: skip
    combinations: Combinations = (
        "k1_reward", "k1_reward_token_ratio", "k1_reward_truncated_ratio", "k1/reward_to_go/token/prefix_ratio",
        "k1_reward_sequence_ratio", "k1/reward/sequence/truncated_ratio", "k1_prefix_ratio_loss", "k2_sequence_loss",
        "k3_loss", "k3_plus", "k3_ratio_loss", "openrlhf_unbiased_gradient", "k3_sequence_ratio_loss", "full_loss",
        "full_with_score", "full_with_score_sequence_ratio",
    )  # fmt: skip
    group: int = Field(default=8, ge=2, le=4096)

    @model_validator(mode="after")
    def _within_reach(self) -> StalenessOptions:
        for pair in self.pairs:
            for lag in self.lags:
                try:
                    _behind(pair, lag)
                except ValidationError as error:
                    raise ValueError(error.errors()[0]["msg"].removeprefix("Value error, ")) from None
        return self


def effective_sample_size(pair: Pair) -> dict[str, float]:
    """``1 / E_mu[w^2]``: of the weights of whole sequences, and of single tokens; the mean over prompts."""
    task = pair.gradient_task()
    assert not isinstance(task, Skip)
    prompts = task.atoms()
    assert prompts is not None
    whole, token = [], []
    for atoms in prompts:
        p, rollouts = atoms.probability, atoms.rollouts
        log_weight = rollouts.log_q - rollouts.log_mu
        whole.append(1.0 / float(p @ (2.0 * log_weight.sum(-1)).exp()))
        reached = p[:, None] * rollouts.mask
        token.append(float(reached.sum() / (reached * (2.0 * log_weight).exp()).sum()))
    return {"ess": sum(whole) / len(whole), "ess_token": sum(token) / len(token)}


def measure_lag(pair: Pair, lag: float, chosen: Sequence[Combination], group: int, seed: int) -> list[dict[str, Any]]:
    """One task: one pair at one lag."""
    stale = _behind(pair, lag)
    rows, _ = measure(stale, chosen, group, 0, seed)
    sizes = effective_sample_size(stale)
    return [row | sizes for row in rows]


def run(options: StalenessOptions, context: Context) -> dict[str, pd.DataFrame]:
    """Return tables ``staleness``, ``corrections`` and ``combinations``."""
    import pandas as pd

    chosen = [gradients.get(name) for name in options.combinations]
    tasks = [
        (f"lag {lag:g} of {pair.title}", (pair, lag, chosen, options.group, context.seed))
        for pair in options.pairs
        for lag in sorted(set(options.lags))
    ]
    rows = [row for more in context.collect(measure_lag, tasks, short=True) for row in more]
    if not rows:
        return {}
    table = pd.DataFrame(rows).drop(columns=["total_rel_std"])
    found = corrections(table, typed(options.combinations))
    return {"staleness": table, "corrections": found, "combinations": combinations_table(chosen)}


def summarize(results: Mapping[str, pd.DataFrame]) -> list[Summary]:
    """The first pair at its largest lag."""
    table = results["staleness"]
    first = table.iloc[0]
    rows = table[(table["pair"] == first["pair"]) & (table["series"] == first["series"])]
    rows = rows[rows["staleness"] == rows["staleness"].max()]
    first = rows.iloc[0]
    return [
        Summary(
            f"{first['pair']}: sampler {first['staleness']:g} nats behind, effective sample size {first['ess']:.0%}",
            ("combination", ">bias / exact", ">cosine", ">sd / exact", "is the gradient of"),
            [(row["combination"], *shown(row)) for row in rows.to_dict("records")],
        )
    ]
