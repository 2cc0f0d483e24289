"""The lines of the screen as curves over steps, and the first step that leaves its band."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from klbench.doctor import statistics as st
from klbench.doctor.reading import Gathered
from klbench.rows import Rows

LINES = {
    "sampler_kl_token": ("sampler", st.mean_of("x", sign=-1.0)),
    "sampler_ess_sequence": ("sampler", st.ess_sequence),
    "sampler_mean_ratio": ("sampler", lambda sums: 1.0 + st.mean_of("excess")(sums)),
    "lag_kl_token": ("lag", st.mean_of("x", sign=-1.0)),
    "reference_kl_token": ("penalty", st.mean_of("x", sign=-1.0)),
    "reference_k3_token": ("penalty", st.mean_of("gap")),
}
BEFORE = 4
"""Steps that a band is made from, at least."""
WIDTH, SURE = 6.0, 4.0
"""A step has left the band when it is off by so many spreads of those before, and of its errors."""


def curves(gathered: Gathered) -> tuple[Rows, dict[str, int]]:
    """Return a row a step, and the first step of each line that leaves its band."""
    if len(gathered.steps) < 2:
        return [], {}
    rows = []
    for step in sorted(gathered.steps):
        own = gathered.steps[step]
        row: dict[str, Any] = {"step": step}
        row["rollouts"] = max(round(each.of("rollouts")) for each in own.values())
        for name, (ratio, function) in LINES.items():
            if ratio in own and own[ratio].of("n"):
                groups = own[ratio].rollouts[own[ratio].rollouts[:, 0] > 0]
                number = st.estimate(groups, function)
                row |= {name: number.value, f"{name}_se": number.se}
        rows.append(row)
    out = {name: first_out(rows, name) for name in LINES}
    return rows, {name: step for name, step in out.items() if step is not None}


def first_out(rows: Rows, name: str) -> int | None:
    """Return the first step whose value is out of the band of those before it."""
    seen: list[float] = []
    for row in rows:
        value, se = row.get(name, math.nan), row.get(f"{name}_se", math.nan)
        if not math.isfinite(value):
            continue
        if len(seen) >= BEFORE:
            middle = float(np.median(seen))
            spread = 1.4826 * float(np.median(np.abs(np.array(seen) - middle)))
            off = abs(value - middle)
            if off > WIDTH * max(spread, 1e-4) and off > SURE * (se if math.isfinite(se) else 0.0):
                return int(row["step"])
        seen.append(value)
    return None
