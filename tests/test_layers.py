"""The direction of the imports.

A module imports only from levels below its own, and none in a circle.
"""

import ast
import graphlib
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent / "klbench"

# The package itself comes last: it only hands out, on demand, what lies below it.
LEVELS = {
    -1: {"errors"},
    0: {"types", "compiled", "rows"},
    1: {
        "numerics",
        "streams",
        "registry",
        "inputs",
        "log_terms",
        "machine",
        "processes",
        "threads",
        "trackers",
        "schema",
    },
    2: {
        "divergences",
        "oracles",
        "quadrature",
        "kernels",
        "policies",
        "rollouts",
        "runs",
        "workers",
        "columns",
        "trainers",
    },
    3: {"context", "estimators", "metrics", "lm"},
    4: {"pairs", "gradients"},
    5: {"rlhf", "claims", "report", "choices"},
    6: {"study", "audit", "doctor", "advise", "translate"},
    7: {"studies", "testing", "integrations"},
    8: {"engine"},
    9: {"__main__"},
    10: {"__init__"},
}
LEVEL = {part: level for level, parts in LEVELS.items() for part in parts}


def level(part: str) -> int:
    assert part in LEVEL, (
        f"klbench.{part} has no level: give it one in LEVELS, in {Path(__file__).name}"
    )
    return LEVEL[part]


def imports(tree: ast.AST, package: tuple[str, ...]) -> Iterator[tuple[ast.AST, list[str]]]:
    """Each import of something of klbench, wherever it stands.

    ``package`` is what a relative import starts from.
    """
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            paths = [alias.name.split(".") for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = list(package[: len(package) - node.level + 1]) if node.level else []
            base += node.module.split(".") if node.module else []
            paths = [[*base, alias.name] for alias in node.names]
        elif isinstance(node, ast.Call) and called(node.func) in {"import_module", "__import__"}:
            paths = [
                arg.value.split(".")
                for arg in node.args
                if isinstance(arg, ast.Constant) and isinstance(arg.value, str)
            ]
        else:
            continue
        yield from ((node, path) for path in paths if path[0] == "klbench")


def called(function: ast.expr) -> str:
    """The last part of the name of what is called; empty where it has none."""
    return getattr(function, "attr", getattr(function, "id", ""))


def imported(tree: ast.AST, package: tuple[str, ...]) -> Iterator[tuple[int, str]]:
    """Line and part of klbench of every import."""
    for node, path in imports(tree, package):
        # `from klbench import x` takes a part where there is one of that name, else something of
        # the package itself.
        taken_from_package = (
            isinstance(node, ast.ImportFrom) and len(path) == 2 and not is_part(path[1])
        )
        yield node.lineno, "__init__" if len(path) == 1 or taken_from_package else path[1]


def is_part(name: str) -> bool:
    return name in LEVEL or (ROOT / name).is_dir() or (ROOT / f"{name}.py").exists()


def offences(source: str, file: str) -> list[str]:
    """What ``source``, if it were ``file`` (a path below klbench/), imports against the
    direction.
    """
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
        found += [
            f"klbench/{file}:{line}: imports {part} as it is imported itself"
            for line, part in at_once
        ]
    return found


def is_type_checking(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and ast.unparse(node.test) in {
        "TYPE_CHECKING",
        "typing.TYPE_CHECKING",
    }


def circle(sources: Mapping[str, str]) -> list[str]:
    """Files that import each other in a circle, the first again at the end; empty if none do.

    ``sources`` are texts by file, a path below klbench/; what is imported inside functions or for
    types alone counts too.
    """
    modules = {tuple(Path(file).with_suffix("").parts): file for file in sources}
    modules = {
        ("klbench", *(parts[:-1] if parts[-1] == "__init__" else parts)): file
        for parts, file in modules.items()
    }
    graph = {}
    for module, file in modules.items():
        package = module if Path(file).name == "__init__.py" else module[:-1]
        paths = [tuple(path) for _, path in imports(ast.parse(sources[file]), package)]
        # The last part of a path may be what a module holds.
        found = [modules.get(path) or modules.get(path[:-1]) for path in paths]
        graph[file] = {each for each in found if each not in (None, file)}
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as error:
        return list(error.args[1])
    return []


FILES = sorted(str(path.relative_to(ROOT)) for path in ROOT.rglob("*.py"))


@pytest.mark.parametrize("file", FILES)
def test_imports_point_down(file: str) -> None:
    assert offences((ROOT / file).read_text(encoding="utf-8"), file) == []


def test_the_design_gives_every_part_its_level() -> None:
    text = (ROOT.parent / "docs" / "design.md").read_text(encoding="utf-8")
    listed = re.findall(r"^  (\w+)(?:/|\.py) +(-?\d+)  ", text, re.M)
    assert {part: int(number) for part, number in listed} == {
        part: n for part, n in LEVEL.items() if not part.startswith("__")
    }


def test_no_files_import_each_other_in_a_circle() -> None:
    assert circle({file: (ROOT / file).read_text(encoding="utf-8") for file in FILES}) == []


@pytest.mark.parametrize(
    "back",
    [
        "from klbench.a.x import f",
        "from klbench.a import x",
        "import klbench.a.x",
        "from .x import f",
        "from . import x",
        "def f():\n    from klbench.a.x import f",
        "if TYPE_CHECKING:\n    from klbench.a.x import f",
        "import importlib\nimportlib.import_module('klbench.a.x')",
    ],
)
def test_a_circle_is_found_and_named(back: str) -> None:
    sources = {
        "a/__init__.py": "",
        "a/x.py": "from klbench.b import g",
        "b.py": "from klbench.a.y import h",
        "a/y.py": back,
    }
    found = circle(sources)
    assert set(found) == {"a/x.py", "b.py", "a/y.py"}
    assert found[0] == found[-1]
    assert circle(sources | {"a/y.py": ""}) == []
    assert (
        circle(sources | {"a/y.py": "from klbench.a import f"}) == []
    )  # something of the package itself


@pytest.mark.parametrize(
    "source",
    [
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
    ],
)
def test_an_import_upwards_or_sideways_is_found(source: str) -> None:
    found = offences(source, "estimators/mine.py")
    assert len(found) == 1
    assert found[0].startswith("klbench/estimators/mine.py:")
    assert "estimators (level 3) imports" in found[0]


@pytest.mark.parametrize(
    "source",
    [
        "from klbench.types import Draws",
        "from klbench import divergences, numerics",
        "from klbench.estimators.schulman import k1",
        "from klbench.estimators import register",
        "from . import register",
        "from .schulman import k1",
        "from ..types import Draws",
        "import numpy as np, pairs",
        "import klbench_of_another_kind.pairs",
    ],
)
def test_an_import_downwards_or_within_a_package_passes(source: str) -> None:
    assert offences(source, "estimators/mine.py") == []


def test_the_package_imports_on_demand_only() -> None:
    on_demand = "def __getattr__(name):\n    from klbench.engine.app import run\n    return run"
    assert offences(on_demand, "__init__.py") == []
    assert (
        offences("if TYPE_CHECKING:\n    from klbench.engine.app import run", "__init__.py") == []
    )
    for source in (
        "from klbench.engine.app import run",
        "from .types import Draws",
        "if True:\n    import klbench.types",
    ):
        assert len(offences(source, "__init__.py")) == 1


@pytest.mark.parametrize(
    ("source", "file"),
    [("", "novel.py"), ("", "novel/a.py"), ("import klbench.novel.a", "engine/app.py")],
)
def test_a_part_without_a_level_is_told_to_get_one(source: str, file: str) -> None:
    with pytest.raises(
        AssertionError,
        match=r"klbench\.novel has no level: give it one in LEVELS, in test_layers\.py",
    ):
        offences(source, file)


def test_every_part_has_a_level() -> None:
    for path in ROOT.iterdir():
        if path.suffix == ".py" or (path.is_dir() and any(path.rglob("*.py"))):
            level(path.stem)


STUDIES = ROOT / "studies"
SECTIONS = sorted(str(path.relative_to(STUDIES)) for path in STUDIES.glob("*/section*.py"))


def section_offences(source: str, file: str) -> list[str]:
    """What a part of a page, ``source`` of ``file`` below studies/, imports beside the toolkit,
    the columns that several studies have and its study's own.
    """
    study = Path(file).parts[0]
    own = f"klbench.studies.{study}"
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("klbench"):
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names if alias.name.startswith("klbench")]
        else:
            continue
        allowed = (
            "klbench.report.",
            "klbench.columns.",
            "klbench.rows.",
            f"{own}.section",
            f"{own}.columns",
        )
        found += [
            f"{file}:{node.lineno}: imports {name}"
            for name in names
            if not name.startswith(allowed)
        ]
    return found


@pytest.mark.parametrize("file", SECTIONS)
def test_a_section_imports_the_toolkit_and_its_own_columns_alone(file: str) -> None:
    assert section_offences((STUDIES / file).read_text(encoding="utf-8"), file) == []


@pytest.mark.parametrize(
    "source",
    [
        "from klbench.studies.value.run import run",
        "from klbench.studies.value import run",
        "from klbench.studies.lm.columns import VALUES",
        "from klbench.studies.lm.section import SECTION",
        "def f():\n    from klbench.metrics import seeds",
        "import klbench.pairs",
    ],
)
def test_a_section_that_imports_more_is_found(source: str) -> None:
    assert len(section_offences(source, "value/section.py")) == 1


@pytest.mark.parametrize(
    "source",
    [
        "from klbench.report import cells",
        "from klbench.report.tables import table",
        "from klbench.studies.value.columns import VALUES",
        "from klbench.studies.value import section_figures",
        "import math",
    ],
)
def test_a_section_may_import_the_toolkit_and_its_own_parts(source: str) -> None:
    assert section_offences(source, "value/section.py") == []


MOST_LATE_IMPORTS = 90
"""Imports within functions, and blocks under TYPE_CHECKING.

Only what keeps the light commands light.
"""


def late_imports(source: str) -> list[int]:
    """Lines of imports within functions, and of TYPE_CHECKING blocks."""
    tree = ast.parse(source)
    functions = [
        node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    ]
    within = {
        node.lineno
        for each in functions
        for node in ast.walk(each)
        if isinstance(node, ast.Import | ast.ImportFrom)
    }
    return sorted(within | {node.lineno for node in ast.walk(tree) if is_type_checking(node)})


def test_imports_stand_at_the_top() -> None:
    assert late_imports("import a\ndef f():\n    import b\nif TYPE_CHECKING:\n    import c\n") == [
        3,
        4,
    ]
    found = {
        path.relative_to(ROOT): late_imports(path.read_text(encoding="utf-8"))
        for path in ROOT.rglob("*.py")
    }
    assert sum(map(len, found.values())) <= MOST_LATE_IMPORTS, {
        str(path): lines for path, lines in found.items() if lines
    }
