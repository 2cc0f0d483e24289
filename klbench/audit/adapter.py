"""Calls of the user's function.

Inputs in its library and dtype, its output as an array, gradients, and what else it does.
"""

from __future__ import annotations

import contextlib
import io
import itertools
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from klbench.audit.arguments import Plan
from klbench.audit.batches import Batch, random
from klbench.audit.sources import library, own, signature
from klbench.inputs import reason
from klbench.types import ConfigError


class CallError(Exception):
    """The function raised: its own exception, with its line."""


class BackwardError(CallError):
    """Its gradient raised, though the function did not."""


@dataclass(frozen=True)
class Result:
    """The outcome of a call.

    Parameters
    ----------
    value
        The output, float64.
    gradients
        By role, of the sum of the output; None for a role that no gradient flows to.
    attached
        Whether the output requires a gradient at all.
    dtype
        The output's.
    """

    value: np.ndarray
    gradients: Mapping[str, np.ndarray | None]
    attached: bool
    dtype: str


class Function:
    """A user's function, callable on batches.

    Parameters
    ----------
    plan
        What each parameter gets.
    output
        Key or index of the entry of a dict or tuple.
    started
        Called with the time when a call begins, and with 0 when it ends: who watches may stop what
        hangs.

    Raises
    ------
    ConfigError
        The function cannot be called with its arguments, or gives back no numbers.
    """

    def __init__(
        self,
        function: Callable[..., Any],
        plan: Plan,
        *,
        output: str | int | None = None,
        started: Callable[[float], None] = lambda _: None,
    ) -> None:
        self.function, self.plan, self.output, self._started = function, plan, output, started
        self.calls = 0
        self.name = getattr(function, "__qualname__", None) or type(function).__name__
        self._positional = not _signed(function)
        self._forms = {"library": library(function)}
        self._beta = 1.0
        self._settle()

    @property
    def library(self) -> str:
        """``torch`` or ``numpy``."""
        return self._forms["library"]

    def _settle(self) -> None:
        """Find the dtype and the forms of mask and advantages that the function can be called
        with.
        """
        library = self.library
        first: CallError | None = None
        masks = ("bool", "int64", "float") if self.plan.has("mask") else ("bool",)
        advantages = ("rows", "tokens", "column") if self.plan.has("advantages") else ("rows",)
        for each in (library, "numpy" if library == "torch" else "torch"):
            for form in itertools.product(("float64", "float32"), masks, advantages):
                names = ("dtype", "mask", "advantages")
                self._forms = {"library": each, **dict(zip(names, form, strict=True))}
                try:
                    # A gradient too: NumPy takes tensors, but none that requires one.
                    self(
                        random("settle", masked=True),
                        gradients=(self.plan.learned,) if each == "torch" else (),
                    )
                except BackwardError as error:
                    raise ConfigError(str(error)) from error
                except CallError as error:
                    first = first or error
                else:
                    return
        raise ConfigError(str(first))

    def __call__(
        self,
        batch: Batch,
        dtype: str = "",
        *,
        gradients: tuple[str, ...] = (),
        beta: float | None = None,
        changed: Mapping[str, np.ndarray] | None = None,
    ) -> Result:
        """Call the function.

        Parameters
        ----------
        dtype
            Of its inputs; float64 where nothing is said, or float32 if it takes that alone.
        gradients
            Roles that require one, of the sum of the output.
        beta
            The coefficient, where the function has one.
        changed
            Arrays by role, in place of the batch's.

        Raises
        ------
        CallError
            It raised, or gave back no numbers.
        """
        dtype = dtype or self._forms["dtype"]
        arrays = {**batch.arrays(self.plan), **(changed or {})}
        tokens = batch.shape[1]
        given = {
            role: self._given(role, array, dtype, role in gradients, tokens)
            for role, array in arrays.items()
        }
        # Not the leaves themselves: a leaf that requires a gradient cannot be changed in place, a
        # model's output can.
        passed = {
            role: each.clone() if role in gradients and self.library == "torch" else each
            for role, each in given.items()
        }
        return self._result(self._run(passed, beta), given, gradients)

    def raw(self, given: Mapping[str, Any], beta: float | None = None) -> Any:
        """Call the function with arrays of its own library, by role."""
        return self._selected(self._run(given, beta))

    def given(self, batch: Batch) -> dict[str, Any]:
        """Return a batch as arrays of the function's own library, by role."""
        return {
            role: self._given(role, array, self._forms["dtype"], False, batch.shape[1])
            for role, array in batch.arrays(self.plan).items()
        }

    def _given(self, role: str, array: np.ndarray, dtype: str, attached: bool, width: int) -> Any:
        if role == "mask":
            kind = {"bool": bool, "int64": np.int64, "float": np.float64}[self._forms["mask"]]
            array = array.astype(kind)
        elif role == "advantages":
            tokens = {"tokens": slice(None), "column": slice(1)}.get(self._forms["advantages"])
            if tokens is not None and array.ndim == 1:
                array = np.repeat(array[:, None], width, axis=1)[:, tokens]
        if self.library == "numpy":
            narrow = "float32" if dtype == "bfloat16" else dtype
            return np.array(array, dtype=narrow) if array.dtype.kind == "f" else array.copy()
        made = torch.from_numpy(np.ascontiguousarray(array).copy())
        if made.is_floating_point():
            made = made.to(getattr(torch, dtype))
        return made.requires_grad_() if attached else made

    def _run(self, given: Mapping[str, Any], beta: float | None) -> Any:
        values = {
            name: given.get(role, self._beta if beta is None else beta)
            for name, role in self.plan.roles.items()
        }
        values |= self.plan.fixed
        self.calls += 1
        grad = torch.is_grad_enabled()
        self._started(time.time())
        try:
            with quiet():
                return (
                    self.function(*values.values())
                    if self._positional
                    else _by_name(self.function, values)
                )
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # a border: a user's function may raise anything
            raise CallError(own(error, self.function)) from error
        finally:
            torch.set_grad_enabled(grad)
            self._started(0.0)

    def _selected(self, output: Any) -> Any:
        if self.output is not None:
            try:
                if isinstance(output, list | tuple) and not hasattr(output, str(self.output)):
                    return output[int(self.output)]
                return (
                    output[self.output]
                    if isinstance(output, Mapping)
                    else getattr(output, str(self.output))
                )
            except (KeyError, IndexError, ValueError, TypeError, AttributeError):
                known = list(output) if isinstance(output, Mapping) else type(output).__name__
                raise CallError(
                    f"output {self.output!r}: the function gives back {known}"
                ) from None
        if isinstance(output, tuple) and output:
            return output[0]
        if isinstance(output, Mapping):
            key = next(
                (each for each in ("loss", "kl", "kl_loss", "per_token_kl") if each in output), None
            )
            if key is None:
                raise CallError(
                    "the function gives back a dict; name an entry by --output:"
                    f" {', '.join(map(str, output))}"
                )
            return output[key]
        return output

    def _result(self, output: Any, given: Mapping[str, Any], gradients: tuple[str, ...]) -> Result:
        output = self._selected(output)
        if type(output).__module__.split(".")[0] == "torch":
            return self._differentiated(output, given, gradients)
        if isinstance(output, bool | int | float | np.generic | np.ndarray | list):
            try:
                array = np.asarray(output, dtype=np.float64)
            except (TypeError, ValueError, RuntimeError):
                raise CallError(
                    f"the function gives back {type(output).__name__}, expected numbers"
                ) from None
            dtype = str(output.dtype) if isinstance(output, np.generic | np.ndarray) else "float64"
            return Result(array, dict.fromkeys(gradients), False, dtype)
        raise CallError(
            f"the function gives back {type(output).__name__}, expected numbers: an array or a"
            " tensor"
        )

    def _differentiated(
        self, output: Any, given: Mapping[str, Any], gradients: tuple[str, ...]
    ) -> Result:
        if not isinstance(output, torch.Tensor):
            raise CallError(f"the function gives back {type(output).__name__}, expected numbers")
        if output.layout is not torch.strided or output.is_complex():
            kind = "complex numbers" if output.is_complex() else f"a tensor of {output.layout}"
            raise CallError(f"the function gives back {kind}, expected a dense tensor of real ones")
        value = output.detach().to(torch.float64).cpu().numpy().copy()
        dtype = str(output.dtype).removeprefix("torch.")
        found: dict[str, np.ndarray | None] = dict.fromkeys(gradients)
        if gradients and output.requires_grad:
            try:
                with quiet():
                    each = torch.autograd.grad(
                        output.sum(), [given[role] for role in gradients], allow_unused=True
                    )
            except RuntimeError as error:
                raise BackwardError(
                    f"{self.name}: its gradient cannot be computed: {reason(error)}"
                ) from error
            found = {
                role: None if one is None else one.detach().to(torch.float64).numpy()
                for role, one in zip(gradients, each, strict=True)
            }
        return Result(value, found, bool(output.requires_grad), dtype)


def _signed(function: Callable[..., Any]) -> bool:
    try:
        signature(function)
    except (TypeError, ValueError):
        return False
    return True


def _by_name(function: Callable[..., Any], values: Mapping[str, Any]) -> Any:
    """Call with parameters by name; those that have none but a place, by place."""
    parameters = signature(function).parameters
    placed = [
        name
        for name, each in parameters.items()
        if each.kind is each.POSITIONAL_ONLY and name in values
    ]
    return function(
        *(values[name] for name in placed),
        **{name: value for name, value in values.items() if name not in placed},
    )


def numbers(array: Any) -> np.ndarray:
    """Return a copy of a tensor or array as NumPy's."""
    found: np.ndarray = array.detach().cpu().numpy() if hasattr(array, "detach") else array
    return found.copy()


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Capture what is printed, and keep warnings to ourselves."""
    with (
        contextlib.redirect_stdout(io.StringIO()),
        contextlib.redirect_stderr(io.StringIO()),
        warnings.catch_warnings(),
        np.errstate(all="ignore"),
    ):
        warnings.simplefilter("ignore")
        yield
