"""Training a policy against a reward with a KL penalty: algorithms by worlds.

The algorithms are loops that know nothing of what they train: :mod:`klbench.rlhf.ppo`,
:mod:`klbench.rlhf.dpo` and :mod:`klbench.rlhf.reward_model`, with the pure functions that they are
made of, :mod:`klbench.rlhf.losses` and :mod:`klbench.rlhf.preferences`. :mod:`klbench.rlhf.testbed`
is a world where all is known, for stacked replicas; :mod:`klbench.rlhf.language` is one of language
models. Each has a ``ppo_world``, a ``dpo_world`` and a ``reward_world``.
"""
