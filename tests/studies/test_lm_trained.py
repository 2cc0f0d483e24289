"""The embedded policies that PPO and DPO have trained."""

import subprocess
import sys
from collections.abc import Iterator

import pytest
import torch

from klbench import studies
from klbench.lm import cache, embedded
from klbench.lm.loading import load
from klbench.pairs.lm import LmPair
from klbench.studies.language import trained

NAMES = [embedded.PREFIX + name for name in embedded.TRAINED]


@pytest.fixture(scope="module", autouse=True)
def lm_cache(tmp_path_factory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KLBENCH_CACHE", str(tmp_path_factory.mktemp("lm-cache")))
        patch.setenv("KLBENCH_EMBEDDED", "tiny")
        yield


def test_every_one_has_a_trainer() -> None:
    assert list(trained.TRAINED) == list(trained.TINY) == list(embedded.TRAINED)
    for name, (study, _, _) in trained.TRAINED.items():
        studies.get(study).options(**trained.SHARED | trained.TRAINED[name][1])


@pytest.mark.parametrize("name", NAMES)
def test_it_is_trained_once_and_is_a_policy_like_any_other(name, monkeypatch) -> None:
    pair = LmPair(policy=name, max_new_tokens=6, prompt_count=4)
    found = pair.completions(0, 0, 8)
    assert found.kl_qp.sum() > 0.0
    assert pair.title == f"LM {name.removeprefix('embedded:')} ‖ reference, 6 tokens"
    ours, theirs = (dict(load(each).model.named_parameters()) for each in (name, "embedded:reference"))
    assert any(not torch.equal(ours[key], theirs[key]) for key in theirs)
    monkeypatch.setattr(studies.registry, "get", lambda *_: pytest.fail("trained again"))
    assert (embedded.folder(name) / "model.safetensors").is_file()


def test_to_declare_the_studies_imports_nothing_heavy() -> None:
    light = "import sys, klbench.studies; assert not {'torch', 'transformers', 'pandas', 'scipy'} & set(sys.modules)"
    assert subprocess.run([sys.executable, "-c", light], capture_output=True, text=True).stderr == ""


def test_other_settings_or_code_are_another_policy(monkeypatch) -> None:
    before = trained._made_with("ppo-midway")
    assert before != trained._made_with("dpo-midway")
    monkeypatch.setattr(trained, "DECIDES", ("lm",))
    after = trained._made_with("ppo-midway")
    assert before["code"] != after["code"]
    assert before["settings"] == after["settings"]


def test_one_that_is_interrupted_leaves_nothing(monkeypatch, tmp_path) -> None:
    from klbench.studies.ppo_lm import tasks

    def interrupt(*task):
        raise KeyboardInterrupt

    embedded.built()
    monkeypatch.setattr(tasks, "perform", interrupt)
    with pytest.raises(KeyboardInterrupt):
        cache.folder("broken", "off", lambda target: trained._train("ppo-midway", target))
    assert not (cache.root() / "broken" / "off").exists()
