"""The tables of the distillation studies, from ``columns.yaml``."""

from __future__ import annotations

from klbench.columns import declared

DISTILL, TRAINING, REST, FINAL, LM_TRAINING, LM_FINAL = declared(__file__)
TABLES = (DISTILL, TRAINING, REST, FINAL)
LM_TABLES = (LM_TRAINING, LM_FINAL)
"""The tables of distillation of language models."""

ARM = ("arm", "objective", "support", "k", "prefixes")
"""The columns that say what is trained."""
AT, BESIDE, NOWHERE = "at the teacher", "beside the teacher", "nowhere"
"""The places where free students come to rest."""
