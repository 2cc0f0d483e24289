"""A line on a file without log-probabilities.

What was found, what may have been meant, what to log and how.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from klbench.rollouts import names, values
from klbench.rollouts.containers import FEW
from klbench.rollouts.names import Columns
from klbench.rollouts.sources import Source

HOW = {
    ("input", "output", "score", "step"): (
        "verl's rollout_data_dir holds text and scores: set"
        " actor_rollout_ref.rollout.calculate_log_probs=True, and write old_log_probs,"
        " rollout_log_probs and response_mask of batch.batch, a list a row"
    ),
    ("step", "prompt", "completion", "advantage"): (
        "TRL's log_completions holds text and rewards: "
        "klbench.integrations.trl.watch(trainer) writes the log-probabilities"
    ),
    (
        "tokens",
        "response_length",
        "reward",
    ): (
        "slime's samples hold rollout_log_probs where the engine returns them: "
        "--save-debug-train-data writes log_probs and ref_log_probs beside them"
    ),
    (
        "content",
        "rewards",
        "input_lengths",
    ): (
        "NeMo-RL's dump of GRPO holds generation_logprobs and prev_logprobs; this one "
        "holds text and rewards"
    ),
    (
        "prompt",
        "output",
        "reward",
    ): (
        "OpenRLHF's samples hold text and rewards: write action_log_probs, rollout_log_probs, "
        "base_action_log_probs and action_mask of each Experience, a list a row"
    ),
}
"""The advice by the columns that a trainer's own dump has."""
ANY = (
    "Log, a row a rollout, two lists of equal length: the trainer's log-probability of each token,"
    " and the engine's or the reference's"
)


def missing(source: Source, columns: Columns, findings: Sequence[str] = ()) -> str:
    """Return one line on why two columns of log-probabilities cannot be had from a file."""
    if findings:
        return findings[0]
    available = source.container.names
    have = [name for role, name in columns.roles.items() if role in names.LOG_PROBS]
    near = proposals(source, [name for name in available if name not in columns.roles.values()])
    begin = f"{source.name}: " + (
        f"only {have[0]} holds log-probabilities, and two columns are compared"
        if have
        else "holds no log-probabilities that are known by name"
    )
    if near:
        free = [role for role in ("policy", "sampler", "reference") if role not in columns.roles]
        spelled = ",".join(f"{role}={name}" for role, name in zip(free, near, strict=False))
        return (
            f"{begin}; {names.listed(near, 6)} may be some: --map {spelled} (columns are"
            f" {names.listed(available)})"
        )
    plain = {name.rsplit(".", 1)[-1] for name in available}
    how = next((said for keys, said in HOW.items() if plain >= set(keys)), ANY)
    return f"{begin} (columns are {names.listed(available)}). {how}"


def proposals(source: Source, available: Sequence[str]) -> list[str]:
    """Return the columns that could be log-probabilities.

    Lists of numbers none of which is far above 0, most of them below.
    """
    if not available:
        return []
    look = next(source.container.chunks(set(available), FEW))
    result = []
    for name in available:
        each = values.ragged(look.columns[name])
        finite = each.values[np.isfinite(each.values)]
        if finite.size and finite.max() < 0.2 and np.mean(finite < 0.0) > 0.5:
            result.append(name)
    return sorted(result, key=lambda name: "log" not in name.lower())
