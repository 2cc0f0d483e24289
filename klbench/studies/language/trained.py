"""The policies that klbench trains on first use.

By PPO and DPO from the embedded reference, and SmolLM2 by fine-tuning.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

from klbench import studies
from klbench.context import Context
from klbench.lm import cache, embedded, gguf, loading
from klbench.lm import trained as kept
from klbench.lm.catalogue import PREFIX
from klbench.lm.corpus import corpus
from klbench.lm.packaged import SMOLLM2
from klbench.rlhf.language import sft
from klbench.runs import RunFolder

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
# Of each policy: the study, what it is told, and the checkpoint that is kept. beta and updates put
# KL(q‖p) near 2 nats.
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
VERSION = 3
"""To be raised with every change of the code by which other weights come of the same settings:
policies that are kept from before are then trained again. A test compares the weights.
"""


def _settings(name: str) -> dict[str, Any]:
    return SHARED | TRAINED[name][1] | (TINY[name] if embedded.recipe_in_use() == "tiny" else {})


def _made_with(name: str) -> dict[str, Any]:
    return {
        "version": VERSION,
        "study": TRAINED[name][0],
        "options": studies.get(TRAINED[name][0]).options(**_settings(name)).model_dump(mode="json"),
    }


def _train(name: str, target: Path) -> None:
    study, settings, checkpoint = REAL.get(name) or (
        TRAINED[name][0],
        _settings(name),
        TRAINED[name][2],
    )
    with tempfile.TemporaryDirectory() as place:
        folder = RunFolder(Path(place) / "run")
        folder.create()
        context = Context(seed=0, folder=folder)
        studies.get(study).run(studies.get(study).options(**settings), context)
        if context.interrupted:
            raise KeyboardInterrupt
        shutil.copytree(folder.path / "checkpoints" / checkpoint, target, dirs_exist_ok=True)


def trainer(name: str) -> embedded.Trainer:
    """Return how one of these policies is trained."""
    return embedded.Trainer(partial(_made_with, name), partial(_train, name))


SMOLLM2_STEPS, SMOLLM2_RATE, SMOLLM2_TOKENS = 4, 1e-4, 16
"""Steps of 32 examples, the largest rate, and the tokens of an example.

Under a minute on two idle cores.
"""
SMOLLM2_SHARED: dict[str, Any] = SHARED | {
    "policy": SMOLLM2,
    "prompt_count": 16,
    "max_new_tokens": 16,
    "learning_rate": 3e-5,
    "updates": 5,
    "every": 5,
}
REAL: dict[str, tuple[str, dict[str, Any], str]] = {
    f"{SMOLLM2}:ppo": (
        "ppo_lm",
        TRAINED["ppo-midway"][1]
        | SMOLLM2_SHARED
        | {"prompts_each": 4, "group": 4, "epochs": 1, "combinations": ("k1_reward",)},
        "k1_reward-seed-0",
    ),
    f"{SMOLLM2}:dpo": (
        "dpo_lm",
        TRAINED["dpo-midway"][1] | SMOLLM2_SHARED | {"ranked_pairs": 16, "pairs_each": 8},
        "dpo-seed-0",
    ),
}
"""The study, its settings and the checkpoint by which SmolLM2 is trained.

PPO takes a minute of one core, DPO longer.
"""


def trained_smollm2(name: str) -> Path:
    """Return the folder of SmolLM2 after a short training, which is done on first use.

    ``smollm2:finetuned`` after a few steps on sentences about Python's built-in types, the part of
    the embedded corpus that the embedded fine-tuned policies learn from; ``smollm2:dpo`` and
    ``smollm2:ppo`` by klbench's own studies.

    Raises
    ------
    ConfigError
        SmolLM2 is not installed, or the cache cannot be written.
    """
    start = gguf.folder(SMOLLM2)
    build = _fine_tune
    recipe: list[Any] = [
        start.name,
        corpus().sha256,
        SMOLLM2_STEPS,
        SMOLLM2_RATE,
        SMOLLM2_TOKENS,
        VERSION,
    ]
    if name in REAL:
        recipe = [start.name, corpus().sha256, REAL[name], VERSION]
        build = partial(_train, name)
    key = hashlib.sha256(json.dumps(recipe).encode()).hexdigest()[:16]
    return cache.folder("lm-trained", key, build)


def _fine_tune(target: Path) -> None:
    start = loading.load(SMOLLM2)
    texts = [start.encode(text)[: SMOLLM2_TOKENS + 1] for text in corpus().part]
    answers = [(ids[:1], ids[1:]) for ids in texts if len(ids) > SMOLLM2_TOKENS]
    token, mask = sft.padded([after for _, after in answers], start.pad)
    examples = sft.Examples([before for before, _ in answers], token, mask)
    lm, _ = sft.train(
        start, examples, steps=SMOLLM2_STEPS, rate=SMOLLM2_RATE, seed=0, dtype="float32"
    )
    kept.export(lm, target)
