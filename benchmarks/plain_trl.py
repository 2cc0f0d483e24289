"""Do ``ppo_lm`` and ``dpo_lm`` train as fast as TRL does? ``python benchmarks/plain_trl.py``.

Both sides have the same model, prompts, batch, lengths, passes, optimiser and number of threads,
float32, and a process of their own, one after the other so that a busy machine slows both:

``ppo``
    An update: completions are sampled and scored by policy and reference, then ``passes`` steps.
    TRL's is ``GRPOTrainer`` with ``num_iterations``, ours ``ppo_lm``'s loop with ``k3_loss``, which
    is TRL's penalty.
``dpo``
    Passes over the same pairs, the reference's scores included.

TRL recomputes activations by default (``gradient_checkpointing``), which saves memory and costs a
pass; here it does not, unless ``--checkpointing`` lets it. Times are those of the processor (user
and system), on a GPU those of the clock; the least of all rounds. Exits with 1 where a ratio is
above ``--limit``.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # from a checkout
sys.path.insert(0, str(Path(__file__).resolve().parent))

import torch
from plain_lm import process, ratio_of

from klbench.lm import large_pages

LIMIT = 0.7
"""The most of TRL's time that klbench may take."""
MODELS = {"embedded": "embedded:reference", "real": "smollm2"}
BETA, RATE = 0.03, 1e-5


def vowels(texts: Sequence[str], tokens: int) -> list[float]:
    """The reward of both sides."""
    from klbench.rlhf.language.rewards import Written, vowels

    return [vowels(Written(text, tokens, tokens)) for text in texts]


class Clock:
    """CPU and wall seconds between ticks, the first left out: it warms up."""

    def __init__(self) -> None:
        self.ticks: list[tuple[float, float]] = []

    def tick(self) -> None:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        self.ticks.append((time.process_time(), time.perf_counter()))

    def spent(self) -> list[list[float]]:
        """Return the CPU and the wall seconds of each turn."""
        pairs = zip(self.ticks[:-1], self.ticks[1:], strict=True)
        return [[b - a for a, b in zip(one, other, strict=True)] for one, other in pairs][1:]


def grpo(asked: argparse.Namespace) -> Any:
    """Updates by TRL."""
    from datasets import Dataset
    from transformers import TrainerCallback
    from trl import GRPOConfig, GRPOTrainer

    clock, passes = Clock(), asked.passes

    class Watch(TrainerCallback):
        def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            if state.global_step % passes == 0:
                clock.tick()

        def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            clock.tick()

    rows = asked.prompts * asked.group
    config = GRPOConfig(
        output_dir=asked.out,
        per_device_train_batch_size=rows,
        num_generations=asked.group,
        max_completion_length=asked.tokens,
        num_iterations=passes,
        max_steps=passes * asked.updates,
        beta=BETA,
        learning_rate=RATE,
        **_shared(asked),
    )
    trainer = GRPOTrainer(
        model=asked.folder,
        args=config,
        reward_funcs=lambda completions, **_: vowels(completions, asked.tokens),
        train_dataset=Dataset.from_list([{"prompt": each} for each in _prompts(asked)]),
        callbacks=[Watch()],
    )
    trainer.train()
    return clock.spent()


def _shared(asked: argparse.Namespace) -> dict[str, Any]:
    return {
        "gradient_checkpointing": asked.checkpointing,
        "use_cpu": asked.device == "cpu",
        "bf16": False,
        "report_to": "none",
        "save_strategy": "no",
        "disable_tqdm": True,
        "logging_steps": 1_000,
    }


def _prompts(asked: argparse.Namespace) -> list[str]:
    from klbench.lm import prompts

    return prompts.load("", asked.prompts)


def ppo(asked: argparse.Namespace) -> Any:
    """Updates by klbench."""
    from klbench.lm import loading
    from klbench.pairs.lm import threads
    from klbench.rlhf.language.ppo_world import Language, Setting
    from klbench.rlhf.penalty import arm
    from klbench.rlhf.ppo import Recipe, train

    lm = loading.load(asked.folder, device=asked.device)
    used = arm("k3_loss", BETA)
    setting = Setting(asked.prompts, asked.group, asked.tokens, RATE, 1.0, None, exact=used.exact)
    learner = Language(
        lm,
        lm,
        [lm.encode(each) for each in _prompts(asked)],
        lambda _, token, mask: _paid(lm.texts(token, mask), asked.tokens),
        setting,
        (0, "benchmark"),
    )
    clock = Clock()
    recipe = Recipe(updates=asked.updates, epochs=asked.passes, group=asked.group, every=10**6)
    sample = learner.sample

    def timed(update: int, lag: int) -> Any:
        clock.tick()  # the last one is of the report in the end, which no step follows
        return sample(update, lag)

    learner.sample = timed  # type: ignore[method-assign]
    with threads(lm):
        list(train(learner, [used], recipe))
    return clock.spent()


def _paid(texts: Sequence[str], tokens: int) -> Any:
    import numpy as np

    return np.array(vowels(texts, tokens))


def _pairs(asked: argparse.Namespace) -> list[dict[str, str]]:
    """Answers of so many words, the same for both sides."""
    from klbench.lm.corpus import corpus

    words, length = " ".join(corpus().train).split(), asked.tokens // 2
    found = []
    for i, prompt in enumerate(_prompts(asked) * asked.group):
        parts = (words[k * length :][:length] for k in (2 * i, 2 * i + 1))
        chosen, rejected = (" " + " ".join(each) for each in parts)
        found.append({"prompt": prompt, "chosen": chosen, "rejected": rejected})
    return found


def dpo_trl(asked: argparse.Namespace) -> Any:
    """Passes over pairs by TRL."""
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl import DPOConfig, DPOTrainer

    pairs = _pairs(asked)
    config = DPOConfig(
        output_dir=asked.out,
        per_device_train_batch_size=asked.prompts,
        max_steps=asked.passes * asked.updates * asked.group,
        beta=BETA,
        learning_rate=RATE,
        **_shared(asked),
    )
    trainer = DPOTrainer(
        model=AutoModelForCausalLM.from_pretrained(asked.folder, dtype="float32"),
        args=config,
        train_dataset=Dataset.from_list(pairs),
        processing_class=AutoTokenizer.from_pretrained(asked.folder),
    )
    return _whole(trainer.train)


def dpo_klbench(asked: argparse.Namespace) -> Any:
    """Passes over pairs by klbench."""
    from klbench.lm import loading
    from klbench.pairs.lm import threads
    from klbench.rlhf import dpo
    from klbench.rlhf.language import dpo_world
    from klbench.rlhf.language.ppo_world import Language, Setting

    lm = loading.load(asked.folder, device=asked.device)
    file = Path(asked.out) / "pairs.jsonl"
    file.write_text("\n".join(json.dumps(each) for each in _pairs(asked)), encoding="utf-8")
    pairs = dpo_world.load(str(file), lm)
    setting = Setting(asked.prompts, asked.group, asked.tokens, RATE, 1.0, None)
    learner = Language(lm, lm, pairs.chosen.prompts, lambda *_: _paid([], 1), setting, (0, "b"))
    steps = asked.passes * asked.updates * asked.group

    def work() -> None:
        world = dpo_world.Preferring(learner, pairs, asked.prompts)
        arms = [dpo.DpoArm("dpo", BETA, "kl_qp")]
        list(dpo.train(world, arms, steps=steps, every=10**6))

    with threads(lm):
        return _whole(work)


def _whole(work: Any) -> Any:
    clock = Clock()
    clock.tick()
    clock.tick()
    work()
    clock.tick()
    return clock.spent()


SIDES = {"ppo": {"trl": grpo, "klbench": ppo}, "dpo": {"trl": dpo_trl, "klbench": dpo_klbench}}


def compared(asked: argparse.Namespace, kind: str, models: str, limit: float) -> dict[str, Any]:
    """Return a row for an algorithm and a model."""
    from klbench.lm import names

    words = [__file__, "--kind", kind, "--folder", names.resolved(MODELS[models])]
    told = ("prompts", "group", "tokens", "passes", "updates", "device")
    words += [f"--{name}={getattr(asked, name)}" for name in told]
    words += ["--checkpointing"] * asked.checkpointing
    spent: dict[str, list[list[float]]] = {"trl": [], "klbench": []}
    memory = dict.fromkeys(spent, 0.0)
    with tempfile.TemporaryDirectory() as place:
        for _ in range(asked.rounds):
            for side in spent:
                *_, mebibytes, last = process([*words, "--side", side, "--out", place])
                spent[side] += json.loads(last)
                memory[side] = max(memory[side], mebibytes)
    least = {
        side: [min(each) for each in zip(*found, strict=True)] for side, found in spent.items()
    }
    return {
        "kind": kind,
        "models": models,
        "turns": len(spent["trl"]),
        **ratio_of(least, asked.device),
        **{f"{side}_mebibytes": each for side, each in memory.items()},
        "limit": limit,
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; gives back the exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", nargs="+", default=list(MODELS), choices=list(MODELS))
    parser.add_argument("--kinds", nargs="+", default=list(SIDES), choices=list(SIDES))
    parser.add_argument(
        "--prompts", type=int, default=16, help="of a batch; pairs of a step of DPO"
    )
    parser.add_argument(
        "--group", type=int, default=8, help="completions of each; steps a pass of DPO"
    )
    parser.add_argument("--tokens", type=int, default=24)
    parser.add_argument("--passes", type=int, default=2)
    parser.add_argument("--updates", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--limit", type=float, default=LIMIT)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument(
        "--checkpointing", action="store_true", help="let TRL recompute activations"
    )
    for name in ("kind", "side", "folder", "out"):
        parser.add_argument(f"--{name}", help=argparse.SUPPRESS)
    asked = parser.parse_args(arguments)
    if asked.side:
        if asked.side == "klbench":
            large_pages()  # as a command of klbench does, before torch allocates anything
        os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
        print(json.dumps(SIDES[asked.kind][asked.side](asked)))
        return 0
    above = False
    for models in asked.models:
        for kind in asked.kinds:
            row = compared(asked, kind, models, asked.limit)
            print(
                json.dumps({k: round(v, 4) if isinstance(v, float) else v for k, v in row.items()}),
                flush=True,
            )
            above |= row["ratio"] > row["limit"]
    return int(above)


if __name__ == "__main__":
    sys.exit(main())
