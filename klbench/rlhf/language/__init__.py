"""Language models as what the loops of :mod:`klbench.rlhf` train, and what pays them.

:mod:`klbench.rlhf.language.ppo_world` is a policy with its reference and a reward,
:mod:`klbench.rlhf.language.dpo_world` one that learns from preferences,
:mod:`klbench.rlhf.language.reward_world` a reward model; :mod:`klbench.rlhf.language.sft` comes
before them.
"""
