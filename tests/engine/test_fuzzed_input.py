"""Three hundred inputs, drawn at a fixed seed, none of which can be used: one line each, exit code 2, nothing written.

Each is a place (a key, a file, a part of a model) and a fault that no reader has a case of its own for.
"""

import json
import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from klbench.lm import embedded, loading
from klbench.types import ConfigError

Choose = random.Random
GAUSSIAN = ("exp=value", "pair=gaussian", "samples=100", "workers=1")
TRAINING = ("exp=ppo_lm", "updates=1")


def deep(choose: Choose) -> str:
    """JSON, and YAML, that is nested deeper than any reader follows."""
    levels = choose.choice([100, 900, 3000])
    opening, closing = choose.choice([("[", "]"), ('{"a":', "}")])
    return opening * levels + "1" + closing * levels


def long(choose: Choose) -> str:
    return choose.choice("abz") * choose.choice([256, 300, 5000])


def digits(choose: Choose) -> str:
    return choose.choice("123") * choose.choice([4301, 5000, 20_000])


def half(choose: Choose) -> str:
    """JSON of half a character."""
    return rf"\u{choose.randrange(0xD800, 0xE000):x}"


def path_of(choose: Choose) -> str:
    """A path at which there is nothing to read."""
    return choose.choice(
        [
            long(choose),
            f"no/{long(choose)}",
            "loop",
            "loop/below",
            "pipe",
            "/dev/zero",
            "'a\0b'",
            "to-pipe",
        ]
    )


def a_path(choose: Choose, folder: Path) -> list[str]:
    suffix = choose.choice([".jsonl", ".parquet", ".txt", ".npz"])
    path = path_of(choose)
    before, key = choose.choice(
        [
            (("exp=lm", "pair=lm"), "prompts"),
            (("exp=lm", "pair=lm"), "policy"),
            (("exp=dpo_lm",), "reference"),
            (TRAINING, "sft"),
            (TRAINING, "pretraining"),
            (TRAINING, "preferences"),
            (("exp=recorded",), "path"),
        ]
    )
    if key == "policy" or key == "reference":
        path = path if path.startswith(("/", "'", "loop", "pipe", "to", "no")) else f"./{path}"
    elif not path.startswith(("/", "'")):
        path += suffix
    return [*before, f"{key}={path}"]


def out_or_resume(choose: Choose, folder: Path) -> list[str]:
    path = choose.choice(
        [
            long(choose),
            "loop",
            "loop/below",
            "'a\0b'",
            "pipe",
            "pipe/below",
            "/dev/zero",
            "/dev/null/x",
        ]
    )
    return [f"resume={path}"] if choose.random() < 0.4 else [*GAUSSIAN, f"out={path}"]


def a_number(choose: Choose, folder: Path) -> list[str]:
    key = choose.choice(
        [
            "seed",
            "samples",
            "pair.q.mean",
            "pair.p.std",
            "batches",
            "workers",
            digits(choose),
            f"pair.{digits(choose)}",
        ]
    )
    return [*GAUSSIAN, f"{key}={digits(choose) if not key[-1].isdigit() else 3}"]


def a_list_index(choose: Choose, folder: Path) -> list[str]:
    key = choose.choice(["pairs", "estimators", "batches"])
    step = choose.choice(["x", "99", "99.x", "x.y", "0.x.y", "null", "1e3", "_"])
    return [
        "exp=gaussian",
        "samples=100",
        f"{key}.{step}={choose.choice(['1', 'k1', '[1]', '{a:1}'])}",
    ]


def nesting(choose: Choose, folder: Path) -> list[str]:
    levels = choose.choice([70, 200, 1000])
    value = choose.choice(["[" * levels + "]" * levels, "{a:" * levels + "1" + "}" * levels])
    return [
        *GAUSSIAN,
        f"{choose.choice('estimators pair.q pair.q.mean batches seed nope'.split())}={value}",
    ]


def a_sweep(choose: Choose, folder: Path) -> list[str]:
    key = choose.choice(["seed", "samples", "pair.q.mean", "pair.p.std"])
    values = choose.choice(
        [
            "range(0,1,0)",
            "range(0.0,1.0,0.0)",
            "glob(*)",
            "glob([a*,b*])",
            "interval(0,1)",
            "range(2,2)",
            "range(2,1)",
            "range(0,1,-1)",
            "range(1,1000000000)",
            "range(0,1,1e-9)",
            "range(0,1,1e-320)",
            f"range(0,{digits(choose)})",
            "shuffle(range(0,100000))",
            "tag(a,interval(0,1))",
            "sort(range(3,3))",
            "choice()",
            "range()",
            "range(a,b)",
            "range(nan,1)",
            "range(0,inf)",
        ]
    )
    return ["-m", *GAUSSIAN, f"{key}={values}"]


def hydras_own(choose: Choose, folder: Path) -> list[str]:
    override = choose.choice(
        [
            "hydra.sweeper._target_=os.system",
            "hydra.launcher._target_=os.system",
            "hydra.launcher.a={_target_:os.getcwd}",
            "hydra.sweep.subdir=x",
            "hydra.sweep.dir=x",
            "hydra.run.dir=x",
            "hydra.job.chdir=true",
            "hydra.callbacks.a._target_=os.mkdir",
            "hydra.job_logging.version=3",
            "hydra/sweeper=basic",
            "hydra=3",
            "hydra.searchpath=3",
            "hydra.searchpath=[loop]",
            f"hydra.searchpath=[{long(choose)}]",
            "hydra.searchpath=[file:///dev/zero]",
            "hydra/launcher=loop",
            "~hydra.sweep.dir=x",
        ]
    )
    return [*(["-m", *GAUSSIAN, "seed=1,2"] if choose.random() < 0.5 else GAUSSIAN), override]


def an_address(choose: Choose, folder: Path) -> list[str]:
    address = choose.choice(
        [
            "garbage",
            "tcp://",
            "tcp://x",
            "no://x:1",
            "x:0",
            f"x:{digits(choose)}",
            "x:1:2/",
            long(choose),
            "[::1]",
        ]
    )
    return [*GAUSSIAN, "cluster=dask", f"address='{address}'"]


def a_text(choose: Choose, folder: Path) -> list[str]:
    return [
        *GAUSSIAN,
        choose.choice("pair.label out estimators pair.q.mean".split())
        + f"='a{chr(choose.randrange(0xDC80, 0xDD00))}'",
    ]


def a_run_folder(choose: Choose, folder: Path) -> list[str]:
    """A run that was begun, one of whose two files is wrong."""
    run = folder / "run"
    run.mkdir()
    files = {
        "run.json": '{"experiment": "value", "status": "interrupted"}',
        "config.yaml": "study: value\npair: {kind: gaussian}\n",
    }
    wrong = choose.choice(list(files))
    files[wrong] = choose.choice(
        [
            deep(choose),
            digits(choose),
            f'"{half(choose)}"',
            f'{{"study": "{half(choose)}"}}',
            "null",
            "[]",
            "3",
            "\0",
            "{",
            f'{{"study": {deep(choose)}}}',
            f'{{"{half(choose)}": 3}}',
            f'{{"samples": {digits(choose)}}}',
            "a: &a [*a]\n",
            "",
            '{"study": ["value"], "pair": 3}',
            '{"experiment": 3, "status": [], "pid": {}}' if wrong == "config.yaml" else "[3]",
        ]
    )
    for name, text in files.items():
        (run / name).write_text(text)
    if choose.random() < 0.2:
        (run / wrong).unlink()
        os.mkfifo(run / wrong)
    return ["resume=run"]


def some_lines(choose: Choose, folder: Path) -> list[str]:
    """A file of texts with a line that is wrong; it is read when the run has begun."""
    before, key, keys = choose.choice(
        [
            (("exp=lm", "pair=lm"), "prompts", ("prompt",)),
            (TRAINING, "sft", ("prompt", "completion")),
            ((*TRAINING, "reward_model=true"), "preferences", ("prompt", "chosen", "rejected")),
        ]
    )
    wrong = choose.choice(keys)
    values = dict.fromkeys(keys, '"text"')
    values[wrong] = choose.choice(
        [f'"a{half(choose)}"', deep(choose), digits(choose), "null", "NaN", '["text"]', '""']
    )
    line = "{" + ", ".join(f'"{name}": {value}' for name, value in values.items()) + "}"
    line = choose.choice(
        [line, line, line, deep(choose), digits(choose), "{", "3", "\0", line[:-1]]
    )
    (folder / "lines.jsonl").write_text(f"\n{line}\n")
    return [*before, f"{key}=lines.jsonl"]


ARGUMENTS = [
    a_path,
    out_or_resume,
    a_number,
    a_list_index,
    nesting,
    a_sweep,
    hydras_own,
    an_address,
    a_text,
    a_run_folder,
    some_lines,
]


def configured(choose: Choose, folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    key = choose.choice(
        [
            "n_layer",
            "n_head",
            "n_embd",
            "n_positions",
            "vocab_size",
            "layer_norm_epsilon",
            "activation_function",
        ]
    )
    config[key] = choose.choice([-1, "x", [], {}, True, 1.5e300, -(10**30)])
    if config[key] == 1.5e300 and key == "layer_norm_epsilon":
        config[key] = None
    (folder / "config.json").write_text(json.dumps(config))


def a_file_of_a_model(choose: Choose, folder: Path) -> None:
    name = choose.choice(
        ["config.json", "generation_config.json", "tokenizer.json", "model.safetensors.index.json"]
    )
    if name.endswith("index.json"):
        (folder / "model.safetensors").rename(folder / "part.safetensors")
    text = choose.choice(
        [
            deep(choose),
            "null",
            "[]",
            "3",
            f'{{"weight_map": {deep(choose)}}}',
            '{"weight_map": {"a": 3}}',
            "\udc80",
        ]
    )
    if name == "generation_config.json":
        text = choose.choice(
            [
                "null",
                "[]",
                '{"eos_token_id": 9999}',
                '{"eos_token_id": "x"}',
                '{"eos_token_id": [[1]]}',
            ]
        )
    (folder / name).write_bytes(text.encode("utf-8", "surrogateescape"))


def weights(choose: Choose, folder: Path) -> None:
    file = folder / "model.safetensors"
    content = bytearray(file.read_bytes())
    length = int.from_bytes(content[:8], "little")
    how = choose.randrange(4)
    if how == 0:  # shorter
        del content[choose.randrange(len(content)) :]
    elif how == 1:  # another length of the header
        content[:8] = choose.randrange(2**64).to_bytes(8, "little")
    elif how == 2:  # a header that is none
        content[8 : 8 + length] = bytes(choose.randrange(256) for _ in range(length))
    else:  # NaN
        at = 8 + length + 4 * choose.randrange((len(content) - 8 - length) // 4)
        content[at : at + 4] = b"\xff\xff\xff\x7f"
    file.write_bytes(content)


def an_adapter(choose: Choose, folder: Path) -> None:
    (folder / "adapter_model.safetensors").write_bytes((folder / "model.safetensors").read_bytes())
    config = {
        "peft_type": "LORA",
        "base_model_name_or_path": "embedded:reference",
        "r": 2,
        "target_modules": ["c_attn"],
    }
    key = choose.choice([*config, "lora_alpha", "modules_to_save", "rank_pattern"])
    config[key] = choose.choice([3, "x" * 300, [], {"a": [1]}, None, -1])
    text = json.dumps(config)
    (folder / "adapter_config.json").write_text(
        choose.choice([text, text, text, deep(choose), "null", "[]", "{", digits(choose)])
    )


def a_pipe(choose: Choose, folder: Path) -> None:
    name = choose.choice(
        ["config.json", "model.safetensors", "tokenizer.json", "extra.json", "adapter_config.json"]
    )
    (folder / name).unlink(missing_ok=True)
    os.mkfifo(folder / name)


MODELS = [configured, a_file_of_a_model, weights, an_adapter, a_pipe]


@pytest.fixture(scope="module", autouse=True)
def _tiny(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KLBENCH_CACHE", str(tmp_path_factory.mktemp("cache")))
        patch.setenv("KLBENCH_EMBEDDED", "tiny")
        patch.setenv("HF_HUB_OFFLINE", "1")
        yield


@pytest.fixture
def place(tmp_path) -> Path:
    os.mkfifo(tmp_path / "pipe")
    for name, target in (("loop", "loop"), ("to-pipe", "pipe")):
        (tmp_path / name).symlink_to(target)
    return tmp_path


def drawn(makers: list[Callable], n: int) -> list[object]:
    """``n`` cases, all makers equally often."""
    return [
        pytest.param(makers[k % len(makers)], k, id=f"{makers[k % len(makers)].__name__}-{k}")
        for k in range(n)
    ]


@pytest.mark.parametrize(("make", "number"), drawn(ARGUMENTS, 220))
def test_a_command_that_cannot_be_run(call, contents, place, make, number: int) -> None:
    arguments = make(Choose(number), place)
    before = contents(place)
    called = call(*arguments, folder=place)
    assert (called.code, called.out) == (2, ""), called
    assert called.err.startswith("klbench: ")
    assert called.err.count("\n") == 1
    assert "Traceback" not in called.err
    called.err.encode("utf-8")
    assert contents(place) == before


@pytest.mark.parametrize(("make", "number"), drawn(MODELS, 80))
def test_a_model_that_cannot_be_loaded(place, make, number: int) -> None:
    shutil.copytree(embedded.folder("embedded:reference"), place / "model")
    make(Choose(number), place / "model")
    with pytest.raises(ConfigError) as error:
        loading.load(str(place / "model"))
    assert "\n" not in str(error.value)
    assert str(place / "model") in str(error.value)
