"""PPO on a language model that a reward model pays."""

import math
import re

import pytest
from experiments import configured
from ppo_lm_runs import TINY, same, study

from klbench.context import Context
from klbench.engine import app
from klbench.report.blocks import Details, Figure
from klbench.report.numbers import percent, with_interval
from klbench.rlhf.language.ppo_world import Language
from klbench.rlhf.language.reward_world import Rater
from klbench.runs import RunFolder
from klbench.studies import get
from klbench.studies.language.section import PPO
from klbench.types import ConfigError, RunError

pytestmark = pytest.mark.usefixtures("tiny_models")

RATED = {
    "combinations": ("k1_reward", "none"),
    "critic": False,
    "target_kl": None,
    "kl_horizon": None,
    "target_per": "sequence",
    "reward_model": True,
    "ranked_pairs": 4000,
    "reward_steps": 60,
    "reward_rate": 0.01,
    "pairs_each": 64,
    "updates": 16,
    "group": 8,
    "samples": 96,
    "prompt_count": 48,
    "prompts_each": 8,
}


@pytest.fixture(scope="module")
def rated(tiny_models, tmp_path_factory):
    folder = tmp_path_factory.mktemp("rated")
    return folder, study(folder, **RATED)


def test_a_reward_model_pays_and_the_programs_reward_is_measured_beside_it(rated) -> None:
    folder, tables = rated
    raters = tables["raters"]
    assert list(raters["step"]) == list(range(0, 61, 6))
    kept = raters.set_index("step").loc[raters["kept"].iloc[-1]]
    assert kept["held_out_loss"] == raters["held_out_loss"].min() < math.log(2)
    compared = tables["compared"].set_index("combination")
    for text in tables["texts"].to_dict("records"):
        letters = [each for each in text["completion"].lower() if each.isascii() and each.isalpha()]
        assert text["reward"] == sum(each in "aeiou" for each in letters) / max(len(letters), 6)
    paid = compared.loc["none"]
    assert paid["proxy_gain"] == pytest.approx(paid["proxy"] - compared.loc["untrained", "proxy"])
    assert paid["proxy_gain"] > 5 * paid["proxy_gain_se"]  # what pays is what rises
    assert {"proxy", "proxy_se"} <= set(tables["training"].columns)
    from transformers import AutoModelForSequenceClassification

    made = AutoModelForSequenceClassification.from_pretrained(
        folder / "checkpoints" / "reward-model-seed-0"
    )
    assert made.config.num_labels == 1


def test_the_page_says_what_the_reward_model_paid(rated) -> None:
    tables = rated[1]
    row = (
        tables["compared"]
        .set_index("combination")
        .drop("untrained")
        .nlargest(1, "proxy_gain")
        .iloc[0]
    )
    said = "".join(PPO.lead(tables).more)
    for gain in ("proxy_gain", "reward_gain"):
        assert with_interval(row[gain], row[f"{gain}_se"]) in said
    figures = {block.name for block in PPO.build(tables) if isinstance(block, Figure)}
    assert {"lm-training", "lm-estimates", "lm-paid"} == figures
    (details,) = (
        block
        for block in PPO.build(tables)
        if isinstance(block, Details) and "reward models" in block.summary
    )
    accuracy = tables["raters"].query("step == kept")["held_out_accuracy"].iloc[-1]
    assert percent(accuracy) in details.blocks[0].text


@pytest.mark.parametrize("when", ["while the reward model learns", "later"])
def test_a_run_with_a_reward_model_goes_on_to_the_same_bits(
    rated, tmp_path, monkeypatch, when
) -> None:
    owner, limit = (Rater, 20) if when.startswith("while") else (Language, 3)
    step = owner.step
    steps = []

    def counted(self, *arguments):
        steps.append(1)
        if len(steps) > limit:
            raise KeyboardInterrupt
        step(self, *arguments)

    monkeypatch.setattr(owner, "step", counted)
    context = Context(0, workers=1, folder=RunFolder(tmp_path))
    get("ppo_lm").run(configured("ppo_lm", **TINY | RATED), context)
    assert context.interrupted
    monkeypatch.undo()
    same(rated[1], study(tmp_path, workers=2, **RATED))


def test_a_reward_model_that_diverges_ends_the_run_and_says_so(tmp_path) -> None:
    with pytest.raises(
        RunError,
        match=r"the reward model of seed 0 diverged at step \d+: .*; try a smaller reward_rate",
    ):
        study(tmp_path, **RATED | {"reward_rate": 10.0, "reward_steps": 400})


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (
            ['{"prompt": "x", "chosen": "y", "rejected": "z"}'],
            "pairs.jsonl: expected at least 2 pairs, got 1",
        ),
        (['{"prompt": "x", "chosen": "y"}'], "pairs.jsonl, line 1: no key 'rejected'"),
    ],
)
def test_preferences_that_teach_nothing_are_named_and_nothing_is_left(
    tmp_path, monkeypatch, lines, message
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pairs.jsonl").write_text("\n".join(lines))
    with pytest.raises(ConfigError, match=re.escape(message)):
        app.run(
            "ppo_lm",
            "reward_model=true",
            "preferences=pairs.jsonl",
            "label_scale=1",
            "workers=1",
            "out=run",
        )
    assert not (tmp_path / "run").exists()
