"""Models in GGUF: a small one that is written here, what is wrong with a file, and SmolLM2 where
it is installed.
"""

import importlib.util
import json

import gguf
import numpy as np
import pytest
import torch
from tokenizers.pre_tokenizers import ByteLevel
from transformers import AutoModelForCausalLM

from klbench.engine import app
from klbench.lm import cache, loading, names
from klbench.lm import gguf as ours
from klbench.lm.packaged import TRAINED_SMOLLM2
from klbench.lm.quiet import quiet
from klbench.types import ConfigError, Notice

WIDTH, LAYERS, HEADS, INNER, CONTEXT = 32, 2, 4, 64, 64
TEMPLATE = (
    "{% for m in messages %}<{{ m.role }}>{{ m.content }}<e>{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)


def tokens() -> list[str]:
    """An end, and all bytes as GPT-2 writes them."""
    return ["<e>", *sorted(ByteLevel.alphabet()), "ab"]


def write(path, **changes) -> str:
    """A Llama of two layers with random weights."""
    words, draw = tokens(), np.random.default_rng(0)
    out = gguf.GGUFWriter(path, changes.get("arch", "llama"))
    out.add_context_length(CONTEXT)
    out.add_embedding_length(WIDTH)
    out.add_block_count(LAYERS)
    out.add_feed_forward_length(INNER)
    out.add_head_count(HEADS)
    out.add_head_count_kv(HEADS)
    out.add_layer_norm_rms_eps(1e-5)
    out.add_rope_freq_base(10_000.0)
    out.add_vocab_size(len(words))
    out.add_tokenizer_model("gpt2")
    out.add_token_list(words)
    out.add_token_types([3] + [1] * (len(words) - 1))
    out.add_token_merges(["a b"])
    out.add_bos_token_id(0)
    out.add_eos_token_id(0)
    out.add_chat_template(changes.get("template", TEMPLATE))
    shapes = {
        "token_embd": (len(words), WIDTH),
        "output": (len(words), WIDTH),
        "output_norm": (WIDTH,),
    }
    for i in range(LAYERS):
        block = dict.fromkeys(("attn_q", "attn_k", "attn_v", "attn_output"), (WIDTH, WIDTH))
        block |= {"ffn_gate": (INNER, WIDTH), "ffn_up": (INNER, WIDTH), "ffn_down": (WIDTH, INNER)}
        block |= dict.fromkeys(("attn_norm", "ffn_norm"), (WIDTH,))
        shapes |= {f"blk.{i}.{name}": shape for name, shape in block.items()}
    for name, shape in shapes.items():
        values = draw.standard_normal(shape).astype(np.float32) * 0.4
        out.add_tensor(f"{name}.weight", values if len(shape) > 1 else np.abs(values) + 0.5)
    out.write_header_to_file()
    out.write_kv_data_to_file()
    out.write_tensors_to_file()
    out.close()
    return str(path)


@pytest.fixture(scope="module")
def small(tmp_path_factory) -> str:
    return write(tmp_path_factory.mktemp("gguf") / "small.gguf")


def test_a_file_is_converted_once_and_says_the_same(small, monkeypatch, capfd) -> None:
    lm = loading.load(small)
    assert capfd.readouterr().err == ""
    assert (lm.vocabulary, lm.context, lm.end) == (len(tokens()), CONTEXT, (0,))
    assert lm.decode(lm.encode("ab c")) == ["ab", " ", "c"]
    assert lm.chat([{"role": "user", "content": "a"}]) == ("<user>a<e><assistant>", "")
    assert lm.encode_chat(
        [{"role": "user", "content": "a"}], [{"role": "assistant", "content": "ab"}]
    )[1] == [len(tokens()) - 1, 0]
    folder = ours.folder(small)
    assert json.loads((folder / "config.json").read_text()).get("quantization_config") is None
    with quiet():
        read = AutoModelForCausalLM.from_pretrained(
            str(names.inputs.expanded(small).parent), gguf_file="small.gguf", dtype=torch.float32
        )
    ids = torch.tensor([lm.encode("abacus")])
    with torch.no_grad():
        assert torch.equal(lm.model(input_ids=ids).logits, read.eval()(input_ids=ids).logits)
    monkeypatch.setattr(ours, "convert", lambda *_: pytest.fail("converted again"))
    assert ours.folder(small) == folder


def test_a_kept_model_that_was_changed_is_made_again(tmp_path, monkeypatch, small) -> None:
    monkeypatch.setenv(cache.VARIABLE, str(tmp_path))
    folder = ours.folder(small)
    (folder / "config.json").write_text("{}")
    with pytest.warns(Notice, match=r"config\.json is not as it was written; it is made again"):
        assert ours.folder(small) == folder
    assert json.loads((folder / "config.json").read_text())["model_type"] == "llama"


def test_it_is_measured_from_the_command_line(small, tmp_path) -> None:
    run = app.run(
        "lm",
        f"pair.policy={small}",
        f"pair.reference={small}",
        "pair=lm",
        "pair.max_new_tokens=4",
        "pair.prompt_count=4",
        "samples=16",
        "rescored=8",
        "workers=1",
        f"out={tmp_path / 'run'}",
    )
    assert (run.tables["values"]["mean"].abs() < 1e-6).all()


def test_what_is_wrong_with_a_file_is_one_line(tmp_path, small, monkeypatch) -> None:
    (tmp_path / "text.gguf").write_text("no model")
    with pytest.raises(ConfigError, match="does not begin with 'GGUF': no file in GGUF"):
        names.check(str(tmp_path / "text.gguf"))
    with pytest.raises(ConfigError, match="no such file"):
        names.check(str(tmp_path / "none.gguf"))
    whole = names.inputs.expanded(small).read_bytes()
    for name, content in (
        ("half.gguf", whole[: len(whole) // 2]),
        ("head.gguf", whole[:200]),
        ("magic.gguf", b"GGUF"),
        ("huge.gguf", whole[:8] + b"\xff" * 16 + whole[24:]),
    ):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(
            ConfigError, match=f"{name}: cannot be read as a language model in GGUF"
        ):
            loading.load(str(tmp_path / name))
    other = write(tmp_path / "other.gguf", arch="clip")
    with pytest.raises(
        ConfigError, match=r"other\.gguf: cannot be read as a language model in GGUF"
    ):
        loading.load(other)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match="needs gguf, which is not installed here"):
        names.check(small)
    with pytest.raises(ConfigError, match="smollm2: needs gguf"):
        names.check("smollm2")


def test_smollm2_that_is_not_installed_is_said(monkeypatch) -> None:
    monkeypatch.setattr(names, "PACKAGED", "no_such_package")
    with pytest.raises(ConfigError, match=r"smollm2: needs the package no-such-package.*smollm"):
        names.check("smollm2")
    for each in TRAINED_SMOLLM2:
        with pytest.raises(ConfigError, match="needs the package no-such-package"):
            names.check(each)
    with pytest.raises(ConfigError, match="'smollm2:grpo': neither a folder"):
        names.check("smollm2:grpo")


def test_a_template_cannot_do_anything_but_write(tmp_path) -> None:
    bad = "{{ ''.__class__.__mro__[1].__subclasses__() }}"
    lm = loading.load(write(tmp_path / "bad.gguf", template=bad))
    with pytest.raises(ConfigError, match="its chat template does not take these messages"):
        lm.chat([{"role": "user", "content": "a"}])
