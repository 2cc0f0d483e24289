"""The tables of the doctor's study: those of a diagnosis."""

from __future__ import annotations

from klbench.doctor.columns import CAUSES as CAUSES
from klbench.doctor.columns import DIAGNOSIS as DIAGNOSIS
from klbench.doctor.columns import DIFFERENCES as DIFFERENCES
from klbench.doctor.columns import LINES as LINES
from klbench.doctor.columns import MASKS as MASKS
from klbench.doctor.columns import MUST_HOLD as MUST_HOLD
from klbench.doctor.columns import SAID as SAID
from klbench.doctor.columns import STEPS as STEPS
from klbench.doctor.columns import TABLES as TABLES
