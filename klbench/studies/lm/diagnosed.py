"""The doctor's causes and checks of recorded rollouts."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from klbench.doctor.api import doctor
from klbench.doctor.tables import causes, must_hold
from klbench.pairs.recorded import RecordedPair
from klbench.studies.lm.values import Measured


def diagnosed(results: Sequence[Measured]) -> dict[str, pd.DataFrame]:
    """Return the tables of those that are recorded."""
    found = [
        (m.pair.title, doctor(m.pair.path)) for m in results if isinstance(m.pair, RecordedPair)
    ]
    rows = {
        "causes": [row for title, d in found for row in causes(d, title)],
        "must_hold": [row for title, d in found for row in must_hold(d, title)],
    }
    return {name: pd.DataFrame(each) for name, each in rows.items() if each}
