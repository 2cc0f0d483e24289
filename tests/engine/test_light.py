"""What is light: help, an error in the configuration, ``import klbench``."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

import klbench
from klbench.engine import help as whole
from klbench.engine import kept

HEAVY = ("torch", "pandas", "matplotlib", "transformers", "scipy.stats", "numba")
LISTED = f"import sys; print([name for name in {HEAVY!r} if name in sys.modules])"


def python(code: str) -> str:
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout.splitlines()[-1]


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["--version"],
        ["+exp=gausian"],
        ["+exp=gaussian", "sampels=1"],
        ["+exp=value", "pair=gaussian", "pair.q.std=-1"],
        ["+exp=ppo", "algorithm=nope"],
        ["+exp=lm", "device=tpu"],
        ["+exp=claims", "claims=[nope]"],
        ["resume=/no/such/run"],
        ["advise", "--help"],
        ["translate", "--help"],
        ["report", "--help"],
        ["translate", "verl kl_loss_coef=0.001", "--to", "trl"],
        ["advise", "--tokens", "64", "--batch", "8", "--kl-token", "0.01", "--trainer", "trl"],
    ],
)
def test_help_and_a_wrong_configuration_load_nothing_heavy(arguments) -> None:
    run = f"from klbench.engine.cli import command_line; command_line({arguments!r}); "
    assert python(run + LISTED) == "[]"


@pytest.mark.parametrize("arguments", [["--version"], ["+exp=gausian", "samples=1", "out=/a/b"]])
def test_what_needs_no_configuration_loads_neither_hydra_nor_numpy(arguments) -> None:
    run = f"from klbench.engine.cli import command_line; command_line({arguments!r}); "
    listed = "import sys; print({'hydra', 'numpy', 'pydantic'} & set(sys.modules))"
    assert python(run + listed) == "set()"


def test_the_text_of_help_is_kept_until_a_file_changes(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    monkeypatch.setattr(kept, "_added", lambda: False)
    place = tmp_path / "help.txt"
    made = kept.help_text(place)
    assert made == whole.text()
    monkeypatch.setattr(whole, "text", lambda: "new")
    assert kept.help_text(place) == made
    monkeypatch.setattr(kept, "stamp", lambda *_: "other")
    assert kept.help_text(place) == kept.help_text(place) == "new"


def test_the_text_of_help_is_made_each_time_where_it_cannot_be_kept(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(whole, "text", lambda: "new")
    assert kept.help_text(tmp_path / "no" / "help.txt") == "new"
    monkeypatch.setattr(kept, "_added", lambda: True)
    assert kept.help_text(tmp_path / "help.txt") == "new"
    assert not list(tmp_path.iterdir())


def test_the_stamp_follows_each_file(tmp_path) -> None:
    stamps = {kept.stamp(tmp_path)}
    (tmp_path / "inner" / "__pycache__").mkdir(parents=True)
    file = tmp_path / "inner" / "one.py"
    file.write_text("1")
    stamps.add(kept.stamp(tmp_path))
    file.write_text("12")
    stamps.add(kept.stamp(tmp_path))
    os.utime(file, (1, 1))
    stamps.add(kept.stamp(tmp_path))
    (tmp_path / "inner" / "__pycache__" / "one.pyc").write_text("compiled")
    stamps.add(kept.stamp(tmp_path))
    assert len(stamps) == 4


def test_no_module_imports_what_torch_compiles_with() -> None:
    """The gradients of ``torch.func`` do, for more than a second."""
    (folder,) = map(Path, klbench.__path__)
    used = ("torch.func.", "torch._dynamo", "torch.compile(")
    assert not [
        path
        for path in folder.rglob("*.py")
        for line in path.read_text(encoding="utf-8").splitlines()
        if any(name in line.partition("#")[0] for name in used)
    ]


def test_to_import_klbench_loads_nothing_heavy_and_takes_little_time() -> None:
    assert python("import klbench; " + LISTED) == "[]"
    timed = (
        "import time; began = time.process_time(); import klbench; print(time.process_time() -"
        " began)"
    )
    assert min(float(python(timed)) for _ in range(3)) < 0.15


def test_klbench_alone_imports_on_demand() -> None:
    (folder,) = map(Path, klbench.__path__)
    found = {
        path.relative_to(folder).as_posix()
        for path in folder.rglob("*.py")
        for node in ast.parse(path.read_text(encoding="utf-8")).body
        if isinstance(node, ast.FunctionDef) and node.name == "__getattr__"
    }
    assert found == {"__init__.py"}
