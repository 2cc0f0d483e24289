"""What is loaded, and what is refused with one line."""

import json
import os
import shutil
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from refusal import Bomb, refused
from transformers.pytorch_utils import Conv1D

from klbench.lm import embedded, files, loading, names, trained
from klbench.lm.loading import check_same_tokens, load
from klbench.lm.quiet import quiet
from klbench.types import ConfigError

REFERENCE, POLICY = "embedded:reference", "embedded:finetuned-far"


@pytest.fixture
def folder(tmp_path) -> Path:
    """A copy of the reference, to be damaged."""
    shutil.copytree(embedded.folder(REFERENCE), tmp_path / "model")
    return tmp_path / "model"


def test_an_embedded_model_is_one_like_any_other(capfd) -> None:
    lm = load(REFERENCE)
    assert (lm.name, lm.device, lm.context, lm.vocabulary) == (REFERENCE, "cpu", 96, 288)
    assert lm.end == (lm.tokenizer.eos_token_id,)
    assert lm.pad == lm.tokenizer.pad_token_id
    assert not lm.model.training
    assert not any(p.requires_grad for p in lm.model.parameters())
    assert load(REFERENCE) is lm
    again = load(str(embedded.folder(REFERENCE)))
    for ours, theirs in zip(lm.model.parameters(), again.model.parameters(), strict=True):
        assert torch.equal(ours, theirs)
    assert capfd.readouterr() == ("", "")


def test_a_folder_may_be_relative_or_below_home(folder, monkeypatch) -> None:
    monkeypatch.chdir(folder.parent)
    assert load("model").vocabulary == load("./model/").vocabulary == 288
    monkeypatch.setenv("HOME", str(folder.parent))
    assert load("~/model").vocabulary == 288


def test_the_dtype_is_the_one_asked_for() -> None:
    for dtype in loading.DTYPES:
        kept = "float32" if dtype == "int8" else dtype
        assert load(REFERENCE, dtype=dtype).model.dtype == getattr(torch, kept)
    assert "float32, bfloat16, float16" in refused(REFERENCE, dtype="float8")


def test_a_gpu_that_is_not_there(monkeypatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert (
        refused(REFERENCE, device="cuda") == "device='cuda': torch sees no GPU here; use device=cpu"
    )


def test_each_process_takes_a_gpu_of_its_own(monkeypatch) -> None:
    taken = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", taken.append)
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    loading.check_device("cuda")
    assert taken == []  # a process that is alone keeps the one it has
    for local in ("0", "1"):
        monkeypatch.setenv("LOCAL_RANK", local)
        loading.check_device("cuda")
        loading.check_device("cpu")
    assert taken == [0, 1]
    monkeypatch.setenv("LOCAL_RANK", "2")
    with pytest.raises(
        ConfigError, match="there is no GPU for process 3 of this machine, torch sees 2; start 2"
    ):
        loading.check_device("cuda")


@pytest.mark.parametrize("name", ["./nothing", "/nothing/here", "~/nothing", "a/b/c", "nothing/"])
def test_a_folder_that_is_not_there(name, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert "no such folder" in refused(name)
    with pytest.raises(ConfigError, match="no such folder"):
        names.check(name)


def test_a_name_that_is_none() -> None:
    for name in ("", "what is this", "org/name with space", "-x"):
        with pytest.raises(ConfigError, match="neither a folder that exists, nor a hub id"):
            names.check(name)
    with pytest.raises(ConfigError, match="did you mean 'reference'"):
        names.check("embedded:refrence")
    for name in ("gpt2", "org/name", "Qwen/Qwen2.5-0.5B"):
        names.check(name)


def test_a_hub_id_that_cannot_be_reached() -> None:
    line = refused("no-such-org/no-such-model")
    assert "no such folder" in line
    assert "hub" in line


def test_the_hub_is_not_waited_for_where_there_is_no_way_to_it(monkeypatch) -> None:
    from huggingface_hub import constants

    assert files.from_disk_only("org/name")  # HF_HUB_OFFLINE, of these tests
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(files.urllib.request, "getproxies", dict)
    reached = []

    def connect(address, timeout):
        reached.append(address)
        if len(reached) == 1:
            raise OSError("no way")
        return nullcontext()

    monkeypatch.setattr(files.socket, "create_connection", connect)
    assert files.from_disk_only("org/name")
    assert not files.from_disk_only("org/name")
    host = constants.ENDPOINT.removeprefix("https://")
    assert reached == [(host, 443)] * 2
    monkeypatch.setattr(files.urllib.request, "getproxies", lambda: {"https": "http://proxy"})
    assert not files.from_disk_only("org/name")
    assert files.from_disk_only(str(embedded.folder(REFERENCE)))
    assert len(reached) == 2


def test_weights_that_are_pickled_are_refused(folder) -> None:
    (folder / "model.safetensors").unlink()
    assert "no *.safetensors there, nor any other weights" in refused(folder)
    torch.save({"x": Bomb()}, folder / "pytorch_model.bin")
    line = refused(folder)
    assert "only pytorch_model.bin" in line
    assert "can run code" in line


def test_code_that_a_folder_brings_is_not_run(folder) -> None:
    (folder / "mine.py").write_text("raise SystemExit('was run')")
    config = json.loads((folder / "config.json").read_text())
    config |= {
        "model_type": "mine",
        "auto_map": {"AutoConfig": "mine.C", "AutoModelForCausalLM": "mine.M"},
    }
    (folder / "config.json").write_text(json.dumps(config))
    refused(folder)


@pytest.mark.parametrize(
    ("file", "content", "says"),
    [
        ("config.json", None, "no config.json there"),
        ("config.json", "{", "cannot be loaded"),
        ("config.json", '{"model_type": "nope"}', "cannot be loaded"),
        ("config.json", '{"model_type": "vit"}', "cannot be loaded"),
        ("model.safetensors", "", "cannot be loaded"),
        ("tokenizer.json", "{", "its tokenizer cannot be read"),
    ],
)
def test_a_damaged_folder_is_refused(folder, file, content, says) -> None:
    if content is None:
        (folder / file).unlink()
    else:
        (folder / file).write_text(content)
    assert says in refused(folder)


def test_a_folder_without_a_tokenizer(folder) -> None:
    for file in folder.glob("tokenizer*"):
        file.unlink()
    line = refused(folder)
    assert "no tokenizer there" in line
    assert "tokenizer.save_pretrained" in line


def test_weights_of_another_shape_are_refused(folder) -> None:
    config = json.loads((folder / "config.json").read_text()) | {"n_embd": 32}
    (folder / "config.json").write_text(json.dumps(config))
    assert "cannot be loaded" in refused(folder)


def test_weights_that_are_missing_are_not_drawn_at_random(folder) -> None:
    from safetensors.torch import load_file, save_file

    weights = load_file(folder / "model.safetensors")
    some = {key: each for key, each in weights.items() if "ln_f" not in key}
    save_file(some, folder / "model.safetensors", {"format": "pt"})
    assert refused(folder).endswith("its weights lack transformer.ln_f.bias and 1 others")


@pytest.mark.parametrize("is_decoder", [False, True])
def test_a_model_that_sees_later_tokens_is_refused(folder, is_decoder) -> None:
    from transformers import BertConfig, BertLMHeadModel

    config = BertConfig(
        vocab_size=288,
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        is_decoder=is_decoder,
        initializer_range=0.5,
    )
    with quiet(), torch.random.fork_rng():
        torch.manual_seed(0)
        BertLMHeadModel(config).save_pretrained(folder)
    if is_decoder:
        assert load(str(folder)).vocabulary == 288
    else:
        assert "depends on later ones" in refused(folder)


def test_another_tokenizer_is_named_by_its_first_difference(folder) -> None:
    text = (folder / "tokenizer.json").read_text(encoding="utf-8")
    (folder / "tokenizer.json").write_text(text.replace('"Ā"', '"XX"'), encoding="utf-8")
    ours, theirs = load(REFERENCE), load(str(folder))
    index = ours.tokenizer.convert_tokens_to_ids("Ā")
    with pytest.raises(ConfigError) as error:
        check_same_tokens(ours, theirs)
    assert f"token {index} is 'Ā' in one and 'XX' in the other" in str(error.value)
    check_same_tokens(ours, load(POLICY))
    check_same_tokens(ours, ours)


def test_another_size_or_another_way_to_cut_a_text_is_refused(folder) -> None:
    ours = load(REFERENCE)
    with pytest.raises(ConfigError, match=r"logits over 288 tokens and reference .* over 300"):
        check_same_tokens(ours, replace(load(POLICY), vocabulary=300))
    settings = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    settings["pre_tokenizer"]["add_prefix_space"] = True
    (folder / "tokenizer.json").write_text(json.dumps(settings), encoding="utf-8")
    with pytest.raises(ConfigError, match="cut a text into them differently"):
        check_same_tokens(ours, load(str(folder)))


@pytest.mark.parametrize("added", ["<|fill|>", None])
def test_padding_that_the_model_does_not_know_or_the_tokenizer_does_not_have(folder, added) -> None:
    from transformers import AutoTokenizer

    from klbench.pairs.lm import LmPair

    with quiet():
        tokenizer = AutoTokenizer.from_pretrained(folder)
        if added:
            tokenizer.add_special_tokens({"pad_token": added})
        else:
            tokenizer.pad_token = None
        tokenizer.save_pretrained(folder)
    lm = load(str(folder))
    assert (lm.tokenizer.pad_token_id or 0) >= lm.vocabulary or lm.tokenizer.pad_token_id is None
    assert lm.pad == lm.end[0] < lm.vocabulary
    mine, same = (
        LmPair(policy=str(folder), reference=each, prompt_count=5, max_new_tokens=6)
        for each in (str(folder), POLICY)
    )
    found = mine.completions(0, 0, 5)
    assert (found.kl_qp == 0.0).all()
    if not added:
        assert same.completions(0, 0, 5).kl_qp.sum() > 0.0
        return
    with pytest.raises(
        ConfigError,
        match=r"token 288, which is beyond the 288 that the model knows \(in the prompt",
    ):
        lm.encode("one <|fill|>")


def test_a_prompt_without_tokens_is_refused(monkeypatch) -> None:
    lm = replace(load(REFERENCE), tokenizer=lambda text: {"input_ids": []})
    with pytest.raises(ConfigError, match="the prompt 'x' has no tokens"):
        lm.encode("x")


def test_decode_gives_each_token_by_itself() -> None:
    lm = load(REFERENCE)
    ids = lm.encode("of the value")
    assert "".join(lm.decode(np.array(ids[1:]))) == "of the value"


def damaged(folder: Path, **keys: object) -> Path:
    """A folder whose ``config.json`` says something else."""
    config = json.loads((folder / "config.json").read_text()) | keys
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def reweighted(folder: Path, change) -> Path:
    """A folder whose weights are what ``change`` makes of them."""
    from safetensors.torch import load_file, save_file

    save_file(
        change(load_file(folder / "model.safetensors")),
        folder / "model.safetensors",
        {"format": "pt"},
    )
    loading._load.cache_clear()
    return folder


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize(
    ("name", "place"),
    [("transformer.wte.weight", (200, 3)), ("transformer.h.0.attn.c_attn.weight", (0, 0))],
)
def test_weights_that_are_not_finite_are_said_to_be_that(folder, name, place, value) -> None:
    """The rows of tokens that are not looked at among them."""

    def change(weights):
        weights[name][place] = value
        return weights

    assert f"the weight {name} holds NaN or infinity in float32" in refused(
        reweighted(folder, change)
    )


def test_weights_that_a_dtype_cannot_hold_and_logits_that_overflow(folder) -> None:
    def change(weights):
        weights["transformer.ln_f.bias"][0] = 1e5
        return weights

    reweighted(folder, change)
    assert load(str(folder)).vocabulary == 288
    assert "the weight transformer.ln_f.bias holds NaN or infinity in float16" in refused(
        folder, dtype="float16"
    )
    refused_for = refused(
        reweighted(folder, lambda weights: {key: 1e20 * each for key, each in weights.items()})
    )
    assert "its logits are NaN or infinite, though its weights are not" in refused_for


@pytest.mark.parametrize("layers", [0, -1, 2, 17])
def test_layers_that_are_not_those_of_the_weights(folder, layers) -> None:
    says = {
        0: "config.json does not describe its weights, they have transformer.h.0.",
        2: "its weights lack transformer.h.1.",
    }
    assert says.get(layers, f"speaks of {layers} layers, all weights together are 16") in refused(
        damaged(folder, n_layer=layers)
    )


def test_a_billion_layers_are_not_built(folder) -> None:
    assert "speaks of 1,000,000,000 layers, all weights together are 16" in refused(
        damaged(folder, n_layer=10**9)
    )


@pytest.mark.parametrize(
    ("extra", "says"),
    [
        ("transformer.h.1.ln_1.weight", "they have transformer.h.1.ln_1.weight more"),
        ("h.1.ln_1.weight", "they have h.1.ln_1.weight more"),  # as the first GPT-2 names them
        ("lm_head.bias", "they have lm_head.bias more"),
        ("transformer.h.0.attn.c_attn.scale", "they have transformer.h.0.attn.c_attn.scale more"),
        ("v_head.summary.weight", ""),  # of what TRL trains beside a policy
        ("transformer.h.0.attn.bias", ""),  # the causal mask, which old versions saved too
        ("transformer.h.0.attn.masked_bias", ""),
    ],
)
def test_weights_that_the_configuration_has_no_place_for(folder, extra, says) -> None:
    reweighted(folder, lambda weights: weights | {extra: torch.ones(16)})
    if says:
        assert says in refused(folder)
    else:
        ids = torch.tensor([[3, 4, 5]])
        assert torch.equal(load(str(folder)).model(ids).logits, load(REFERENCE).model(ids).logits)


@pytest.mark.parametrize("end", [288, 9999, -1, [0, 288], True, "x", 0.5, [[1]]])
def test_an_end_that_is_no_token_of_the_model(folder, end) -> None:
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": end}))
    wrong = end[-1] if isinstance(end, list) else end
    assert f"eos_token_id={wrong!r}: must be a token of the model, 0 to 287" in refused(folder)


def test_ends_that_are_tokens_of_the_model(folder) -> None:
    for end, ends in ((287, (287,)), ([0, 287], (0, 287)), (None, (0,))):
        (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": end}))
        loading._load.cache_clear()
        assert load(str(folder)).end == ends


@pytest.mark.parametrize(
    "name", ["model.safetensors", "tokenizer.json", "generation_config.json", "merges.txt"]
)
def test_a_pipe_in_a_folder_is_not_waited_for(folder, name) -> None:
    (folder / name).unlink(missing_ok=True)
    os.mkfifo(folder / name)
    assert refused(folder) == f"{folder / name}: a pipe, neither a file nor a folder"


def test_an_index_of_weights_in_several_files(folder) -> None:
    (folder / "model.safetensors").rename(folder / "part.safetensors")
    from safetensors.torch import load_file

    names = dict.fromkeys(load_file(folder / "part.safetensors"), "part.safetensors")
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": names}))
    assert load(str(folder)).vocabulary == 288
    loading._load.cache_clear()
    os.mkfifo(folder.parent / "pipe")
    for other, says in (
        ("gone", "no such file"),
        ("../pipe", "a pipe"),
        (".", "a folder"),
        (3, "a weight_map from"),
    ):
        index.write_text(
            json.dumps({"metadata": {}, "weight_map": names | {"lm_head.weight": other}})
        )
        assert says in refused(folder)


def test_a_checkpoint_of_training_that_is_none(tmp_path) -> None:
    from safetensors.torch import save_file

    file = tmp_path / "kept.safetensors"
    assert trained.kept(file) is None
    trained.keep(file, {"x": torch.ones(2)}, {"taken": 3})
    tensors, state = trained.kept(file)
    assert (tensors["x"].tolist(), state) == ([1.0, 1.0], {"taken": 3})
    for header in ({}, {trained.STATE: "{"}, {trained.STATE: "[" * 10**5}):
        save_file({"x": torch.ones(2)}, file, header)
        with pytest.raises(
            ConfigError, match=r"kept\.safetensors: not a checkpoint that klbench wrote: [^\n]+$"
        ):
            trained.kept(file)


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_eight_bits_are_255_levels_of_each_output(random_lm, kind) -> None:
    plain, found = random_lm(kind).model, loading.rounded(random_lm(kind).model)
    head = found.get_output_embeddings()
    changed = 0
    for (name, before), after in zip(plain.named_modules(), found.modules(), strict=True):
        if not isinstance(after, torch.nn.Linear | Conv1D):
            continue
        old, new = (each.weight.detach() for each in (before, after))
        if after is head:
            assert torch.equal(old, new)
            continue
        outputs = zip(
            *(each.T if isinstance(after, Conv1D) else each for each in (old, new)), strict=True
        )
        for row, rounded in outputs:
            step = row.abs().max() / 127
            levels = rounded / step
            torch.testing.assert_close(levels, levels.round(), rtol=0, atol=1e-4)
            assert float((rounded - row).abs().max()) <= 0.5001 * float(step), name
        changed += 1
    assert changed >= 8
