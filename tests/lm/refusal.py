"""A model that is refused with one line."""

import pytest

from klbench.lm.loading import load
from klbench.types import ConfigError


def refused(name: object, **options: str) -> str:
    with pytest.raises(ConfigError) as error:
        load(str(name), **options)
    line = str(error.value)
    assert "\n" not in line
    assert str(options.get("dtype", options.get("device", name))) in line
    return line


class Bomb:
    """What fails the test when it is unpickled."""

    def __reduce__(self):
        return pytest.fail, ("a pickle was read",)
