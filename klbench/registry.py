"""Names, discovery, and "did you mean"."""

from __future__ import annotations

import difflib
import importlib
import importlib.metadata
import pkgutil
import traceback
from collections.abc import Callable, Iterable, Sequence
from types import ModuleType
from typing import Generic, TypeVar

from klbench.errors import ConfigError

T = TypeVar("T")
LONGEST = 80
"""Characters of a name that are repeated in an error."""


def unknown(
    kind: str, name: str, available: Iterable[str], aliases: Iterable[str] = ()
) -> ConfigError:
    """The error for a name that does not exist.

    What came, the nearest name or alias, and what there is.
    """
    names, shown = list(available), repr(name)
    shown = shown if len(shown) <= LONGEST else shown[: LONGEST - 3] + "..."
    near = difflib.get_close_matches(name, [*names, *aliases], n=1, cutoff=0.5)
    hint = f"did you mean {near[0]!r}? Available" if near else "available"
    return ConfigError(f"unknown {kind} {shown}; {hint}: {', '.join(names)}")


def load(name: str) -> ModuleType:
    """Import a module that was found by its place, or by the entry point of a plugin.

    Raises
    ------
    ConfigError
        The import fails: one line with the module, the error, and the file and line where it was
        raised.
    """
    try:
        return importlib.import_module(name)
    except ConfigError:
        raise
    except Exception as error:
        last = traceback.extract_tb(error.__traceback__)[-1]
        file, line = (
            (error.filename, error.lineno)
            if isinstance(error, SyntaxError)
            else (last.filename, last.lineno)
        )
        said = " ".join(f"{type(error).__name__}: {error}".split())
        raise ConfigError(f"{name} cannot be imported: {said} ({file}, line {line})") from error


def plugins(group: str) -> list[str]:
    """Return the modules that installed packages declare under an entry point of that group."""
    return sorted({point.value for point in importlib.metadata.entry_points(group=group)})


class Registry(Generic[T]):
    """Items of one kind by name, found by importing every module of a package, or those that are
    named.

    Other packages add modules of their own by entry points whose group is the package's name.

    A name may carry a number, ``k_lambda:0.5``.
    """

    def __init__(self, kind: str, package: str, modules: Sequence[str] = ()) -> None:
        self.kind = kind
        self._package, self._modules = package, modules
        self._makers: dict[str, Callable[[str, float | None], T]] = {}
        self._aliases: dict[str, str] = {}
        self._discovered = False
        self._failure: ConfigError | None = None

    def add(self, name: str, item: T, aliases: Iterable[str] = ()) -> T:
        """Register an item that takes no number."""

        def make(asked: str, number: float | None) -> T:
            if number is not None:
                raise ConfigError(f"{self.kind} {asked!r}: {name} takes no number")
            return item

        self._put(name, make, aliases)
        return item

    def add_family(
        self,
        name: str,
        make: Callable[[str, float], T],
        *,
        default: float,
        aliases: Iterable[str] = (),
    ) -> None:
        """Register a family with one number: ``make(name_as_asked, number)``.

        ``name`` alone means the default.
        """
        self._put(
            name, lambda asked, number: make(asked, default if number is None else number), aliases
        )

    def _put(
        self, name: str, make: Callable[[str, float | None], T], aliases: Iterable[str]
    ) -> None:
        for each in (name, *aliases):
            if each in self._makers or each in self._aliases:
                raise ValueError(f"{self.kind} {each!r} is registered twice")
        self._makers[name] = make
        self._aliases.update(dict.fromkeys(aliases, name))

    def _discover(self) -> None:
        """Import the modules, once.

        A module that fails is named each time that the registry is asked for something.
        """
        if self._failure is not None:
            raise self._failure
        if not self._discovered:
            self._discovered = True
            package = importlib.import_module(self._package)
            found = (
                module.name
                for module in pkgutil.iter_modules(package.__path__)
                if not module.name.startswith("_")
            )
            inside = [f"{self._package}.{name}" for name in self._modules or found]
            try:
                for name in (*inside, *plugins(self._package)):
                    load(name)
            except ConfigError as error:
                self._failure = error
                raise

    def __contains__(self, name: object) -> bool:
        """Return whether there is an item of that name or alias."""
        self._discover()
        return isinstance(name, str) and (name in self._makers or name in self._aliases)

    def names(self) -> list[str]:
        """All names, in the order of registration, aliases left out."""
        self._discover()
        return list(self._makers)

    def get(self, name: str) -> T:
        """The item of that name or alias.

        Raises
        ------
        ConfigError
            No such name (the nearest one is offered), or its number is not one.
        """
        self._discover()
        base, colon, number = name.partition(":")
        base = self._aliases.get(base, base)
        if base not in self._makers:
            raise unknown(self.kind, name, self._makers, self._aliases)
        try:
            return self._makers[base](base + colon + number, float(number) if colon else None)
        except ConfigError:
            raise
        except ValueError:
            raise ConfigError(
                f"{self.kind} {name!r}: expected a number after the colon, got {number!r}"
            ) from None
