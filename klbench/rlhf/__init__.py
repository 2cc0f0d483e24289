"""Training a policy against a reward with a KL penalty: the loops, their losses, and a testbed where the optimum is known.

:mod:`klbench.rlhf.ppo` is the loop, for stacked replicas on the testbed and for anything else that follows its protocol;
:mod:`klbench.rlhf.losses` the pure functions it is made of; :mod:`klbench.rlhf.preferences` the losses of ranked pairs,
:mod:`klbench.rlhf.dpo` the loop that descends them, :mod:`klbench.rlhf.ranked` and :mod:`klbench.rlhf.implied` its pairs and
its exact ends on the testbed; :mod:`klbench.rlhf.reward_model` the loop of reward models, :mod:`klbench.rlhf.proxies` what
becomes of the true reward when theirs is made large; :mod:`klbench.rlhf.testbed` the exact values;
:mod:`klbench.rlhf.expected` the same training without sampling noise; :mod:`klbench.rlhf.fixed_points` where it must end.
"""

from __future__ import annotations

from types import ModuleType

from klbench.registry import submodule


def __getattr__(name: str) -> ModuleType:
    return submodule(__name__, name)
