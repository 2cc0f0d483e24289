"""The combinations that trainers use, from ``named.toml``."""

from __future__ import annotations

import tomllib
from pathlib import Path

from pydantic import TypeAdapter

from klbench.gradients import register
from klbench.gradients._combination import Combination

COMBINATION = TypeAdapter(Combination)

for name, parts in tomllib.loads(
    Path(__file__).with_suffix(".toml").read_text(encoding="utf-8")
).items():
    register(COMBINATION.validate_python({"name": name} | parts))
