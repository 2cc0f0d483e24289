"""The models that come with klbench."""

import json
import math

import pytest

from klbench.lm import catalogue, embedded
from klbench.lm.corpus import corpus
from klbench.lm.loading import load
from klbench.types import ConfigError

TINY = embedded.RECIPES["tiny"]


def test_a_set_is_made_the_same_way_again(tmp_path) -> None:
    again = tmp_path / "again"
    again.mkdir()
    embedded.build(TINY, again)
    for path in embedded.built().rglob("*"):
        if path.is_file():
            assert path.read_bytes() == (again / path.relative_to(embedded.built())).read_bytes(), (
                path.name
            )
    assert sorted(p.name for p in again.iterdir()) == sorted([*catalogue.NAMES, "made.json"])


def test_a_set_says_what_it_was_made_with() -> None:
    made = embedded.describe()
    assert made["corpus"] == corpus().sha256
    assert made["recipe"] == json.loads(json.dumps(embedded.asdict(TINY)))
    assert set(made["versions"]) == {"torch", "transformers", "tokenizers"}
    assert set(made["kl_qp"]) == set(catalogue.NAMES[1:])
    for how in ("finetuned", "sharpened"):
        near, midway, far = (made["kl_qp"][f"{how}-{level}"] for level in catalogue.LEVELS)
        assert 0.0 < near["value"] < midway["value"] < far["value"]
        assert all(
            0.0 < each["error"] < each["value"] and 1 <= each["tokens"] <= TINY.tokens
            for each in (near, midway, far)
        )


def test_another_recipe_text_or_library_is_another_set(monkeypatch) -> None:
    key = embedded._key(TINY)
    assert embedded._key(embedded.RECIPES["standard"]) != key
    monkeypatch.setattr(embedded.importlib.metadata, "version", lambda name: "0")
    assert embedded._key(TINY) != key


def test_another_training_needs_another_version() -> None:
    """Raise VERSION where this fails: what was kept under the old one is another model."""
    kl = {
        name: embedded.describe()["kl_qp"][name]["value"]
        for name in ("finetuned-far", "sharpened-far")
    }
    assert embedded.VERSION == 1
    assert kl == pytest.approx({"finetuned-far": 0.013900, "sharpened-far": 0.13238}, rel=0.02)


def test_a_set_is_built_once(monkeypatch) -> None:
    embedded.built()
    monkeypatch.setattr(embedded, "build", lambda *_: pytest.fail("built again"))
    for name in catalogue.NAMES:
        assert (embedded.folder(catalogue.PREFIX + name) / "model.safetensors").is_file()


def test_a_sharpened_policy_has_the_logits_of_the_reference_over_the_temperature() -> None:
    import torch

    reference = load("embedded:reference")
    ids = torch.tensor([reference.encode("The value of the name")])
    expected = reference.model(ids).logits
    for level, temperature in zip(catalogue.LEVELS, TINY.temperatures, strict=True):
        logits = load(f"embedded:sharpened-{level}").model(ids).logits
        torch.testing.assert_close(logits, expected / temperature, rtol=1e-5, atol=1e-5)


def test_the_tokenizer_marks_beginnings_and_gives_the_text_back() -> None:
    lm = load("embedded:reference")
    text = 'Naïve "quotes" — and bytes: \x00, 你好'
    ids = lm.encode(text)
    assert ids[0] == lm.end[0] == lm.tokenizer.bos_token_id
    assert lm.tokenizer.decode(ids[1:]) == text
    assert lm.pad not in ids
    assert lm.pad != lm.end[0]
    assert lm.vocabulary == TINY.vocabulary == len(lm.tokenizer)


def test_training_is_what_made_the_reference_and_left_the_rest_of_torch_alone(tmp_path) -> None:
    import torch

    lm = load("embedded:reference")
    documents = [[*lm.encode(s)[: TINY.context - 1], lm.end[0]] for s in corpus().train[:64]]
    assert float(embedded._loss(lm.model, documents)) < math.log(TINY.vocabulary) - 0.1
    state, threads = torch.random.get_rng_state(), torch.get_num_threads()
    embedded.build(TINY, tmp_path)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert torch.get_num_threads() == threads


def test_a_wrong_name_is_answered_with_the_nearest(monkeypatch) -> None:
    with pytest.raises(ConfigError, match=r"did you mean 'finetuned-near'.*sharpened-far"):
        embedded.folder("embedded:finetuned-nera")
    monkeypatch.setenv("KLBENCH_EMBEDDED", "tinny")
    with pytest.raises(ConfigError, match=r"KLBENCH_EMBEDDED.*'tinny'.*did you mean 'tiny'"):
        embedded.built()
