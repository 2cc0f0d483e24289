"""The embedded policies that PPO and DPO have trained: by the studies of that, from the embedded reference, on first use."""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

from klbench import studies
from klbench.context import Context
from klbench.lm import embedded
from klbench.runs import RunFolder

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
DECIDES = ("lm", "rlhf", "gradients", "studies/language", "studies/ppo_lm", "studies/dpo_lm")
"""Code that what is trained depends on."""


def _settings(name: str) -> dict[str, Any]:
    return SHARED | TRAINED[name][1] | (TINY[name] if embedded.recipe_in_use() == "tiny" else {})


def _made_with(name: str) -> dict[str, Any]:
    package = Path(__file__).resolve().parents[2]
    files = sorted({file for each in DECIDES for file in package.glob(f"{each}/**/*.py")})
    code = hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()
    return {"study": TRAINED[name][0], "settings": _settings(name), "code": code}


def _train(name: str, target: Path) -> None:
    study = studies.get(TRAINED[name][0])
    with tempfile.TemporaryDirectory() as place:
        folder = RunFolder(Path(place) / "run")
        folder.create()
        context = Context(seed=0, folder=folder)
        study.run(study.options(**_settings(name)), context)
        if context.interrupted:
            raise KeyboardInterrupt
        shutil.copytree(folder.path / "checkpoints" / TRAINED[name][2], target, dirs_exist_ok=True)


def trainer(name: str) -> embedded.Trainer:
    """Return how one of these policies is trained."""
    return embedded.Trainer(partial(_made_with, name), partial(_train, name))
