"""Recorded rollouts: one content in every shape is read as the same numbers."""

import pickle

import numpy as np
import pytest
from shapes import WRITERS, rollouts

from klbench.rollouts.batches import Batch, read

OLD_IS_POLICY = {"verl", "nemo_rl"}
"""Shapes without log-probabilities of later than the sampling."""
WITHOUT_IDS = {"openai_completions", "token_logprob", "nested_parquet", "nulls", "lengths_only"}
ROWS = rollouts()


def counted(batches: list[Batch], role: str) -> list[list[float]]:
    """What counts of each rollout."""
    result = []
    for batch in batches:
        column = batch.tokens if role == "tokens" else batch.columns[role]
        for a, b in zip(batch.offsets[:-1], batch.offsets[1:], strict=True):
            result.append(column[a:b][batch.mask[a:b]].tolist())
    return result


@pytest.mark.parametrize("tokens", [16, 2**20])
@pytest.mark.parametrize("shape", WRITERS)
def test_every_shape_is_read_as_the_same_numbers(shape, tokens, tmp_path) -> None:
    reading = pickle.loads(pickle.dumps(read(WRITERS[shape](tmp_path, ROWS))))
    batches = list(reading.batches(tokens))
    order = range(len(ROWS))
    if shape == "long_csv_shuffled":  # the order is that of the first rows
        firsts = [each for batch in batches for each in counted([batch], "policy")]
        order = [[row["policy"] for row in ROWS].index(each) for each in firsts]
        assert sorted(order) == list(range(len(ROWS)))
    policy = "old" if shape in OLD_IS_POLICY else "policy"
    for role, name in (
        ("policy", policy),
        ("sampler", "sampler"),
        ("reference", "reference"),
        ("tokens", "tokens"),
    ):
        if role in reading.columns or (role == "tokens" and shape not in WITHOUT_IDS):
            assert counted(batches, role) == [ROWS[i][name] for i in order], role
    assert {"policy", "sampler"} <= set(reading.columns)
    assert [
        message for batch in batches for message in batch.findings if shape != "vllm_prompt"
    ] == []
    if reading.columns.get("reward"):
        rewards = np.concatenate([batch.reward for batch in batches])
        assert rewards.tolist() == [ROWS[i]["reward"] for i in order]
