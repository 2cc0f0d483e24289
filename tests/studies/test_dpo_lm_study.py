"""DPO on language models, from settings to tables, and on from where it was interrupted."""

import json
import math
import re

import numpy as np
import pandas as pd
import pytest
from experiments import configured

from klbench.context import Context
from klbench.engine import app
from klbench.rlhf.language.ppo_world import Language
from klbench.runs import RunFolder
from klbench.studies import get
from klbench.types import ConfigError

TINY = {
    "divergences": ("kl_qp", "kl_pq"),
    "smoothings": (0.1,),
    "updates": 6,
    "every": 3,
    "ranked_pairs": 40,
    "pairs_each": 16,
    "prompts_each": 4,
    "group": 4,
    "prompt_count": 4,
    "samples": 32,
    "max_new_tokens": 6,
    "seeds": 1,
    "learning_rate": 0.01,
}
NAMES = ("dpo", "f-dpo kl_pq", "dpo smoothed 0.1")


@pytest.fixture(scope="module", autouse=True)
def _embedded(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KLBENCH_CACHE", str(tmp_path_factory.mktemp("cache")))
        patch.setenv("KLBENCH_EMBEDDED", "tiny")
        patch.setenv("HF_HUB_OFFLINE", "1")
        yield


def study(folder, **changes) -> dict[str, pd.DataFrame]:
    context = Context(0, folder=RunFolder(folder))
    found = dict(get("dpo_lm").run(configured("dpo_lm", **TINY | changes), context))
    assert not context.interrupted
    return found


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    return folder, study(folder)


def test_the_tables_hold_the_exact_kl_beside_what_samples_say_of_it(whole) -> None:
    training = whole[1]["training"]
    assert [tuple(each) for each in training[["combination", "step"]].to_numpy()] == [
        (n, s) for n in NAMES for s in (0, 3, 6)
    ]
    assert set(training["algorithm"]) == {"dpo"}
    start = training[training["step"] == 0]
    assert float(start["kl"].abs().max()) == 0.0
    assert np.allclose(start.loc[start["combination"] != "dpo smoothed 0.1", "loss"], math.log(2.0))
    assert bool(
        (start["accuracy"] == 0.5).all()
    )  # the policy is its reference, to the bit: every pair is a tie
    assert bool((start["margin"] == 0.0).all())
    later = training[training["step"] > 0]
    assert bool((later["kl"] > 0).all())
    assert bool((later["loss"] < math.log(2.0) + 0.1).all())
    assert np.allclose(training["kl_estimate"], training["k1"])
    for name in ("k1", "k2", "k3"):
        assert bool((later[f"{name}_se"] > 0).all())
    assert bool(training[["regret", "kl_to_optimum"]].isna().all(axis=None))
    compared = whole[1]["compared"].set_index("combination")
    assert list(compared.index) == ["untrained", *NAMES]
    assert compared.loc["dpo", "beta_dpo"] == pytest.approx(0.9)
    assert sorted(path.name for path in (whole[0] / "checkpoints").iterdir()) == [
        "dpo-seed-0",
        "dpo-smoothed-0.1-seed-0",
        "f-dpo-kl_pq-seed-0",
        "untrained-seed-0",
    ]


@pytest.mark.parametrize("after", [4, 8])
def test_an_interrupted_run_goes_on_to_the_same_bits(whole, tmp_path, monkeypatch, after) -> None:
    steps = []
    step = Language.step

    def counted(self, loss, update):
        steps.append(update)
        if len(steps) > after:
            raise KeyboardInterrupt
        step(self, loss, update)

    monkeypatch.setattr(Language, "step", counted)
    context = Context(0, folder=RunFolder(tmp_path))
    get("dpo_lm").run(configured("dpo_lm", **TINY), context)
    assert context.interrupted
    monkeypatch.undo()
    found = study(tmp_path)
    for name, table in whole[1].items():
        pd.testing.assert_frame_equal(found[name], table, check_exact=True)


def test_pairs_of_ones_own_take_the_place_of_sampled_ones_and_the_page_says_so(
    tmp_path, monkeypatch
) -> None:
    monkeypatch.chdir(tmp_path)
    rows = [{"prompt": "A tale", "chosen": " of two", "rejected": " of a long day"}] * 3
    (tmp_path / "pairs.jsonl").write_text("\n".join(map(json.dumps, rows)))
    small = [f"{key}={value}" for key, value in TINY.items() if isinstance(value, int | float)]
    run = app.run(
        "dpo_lm",
        *small,
        "divergences=[kl_qp]",
        "preferences=pairs.jsonl",
        "label_scale=1",
        "beta=0.1",
        "workers=1",
        "out=run",
    )
    training = run.tables["training"]
    assert training["loss"].iloc[-1] < training["loss"].iloc[0]
    assert training["accuracy"].iloc[-1] == 1.0
    page = (run.path / "index.html").read_text()
    assert "DPO with β = 0.1, 6 updates, 1 seed." in page


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            '{"prompt": "x", "chosen": "y"}',
            "pairs.jsonl, line 1: no key 'rejected'; expected prompt, chosen, rejected",
        ),
        (
            '{"prompt": "x", "chosen": "y", "rejected": ""}',
            "line 1: 'rejected' must be text that is not empty",
        ),
    ],
)
def test_pairs_that_cannot_be_read_are_named_and_nothing_is_left(
    tmp_path, monkeypatch, content, message
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pairs.jsonl").write_text(content)
    with pytest.raises(ConfigError, match=re.escape(message)):
        app.run("dpo_lm", "preferences=pairs.jsonl", "workers=1", "out=run")
    assert not (tmp_path / "run").exists()
