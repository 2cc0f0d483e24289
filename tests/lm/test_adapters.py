"""LoRA adapters: on their base, and refused with one line."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from refusal import Bomb, refused

from klbench.lm import embedded, loading
from klbench.lm.loading import check_same_tokens, load
from klbench.lm.quiet import quiet
from klbench.types import ConfigError

REFERENCE = "embedded:reference"


@pytest.fixture(scope="module")
def adapter(tmp_path_factory) -> Path:
    """A LoRA adapter on the embedded reference, with weights that are not zero."""
    from peft import LoraConfig, get_peft_model
    from transformers import GPT2LMHeadModel

    target = tmp_path_factory.mktemp("lora") / "adapter"
    with quiet(), torch.random.fork_rng(devices=[]):
        base = GPT2LMHeadModel.from_pretrained(embedded.folder(REFERENCE))
        torch.manual_seed(0)
        adapted = get_peft_model(
            base,
            LoraConfig(r=2, target_modules=["c_attn"], task_type="CAUSAL_LM", fan_in_fan_out=True),
        )
        for name, parameter in adapted.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(parameter, std=0.3)
        adapted.save_pretrained(target)
    return target


def test_a_lora_adapter_is_its_base_and_its_change(adapter) -> None:
    from peft import PeftModel
    from transformers import GPT2LMHeadModel

    base = load(REFERENCE)
    lm = load(str(adapter))
    ids = torch.tensor([base.encode("The value of")])
    with quiet():
        plain = GPT2LMHeadModel.from_pretrained(embedded.folder(REFERENCE)).eval()
        merged = PeftModel.from_pretrained(plain, adapter).merge_and_unload()
    torch.testing.assert_close(lm.model(ids).logits, merged(ids).logits, rtol=1e-4, atol=1e-5)
    assert (lm.model(ids).logits - base.model(ids).logits).abs().max() > 1e-3
    check_same_tokens(lm, base)
    assert lm.context == 96


def changed(adapter: Path, target: Path, **keys: object) -> Path:
    shutil.copytree(adapter, target)
    config = json.loads((target / "adapter_config.json").read_text()) | keys
    (target / "adapter_config.json").write_text(json.dumps(config))
    return target


def test_the_base_of_an_adapter_may_have_any_name_that_a_model_has(adapter, tmp_path) -> None:
    ids = torch.tensor([[3, 4, 5]])
    expected = load(str(adapter)).model(ids).logits
    named = changed(adapter, tmp_path / "named", base_model_name_or_path=REFERENCE)
    beside = changed(adapter, tmp_path / "beside", base_model_name_or_path="base")
    shutil.copytree(embedded.folder(REFERENCE), beside / "base")
    for folder in (named, beside):
        torch.testing.assert_close(load(str(folder)).model(ids).logits, expected)


@pytest.mark.parametrize(
    ("keys", "says"),
    [
        ({"base_model_name_or_path": None}, "base_model_name_or_path must name"),
        ({"base_model_name_or_path": "/nothing/here"}, "/nothing/here: no such folder"),
        ({"base_model_name_or_path": "embedded:nope"}, "unknown embedded model 'nope'"),
        ({"peft_type": "IA3"}, "peft_type LORA"),
        ({"megatron_config": {"a": 1}, "megatron_core": "mine"}, "megatron_config"),
        ({"target_modules": ["nowhere"]}, "does not fit its base"),
        ({"r": 3}, "does not fit its base"),
        ({"r": "x"}, "does not fit its base"),
        ({"r": 0}, "does not fit its base"),
        ({"lora_alpha": None}, "does not fit its base"),
        ({"target_modules": 3}, "does not fit its base"),
        ({"layers_to_transform": "x"}, "does not fit its base"),
        ({"base_model_name_or_path": "a" * 300}, "neither a folder that exists, nor a hub id"),
    ],
)
def test_an_adapter_that_cannot_be_used(adapter, tmp_path, keys, says) -> None:
    with pytest.raises(ConfigError) as error:
        load(str(changed(adapter, tmp_path / "changed", **keys)))
    assert says in str(error.value)
    assert "\n" not in str(error.value)


def test_adapters_that_are_pickled_broken_or_on_adapters(adapter, tmp_path) -> None:
    pickled = changed(adapter, tmp_path / "pickled")
    (pickled / "adapter_model.safetensors").unlink()
    torch.save({"x": Bomb()}, pickled / "adapter_model.bin")
    assert "no adapter_model.safetensors there" in refused(pickled)
    broken = changed(adapter, tmp_path / "broken")
    (broken / "adapter_config.json").write_text("{")
    assert "cannot be read as JSON" in refused(broken)
    (broken / "adapter_config.json").write_text("[" * 10**5)
    assert "cannot be read as JSON: nested too deeply" in refused(broken)
    assert "is an adapter itself" in refused(
        changed(adapter, tmp_path / "upper", base_model_name_or_path=str(adapter))
    )


def test_an_adapter_without_some_of_its_weights(adapter, tmp_path) -> None:
    from safetensors.torch import load_file, save_file

    shutil.copytree(adapter, tmp_path / "some")
    weights = load_file(adapter / "adapter_model.safetensors")
    save_file(
        dict(list(weights.items())[1:]),
        tmp_path / "some" / "adapter_model.safetensors",
        {"format": "pt"},
    )
    assert "the adapter lacks weights" in refused(tmp_path / "some")


def test_an_adapter_without_peft(adapter, monkeypatch) -> None:
    loading._load.cache_clear()
    monkeypatch.setattr(loading.importlib.util, "find_spec", lambda name: None)
    assert "pip install 'klbench[lm]'" in refused(adapter)
