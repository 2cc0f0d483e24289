"""Several processes that share one run.

The same bits, one that speaks, and an end for all when one of them fails.
"""

import json
import os
import socket
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest

from klbench import processes
from klbench.processes import Group
from klbench.types import ConfigError, Notice

RUN = (
    "exp=lm",
    "pair=lm",
    "pair.policy=embedded:finetuned-far",
    "pair.temperature=0.8",
    "pair.max_new_tokens=6",
)
SIZE = ("samples=50", "shard=8", "rescored=9", "truncations=[1,4]")
TRAINED = (
    "exp=ppo_lm",
    "combinations=[k1_reward,none]",
    "seeds=1",
    "updates=2",
    "every=1",
    "group=4",
    "prompts_each=4",
    "samples=8",
    "prompt_count=4",
    "max_new_tokens=6",
    "reward_model=true",
    "ranked_pairs=20",
    "reward_steps=2",
)
TIMED = {"throughput", "cost"}


@pytest.fixture(scope="module", autouse=True)
def lm_cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KLBENCH_CACHE", str(tmp_path_factory.mktemp("lm-cache")))
        patch.setenv("KLBENCH_EMBEDDED", "tiny")
        patch.setenv("HF_HUB_OFFLINE", "1")
        yield


@pytest.fixture(scope="module")
def rollouts(tmp_path_factory) -> Path:
    stream = np.random.default_rng(0)
    rows = [(-stream.exponential(size=5), -stream.exponential(size=5)) for _ in range(21)]
    path = tmp_path_factory.mktemp("rollouts") / "some.jsonl"
    path.write_text(
        "".join(
            json.dumps({"logprobs": q.tolist(), "ref_logprobs": p.tolist()}) + "\n" for q, p in rows
        )
    )
    return path


@pytest.fixture(scope="module")
def alone(call, rollouts, tmp_path_factory) -> Path:
    """The same runs in one process; they also build the models."""
    folder = tmp_path_factory.mktemp("alone")
    assert call(*RUN, *SIZE, "out=done", folder=folder).code == 0
    assert (
        call("exp=recorded", f"path={rollouts}", "shard=8", "out=recorded", folder=folder).code == 0
    )
    assert call(*TRAINED, "out=trained", folder=folder).code == 0
    return folder


@pytest.fixture(scope="module")
def both(alone, rollouts, tmp_path_factory) -> Path:
    """Where two processes, started by accelerate, have left their runs and ``RANK.json``."""
    folder = tmp_path_factory.mktemp("both")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    launch = [
        sys.executable,
        "-m",
        "accelerate.commands.launch",
        "--multi_gpu",
        "--num_processes",
        "2",
        "--main_process_port",
    ]
    script = [
        str(Path(__file__).with_name("two_processes.py")),
        str(folder),
        str(port % 60_000 + 1_024),
        str(rollouts),
    ]
    done = subprocess.run(
        [*launch, str(port), *script], capture_output=True, text=True, timeout=240, env=os.environ
    )
    assert done.returncode == 0, (
        done.stderr + (folder / "0.txt").read_text() + (folder / "1.txt").read_text()
    )
    return folder


def came_to(both: Path, name: str, rank: int = 0) -> dict:
    return json.loads((both / f"{rank}.json").read_text())[name]


def codes(both: Path, name: str) -> list:
    """Exit codes of both; what the main process said is shown where they are not as expected."""
    print(came_to(both, name)["err"])
    return [came_to(both, name, rank)["code"] for rank in (0, 1)]


def assert_same_tables(one: Path, other: Path) -> None:
    names = {path.stem for path in (one / "tables").glob("*.csv")}
    assert names == {path.stem for path in (other / "tables").glob("*.csv")}
    assert names & {"values", "training"}
    for name in names - TIMED:
        assert (one / "tables" / f"{name}.csv").read_bytes() == (
            other / "tables" / f"{name}.csv"
        ).read_bytes(), name


@pytest.mark.parametrize("name", ["done", "recorded", "trained"])
def test_two_processes_make_the_tables_of_one_to_the_bit(both, alone, name) -> None:
    assert codes(both, name) == [0, 0]
    assert_same_tables(both / name, alone / name)
    assert json.loads((both / name / "run.json").read_text())["processes"] == 2


def test_only_the_main_process_prints(both) -> None:
    assert (both / "1.txt").read_text() == ""
    assert came_to(both, "done")["out"].splitlines()[-1] == "done/index.html"
    assert came_to(both, "done")["err"] == ""


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("taken", "out=done: exists already; "),
        ("wrong", "shard=0: must be at least 1"),
        ("other study", "the value study cannot be shared by the 2 processes"),
        ("sweep", "-m: a sweep cannot be shared by 2 processes"),
        ("missing", "process 1 of 2: that folder is on another disk"),
    ],
)
def test_a_mistake_ends_both_with_one_line_and_leaves_nothing(both, name, line) -> None:
    assert codes(both, name) == [2, 2]
    said = came_to(both, name)["err"]
    assert said.startswith(f"klbench: {line}")
    assert said.count("\n") == 1
    assert not (both / "none").exists()


def test_a_failure_in_one_process_is_the_failure_of_all_and_main_knows_where(both) -> None:
    assert codes(both, "broken") == [1, 1]
    assert (
        "process 1 of 2: ZeroDivisionError: shard 3; see broken" in came_to(both, "broken")["err"]
    )
    assert "in breaks" in (both / "broken" / "log.txt").read_text()


def test_what_another_process_is_warned_of_is_said_once(both) -> None:
    assert came_to(both, "warned")["code"] == 0
    assert came_to(both, "warned")["err"] == "klbench: process 1 of 2: out of memory, so to say\n"
    assert "note: process 1 of 2: out of memory" in (both / "warned" / "log.txt").read_text()


def test_a_run_whose_main_process_ended_goes_on_to_the_same_bits(both, alone) -> None:
    assert codes(both, "stopped") == [1, 1]
    assert "no space left" in came_to(both, "stopped")["err"]
    assert codes(both, "resumed") == [0, 0]
    assert_same_tables(both / "stopped", alone / "done")


def test_what_is_to_be_known_is_one_line_and_in_the_log(call, monkeypatch, tmp_path) -> None:
    from klbench.studies.lm import run as lm_run

    measure = lm_run.measure_shard

    def halving(*task):
        warnings.warn(
            "out of memory with 64 sequences at a time; went on with 32", Notice, stacklevel=1
        )
        return measure(*task)

    monkeypatch.setattr(lm_run, "measure_shard", halving)
    with warnings.catch_warnings():
        warnings.simplefilter("default")
        called = call(*RUN, "samples=4", "shard=2", "rescored=0", "out=run", folder=tmp_path)
    assert called.code == 0
    assert called.err == "klbench: out of memory with 64 sequences at a time; went on with 32\n"
    assert "note: out of memory with 64" in (tmp_path / "run" / "log.txt").read_text()


def test_alone_a_group_is_nothing_but_itself() -> None:
    group = Group()
    assert group.main
    assert list(group.map(lambda a, b: a + b, [(1, 2), (3, 4)])) == [3, 7]
    assert group.from_main("x") == "x"
    with pytest.raises(KeyError):
        group.agreed(lambda: {}["a"])


@pytest.mark.parametrize(
    ("names", "says"),
    [
        (
            {"WORLD_SIZE": "2"},
            "WORLD_SIZE=2 without RANK: start several processes with accelerate launch or torchrun",
        ),
        ({"WORLD_SIZE": "2", "RANK": "0"}, "WORLD_SIZE=2 without MASTER_ADDR"),
        ({"WORLD_SIZE": "2", "RANK": "2"}, "WORLD_SIZE=2 and RANK=2: must be"),
        ({"WORLD_SIZE": "many"}, "WORLD_SIZE=many and RANK=0: must be"),
    ],
)
def test_an_environment_that_names_half_a_group(monkeypatch, names, says) -> None:
    for name in ("WORLD_SIZE", "RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    assert processes.join() == Group()
    for name, value in names.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError) as error:
        processes.join()
    assert str(error.value).startswith(says)
