"""What README, CONTRIBUTING and the pages of docs/ show can be run."""

import pkgutil
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

import klbench
from klbench.engine import app, sweep

ROOT = Path(__file__).parents[2]
DOCUMENTS = (
    "README.md",
    "CONTRIBUTING.md",
    *sorted(str(path.relative_to(ROOT)) for path in ROOT.glob("docs/*.md")),
)
TEXTS = {
    name: (ROOT / name).read_text(encoding="utf-8") for name in DOCUMENTS if (ROOT / name).is_file()
}
# Of each document: language and code of its blocks.
FENCED = [
    (name, *block)
    for name, text in TEXTS.items()
    for block in re.findall(r"^```(\w*)\n(.*?)^```$", text, re.M | re.S)
]
# CONTRIBUTING's are whole files, which test_contributing.py runs in their places.
BLOCKS = [
    code for name, language, code in FENCED if language == "python" and name != "CONTRIBUTING.md"
]
DOTTED = r"\bklbench(?:\.[a-z_]+)+(?=\()|(?<=`)klbench(?:\.[a-z_]+)+(?=`)"
NAMES = sorted({name for text in TEXTS.values() for name in re.findall(DOTTED, text)})
COMMANDS = sorted(
    {
        line.partition("#")[0].strip()
        for _, language, code in FENCED
        if language == "sh"
        for line in code.splitlines()
        if re.search(r"-m klbench (?!resume|--)", line)
    }
)


def run(code: str, folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", code], cwd=folder, capture_output=True, text=True
    )


def test_there_is_something_to_run() -> None:
    assert len(BLOCKS) >= 2
    assert {"klbench.rlhf.preferences.dpo_loss", "klbench.gradients.get"} <= set(NAMES)
    assert len(COMMANDS) >= 20


def test_no_merge_is_left_half_done() -> None:
    assert [name for name, text in TEXTS.items() if re.search(r"^[<>]{7} ", text, re.M)] == []


@pytest.mark.parametrize("code", BLOCKS, ids=range(len(BLOCKS)))
def test_a_block_of_code_runs(code: str, tmp_path) -> None:
    ended = run(code, tmp_path)
    assert ended.returncode == 0, ended.stderr


@pytest.mark.parametrize("name", NAMES)
def test_a_name_can_be_imported(name: str) -> None:
    pkgutil.resolve_name(name)


def test_what_is_not_there_is_said_as_python_says_it() -> None:
    for name in ("nothing", "_combinations", "__path"):
        with pytest.raises(AttributeError, match=f"^module 'klbench' has no attribute '{name}'$"):
            getattr(klbench, name)


def test_import_loads_nothing_that_is_not_asked_for(tmp_path) -> None:
    heavy = (
        "{'torch', 'numpy', 'pandas', 'scipy', 'pydantic', 'numba', 'matplotlib'} &"
        " set(sys.modules)"
    )
    assert (
        run(f"import sys, klbench; sys.exit(str({heavy}) if {heavy} else 0)", tmp_path).returncode
        == 0
    )


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_passes_the_checks(command: str, tmp_path, monkeypatch) -> None:
    import torch

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    for folder in ("runs/ppo/step-400", "runs/sft", "runs/lora"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "prompts.jsonl").touch()
    pd.DataFrame({"logprobs": [[-1.0]], "ref_logprobs": [[-1.1]]}).to_parquet(
        tmp_path / "rollouts.parquet"
    )
    words = shlex.split(command.partition("-m klbench ")[2])
    overrides = app.normalized([word for word in words if word != "-m"])
    if "-m" in words:
        assert sweep._check(overrides) > 1
    else:
        assert app.check(overrides).experiment in command
    assert {path.name for path in tmp_path.iterdir()} <= {
        "runs",
        "prompts.jsonl",
        "examples.jsonl",
        "pairs.jsonl",
        "rollouts.parquet",
    }
