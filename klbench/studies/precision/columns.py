"""The table of the precision study, from ``columns.yaml``."""

from __future__ import annotations

import pandas as pd

from klbench.columns import declared

LOST = 0.01
"""A relative error beyond which a value is of little use."""
ERRORS = {"lost": "max_rel_error", "gradient_lost": "max_gradient_rel_error"}
"""The column that says whether a number is lost, and the error that decides it."""


def judged(frame: pd.DataFrame) -> pd.DataFrame:
    """Return the table with whether the value and the gradient are lost; an error that is no
    number is one without bound.
    """
    known = {name: error for name, error in ERRORS.items() if error in frame}
    return frame.assign(**{name: ~(frame[error] < LOST) for name, error in known.items()})


TABLES = (PRECISION,) = declared(__file__, precision=lambda frame, _: judged(frame))
