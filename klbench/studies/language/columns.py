"""The tables of the studies ppo_lm and dpo_lm, which train language models, from
``columns.yaml``.
"""

from __future__ import annotations

from klbench.columns import COMBINATIONS, declared

HALF = 0.5
"""A penalty holds the policy if it leaves less than so much of the KL that training without one
comes to, for sure.
"""

PPO_TRAINING, PPO_COMPARED, DPO_TRAINING, DPO_COMPARED, TEXTS, RATERS = declared(__file__)
PPO = (PPO_TRAINING, PPO_COMPARED, TEXTS, COMBINATIONS, RATERS)
DPO = (DPO_TRAINING, DPO_COMPARED, TEXTS)
