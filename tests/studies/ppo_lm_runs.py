"""Small runs of PPO on a language model."""

import pandas as pd
from experiments import configured

from klbench.context import Context
from klbench.runs import RunFolder
from klbench.studies import get

NAMES = ("k1_reward", "k3_loss", "none")
TINY = {
    "combinations": NAMES,
    "updates": 4,
    "every": 2,
    "group": 4,
    "prompts_each": 4,
    "prompt_count": 6,
    "samples": 24,
    "max_new_tokens": 6,
    "seeds": 1,
    "beta": 0.05,
    "learning_rate": 0.01,
    "critic": True,
    "target_kl": 0.2,
    "kl_horizon": None,
    "target_per": "sequence",
    "minibatches": 2,
}


def study(folder, workers=1, **changes) -> dict[str, pd.DataFrame]:
    folder.mkdir(exist_ok=True)
    context = Context(0, workers=workers, folder=RunFolder(folder))
    found = dict(get("ppo_lm").run(configured("ppo_lm", **TINY | changes), context))
    assert not context.interrupted
    return found


def same(tables, others) -> None:
    assert tables.keys() == others.keys()
    for name, table in tables.items():
        pd.testing.assert_frame_equal(table, others[name], check_exact=True, obj=name)
