"""The pytest plugin: fixtures, without an import of anything heavy before they are used."""

from __future__ import annotations

from typing import Any

import pytest

from klbench import testing


@pytest.fixture
def check_kl() -> Any:
    """Give the test :func:`klbench.testing.check_kl`."""
    return testing.check_kl


@pytest.fixture
def check_gradient() -> Any:
    """Give the test :func:`klbench.testing.check_gradient`."""
    return testing.check_gradient
