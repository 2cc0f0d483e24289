"""Functions of trainers and their libraries, taken from their installed files without an import.

The libraries pin versions that exclude each other, and importing one loads half of an ecosystem.
What is wanted is a function of ten lines: it is read from the installed distribution's own file,
with those of the file's statements that it refers to, and compiled. Nothing of it is part of
klbench.
"""

from __future__ import annotations
import __future__

import ast
import builtins
import contextlib
import importlib
import importlib.metadata
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from klbench.types import RunError


class MissingError(Exception):
    """The reason why a function is not available here."""


@dataclass
class Module:
    """A file of an installed distribution, of which some statements are executed on demand.

    What it imports from its own library is taken from those files in the same way.
    """

    name: str
    distribution: str
    version: str
    path: Path
    tree: ast.Module
    space: dict[str, Any] = field(default_factory=lambda: {"__name__": __name__, "__package__": ""})
    """Without a package, in which an import of the library itself would run."""

    def need(self, names: set[str]) -> None:
        """Execute the statements that bind these names, and before them what those refer to."""
        for statement in self.tree.body:
            bound = set(_bound(statement))
            if not bound & names or bound <= self.space.keys():
                continue
            self.space |= dict.fromkeys(bound - self.space.keys())  # a function may refer to itself
            self.need(_used(statement) - bound)
            self._execute(statement, bound)

    def _execute(self, statement: ast.stmt, bound: set[str]) -> None:
        try:
            if isinstance(statement, ast.Import | ast.ImportFrom) and self._own(statement):
                self.space |= {
                    alias.asname or alias.name: self._neighbour(statement, alias.name)
                    for alias in statement.names
                }
                return
            code = compile(
                ast.Module([statement], []),
                str(self.path),
                "exec",
                flags=_annotations(),
                dont_inherit=True,
            )
            exec(code, self.space)  # what an import of the library would execute too
        except Exception as error:  # noqa: BLE001  # a module may raise anything
            self.space |= {name: _Absent(f"{name}: {error}") for name in bound}

    def _own(self, statement: ast.Import | ast.ImportFrom) -> bool:
        """Tell whether an import is of the library itself."""
        if isinstance(statement, ast.ImportFrom) and statement.level:
            return True
        dotted = (
            statement.names[0].name if isinstance(statement, ast.Import) else statement.module or ""
        )
        return dotted.partition(".")[0] == self.name.partition("/")[0]

    def _neighbour(self, statement: ast.Import | ast.ImportFrom, name: str) -> Any:
        """Return what an import of the library itself binds.

        A name of another file, or that file.
        """
        if isinstance(statement, ast.Import):
            folder, parts = Path(), name.split(".")
        else:
            folder = Path(self.name).parents[statement.level - 1] if statement.level else Path()
            parts = [*filter(None, (statement.module or "").split(".")), name]
        whole = folder.joinpath(*parts)
        try:
            for file in (f"{whole}.py", f"{whole}/__init__.py"):
                with contextlib.suppress(MissingError):
                    return Neighbour(module(self.distribution, file))
            for file in (f"{whole.parent}.py", f"{whole.parent}/__init__.py"):
                with contextlib.suppress(MissingError):
                    return getattr(Neighbour(module(self.distribution, file)), name)
        except Exception as error:  # noqa: BLE001  # a file may raise anything
            return _Absent(f"{name}: {error}")
        return _Absent(f"{name}: a part of the library that is not installed")

    def find(self, name: str) -> ast.FunctionDef:
        """The definition of a function, or of a method as ``Class.method``."""
        body: Sequence[ast.stmt] = self.tree.body
        for part in name.split("."):
            found = [
                each
                for each in body
                if isinstance(each, ast.FunctionDef | ast.ClassDef) and each.name == part
            ]
            if not found:
                raise MissingError(
                    f"{self.distribution} {self.version} has no {name} in {self.name}"
                )
            body = found[-1].body
        (definition,) = found[-1:]
        assert isinstance(definition, ast.FunctionDef)
        return definition


class Neighbour:
    """A file of a library as what a module would be.

    Its names are executed when they are asked for.
    """

    def __init__(self, source: Module) -> None:
        self._source = source

    def __getattr__(self, name: str) -> Any:
        self._source.need({name})
        try:
            return self._source.space[name]
        except KeyError:
            raise AttributeError(f"{self._source.name} has no {name}") from None


class _Absent:
    """Stands for what could not be imported, and says so when it is used."""

    def __init__(self, reason: str) -> None:
        self._reason = reason

    def __call__(self, *_: Any, **__: Any) -> Any:
        raise RunError(f"not loaded: {self._reason}")

    def __getattr__(self, name: str) -> _Absent:
        if name.startswith("__"):
            raise AttributeError(name)
        return self

    def __instancecheck__(self, _: object) -> bool:
        return False

    def __or__(self, _: object) -> _Absent:
        return self

    __ror__ = __or__


def _annotations() -> int:
    return (
        __future__.annotations.compiler_flag
    )  # types are not evaluated, and so need not be importable


def _bound(statement: ast.stmt) -> Iterator[str]:
    """Names that a statement of a module binds."""
    if isinstance(statement, ast.FunctionDef | ast.ClassDef):
        yield statement.name
    elif isinstance(statement, ast.Import | ast.ImportFrom):
        for alias in statement.names:
            yield alias.asname or alias.name.partition(".")[0]
    elif isinstance(statement, ast.Try | ast.If):
        for each in ast.walk(statement):
            if isinstance(each, ast.Import | ast.ImportFrom | ast.Assign):
                yield from _bound(each)
    elif isinstance(statement, ast.Assign | ast.AnnAssign):
        targets = statement.targets if isinstance(statement, ast.Assign) else [statement.target]
        for target in targets:
            if isinstance(target, ast.Name):
                yield target.id


def _used(node: ast.AST) -> set[str]:
    """Names that are read anywhere below; annotations aside."""
    read = {
        each.id
        for each in ast.walk(node)
        if isinstance(each, ast.Name) and isinstance(each.ctx, ast.Load)
    }
    return read - set(dir(builtins))


@cache
def module(distribution: str, file: str) -> Module:
    """A file of an installed distribution.

    Raises
    ------
    MissingError
        The distribution is not installed, or has no such file.
    """
    try:
        found = importlib.metadata.distribution(distribution)
    except importlib.metadata.PackageNotFoundError:
        raise MissingError(f"{distribution} is not installed") from None
    path = Path(str(found.locate_file(file)))
    if not path.is_file():
        raise MissingError(f"{distribution} {found.version} has no {file}")
    return Module(
        file, distribution, found.version, path, ast.parse(path.read_text(encoding="utf-8"))
    )


def imported(file: str, name: str) -> Callable[..., Any]:
    """Return a function, or a method as ``Class.method``, of a module that is imported as it is.

    Raises
    ------
    Exception
        Whatever an import raises.
    """
    found: Any = importlib.import_module(file.removesuffix(".py").replace("/", "."))
    for part in name.split("."):
        found = getattr(found, part)
    made: Callable[..., Any] = found
    return made


def function(distribution: str, file: str, name: str) -> Callable[..., Any]:
    """A function, or a static method as ``Class.method``.

    Raises
    ------
    MissingError
        It is not to be had here.
    """
    source = module(distribution, file)
    definition = source.find(name)
    source.need(_used(definition) - {definition.name})
    bare = ast.FunctionDef(
        **{key: value for key, value in ast.iter_fields(definition) if key != "decorator_list"},
        decorator_list=[],
    )
    return _compiled(source, ast.copy_location(bare, definition))


def expression(
    distribution: str, file: str, name: str, target: str, arguments: Sequence[str]
) -> Callable[..., Any]:
    """Return the first expression that a function assigns to ``target``, as a function of
    ``arguments``.

    Raises
    ------
    MissingError
        It is not to be had here.
    """
    source = module(distribution, file)
    for each in ast.walk(source.find(name)):
        if not isinstance(each, ast.Assign) or isinstance(each.value, ast.Constant):
            continue
        if [ast.unparse(one) for one in each.targets] == [target]:
            source.need(_used(each.value) - set(arguments))
            taken = ast.arguments(
                [], [ast.arg(argument) for argument in arguments], None, [], [], None, []
            )
            made = ast.FunctionDef(target, taken, [ast.Return(each.value)], [])
            return _compiled(source, ast.copy_location(made, each))
    raise MissingError(f"{distribution} {source.version} assigns no {target} in {name}")


def _compiled(source: Module, definition: ast.FunctionDef) -> Callable[..., Any]:
    tree = ast.fix_missing_locations(ast.Module([definition], []))
    space = dict(source.space)
    exec(compile(tree, str(source.path), "exec", flags=_annotations(), dont_inherit=True), space)
    made: Callable[..., Any] = space[definition.name]
    return made
