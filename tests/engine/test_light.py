"""What is light: help, an error in the configuration, ``import klbench``."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import klbench

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
        ["translate", "verl kl_loss_coef=0.001", "--to", "trl"],
        ["advise", "--tokens", "64", "--batch", "8", "--kl-token", "0.01", "--trainer", "trl"],
    ],
)
def test_help_and_a_wrong_configuration_load_nothing_heavy(arguments) -> None:
    run = f"from klbench.engine.cli import command_line; command_line({arguments!r}); "
    assert python(run + LISTED) == "[]"


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
