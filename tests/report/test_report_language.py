"""The pages of training on language models.

What keeps a policy near, where losses lead, and what is missing or failed.
"""

import math

import pytest
from report_runs import write

from klbench.report import combine, render
from klbench.report.blocks import Figure
from klbench.studies.language import columns, section

HELD = {"k3_loss": (2.0, "holds"), "k1_loss": (90.0, "does not hold"), "none": (100.0, "")}


def ppo(outcomes=HELD, status="ok", **others):
    """Tables of combinations with their KL and outcome, after an untrained policy.

    Two reports of two seeds each.
    """
    names, kl = ["untrained", *outcomes], [0.0, *(each[0] for each in outcomes.values())]
    rows = {
        "combination": [name for name in outcomes for _ in range(4)],
        "seed": [0, 0, 1, 1] * len(outcomes),
    }
    return {
        "training": columns.PPO_TRAINING.example(
            **rows,
            step=[0, 10] * 2 * len(outcomes),
            kl=[0.0, 3.0] * 2 * len(outcomes),
            algorithm="trl_grpo",
            beta=0.03,
            status=["ok"] * (4 * len(outcomes) - 1) + [status],
        ),
        "compared": columns.PPO_COMPARED.example(
            combination=names,
            kl=kl,
            kl_se=0.01,
            outcome=["", *(each[1] for each in outcomes.values())],
            kl_estimate=2.5,
            estimate_outcome=["within noise", "too high", *["within noise"] * (len(outcomes) - 1)],
            **others,
        ),
        "texts": columns.TEXTS.example(
            combination=names, seed=0, completion=[f"<b>{name}" for name in names]
        ),
        "combinations": columns.COMBINATIONS.example(combination=list(outcomes)),
    }


def dpo(losses=("dpo", "f-dpo js")):
    names = ["untrained", *losses]
    twice = [name for name in losses for _ in range(2)]
    return {
        "training": columns.DPO_TRAINING.example(
            combination=twice, step=[0, 10] * len(losses), algorithm="dpo", status="ok"
        ),
        "compared": columns.DPO_COMPARED.example(
            combination=names,
            kl=[0.0, 0.7, 0.3][: len(names)],
            reward=[0.1, 0.45, 0.2][: len(names)],
            outcome="",
            kl_share=math.nan,
            estimate_outcome="within noise",
        ),
        "texts": columns.TEXTS.example(combination=names, seed=0),
    }


def test_the_verdict_has_what_holds_what_does_not_and_how_far_away_each_ends() -> None:
    found = section.PPO.lead(ppo())
    assert found.verdict.striptags().replace(" ", "").startswith("k3_losskeeps")
    for part in ("2.0 nats", "100 without a penalty", "does not"):
        assert part in found.verdict
    said = "".join(found.more)
    assert "&lt;b&gt;none" in said
    assert "(2.50 instead of 2.00 nats)" in said
    assert "TRL GRPO with β = 0.03, 10 updates, 2 seeds" in said
    assert len(found.more) == 3


@pytest.mark.parametrize(
    ("outcomes", "words"),
    [
        ({"k3_loss": (2.0, "not told"), "none": (5.0, "")}, "cannot tell"),
        (
            {"k1_loss": (90.0, "does not hold"), "none": (100.0, "")},
            "does not keep the policy near: 90 nats",
        ),
        ({"k3_loss": (2.0, ""), "k2_loss": (3.0, "")}, "ends 2.0 to 3.0 nats from the reference"),
        ({"k3_loss": (2.0, "diverged on all seeds"), "none": (5.0, "")}, "ends 2.0 to 5.0 nats"),
    ],
)
def test_other_outcomes_other_verdicts(outcomes, words) -> None:
    assert words in section.PPO.lead(ppo(outcomes)).verdict.striptags()


def test_losses_are_compared_with_standard_dpo() -> None:
    found = section.DPO.lead(dpo())
    for number in ("0.70 nats", "0.45", "0.10 before", "0.30 nats", "0.20"):
        assert number in found.verdict
    assert "other losses" not in section.DPO.lead(dpo(("dpo",))).verdict
    (table, _) = (block for block in section.DPO.build(dpo()) if block.kind == "table")
    assert "Of none's" not in [column.title for column in table.columns]


def test_what_diverged_is_a_warning() -> None:
    (warning,) = (
        b
        for b in section.PPO.build(ppo(status="diverged at update 7: nan"))
        if getattr(b, "tone", "") == "warning"
    )
    assert "seed 1, diverged at update 7: nan" in warning.text


def test_a_reward_model_that_learned_nothing_is_a_warning() -> None:
    tables = ppo(
        proxy=1.0, proxy_gain=0.2, proxy_gain_se=0.01, reward_gain=0.1, reward_gain_se=0.02
    )
    tables["raters"] = columns.RATERS.example(
        seed=[0, 0, 1, 1], step=[0, 6, 0, 6], kept=[0, 0, 0, 6]
    )
    (warning,) = (
        block for block in section.PPO.build(tables) if getattr(block, "tone", "") == "warning"
    )
    assert "in seed 0," in warning.text
    assert "0.200 ± 0.020" in "".join(section.PPO.lead(tables).more)
    assert "lm-paid" in {
        block.name for block in section.PPO.build(tables) if isinstance(block, Figure)
    }


@pytest.mark.parametrize("study", ["ppo_lm", "dpo_lm"])
def test_pages_of_one_run_and_of_several(tmp_path, study) -> None:
    tables = ppo() if study == "ppo_lm" else dpo()
    folders = [write(tmp_path / str(k), tables, config=f"beta: {k}\n", study=study) for k in (1, 2)]
    one = render(folders[0]).read_text(encoding="utf-8")
    assert 'id="figure-lm-ends"' in one
    assert "lacks the column" not in one
    assert "Other tables" not in one
    out = tmp_path / "both.html"
    combine(folders, out)
    both = out.read_text(encoding="utf-8")
    opening = both[both.index('<section class="opening">') : both.index("</section>")]
    assert all(f"<h4>beta={k}</h4>" in opening for k in (1, 2))
    assert both.count('id="figure-lm-training') == 2
