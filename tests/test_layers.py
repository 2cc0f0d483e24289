"""The direction of the imports: a module imports only from levels below its own."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent / "klbench"

# The package itself comes last: it only hands out, on demand, what lies below it.
LEVELS = {
    0: {"types", "compiled"},
    1: {"numerics", "streams", "registry", "inputs", "log_terms", "machine", "processes", "trackers"},
    2: {"divergences", "oracles", "quadrature", "kernels", "runs"},
    3: {"estimators", "metrics", "lm"},
    4: {"pairs", "gradients"},
    5: {"rlhf", "claims", "report"},
    6: {"studies"},
    7: {"settings", "progress"},
    8: {"execution"},
    9: {"app"},
    10: {"sweep", "inspection"},
    11: {"cli"},
    12: {"__main__"},
    13: {"__init__"},
}
LEVEL = {part: level for level, parts in LEVELS.items() for part in parts}


def level(part: str) -> int:
    assert part in LEVEL, f"klbench.{part} has no level: give it one in LEVELS, in {Path(__file__).name}"
    return LEVEL[part]


def imported(tree: ast.AST, package: tuple[str, ...]) -> Iterator[tuple[int, str]]:
    """Line and part of klbench of every import, wherever it stands; ``package`` is what a relative import starts from."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            paths = [alias.name.split(".") for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = list(package[: len(package) - node.level + 1]) if node.level else []
            base += node.module.split(".") if node.module else []
            paths = [[*base, alias.name] for alias in node.names]
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith(("import_module", "__import__")):
            paths = [arg.value.split(".") for arg in node.args if isinstance(arg, ast.Constant) and isinstance(arg.value, str)]
        else:
            continue
        for path in paths:
            if path[0] == "klbench":
                # `from klbench import x` takes a part where there is one of that name, else something of the package itself.
                taken_from_package = isinstance(node, ast.ImportFrom) and len(path) == 2 and not is_part(path[1])
                yield node.lineno, "__init__" if len(path) == 1 or taken_from_package else path[1]


def is_part(name: str) -> bool:
    return name in LEVEL or (ROOT / name).is_dir() or (ROOT / f"{name}.py").exists()


def offences(source: str, file: str) -> list[str]:
    """What ``source``, if it were ``file`` (a path below klbench/), imports against the direction."""
    *folders, stem = Path(file).with_suffix("").parts
    own = (*folders, stem)[0]
    own_level = level(own)
    tree = ast.parse(source)
    found = [
        f"klbench/{file}:{line}: {own} (level {own_level}) imports {part} (level {level(part)})"
        for line, part in imported(tree, ("klbench", *folders))
        if part != own and level(part) >= own_level
    ]
    if own == "__init__":
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) or is_type_checking(node):
                node.body = []  # there, and only there, it may import
        at_once = imported(tree, ("klbench",))
        found += [f"klbench/{file}:{line}: imports {part} as it is imported itself" for line, part in at_once]
    return found


def is_type_checking(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and ast.unparse(node.test) in {"TYPE_CHECKING", "typing.TYPE_CHECKING"}


@pytest.mark.parametrize("file", sorted(str(path.relative_to(ROOT)) for path in ROOT.rglob("*.py")))
def test_imports_point_down(file: str) -> None:
    assert offences((ROOT / file).read_text(encoding="utf-8"), file) == []


@pytest.mark.parametrize("source", [
    "from klbench.pairs import get",
    "from klbench import pairs",
    "import klbench.pairs.gaussian as g",
    "import math, klbench.pairs",
    "from ..pairs import get",
    "from .. import pairs",
    "def f():\n    from klbench.pairs import get",
    "class C:\n    def f(self):\n        if True:\n            import klbench.pairs",
    "if TYPE_CHECKING:\n    from klbench.pairs import Pair",
    "import importlib\nimportlib.import_module('klbench.pairs')",
    "from klbench.metrics import moments",  # a neighbour of the same level
    "import klbench",
    "from klbench import run",
    "from klbench import *",
])  # fmt: skip
def test_an_import_upwards_or_sideways_is_found(source: str) -> None:
    found = offences(source, "estimators/mine.py")
    assert len(found) == 1
    assert found[0].startswith("klbench/estimators/mine.py:")
    assert "estimators (level 3) imports" in found[0]


@pytest.mark.parametrize("source", [
    "from klbench.types import Draws",
    "from klbench import divergences, numerics",
    "from klbench.estimators.schulman import k1",
    "from klbench.estimators import register",
    "from . import register",
    "from .schulman import k1",
    "from ..types import Draws",
    "import numpy as np, pairs",
    "import klbench_of_another_kind.pairs",
])  # fmt: skip
def test_an_import_downwards_or_within_a_package_passes(source: str) -> None:
    assert offences(source, "estimators/mine.py") == []


def test_the_package_imports_on_demand_only() -> None:
    on_demand = "def __getattr__(name):\n    from klbench.app import run\n    return run"
    assert offences(on_demand, "__init__.py") == []
    assert offences("if TYPE_CHECKING:\n    from klbench.app import run", "__init__.py") == []
    for source in ("from klbench.app import run", "from .types import Draws", "if True:\n    import klbench.types"):
        assert len(offences(source, "__init__.py")) == 1


@pytest.mark.parametrize(("source", "file"), [("", "novel.py"), ("", "novel/a.py"), ("import klbench.novel.a", "app.py")])
def test_a_part_without_a_level_is_told_to_get_one(source: str, file: str) -> None:
    with pytest.raises(AssertionError, match=r"klbench\.novel has no level: give it one in LEVELS, in test_layers\.py"):
        offences(source, file)


def test_every_part_has_a_level() -> None:
    for path in ROOT.iterdir():
        if path.suffix == ".py" or (path.is_dir() and any(path.rglob("*.py"))):
            level(path.stem)
