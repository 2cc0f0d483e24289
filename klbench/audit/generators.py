"""Global generators and settings: put back after an audit, and not to be seeded by a function."""

from __future__ import annotations

import contextlib
import os
import random as python
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from klbench.audit.adapter import Function
from klbench.audit.batches import random
from klbench.types import ConfigError


@contextlib.contextmanager
def generators() -> Iterator[None]:
    """Leave global generators, torch's settings and the working folder as they were."""
    grad, dtype, folder = torch.is_grad_enabled(), torch.get_default_dtype(), Path.cwd()
    states = (
        torch.get_rng_state(),
        np.random.get_state(),  # noqa: NPY002  # the user's, to put back
        python.getstate(),
    )
    try:
        yield
    finally:
        torch.set_rng_state(states[0])
        np.random.set_state(states[1])  # noqa: NPY002
        python.setstate(states[2])
        torch.set_grad_enabled(grad)
        torch.set_default_dtype(dtype)
        os.chdir(folder)


def refuse_seeding(function: Function) -> None:
    """Refuse a function that leaves a global generator in the same state wherever that stood
    before.

    Raises
    ------
    ConfigError
        It seeds one.
    """

    def state() -> tuple[bytes, bytes, bytes]:
        legacy: Any = np.random.get_state(legacy=False)  # noqa: NPY002
        numpy_state = legacy["state"]["key"].tobytes() + str(legacy["state"]["pos"]).encode()
        return (
            torch.get_rng_state().numpy().tobytes(),
            numpy_state,
            repr(python.getstate()).encode(),
        )

    seen = []
    for seed in (11, 12):
        torch.manual_seed(seed)
        np.random.seed(seed)  # noqa: NPY002  # the global one is what is looked at
        python.seed(seed)
        before = state()
        function(random("settle", masked=True))
        seen.append((before, state()))
    for k, name in enumerate(("torch", "numpy.random", "random")):
        if seen[0][1][k] == seen[1][1][k] and seen[0][0][k] != seen[1][0][k]:
            raise ConfigError(
                f"the function seeds the global generator of {name}: what depends on it could not"
                " be told from chance"
            )
