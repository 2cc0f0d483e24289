"""The embedded policies that PPO and DPO have trained: by the studies of that, from the embedded reference, on first use."""

from __future__ import annotations

import shutil
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

from klbench import studies
from klbench.context import Context
from klbench.lm import embedded
from klbench.runs import RunFolder
from klbench.types import Options

SHARED: dict[str, Any] = {"policy": f"{embedded.PREFIX}reference", "max_new_tokens": 32, "seeds": 1, "samples": 2}
# Of each policy: the study, what it is told, and the checkpoint that is kept. beta and updates put KL(q‖p) near 2 nats.
TRAINED: dict[str, tuple[str, dict[str, Any], str]] = {
    "ppo-midway": (
        "ppo_lm",
        {"combinations": ("k1_reward",), "beta": 0.05, "updates": 20, "learning_rate": 1e-3},
        "k1_reward-seed-0",
    ),
    "dpo-midway": (
        "dpo_lm",
        {"divergences": ("kl_qp",), "beta": 0.15, "updates": 30, "ranked_pairs": 1024, "every": 30},
        "dpo-seed-0",
    ),
}
TINY: dict[str, dict[str, Any]] = {
    "ppo-midway": {"updates": 2, "prompts_each": 2, "group": 2, "max_new_tokens": 4},
    "dpo-midway": {"updates": 2, "ranked_pairs": 8, "pairs_each": 4, "prompts_each": 2, "max_new_tokens": 4},
}
"""What tests are content with."""
VERSION = 1
"""To be raised with every change of the code by which other weights come of the same settings: policies that are kept from
before are then trained again. A test compares the weights.
"""


def _options(name: str) -> Options:
    settings = SHARED | TRAINED[name][1] | (TINY[name] if embedded.recipe_in_use() == "tiny" else {})
    return studies.get(TRAINED[name][0]).options(**settings)


def _made_with(name: str) -> dict[str, Any]:
    return {"version": VERSION, "study": TRAINED[name][0], "options": _options(name).model_dump(mode="json")}


def _train(name: str, target: Path) -> None:
    study = studies.get(TRAINED[name][0])
    with tempfile.TemporaryDirectory() as place:
        folder = RunFolder(Path(place) / "run")
        folder.create()
        context = Context(seed=0, folder=folder)
        study.run(_options(name), context)
        if context.interrupted:
            raise KeyboardInterrupt
        shutil.copytree(folder.path / "checkpoints" / TRAINED[name][2], target, dirs_exist_ok=True)


def trainer(name: str) -> embedded.Trainer:
    """Return how one of these policies is trained."""
    return embedded.Trainer(partial(_made_with, name), partial(_train, name))
