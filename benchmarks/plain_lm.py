"""Is ``+exp=lm`` as fast as the loop that people write? ``python benchmarks/plain_lm.py``.

The plain loop is transformers' own: ``generate``, a pass of either model over what it sampled,
``log_softmax`` of both and the exact KL of every token. It stands in :func:`plain`. Both sides have
the same models, prompts, number of completions and batches, and answer by the mean KL a token,
which must agree.

Of each pair of models two comparisons are made, turn by turn, so that a busy machine slows both:

``measured``
    In one process with the models loaded: :func:`plain` against a shard of the ``lm`` study.
``whole``
    From command to last number: a process of the plain loop against ``python -m klbench``, its page
    included, and the memory of both.

Times are those of the processor (user and system), on a GPU those of the clock; the least of all
rounds. Exits with 1 where a ratio is above its limit.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # from a checkout that is not installed

LIMITS = {"measured": 1.10, "whole": 1.15, "memory": 1.2, "as it comes": 2.0}
"""The most that klbench may take over the plain loop.

``as it comes`` is the whole process with what the experiment scores again.
"""
AGREE = 5.0
"""Common standard errors by which the two mean divergences may differ."""
MODELS = {
    "embedded": ("embedded:finetuned-midway", "embedded:reference"),
    "real": ("smollm2:finetuned", "smollm2"),
}
STARTED = """
import os, subprocess, sys, time
began = time.perf_counter()
running = subprocess.Popen(sys.argv[1:])
_, status, used = os.wait4(running.pid, 0)
took = time.perf_counter() - began
print(used.ru_utime + used.ru_stime, took, used.ru_maxrss / 1024)
sys.exit(os.waitstatus_to_exitcode(status))
"""
"""Run a command and say last what it took."""
Row = dict[str, Any]


def loaded(where: str, device: str) -> tuple[Any, Any]:
    """Return a model and its tokenizer, as transformers loads them."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(where, dtype=torch.float32).to(device).eval()
    return model, AutoTokenizer.from_pretrained(where)


def plain(
    policy: Any,
    reference: Any,
    prompts: Sequence[Sequence[int]],
    tokens: int,
    pad: int,
    batch: int = 64,
    score_batch: int = 16,
) -> Any:
    """Return the exact KL of every token of a completion of each prompt, in nats, as one row."""
    import torch

    device = policy.device
    found = []
    with torch.inference_mode():
        for first in range(0, len(prompts), batch):
            part = prompts[first : first + batch]
            longest = max(map(len, part))
            ids = torch.tensor([[pad] * (longest - len(p)) + list(p) for p in part], device=device)
            seen = torch.tensor(
                [[0] * (longest - len(p)) + [1] * len(p) for p in part], device=device
            )
            whole = policy.generate(
                ids,
                attention_mask=seen,
                do_sample=True,
                top_k=0,
                top_p=1.0,
                temperature=1.0,
                max_new_tokens=tokens,
                pad_token_id=pad,
            )
            made = whole[:, longest:]
            end = torch.tensor(policy.generation_config.eos_token_id, device=device)
            ends = torch.isin(made, end).int()
            counts = ends.cumsum(-1) - ends == 0
            seen = torch.cat([seen, counts.long()], dim=-1)
            places = (seen.cumsum(-1) - 1).clamp(min=0)
            for start in range(0, len(part), score_batch):
                rows = slice(start, start + score_batch)
                ours, theirs = (
                    model(
                        input_ids=whole[rows],
                        attention_mask=seen[rows],
                        position_ids=places[rows],
                        logits_to_keep=made.shape[1] + 1,
                    )
                    .logits[:, :-1]
                    .log_softmax(-1)
                    for model in (policy, reference)
                )
                log_q, log_p = (x.gather(-1, made[rows][..., None])[..., 0] for x in (ours, theirs))
                kl = (ours.exp() * (ours - theirs)).sum(-1)
                found.append(torch.stack([log_q, log_p, kl])[:, counts[rows]].cpu())
    return torch.cat(found, dim=-1)


def summary(kl: Any) -> tuple[float, float, int]:
    """Return the mean of a row, its standard error and its length."""
    return float(kl.mean()), float(kl.std() / len(kl) ** 0.5), len(kl)


def loop(asked: argparse.Namespace) -> None:
    """The whole process of the plain loop: load, ask, print."""
    policy, tokenizer = loaded(asked.folders[0], asked.device)
    reference, _ = loaded(asked.folders[1], asked.device)
    texts = json.loads(Path(asked.prompts).read_text(encoding="utf-8"))
    prompts = [tokenizer(texts[i % len(texts)])["input_ids"] for i in range(asked.samples)]
    pad = tokenizer.pad_token_id
    kl = plain(policy, reference, prompts, asked.tokens, 0 if pad is None else pad)[2]
    print(json.dumps(summary(kl)))


def process(words: Sequence[str]) -> tuple[float, float, float, str]:
    """Return a process's CPU seconds, wall seconds, most memory in MiB, and its last line.

    It is started by a small one: until it begins its own program, a process counts the memory of
    whoever started it as its own.
    """
    started = [sys.executable, "-c", STARTED, sys.executable, *words]
    found = subprocess.run(started, stdout=subprocess.PIPE, text=True, cwd=ROOT, check=False)
    *lines, last = found.stdout.splitlines()
    if found.returncode:
        raise SystemExit(f"{' '.join(words)} ended with {found.returncode}")
    processor, clock, memory = map(float, last.split())
    return processor, clock, memory, lines[-1]


def timed(work: Callable[[], Any]) -> tuple[float, float, Any]:
    """Return the CPU seconds and wall seconds of some work, and its result."""
    wall, used = time.perf_counter(), time.process_time()
    result = work()
    return time.process_time() - used, time.perf_counter() - wall, result


def _row(what: str, models: str, device: str, plain: Sequence[Any], ours: Sequence[Any]) -> Row:
    least = {
        side: [min(each[k] for each in found) for k in range(2)]
        for side, found in (("plain", plain), ("klbench", ours))
    }
    return {"what": what, "models": models, **ratio_of(least, device), "limit": LIMITS[what]}


def ratio_of(least: Mapping[str, Sequence[float]], device: str) -> Row:
    """Return both sides' CPU seconds and seconds, and the second side's over the first one's.

    That of the processor's time, or on a GPU, which it only waits for, of the clock's.
    """
    (_, one), (_, other) = least.items()
    k = int(device != "cpu")
    return {
        **{f"{side}_cpu_seconds": each[0] for side, each in least.items()},
        **{f"{side}_seconds": each[1] for side, each in least.items()},
        "ratio": other[k] / one[k],
    }


def _agreed(one: tuple[float, float, int], other: tuple[float, float, int]) -> Row:
    apart = abs(one[0] - other[0]) / (one[1] ** 2 + other[1] ** 2) ** 0.5
    if apart > AGREE:
        raise SystemExit(f"the two means differ by {apart:.1f} standard errors: {one}, {other}")
    return {"plain_kl": one[0], "klbench_kl": other[0], "errors_apart": apart}


def measured(models: str, samples: int, tokens: int, rounds: int, device: str) -> list[Row]:
    """Compare the measured part, with the models loaded."""
    import numpy as np
    import torch

    from klbench import pairs
    from klbench.studies.lm.measure import measure_shard
    from klbench.studies.lm.options import LmOptions

    policy, reference = MODELS[models]
    pair = pairs.get("lm")(policy=policy, reference=reference, max_new_tokens=tokens, device=device)
    chosen = LmOptions(pairs=(pair,)).chosen(pair)
    q, p = pair.models
    asked = [pair.encoded_prompts[i % len(pair.encoded_prompts)] for i in range(samples)]
    ours, theirs = [], []
    kl: list[Any] = []
    torch.manual_seed(0)
    for turn in range(rounds):
        theirs.append(timed(lambda: plain(q.model, p.model, asked, tokens, q.pad)))
        ours.append(timed(lambda t=turn: measure_shard(pair, chosen, t, 0, samples, samples)))
        kl.append(pair.completions(turn, 0, samples))
    own = torch.from_numpy(np.concatenate([each.kl_qp[each.mask] for each in kl]))
    both = [summary(each) for each in (torch.cat([t[2][2] for t in theirs]), own)]
    return [_row("measured", models, device, theirs, ours) | _agreed(*both)]


def whole(models: str, samples: int, tokens: int, rounds: int, device: str) -> list[Row]:
    """Compare whole processes, from command to last number."""
    from klbench.lm import names, prompts

    with tempfile.TemporaryDirectory() as place:
        texts = Path(place) / "prompts.json"
        texts.write_text(json.dumps(prompts.load("", 64)), encoding="utf-8")
        folders = [names.resolved(each) for each in MODELS[models]]
        size = [f"--samples={samples}", f"--tokens={tokens}", f"--device={device}"]
        loop = [__file__, *size, "--prompts", str(texts), "--folders", *folders]
        policy, reference = MODELS[models]
        klbench = ["-m", "klbench", "+exp=lm", "pair=lm", f"policy={policy}", "workers=1"]
        klbench += [f"reference={reference}", f"samples={samples}", f"max_new_tokens={tokens}"]
        klbench += [f"device={device}"]
        sides: list[list[Any]] = [[], [], []]
        for turn in range(rounds):
            outs = [f"out={place}/{turn}-{kind}" for kind in ("bare", "extra")]
            sides[0].append(process(loop))
            sides[1].append(process([*klbench, "rescored=0", outs[0]]))
            sides[2].append(process([*klbench, outs[1]]))
    rows = [
        _row(what, models, device, sides[0], side)
        for what, side in (("whole", sides[1]), ("as it comes", sides[2]))
    ]
    memory = [min(each[2] for each in side) for side in sides[:2]]
    return [
        *rows,
        {
            "what": "memory",
            "models": models,
            "plain_mebibytes": memory[0],
            "klbench_mebibytes": memory[1],
            "ratio": memory[1] / memory[0],
            "limit": LIMITS["memory"],
        },
    ]


PARTS = {"measured": measured, "whole": whole}


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; gives back the exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", nargs="+", default=list(MODELS), choices=list(MODELS))
    parser.add_argument("--parts", nargs="+", default=list(PARTS), choices=list(PARTS))
    parser.add_argument("--samples", type=int, default=64)
    parser.add_argument("--tokens", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--folders", nargs=2, help=argparse.SUPPRESS)
    parser.add_argument("--prompts", help=argparse.SUPPRESS)
    asked = parser.parse_args(arguments)
    if asked.folders:
        loop(asked)
        return 0
    above = False
    for models in asked.models:
        for part in (PARTS[each] for each in asked.parts):
            for row in part(models, asked.samples, asked.tokens, asked.rounds, asked.device):
                shown = {k: round(v, 4) if isinstance(v, float) else v for k, v in row.items()}
                print(json.dumps(shown), flush=True)
                above |= row["ratio"] > row["limit"]
    return int(above)


if __name__ == "__main__":
    sys.exit(main())
