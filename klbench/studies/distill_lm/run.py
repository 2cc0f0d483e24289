"""The run of distillation of language models.

Every objective from one student, on samples of its own or the teacher's.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from klbench import streams
from klbench.context import Context
from klbench.lm.batching import Batch
from klbench.lm.generation import Sampled, generate
from klbench.lm.model import LanguageModel
from klbench.lm.sampling import Sampling
from klbench.lm.scoring import token_logits
from klbench.lm.trained import trainable
from klbench.pairs.lm import LmPair, threads
from klbench.rlhf.distillation import loss, sequence_loss, support
from klbench.rlhf.language.descent import Descent
from klbench.rlhf.objectives import Arm, arm, get
from klbench.rows import Row, Rows
from klbench.schema import Tables
from klbench.studies.distill.columns import LM_FINAL
from klbench.studies.distill.training import DEFAULT_K, described, final_table
from klbench.studies.distill_lm.options import DistillLmOptions
from klbench.study import Summary


@dataclass(frozen=True, eq=False)
class Batched:
    """Completions, and next-token log-probabilities along them, ``(n, T, V)`` in float64.

    0 where none counts.
    """

    sampled: Sampled
    log_q: Tensor
    log_p: Tensor

    @property
    def mask(self) -> Tensor:
        """The tokens that count, ``(n, T)``."""
        return torch.from_numpy(self.sampled.mask)


@dataclass(frozen=True, eq=False)
class World:
    """A student in training, its teacher, and the prompts that they complete."""

    pair: LmPair
    student: LanguageModel
    teacher: LanguageModel
    contexts: list[list[int]]

    def batch(self, writer: LanguageModel, stream: np.random.Generator, n: int) -> Batched:
        """Let ``writer`` complete ``n`` prompts drawn at random, and look at both models along
        that.
        """
        chosen = [self.contexts[i] for i in stream.integers(len(self.contexts), size=n)]
        uniform = stream.random((n, self.pair.max_new_tokens))
        sampling = Sampling(self.pair.temperature, self.pair.top_p, self.pair.top_k)
        with torch.no_grad():
            sampled = generate(writer, chosen, uniform, sampling, Batch(self.pair.batch))
        log_q = self._along(self.student, chosen, sampled)
        with torch.no_grad():
            log_p = self._along(self.teacher, chosen, sampled)
        return Batched(sampled, log_q, log_p)

    def _along(self, lm: LanguageModel, contexts: list[list[int]], sampled: Sampled) -> Tensor:
        scale = self.pair.scored_temperature
        logits = token_logits(lm, contexts, sampled.token, sampled.mask, scale)
        log_probs = logits.cpu().double().log_softmax(-1)
        mask = torch.from_numpy(sampled.mask)
        whole = torch.zeros(*mask.shape, log_probs.shape[-1], dtype=log_probs.dtype)
        return whole.masked_scatter(mask[..., None], log_probs)


def evaluated(world: World, one: Arm, stream: np.random.Generator, n: int) -> Row:
    """Return what the student has come to, on completions of its own."""
    with torch.no_grad():
        found = world.batch(world.student, stream, n)
    mask, k = found.mask, one.k or DEFAULT_K
    whole = torch.ones_like(found.log_q, dtype=torch.bool)
    row: Row = {}
    for name, objective in (("kl", "full"), ("kl_pq", "full:kl_pq")):
        value = loss(get(objective), found.log_q, found.log_p, whole)
        total = torch.where(mask, value, 0.0).sum(-1).numpy()
        row |= {
            name: float(total.mean()),
            f"{name}_se": float(total.std(ddof=1)) / float(np.sqrt(len(total))),
        }
    sides = {
        "mass": (found.log_q, found.log_p),
        "own_mass": (found.log_q, found.log_q),
        "teacher_mass": (found.log_p, found.log_p),
    }
    for name, (of, owner) in sides.items():
        inside = of.exp().masked_fill(~support(owner, k), 0.0).sum(-1)
        row[name] = float(inside[mask].mean())
    return row


def trained(options: DistillLmOptions, name: str, seed: int, k: int) -> Iterator[Row]:
    """Yield the rows of one arm on seed number ``k``.

    Before every ``every`` updates, and at the end.
    """
    (pair,) = options.pairs
    assert isinstance(pair, LmPair)
    one, (start, teacher) = arm(name), pair.models
    world = World(pair, trainable(start), teacher, pair.encoded_prompts)
    descent = Descent(
        list(world.student.model.parameters()),
        options.learning_rate,
        options.gradient_clip,
        options.updates if options.decay else None,
        fused=not start.small,
    )
    last = float("nan")
    for step in range(options.updates + 1):
        if step % options.every == 0 or step == options.updates:
            stream = streams.generator(seed, "distill_lm", k, "evaluation")
            stopped = (
                f"diverged at update {descent.cause[0]}: {descent.cause[1]}"
                if descent.cause
                else "ok"
            )
            yield (
                described(one)
                | {"seed": k, "step": step}
                | evaluated(world, one, stream, options.evaluated)
                | {"loss": last, "status": stopped}
            )
        if step < options.updates and descent.cause is None:
            writer = teacher if one.prefixes == "teacher" else world.student
            stream = streams.generator(seed, "distill_lm", k, "batch", step)
            batch = world.batch(writer, stream, options.completions)
            token = torch.from_numpy(batch.sampled.token)
            taken = sequence_loss(one, batch.log_q, batch.log_p, token, batch.mask).mean()
            last = float(taken.detach())
            descent.step(taken, step)


def run(options: DistillLmOptions, context: Context) -> dict[str, pd.DataFrame]:
    """Return tables ``distill_lm_training`` and ``distill_lm_final``."""
    (pair,) = options.pairs
    assert isinstance(pair, LmPair)
    rows: Rows = []
    jobs = [(name, k) for k in range(options.seeds) for name in options.training]
    try:
        with threads(*pair.models):
            for done, (name, k) in enumerate(jobs, 1):
                rows += trained(options, name, context.seed, k)
                context.progress(done, len(jobs), f"{name}, seed {k}")
    except KeyboardInterrupt:
        context.interrupted = True
    if not rows:
        return {}
    training = pd.DataFrame(rows)
    final = final_table(training, pd.DataFrame())[LM_FINAL.names]
    return {"distill_lm_training": training, "distill_lm_final": final}


def summarize(results: Tables) -> list[Summary]:
    """Return where every arm ended."""
    rows = results["distill_lm_final"].sort_values("kl").to_dict("records")
    return [
        Summary(
            f"KL(q‖p) to the teacher, nats a completion, mean of {rows[0]['seeds']} seeds (before:"
            f" {rows[0]['start_kl']:.3g})",
            ("trained", ">KL(q‖p)", ">against the first", ">mass lost", "outcome"),
            [
                (
                    row["arm"],
                    f"{row['kl']:.3g}",
                    f"{row['difference']:+.3g}",
                    f"{row['mass_lost']:+.1%}",
                    row["outcome"],
                )
                for row in rows
            ],
        )
    ]
