"""A function from what names it on the command line.

``package.module:function`` or ``path/file.py:function``.

Naming it is the consent to import it; nothing else is ever imported because a file says so.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import inspect
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

from klbench import inputs
from klbench.registry import unknown
from klbench.types import ConfigError

FORM = (
    "expected package.module:function, path/file.py:function, or file.py:make() for what make gives"
    " back"
)


def load(target: str) -> Callable[..., Any]:
    """Return the function that a target names.

    With ``()`` at its end, what the function gives back.

    Raises
    ------
    ConfigError
        There is no such module, file or function, or importing or making it fails: one line that
        says why.
    """
    place, colon, name = target.rpartition(":")
    made = name.endswith("()")
    path = name.removesuffix("()").split(".")
    if not colon or not place or not all(part.isidentifier() for part in path):
        raise ConfigError(f"target {target!r}: {FORM}")
    found: Any = _file(place) if place.endswith(".py") else _module(place)
    owner: Any = found
    for part in path:
        if not hasattr(found, part):
            public = [
                each
                for each in vars(found)
                if not each.startswith("_") and callable(getattr(found, each))
            ]
            raise unknown("function", part, public)
        owner, found = found, getattr(found, part)
    if isinstance(owner, type) and inspect.isfunction(found):
        names = list(inspect.signature(found).parameters)
        if names[:1] == ["self"]:
            raise ConfigError(
                f"target {target!r}: it is a method of a class; name a function that makes one:"
                f" make(), which gives back {owner.__name__}(...).{part}"
            )
    if made:
        with _own(f"{target}: making it failed"):
            found = found()
    if not callable(found):
        raise ConfigError(f"target {target!r}: expected a function, it is {type(found).__name__}")
    if isinstance(found, type):
        raise ConfigError(
            f"target {target!r}: it is a class; name a function, a method, or a function that makes"
            " one: make()"
        )
    return found


@contextlib.contextmanager
def _own(what: str) -> Iterator[None]:
    """Turn whatever a user's module raises, ``sys.exit`` included, into one line."""
    try:
        yield
    except (ConfigError, KeyboardInterrupt):
        raise
    except BaseException as error:  # a border: a module may raise anything
        said, name = inputs.reason(error), type(error).__name__
        raise ConfigError(
            f"{what}: {said if said.startswith(name) else f'{name}: {said}'}"
        ) from error


def _file(place: str) -> ModuleType:
    path = inputs.expanded(place)
    if (found := inputs.kind(path)) != inputs.FILE:
        raise ConfigError(f"{place}: expected a file, found {found}")
    folder = str(Path(path).resolve().parent)
    if folder not in sys.path:
        sys.path.insert(0, folder)  # as for a script, so that it finds its neighbours
    spec = importlib.util.spec_from_file_location(Path(path).stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    before = sys.modules.get(spec.name)
    sys.modules[spec.name] = module
    try:
        with _own(f"{place}: cannot be imported"):
            spec.loader.exec_module(module)
    except ConfigError:
        sys.modules.pop(spec.name)
        if before is not None:
            sys.modules[spec.name] = before
        raise
    return module


def _module(place: str) -> ModuleType:
    if not all(part.isidentifier() for part in place.split(".")):
        raise ConfigError(f"target module {place!r}: {FORM}")
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    with _own(f"{place}: cannot be imported"):
        importlib.import_module(place)
    return sys.modules[place]
