"""The embedded policies that PPO and DPO have trained."""

import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from klbench import studies
from klbench.lm import cache, catalogue, embedded
from klbench.lm.loading import load
from klbench.pairs.lm import LmPair
from klbench.studies.language import trained

NAMES = [catalogue.PREFIX + name for name in catalogue.TRAINED]


@pytest.fixture(scope="module", autouse=True)
def lm_cache(tmp_path_factory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KLBENCH_CACHE", str(tmp_path_factory.mktemp("lm-cache")))
        patch.setenv("KLBENCH_EMBEDDED", "tiny")
        yield


def test_every_one_has_a_trainer() -> None:
    assert list(trained.TRAINED) == list(trained.TINY) == list(catalogue.TRAINED)
    for name, (study, _, _) in trained.TRAINED.items():
        studies.get(study).options(**trained.SHARED | trained.TRAINED[name][1])


@pytest.mark.parametrize("name", NAMES)
def test_it_is_trained_once_and_is_a_policy_like_any_other(name, monkeypatch) -> None:
    pair = LmPair(policy=name, max_new_tokens=6, prompt_count=4)
    found = pair.completions(0, 0, 8)
    assert found.kl_qp.sum() > 0.0
    assert pair.title == f"LM {name.removeprefix('embedded:')} ‖ reference, 6 tokens"
    ours, theirs = (
        dict(load(each).model.named_parameters()) for each in (name, "embedded:reference")
    )
    assert any(not torch.equal(ours[key], theirs[key]) for key in theirs)
    monkeypatch.setattr(trained, "RunFolder", lambda *_: pytest.fail("trained again"))
    assert (embedded.folder(name) / "model.safetensors").is_file()


def test_to_declare_the_studies_imports_nothing_heavy() -> None:
    light = (
        "import sys, klbench.studies; assert not {'torch', 'transformers', 'pandas', 'scipy'} &"
        " set(sys.modules)"
    )
    assert (
        subprocess.run([sys.executable, "-c", light], capture_output=True, text=True).stderr == ""
    )


def test_other_settings_or_another_version_are_another_policy(monkeypatch) -> None:
    before = trained._made_with("ppo-midway")
    assert before != trained._made_with("dpo-midway")
    assert before["options"]["learning_rate"] == 1e-3
    assert (
        before["options"]["clip"] == 0.2
    )  # what the algorithm sets counts as well as what the recipe says
    made = {embedded.folder("embedded:ppo-midway")}
    with monkeypatch.context() as patch:
        patch.setitem(trained.TINY, "ppo-midway", trained.TINY["ppo-midway"] | {"updates": 1})
        made.add(embedded.folder("embedded:ppo-midway"))
    monkeypatch.setattr(trained, "VERSION", trained.VERSION + 1)
    made.add(embedded.folder("embedded:ppo-midway"))
    assert len(made) == 3


def start_by_formula(folder: Path) -> str:
    """The tiny reference with weights that no library draws and no training makes."""
    shutil.copytree(embedded.folder("embedded:reference"), folder)
    model = AutoModelForCausalLM.from_pretrained(folder)
    with torch.no_grad():
        for k, (name, each) in enumerate(sorted(model.named_parameters())):
            wave = torch.sin(1.7 * torch.arange(each.numel(), dtype=torch.float64) + k).view_as(
                each
            )
            each.copy_(wave * 0.3 + (1.0 if "ln_" in name and name.endswith("weight") else 0.0))
    model.save_pretrained(folder)
    return str(folder)


# Log-probabilities of five tokens after training from start_by_formula, by version; torch 2.13 on
# x86-64. With other instruction sets (AVX-512, AVX2, neither) all are the same to 9e-7.
LOG_PROBS = {
    1: {
        "ppo-midway": [-5.08060152, -7.59058469, -6.27363179, -7.69867890, -6.23272042],
        "dpo-midway": [-4.78115941, -7.13794989, -6.15470444, -7.05998128, -6.14722784],
    },
}
LOG_PROBS[3] = LOG_PROBS[1]  # later versions changed models beyond 5 million parameters alone


@pytest.mark.parametrize("name", catalogue.TRAINED)
def test_other_weights_of_the_same_settings_are_another_version(
    name, monkeypatch, tmp_path
) -> None:
    monkeypatch.setitem(trained.SHARED, "policy", start_by_formula(tmp_path / "start"))
    trained._train(name, tmp_path / "made")
    found, before = (log_probs(tmp_path / each) for each in ("made", "start"))
    assert np.abs(found - before).min() > 1e-3  # training moves each of them by far more than that
    assert found == pytest.approx(LOG_PROBS[trained.VERSION][name], abs=1e-5), (
        f"the weights of {name} have changed: raise VERSION in {trained.__name__}, and add its"
        f" numbers: {found.tolist()}"
    )


def log_probs(folder: Path) -> np.ndarray:
    """In float64, lest the scoring itself round."""
    model = AutoModelForCausalLM.from_pretrained(folder).double()
    ids = torch.tensor([[0, 40, 41, 42, 43, 44, 45, 46]])
    with torch.no_grad():
        scores = model(ids).logits[0, :-1].log_softmax(-1)
    return scores.gather(-1, ids[0, 1:, None])[
        [0, 1, 3, 4, 6], 0
    ].numpy()  # without the two that depend most on rounding


def test_one_that_is_interrupted_leaves_nothing(monkeypatch, tmp_path) -> None:
    from klbench.studies.ppo_lm import run

    def interrupt(*task):
        raise KeyboardInterrupt

    embedded.built()
    monkeypatch.setattr(run, "perform", interrupt)
    with pytest.raises(KeyboardInterrupt):
        cache.folder("broken", "off", lambda target: trained._train("ppo-midway", target))
    assert not (cache.root() / "broken" / "off").exists()
