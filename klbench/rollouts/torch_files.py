"""Files that torch saved, where they are tensors and plain data: nothing else is unpickled."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from klbench.inputs import reason
from klbench.rollouts.arrays import Arrays
from klbench.rollouts.containers import Container, rows_of
from klbench.types import ConfigError


def torch_file(path: Path) -> Container:
    """Return what ``torch.save`` wrote, where it is tensors and plain data.

    Nothing else is unpickled.

    Raises
    ------
    ConfigError
        It holds objects of somebody's classes, or cannot be read.
    """
    try:
        found = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # noqa: BLE001  # no closed list
        raise ConfigError(
            f"{path.name}: only tensors and plain data are read from what torch saved, since a"
            " pickle can run anything; save a dict of tensors, or rows as JSON lines"
            f" ({reason(error)[:80]})"
        ) from None
    if isinstance(found, Mapping) and all(
        isinstance(each, torch.Tensor) for each in found.values()
    ):
        return Arrays({k: _array(v) for k, v in found.items()}, path.name)
    return rows_of(_plain(found), path)


def _array(tensor: torch.Tensor) -> np.ndarray:
    tensor = tensor.detach()
    return tensor.double().numpy() if tensor.is_floating_point() else tensor.numpy()


def _plain(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return _array(value)
    if isinstance(value, Mapping):
        return {str(key): _plain(each) for key, each in value.items()}
    return [_plain(each) for each in value] if isinstance(value, list | tuple) else value
