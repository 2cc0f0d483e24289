"""The way from a composed configuration to typed, range-checked settings.

A mistake is one clear line.
"""

from __future__ import annotations

import difflib
import importlib.util
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import Field, ValidationError
from pydantic_core import ErrorDetails

from klbench import pairs, studies
from klbench.context import Cluster
from klbench.pairs import Pair
from klbench.registry import unknown
from klbench.study import Study
from klbench.types import ConfigError, Options
from klbench.workers import cores


class Common(Options):
    """Settings that every study shares.

    Parameters
    ----------
    seed
        All random streams come from it.
    workers
        Processes to work with; the cores of this machine if not given.
    device
        ``cpu`` or ``cuda``, for the studies that use torch.
    cluster, address
        ``dask`` or ``ray``, and where its scheduler is; workers are then the cluster's.
    out
        The run folder; ``reports/EXPERIMENT-TIME`` if not given.
    """

    seed: int = Field(default=0, ge=0, lt=2**63)
    workers: int | None = Field(default=None, ge=1, le=4096)
    device: Literal["cpu", "cuda"] = "cpu"
    cluster: Literal["dask", "ray"] | None = None
    address: str = ""
    out: str | None = None


_CLUSTER_MODULES = {"dask": "distributed", "ray": "ray"}
_SCHEMES = {"dask": ("tcp", "tls", "ws", "wss", "ucx"), "ray": ("ray",)}
_ADDRESS = re.compile(r"(?:([a-z]+)://)?(?:\[[0-9A-Fa-f:.]+\]|[\w.-]+):(\d{1,5})")


@dataclass(frozen=True)
class Settings:
    """A checked configuration, ready to run."""

    experiment: str
    study: Study
    options: Options
    common: Common

    @property
    def config(self) -> dict[str, Any]:
        """Every option but ``out``, defaults included, as plain data, from which
        :func:`settings` makes the same settings.
        """
        config = {"study": self.study.name} | self.common.plain() | self.options.plain()
        del config["out"]
        return config

    @property
    def workers(self) -> int:
        """Processes to work with."""
        return self.common.workers or cores()

    @property
    def cluster(self) -> Cluster | None:
        """The cluster to work on, if one was named."""
        return (
            None
            if self.common.cluster is None
            else Cluster(kind=self.common.cluster, address=self.common.address)
        )


def _show(value: Any) -> str:
    text = value.kind if isinstance(value, Pair) else " ".join(repr(value).split())
    return text if len(text) <= 80 else text[:77] + "..."


def _fields(model: type[Options], path: Iterable[str | int], data: Any) -> list[str]:
    """The keys of the node at a path inside a model, as far as its types and the data, with the
    kinds of its pairs, tell.
    """
    for step in path:
        if isinstance(data, list | tuple) and isinstance(step, int):
            data = data[step]
        else:
            data = data.get(step) if isinstance(data, Mapping) else None
        nested = [
            each
            for each in _types_of(model, step)
            if isinstance(each, type) and issubclass(each, Options)
        ]
        if isinstance(data, Mapping) and data.get("kind") in pairs.registry:
            model = pairs.get(data["kind"])
        elif nested:
            model = nested[0]
        elif not isinstance(data, list | tuple):
            return []
    return list(model.model_fields)


def _types_of(model: type[Options], step: str | int) -> list[Any]:
    annotation = (
        model.model_fields[str(step)].annotation if str(step) in model.model_fields else None
    )
    return [annotation, *getattr(annotation, "__args__", ())]


_EXPECTED = {
    "greater_than": "must be greater than {gt}",
    "greater_than_equal": "must be at least {ge}",
    "less_than": "must be less than {lt}",
    "less_than_equal": "must be at most {le}",
    "too_short": "needs at least {min_length} of them",
    "int_parsing": "must be a whole number",
    "int_from_float": "must be a whole number",
    "int_type": "must be a whole number",
    "int_parsing_size": "is too large",
    "string_type": "must be text; a number in quotes is text",
    "tuple_type": "must be a list",
    "model_type": "must be keys and values",
    "float_type": "must be a number or a list of numbers",
    "float_parsing": "must be a number or a list of numbers",
    "finite_number": "must be finite",
    "literal_error": "must be one of {expected}",
}


def _line(model: type[Options], error: ErrorDetails, prefix: str, data: Mapping[str, Any]) -> str:
    kind, context = error["type"], error.get("ctx", {})
    # Which branch of a union was tried is pydantic's business, not the user's.
    steps = [
        step
        for step in error["loc"]
        if isinstance(step, int) or (step.isidentifier() and step not in ("float", "int", "str"))
    ]
    key = prefix + ".".join(str(step) for step in steps)
    if kind == "extra_forbidden":
        allowed = _fields(model, steps[:-1], data)
        near = difflib.get_close_matches(str(steps[-1]), allowed, n=1)
        hint = (
            f"; did you mean {prefix + '.'.join(map(str, [*steps[:-1], near[0]]))!r}?"
            if near
            else ";"
        )
        return f"unknown key {key!r}{hint} available here: {', '.join(allowed)}"
    if kind == "missing":
        return f"{key}: missing; {key.rpartition('.')[0] or 'this'} needs it"
    if kind == "tuple_type" and error["input"] is None:
        return f"{key}: expected a list, {key}=[A,...], got none"
    message = (
        _EXPECTED[kind].format(**context)
        if kind in _EXPECTED
        else error["msg"].removeprefix("Value error, ")
    )
    if (
        kind == "value_error"
        and isinstance(error["input"], Mapping)
        and _fields(model, steps, data)
    ):  # of several together
        return f"{key.rstrip('.')}: {message}" if key.rstrip(".") else message
    return f"{key}={_show(error['input'])}: {message}"


def build(model: type[Options], node: Mapping[str, Any], prefix: str = "") -> Any:
    """A typed node from plain data.

    Raises
    ------
    ConfigError
        The first thing that is wrong: its key, its value, and what is allowed.
    """
    try:
        return model.model_validate(dict(node))
    except ValidationError as error:
        raise ConfigError(_line(model, _first(error.errors()), prefix, node)) from None


def _first(errors: Sequence[ErrorDetails]) -> ErrorDetails:
    """The first error; of a list that may also be a number, the one about its entry."""
    first = errors[0]
    if (
        first["loc"][-1:] == ("float",)
        and isinstance(first["input"], Sequence)
        and not isinstance(first["input"], str)
    ):
        place = first["loc"][:-1]
        return next((each for each in errors[1:] if each["loc"][: len(place)] == place), first)
    return first


def _unknown(key: str, study: Study, config: Mapping[str, Any]) -> ConfigError:
    """Return the error for a key that is unknown or belongs elsewhere."""
    foreign = study.options.foreign(config)
    if key in foreign:
        return ConfigError(f"{key!r} {foreign[key]}")
    return unknown("key", key, [*study.options.known(), *Common.model_fields, "resume"], foreign)


def _check_device(device: str, study: Study) -> None:
    if device not in study.devices:
        raise ConfigError(
            f"device={device!r}: the {study.name} study runs on {' or '.join(study.devices)}"
        )
    if device == "cuda":
        import torch

        if not torch.cuda.is_available():
            raise ConfigError("device='cuda': torch sees no GPU here; use device=cpu")


def _check_address(cluster: str, address: str) -> None:
    """Check that an address could be a scheduler's, before anything waits for an answer from it."""
    if address == "" or (cluster == "ray" and address in ("auto", "local")):
        return
    found, schemes = _ADDRESS.fullmatch(address), _SCHEMES[cluster]
    if found is None or found[1] not in (None, *schemes) or not 0 < int(found[2]) < 2**16:
        raise ConfigError(
            f"address={address!r:.80}: expected HOST:PORT, alone or after"
            f" {' or '.join(f'{each}://' for each in schemes)}"
        )


def settings(config: Mapping[str, Any], experiment: str) -> Settings:
    """Check a composed configuration.

    Raises
    ------
    ConfigError
        An unknown key, a value out of range, an unknown pair, estimator or study.
    """
    left = {key: value for key, value in config.items() if key not in ("out", "resume")}
    if left.get("study") in (None, "???"):
        raise ConfigError(
            f"experiment {experiment} names no study; available: {', '.join(studies.names())}"
        )
    study = studies.get(str(left.pop("study")))
    common = build(
        Common,
        {key: left.pop(key) for key in list(left) if key in Common.model_fields}
        | {"out": config.get("out")},
    )
    _check_device(common.device, study)
    if (
        common.cluster is not None
        and importlib.util.find_spec(_CLUSTER_MODULES[common.cluster]) is None
    ):
        raise ConfigError(
            f"cluster={common.cluster!r}: {common.cluster} is not installed here; pip install"
            " 'klbench[cluster]'"
        )
    if common.cluster is not None:
        _check_address(common.cluster, common.address)
    try:
        options = study.options.model_validate(left, context={"experiment": experiment})
    except ValidationError as error:
        first = _first(error.errors())
        if first["type"] == "extra_forbidden" and len(first["loc"]) == 1:
            raise _unknown(str(first["loc"][0]), study, left) from None
        raise ConfigError(_line(study.options, first, "", study.options.as_checked(left))) from None
    return Settings(experiment, study, options, common)
