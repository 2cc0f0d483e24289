"""Options of an experiment, as its file in ``conf/exp/`` has them, with some changed."""

import functools
from typing import Any

from klbench.engine import app, conf
from klbench.engine.settings import settings
from klbench.types import Options


@functools.cache
def composed(experiment: str, *chosen: str) -> dict[str, Any]:
    """The configuration with these files of ``conf/`` chosen, such as ``preset=thorough``."""
    return app._compose(app.normalized([f"exp={experiment}", *chosen]))


def configured(experiment: str, /, **changes: Any) -> Any:
    """Checked options; ``preset`` and ``algorithm`` are chosen, and what else is given takes the
    place of theirs.
    """
    chosen = [f"{name}={changes[name]}" for name in conf.groups() if name in changes]
    made: Options = settings(composed(experiment, *chosen) | changes, experiment).options
    return made
