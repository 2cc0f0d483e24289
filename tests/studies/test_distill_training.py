"""Students in training.

Sampled losses against exact slopes, where free ones rest, and language models.
"""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
import torch

import klbench
from klbench.rlhf.distillation import sequence_loss
from klbench.rlhf.objectives import arm
from klbench.rlhf.testbed import Testbed as Bed
from klbench.rlhf.testbed.distill_world import reached, rest, starts
from klbench.rlhf.testbed.distilled import States
from klbench.studies.distill.training import final_table
from klbench.types import ConfigError

BED = Bed("gru", 3, 3, 2, 4, 0, (0, 1))
ARMS = (
    *("full", "full_with_score", "topk_raw/student/2", "topk_sampled_tail/teacher/2"),
    *(
        "topk_tail_bucket/teacher/2",
        "k1_reward:0.9",
        "k1_reward:1:token_kl",
        "k3_loss",
        "topk_reward/teacher/1",
    ),
)


@pytest.mark.parametrize("name", ARMS)
def test_the_sampled_loss_has_the_exact_gradient_on_average(name: str) -> None:
    """All sequences of one prompt, each weighted by its probability, in place of samples."""
    one, tree = arm(name), BED.tree
    log_q = BED.everywhere(starts(BED))[0, 0].requires_grad_()
    log_p = BED.log_p[0, 0]
    node, token, mask = tree.paths
    losses = sequence_loss(one, log_q.log_softmax(-1)[node], log_p[node], token, mask)
    weight = tree.sum_along(log_q.detach()).exp()
    (found,) = torch.autograd.grad((weight * losses).sum(), log_q)
    at = States(tree, log_q.detach()[None], log_p[None])
    exact = at.moments(one.objective, at.support(one.owner, one.k)).gradient[0]
    torch.testing.assert_close(found, exact, rtol=1e-10, atol=1e-13)


def test_where_free_students_rest() -> None:
    def kl(name: str) -> float:
        *_, last = rest(BED, arm(name), 120)
        return float(reached(BED, last, 2).kl.max())

    assert kl("full") < 1e-9
    assert kl("full:kl_pq@teacher") < 1e-9
    assert kl("topk_corrected_tail/student/2") < 1e-9
    assert kl("topk_sampled_tail/student/2") > 0.01
    assert kl("topk_raw/student/2") > 0.1


def test_the_student_is_its_teacher_at_no_distance() -> None:
    found = reached(BED, BED.log_p[None], 2)
    assert float(found.kl.abs().max()) < 1e-12
    assert float(found.kl_pq.abs().max()) < 1e-12
    torch.testing.assert_close(found.mass, found.teacher_mass)


def test_final_counts_who_diverged() -> None:
    row = {"objective": "full", "support": "", "k": 2, "prefixes": "student", "kl_pq": 1.0}
    row |= {"mass": 0.5, "own_mass": 0.5, "teacher_mass": 0.6}
    rows = [
        row | {"arm": name, "seed": seed, "step": step, "kl": 2.0 - step - shift, "status": "ok"}
        for name, shift in (("full", 0.0), ("full@teacher", 0.5))
        for seed in range(3)
        for step in (0, 1)
    ]
    rows[-1]["status"] = "diverged at update 1: the loss is nan"
    found = final_table(pd.DataFrame(rows), pd.DataFrame()).set_index("arm")
    assert list(found["seeds"]) == [3, 2]
    assert found.loc["full@teacher", "difference"] == pytest.approx(-0.5)
    assert found.loc["full@teacher", "outcome"] == "diverged on some seeds"
    assert found.loc["full", "mass_lost"] == pytest.approx(0.1)


@pytest.mark.usefixtures("tiny_models")
def test_language_models_come_nearer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    run = klbench.run(
        "distill_lm",
        *("training=[full,topk_raw/student/4,full@teacher]", "updates=8", "every=4", "seeds=1"),
        *("evaluated=16", "completions=8", "learning_rate=0.003"),
        "pairs=[{kind:lm,policy:embedded:reference,reference:embedded:finetuned-far,prompt_count:8,max_new_tokens:4}]",
    )
    training, final = run.tables["distill_lm_training"], run.tables["distill_lm_final"]
    assert len(training) == 3 * 3
    starts_alike = training[training["step"] == 0]
    assert starts_alike["kl"].nunique() == 1
    ends = final.set_index("arm")["kl"]
    assert ends["full"] < starts_alike["kl"].iloc[0]
    assert ends["full"] < ends["topk_raw/student/4"]


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("topk_raw", "expected topk_raw/teacher/8"),
        ("full/teacher/2", "expected full, with or without @teacher"),
        ("topk_raw/other/2", "expected student or teacher and a number"),
        ("topk_raw/student/0", "expected student or teacher and a number"),
        (f"topk_raw/student/{10**23}", "a number of tokens up to 1,000,000,000"),
        ("full@pupil", "unknown writer of prefixes"),
        ("k1_reward:0@teacher", "the teacher writes these"),
        ("full_with_score@teacher", "the teacher writes these"),
    ],
)
def test_what_is_no_arm(name: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        arm(name)
