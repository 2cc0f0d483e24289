"""What the reader takes each column for, and what it says of what is odd."""

import ast
import json
import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from shapes import jsonl, rollouts

from klbench.rollouts.batches import read
from klbench.trainers.installed import MissingError, function, module
from klbench.types import ConfigError
from klbench.workers import on_processes

ROW = {"logprobs": [-1.0, -2.0, -0.5], "rollout_logprobs": [-1.1, -1.9, -0.5]}


def one(path: Path):
    (batch,) = read(path).batches()
    return batch


def sizes(reading) -> list[int]:
    return [size for batch in reading.batches() for size in np.diff(batch.offsets)]


@pytest.mark.parametrize(
    ("names", "roles"),
    [
        (
            (
                "per_token_logps",
                "old_per_token_logps",
                "sampling_per_token_logps",
                "ref_per_token_logps",
            ),
            "policy old sampler reference",
        ),
        (("old_log_probs", "rollout_log_probs", "ref_log_prob"), "policy sampler reference"),
        (("log_probs", "old_log_probs"), "policy sampler"),
        (("old_logprobs", "ref_logprobs"), "policy reference"),
        (
            ("action_log_probs", "base_action_log_probs", "rollout_log_probs"),
            "policy reference sampler",
        ),
        (
            ("prev_logprobs", "generation_logprobs", "reference_policy_logprobs"),
            "policy sampler reference",
        ),
        (("trainer_logprobs", "inference_logprobs"), "policy sampler"),
        (("trainer_logprobs", "logprobs"), "policy sampler"),
        (("logprobs", "ref_logprobs", "kl"), "policy reference kl"),
        (("Logprobs", "REF-logprobs"), "policy reference"),
        (("info.logprobs", "extra.data.sampling_logprobs"), "policy sampler"),
    ],
)
def test_columns_are_known_by_the_names_that_trainers_give_them(tmp_path, names, roles) -> None:
    row = {}
    for i, name in enumerate(names):
        *outer, last = name.split(".")
        inner = row
        for key in outer:
            inner = inner.setdefault(key, {})
        inner[last] = [-1.0 - i, -2.0]
    reading = read(jsonl(tmp_path / "r.jsonl", [row] * 3))
    assert dict(reading.columns) == dict(zip(roles.split(), names, strict=True))
    (batch,) = reading.batches()
    for i, role in enumerate(roles.split()):
        assert batch.columns[role].tolist() == [-1.0 - i, -2.0] * 3


def test_old_stands_for_what_is_missing_and_says_so(tmp_path) -> None:
    reading = read(jsonl(tmp_path / "a.jsonl", [{"log_probs": [-1.0], "old_log_probs": [-2.0]}]))
    assert reading.notes == ("sampler is old_log_probs, the trainer's own: no engine's are there",)
    reading = read(jsonl(tmp_path / "b.jsonl", [{"old_log_probs": [-1.0], "ref_log_prob": [-2.0]}]))
    assert reading.notes == (
        "policy is old_log_probs, of when it sampled: no later ones are there",
    )


def test_a_mapping_comes_first(tmp_path) -> None:
    row = ROW | {"a": [-3.0], "b": [-4.0], "prev_logprobs": [-5.0]}
    path = jsonl(tmp_path / "r.jsonl", [row])
    mapping = {"logprobs": "a", "sampler": "b", "old": "prev_logprobs"}
    assert dict(read(path, mapping).columns) == {
        "policy": "a",
        "sampler": "b",
        "old": "prev_logprobs",
    }


MASKS = [
    "mask",
    "response_mask",
    "completion_mask",
    "action_mask",
    "loss_mask",
    "loss_masks",
    "token_loss_mask",
    "assistant_masks",
    "attention_mask",
    "tool_mask",
]


@pytest.mark.parametrize("name", MASKS)
def test_masks_of_all_names_are_read(tmp_path, name) -> None:
    assert one(jsonl(tmp_path / "r.jsonl", [ROW | {name: [1, 1, 0]}])).mask.tolist() == [
        True,
        True,
        False,
    ]


def test_masks_are_combined_and_what_may_be_one_is_told(tmp_path) -> None:
    row = ROW | {"completion_mask": [1, 1, 0], "tool_mask": [0, 1, 1], "padding_mask": [1, 1, 1]}
    path = jsonl(tmp_path / "r.jsonl", [row, row | {"tool_mask": [1, 1, 1]}])
    assert one(path).mask.tolist() == [False, True, False, True, True, False]
    assert read(path).findings == (
        (
            "column 'padding_mask' is not read, though it may say which tokens count (--map"
            " mask=padding_mask)"
        ),
    )
    mapped = read(path, {"mask": "padding_mask"})
    assert next(iter(mapped.batches())).mask.tolist() == [False, True, True, True, True, True]
    whole = [ROW | {"sample_mask": 0.0}, ROW | {"sample_mask": 1.0}]
    assert one(jsonl(path, whole)).mask.tolist() == [False] * 3 + [True] * 3


def test_prompts_rewards_steps_and_versions_come_with_the_rollouts(tmp_path) -> None:
    chat = [{"role": "user", "content": "hello"}]
    rows = [
        ROW | {"prompt": chat, "reward": 1.5, "step": 3, "policy_version": 2},
        ROW | {"prompt": "hello", "reward": None, "step": 3, "policy_version": None},
        ROW | {"prompt": chat, "reward": -1.0, "step": 4, "policy_version": 3},
    ]
    found = one(jsonl(tmp_path / "r.jsonl", rows))
    assert found.prompt[0] == found.prompt[2] != found.prompt[1]
    np.testing.assert_array_equal(found.reward, [1.5, math.nan, -1.0])
    assert (found.step.tolist(), found.version.tolist()) == ([3, 3, 4], [2, -1, 3])
    assert found.texts is None
    per_token = one(jsonl(tmp_path / "s.jsonl", [ROW | {"token_level_scores": [0.0, 0.5, 2.0]}]))
    assert per_token.reward.tolist() == [2.5]


def test_files_are_in_the_order_of_their_steps(tmp_path) -> None:
    for step in (10, 9, 100):
        jsonl(tmp_path / f"train_data_step{step}.jsonl", [ROW] * 2)
    reading = read(tmp_path)
    assert reading.files == tuple(f"train_data_step{step}.jsonl" for step in (9, 10, 100))
    assert [batch.step.tolist() for batch in reading.batches()] == [[9, 9], [10, 10], [100, 100]]
    verl = [jsonl(tmp_path / f"{step}.jsonl", [ROW]) for step in (1, 2)]
    assert [batch.step.tolist() for batch in read(verl).batches()] == [[1], [2]]


def _counted(reading) -> tuple[str, int]:
    return reading.files[0], sum(batch.where.size for batch in reading.batches())


def test_files_are_read_by_several_processes(tmp_path) -> None:
    paths = [jsonl(tmp_path / f"step_{i}.jsonl", [ROW] * (i + 1)) for i in range(4)]
    found = list(on_processes(_counted, [(each,) for each in read(paths).parts()], 2))
    assert found == [(f"step_{i}.jsonl", i + 1) for i in range(4)]


def test_sums_are_tokens_and_pairs_take_turns(tmp_path) -> None:
    frame = pd.DataFrame({"policy_logps": [-12.3, -8.0], "reference_logps": [-12.0, -9.0]})
    reading = read(frame)
    (batch,) = reading.batches()
    assert (reading.layout, reading.paired) == ("sums", False)
    assert batch.offsets.tolist() == [0, 1, 2]
    assert batch.columns["policy"].tolist() == [-12.3, -8.0]
    names = ("chosen_logps", "rejected_logps", "ref_chosen_logps", "ref_rejected_logps")
    row = dict(zip(names, (-1.0, -2.0, -3.0, -4.0), strict=True))
    rows = [row | {"prompt": i, "chosen_rewards": 0.2, "rejected_rewards": 0.1} for i in range(2)]
    reading = read(jsonl(tmp_path / "r.jsonl", rows))
    assert (reading.layout, reading.paired) == ("sums", True)
    (batch,) = reading.batches()
    assert batch.columns["policy"].tolist() == [-1.0, -2.0, -1.0, -2.0]
    assert batch.columns["reference"].tolist() == [-3.0, -4.0, -3.0, -4.0]
    assert batch.where.tolist() == batch.prompt.tolist() == [0, 0, 1, 1]
    assert batch.reward.tolist() == [0.2, 0.1, 0.2, 0.1]
    bare = read(pd.DataFrame({"logps/chosen": [-1.0], "logps/rejected": [-2.0]}))
    assert next(iter(bare.batches())).columns["policy"].tolist() == [-1.0, -2.0]


def test_a_row_a_token_needs_an_id_or_a_position() -> None:
    frame = pd.DataFrame({"logprob": [-1.0, -2.0, -3.0], "sampler_logprob": [-1.0, -2.0, -3.0]})
    assert read(frame).layout == "sums"
    assert "--map rollout=" in read(frame).notes[-1]
    for column in ({"token_id": [5, 6, 7]}, {"token": ["a", "b", "c"]}):
        with pytest.raises(ConfigError, match="no column says which rollout it is of"):
            read(frame.assign(**column))
        assert read(frame.assign(**column, line=[0, 0, 1]), {"rollout": "line"}).layout == "tokens"
    for name, values in (("position", [0, 1, 0]), ("sample_id", ["a", "a", "b"])):
        reading = read(frame.assign(**{name: values}))
        assert reading.layout == "tokens"
        assert sizes(reading) == [2, 1]
    again = frame.assign(sample_id=[0, 0, 0], step=[1, 1, 2])  # ids begin anew with each step
    assert sizes(read(again)) == [2, 1]
    assert [step for batch in read(again).batches() for step in batch.step] == [1, 2]


ODD = [
    (
        [ROW, ROW | {"rollout_logprobs": [-1.0, -2.0]}],
        [3, 3],
        "row 2: rollout_logprobs has 2 tokens, logprobs 3",
    ),
    (
        [ROW, ROW | {"rollout_logprobs": [-1.0]}],
        [3, 0],
        "row 2: rollout_logprobs has 1 tokens, logprobs 3",
    ),
    (
        [ROW, ROW | {"rollout_logprobs": None}],
        [3, 3],
        "row 2: rollout_logprobs must be a list of numbers, got null",
    ),
    (
        [ROW, ROW | {"rollout_logprobs": "many"}],
        [3, 3],
        "row 2: rollout_logprobs must be a list of numbers, got 'many'",
    ),
    ([ROW, ROW | {"mask": [1, 1, 1]}], [3, 3], "row 1: mask has 0 tokens, logprobs 3"),
    (
        [ROW | {"mask": [1, 1, 1]}, ROW | {"mask": [1, 0.5, 1]}],
        [3, 3],
        "row 2: mask must be 0 or 1, got 0.5",
    ),
    (
        [ROW, ROW | {"logprobs": [None, None, -1.0], "rollout_logprobs": [None, None, -1.0]}],
        [3, 3],
        "row 2: a token inside has no log-probability",
    ),
    (
        [ROW | {"tokens": [1, 2, 2.5]}],
        [3],
        "row 1: tokens at token 3 is 2.5, a token id is a whole number",
    ),
    (
        [ROW, ROW | {"rollout_logprobs": [True, False, True]}],
        [3, 3],
        "row 2: rollout_logprobs must be a list of numbers, got [True, False, True]",
    ),
    (["{nope", ROW], [3], "line 1: not JSON"),
    ([ROW, [1]], [3], "line 2: expected a JSON object, got list"),
]


@pytest.mark.parametrize(("rows", "sizes", "message"), ODD, ids=[message for *_, message in ODD])
def test_what_is_odd_is_read_as_far_as_it_can_be_and_told(tmp_path, rows, sizes, message) -> None:
    path = tmp_path / "r.jsonl"
    path.write_text(
        "".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows)
    )
    found = one(path)
    assert np.diff(found.offsets).tolist() == sizes
    assert len(found.findings) == 1
    assert found.findings[0].startswith(f"r.jsonl {message}")


def test_an_empty_response_is_a_rollout_without_tokens(tmp_path) -> None:
    found = one(jsonl(tmp_path / "r.jsonl", [ROW, {name: [] for name in ROW}, ROW]))
    assert np.diff(found.offsets).tolist() == [3, 0, 3]
    assert found.findings == ()


def test_numbers_of_any_kind_are_numbers(tmp_path) -> None:
    rows = [
        {"logprobs": ["-1.5", "-2"], "rollout_logprobs": [-1, -2]},
        {"logprobs": [0.25, -math.inf], "rollout_logprobs": [math.nan, 1e300]},
    ]
    found = one(jsonl(tmp_path / "r.jsonl", rows))
    np.testing.assert_array_equal(found.columns["policy"], [-1.5, -2.0, 0.25, -math.inf])
    np.testing.assert_array_equal(found.columns["sampler"], [-1.0, -2.0, math.nan, 1e300])
    assert found.mask.all()


def test_texts_stay_where_they_are_unless_they_are_asked_for(tmp_path) -> None:
    entry = [{"token": "a", "logprob": -1.0}, {"token": "b", "logprob": -2.0}]
    path = jsonl(
        tmp_path / "r.jsonl", [{"policy_logprobs": [-1.0, -2.0], "sampler_logprobs": entry}]
    )
    assert one(path).texts is None
    (batch,) = read(path, text=True).batches()
    assert batch.texts == ["a", "b"]


def test_whether_log_probabilities_are_raw_is_said_where_the_file_says_it(tmp_path) -> None:
    rows = [ROW | {"sampling": {"logprobs_mode": "processed_logprobs"}}]
    assert read(jsonl(tmp_path / "r.jsonl", rows)).notes == (
        "sampling.logprobs_mode is processed_logprobs",
    )


def test_a_part_is_laid_where_the_mask_counts(tmp_path) -> None:
    row = {
        "logprobs": [-9.0, -1.0, -2.0, -9.0],
        "sampler_logprobs": [-1.5, -2.5],
        "loss_mask": [0, 1, 1, 0],
    }
    found = one(jsonl(tmp_path / "r.jsonl", [row]))
    assert found.columns["sampler"][found.mask].tolist() == [-1.5, -2.5]
    assert found.findings == ()


def test_memory_and_order_do_not_depend_on_the_size_of_batches(tmp_path) -> None:
    frame = pd.DataFrame([{k: row[k] for k in ("policy", "sampler")} for row in rollouts(300)])
    frame.columns = ["logprobs", "rollout_logprobs"]
    path = tmp_path / "r.parquet"
    frame.to_parquet(path, row_group_size=300)
    small, whole = (list(read(path).batches(tokens)) for tokens in (64, 2**20))
    assert len(small) > 10
    assert max(batch.mask.size for batch in small) < 200
    for role in ("policy", "sampler"):
        joined = np.concatenate([batch.columns[role] for batch in small])
        np.testing.assert_array_equal(joined, whole[0].columns[role])
    assert [row for batch in small for row in batch.where] == list(range(300))


WRONG = [
    (
        [{"prompt": "x", "completion": "y", "step": 1, "advantage": 0.1, "reward": 1.0}],
        (
            "advantage, reward). TRL's log_completions holds text and rewards:"
            " klbench.integrations.trl.watch(trainer) writes the"
        ),
    ),
    (
        [{"input": "x", "output": "y", "gts": "z", "score": 1.0, "step": 1}],
        "verl's rollout_data_dir holds text and scores",
    ),
    (
        [{"prompt": "x", "output": "y", "reward": 1.0}],
        "OpenRLHF's samples hold text and rewards: write action_log_probs",
    ),
    (
        [{"id": 1, "text": "x"}],
        (
            "Log, a row a rollout, two lists of equal length: the trainer's log-probability of each"
            " token"
        ),
    ),
    (
        [{"logprobs": [-1.0]}],
        (
            "only logprobs holds log-probabilities, and two columns are compared (columns are"
            " logprobs)"
        ),
    ),
    ([{"logprobs": [-1.0], "mu": [-1.0]}], "mu may be some: --map sampler=mu"),
    (
        [{"my_a": [-1.0, -2.0], "my_b": [-1.0, -2.5]}],
        "my_a, my_b may be some: --map policy=my_a,sampler=my_b",
    ),
    (
        [{"logprobs": [True, False], "ref_logprobs": [-1.0, -2.0]}],
        "row 1: logprobs must be a list of numbers, got [True, False]",
    ),
    (
        [{"logprobs": True, "ref_logprobs": -1.0}],
        "row 1: logprobs must be a list of numbers, got True",
    ),
    (
        [{"logprobs": ["a"], "ref_logprobs": [-1.0]}],
        "row 1: logprobs must be a list of numbers, got ['a']",
    ),
]


@pytest.mark.parametrize(("rows", "message"), WRONG, ids=[message[:40] for _, message in WRONG])
def test_a_file_without_two_columns_is_told_what_to_do(tmp_path, rows, message) -> None:
    with pytest.raises(ConfigError) as error:
        read(jsonl(tmp_path / "r.jsonl", rows))
    assert str(error.value).startswith("r.jsonl")
    assert message in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("mapping", "message"),
    [
        (
            {"polcy": "logprobs"},
            (
                "--map polcy=logprobs: no role 'polcy'; did you mean 'policy'? (roles are policy,"
                " sampler, "
            ),
        ),
        (
            {"policy": "logprob"},
            (
                "r.jsonl: --map policy=logprob: no column 'logprob'; did you mean 'logprobs'?"
                " (columns are "
            ),
        ),
        ({"policy": "text"}, "r.jsonl row 1: text must be a list of numbers, got 'abc'"),
    ],
)
def test_a_mapping_that_is_wrong(tmp_path, mapping, message) -> None:
    path = jsonl(tmp_path / "r.jsonl", [ROW | {"text": "abc"}])
    with pytest.raises(ConfigError) as error:
        read(path, mapping)
    assert str(error.value).startswith(message)


def test_a_later_file_without_the_columns_is_named(tmp_path) -> None:
    paths = [
        jsonl(tmp_path / "a.jsonl", [ROW]),
        jsonl(tmp_path / "b.jsonl", [{"logprobs": [-1.0]}]),
    ]
    with pytest.raises(
        ConfigError, match=r"b\.jsonl: no column 'rollout_logprobs', which a\.jsonl has"
    ):
        list(read(paths).batches())


def test_a_pickle_of_somebodys_objects_is_not_opened(tmp_path) -> None:
    import torch

    class Evil:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "opened",))

    torch.save({"samples": [Evil()]}, tmp_path / "r.pt")
    with pytest.raises(
        ConfigError, match=r"^r\.pt: only tensors and plain data are read from what torch saved"
    ):
        read(tmp_path / "r.pt")
    assert not (tmp_path / "opened").exists()


def test_what_verl_writes_itself_holds_no_log_probabilities_and_is_told_so(tmp_path) -> None:
    try:
        write = function(
            "verl", "verl/trainer/ppo/ray_trainer.py", "RayPPOTrainer._write_generations"
        )
    except MissingError as error:
        pytest.skip(str(error))
    write(["p"] * 2, ["c"] * 2, [None] * 2, [0.5, 1.0], {"acc": [True, False]}, str(tmp_path), 7)
    with pytest.raises(
        ConfigError,
        match=r"^7\.jsonl: holds no log-probabilities .* verl's rollout_data_dir holds text",
    ):
        read(tmp_path / "7.jsonl")


def test_openrlhf_calls_its_tensors_as_the_example_does() -> None:
    try:
        tree = module("openrlhf", "openrlhf/trainer/ppo_utils/experience.py").tree
    except MissingError as error:
        pytest.skip(str(error))
    fields = {
        ast.unparse(node.target) for node in ast.walk(tree) if isinstance(node, ast.AnnAssign)
    }
    names = {
        "action_log_probs",
        "rollout_log_probs",
        "base_action_log_probs",
        "action_mask",
        "sequences",
        "rewards",
        "kl",
    }
    assert names <= fields
