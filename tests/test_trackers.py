"""Trackers, by modules that note what they are told: the packages themselves are not needed."""

import importlib.util
import sys
import types

import pytest

from klbench import trackers
from klbench.types import ConfigError


@pytest.fixture
def noted(monkeypatch):
    """What a stand-in for wandb and trackio was told, in order."""
    told = []
    find_spec = importlib.util.find_spec

    class Run:
        def log(self, numbers, step):
            told.append(("log", step, numbers))

        def finish(self):
            told.append(("finish",))

    for name in ("wandb", "trackio"):
        module = types.ModuleType(name)
        module.init = lambda **given: told.append(("init", given)) or Run()
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setattr(
        importlib.util,
        "find_spec",
        lambda name: True if name in ("wandb", "trackio") else find_spec(name),
    )
    return told


@pytest.mark.parametrize("name", ["wandb", "trackio"])
def test_a_run_is_begun_told_and_ended(noted, tmp_path, name) -> None:
    tracker = trackers.start(name, tmp_path / "run", "k1_reward-seed-0", {"beta": 0.03})
    tracker.log(10, {"reward": 0.5})
    tracker.close()
    began = {
        "project": "klbench",
        "group": "run",
        "name": "run/k1_reward-seed-0",
        "config": {"beta": 0.03},
    }
    assert noted == [("init", began), ("log", 10, {"reward": 0.5}), ("finish",)]


def test_tensorboard_writes_below_the_run_folder(monkeypatch, tmp_path) -> None:
    told = []

    class Writer:
        def __init__(self, folder):
            told.append(folder)

        def add_scalar(self, key, value, step):
            told.append((key, value, step))

        def close(self):
            told.append("closed")

    module = types.ModuleType("torch.utils.tensorboard")
    module.SummaryWriter = Writer
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", module)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: True)
    tracker = trackers.start("tensorboard", tmp_path, "none-seed-1", {})
    tracker.log(2, {"kl": 1.0, "reward": 0.5})
    tracker.close()
    assert told == [
        str(tmp_path / "tensorboard" / "none-seed-1"),
        ("kl", 1.0, 2),
        ("reward", 0.5, 2),
        "closed",
    ]


def test_none_tells_nobody(noted, tmp_path) -> None:
    tracker = trackers.start("none", tmp_path, "run", {})
    tracker.log(1, {"kl": 1.0})
    tracker.close()
    assert noted == []
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["tensorboard", "wandb", "trackio"])
def test_a_package_that_is_missing_is_one_line_with_its_extra(monkeypatch, name) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError) as error:
        trackers.check(name)
    assert (
        str(error.value)
        == f"tracker={name!r}: {name} is not installed here; pip install 'klbench[{name}]'"
    )
