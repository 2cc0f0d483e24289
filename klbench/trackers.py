"""Loggers of training's progress besides the run folder: TensorBoard, Weights & Biases, trackio.

Off by default.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from klbench.types import ConfigError

PROJECT = "klbench"
PACKAGES = {"tensorboard": "tensorboard", "wandb": "wandb", "trackio": "trackio"}


class Tracker(NamedTuple):
    """One run of a tracker: ``log(step, numbers)``, and ``close()`` when it is over."""

    log: Callable[[int, Mapping[str, float]], None]
    close: Callable[[], None]


def check(name: str) -> None:
    """Check that what a tracker needs is installed.

    Raises
    ------
    ConfigError
        It is not; the extra that brings it is named.
    """
    package = PACKAGES.get(name)
    if package is not None and importlib.util.find_spec(package) is None:
        raise ConfigError(
            f"tracker={name!r}: {package} is not installed here; pip install 'klbench[{name}]'"
        )


def start(name: str, folder: Path, run: str, config: Mapping[str, Any]) -> Tracker:
    """A tracker's run. TensorBoard writes below ``folder``.

    The others where their own settings say, one group a folder.
    """
    check(name)
    if name == "none":
        return Tracker(lambda step, numbers: None, lambda: None)
    if name == "tensorboard":
        return _tensorboard(folder / "tensorboard" / run)
    module = importlib.import_module(name)
    started = module.init(
        project=PROJECT, group=folder.name, name=f"{folder.name}/{run}", config=dict(config)
    )
    return Tracker(lambda step, numbers: started.log(dict(numbers), step=step), started.finish)


def _tensorboard(folder: Path) -> Tracker:
    from torch.utils.tensorboard import SummaryWriter

    writer = SummaryWriter(str(folder))

    def log(step: int, numbers: Mapping[str, float]) -> None:
        for key, value in numbers.items():
            writer.add_scalar(key, value, step)

    return Tracker(log, writer.close)
