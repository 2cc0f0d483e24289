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
from klbench.lm.catalogue import PREFIX
from klbench.runs import RunFolder
from klbench.types import Options

# Said in full, so that no experiment's file changes what is embedded.
SHARED: dict[str, Any] = {
    "policy": f"{PREFIX}reference",
    "revision": "",
    "reference": None,
    "reference_revision": "",
    "dtype": "float32",
    "batch": 64,
    "prompts": "",
    "prompt_count": 64,
    "max_new_tokens": 32,
    "reward": "vowels",
    "sft": "",
    "sft_steps": 100,
    "sft_rate": 1e-3,
    "seeds": 1,
    "samples": 2,
    "checkpoints": True,
    "tracker": "none",
    "label_scale": 30.0,
    "preferences": "",
    "pairs_each": 64,
    "learning_rate": 1e-3,
    "decay": True,
    "gradient_clip": 1.0,
}
# Of each policy: the study, what it is told, and the checkpoint that is kept. beta and updates put KL(q‖p) near 2 nats.
TRAINED: dict[str, tuple[str, dict[str, Any], str]] = {
    "ppo-midway": (
        "ppo_lm",
        {
            "algorithm": "ppo",
            "combinations": ("k1_reward",),
            "beta": 0.05,
            "updates": 20,
            "every": 10,
            "group": 8,
            "epochs": 2,
            "minibatches": 1,
            "clip": 0.2,
            "dual_clip": None,
            "ratio_limit": None,
            "baseline": "leave_one_out",
            "whitening": "none",
            "normalisation": "sum",
            "clamp": None,
            "target_kl": None,
            "kl_horizon": None,
            "target_per": "sequence",
            "critic": False,
            "trace": 0.95,
            "value_weight": 0.5,
            "value_clip": None,
            "pretraining_weight": 0.0,
            "pretraining": "",
            "prompts_each": 16,
            "reward_model": False,
            "reward_steps": 100,
            "reward_rate": 1e-3,
            "ranked_pairs": 2048,
        },
        "k1_reward-seed-0",
    ),
    "dpo-midway": (
        "dpo_lm",
        {
            "divergences": ("kl_qp",),
            "smoothings": (),
            "losses": (),
            "beta": 0.15,
            "updates": 30,
            "every": 30,
            "ranked_pairs": 1024,
            "prompts_each": 32,
            "group": 4,
        },
        "dpo-seed-0",
    ),
}
TINY: dict[str, dict[str, Any]] = {
    "ppo-midway": {"updates": 2, "prompts_each": 2, "group": 2, "max_new_tokens": 4},
    "dpo-midway": {
        "updates": 2,
        "ranked_pairs": 8,
        "pairs_each": 4,
        "prompts_each": 2,
        "max_new_tokens": 4,
    },
}
"""The recipe for tests."""
VERSION = 1
"""To be raised with every change of the code by which other weights come of the same settings: policies that are kept from
before are then trained again. A test compares the weights.
"""


def _options(name: str) -> Options:
    settings = (
        SHARED | TRAINED[name][1] | (TINY[name] if embedded.recipe_in_use() == "tiny" else {})
    )
    return studies.get(TRAINED[name][0]).options(**settings)


def _made_with(name: str) -> dict[str, Any]:
    return {
        "version": VERSION,
        "study": TRAINED[name][0],
        "options": _options(name).model_dump(mode="json"),
    }


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
