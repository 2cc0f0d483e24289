"""From a composed configuration to typed, range-checked settings, with one clear line for what is wrong."""

from __future__ import annotations

import difflib
import importlib.util
import os
import re
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import Field, ValidationError
from pydantic_core import ErrorDetails

from klbench import estimators, pairs, studies
from klbench.context import Cluster
from klbench.pairs import Pair
from klbench.registry import unknown
from klbench.study import Study
from klbench.types import ConfigError, Options


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
        """Every option but ``out``, defaults included, as plain data: :func:`settings` makes the same of it again."""
        config = {"study": self.study.name} | _plain(self.common) | _plain(self.options)
        del config["out"]
        if len(config.get("pairs", ())) == 1:
            (config["pair"],) = config.pop("pairs")
        return config

    @property
    def workers(self) -> int:
        """Processes to work with."""
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
        return self.common.workers or cores or 1

    @property
    def cluster(self) -> Cluster | None:
        """The cluster to work on, if one was named."""
        return None if self.common.cluster is None else Cluster(kind=self.common.cluster, address=self.common.address)


def _plain(value: Any) -> Any:
    """Options, and whatever they hold, as what YAML has."""
    if isinstance(value, Options):
        kind = {"kind": value.kind} if isinstance(value, Pair) else {}
        return kind | {name: _plain(getattr(value, name)) for name in type(value).model_fields}
    if isinstance(value, Mapping):
        return {name: _plain(each) for name, each in value.items()}
    return [_plain(each) for each in value] if isinstance(value, tuple | list) else value


def _show(value: Any) -> str:
    text = value.kind if isinstance(value, Pair) else " ".join(repr(value).split())
    return text if len(text) <= 80 else text[:77] + "..."


def _fields(model: type[Options], path: Iterable[str | int]) -> list[str]:
    """The keys of the node at a path inside a model, as far as its types tell."""
    names = list(model.model_fields)
    for step in path:
        nested = [
            each
            for each in _types_of(model.model_fields[str(step)].annotation if str(step) in model.model_fields else None)
            if isinstance(each, type) and issubclass(each, Options)
        ]
        if not nested:
            return []
        model = nested[0]
        names = list(model.model_fields)
    return names


def _types_of(annotation: Any) -> list[Any]:
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


def _line(model: type[Options], error: ErrorDetails, prefix: str) -> str:
    kind, context = error["type"], error.get("ctx", {})
    # Which branch of a union was tried is pydantic's business, not the user's.
    steps = [
        step for step in error["loc"] if isinstance(step, int) or (step.isidentifier() and step not in ("float", "int", "str"))
    ]
    key = prefix + ".".join(str(step) for step in steps)
    if kind == "extra_forbidden":
        allowed = _fields(model, steps[:-1])
        near = difflib.get_close_matches(str(steps[-1]), allowed, n=1)
        hint = f"; did you mean {prefix + '.'.join(map(str, [*steps[:-1], near[0]]))!r}?" if near else ";"
        return f"unknown key {key!r}{hint} available here: {', '.join(allowed)}"
    if kind == "missing":
        return f"{key}: missing; {prefix.rstrip('.') or 'this'} needs it"
    message = _EXPECTED[kind].format(**context) if kind in _EXPECTED else error["msg"].removeprefix("Value error, ")
    if kind == "value_error" and isinstance(error["input"], Mapping):  # about several fields together
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
        raise ConfigError(_line(model, _first(error.errors()), prefix)) from None


def _first(errors: Sequence[ErrorDetails]) -> ErrorDetails:
    """The first error; of a list that may also be a number, the one about its entry."""
    first = errors[0]
    if first["loc"][-1:] == ("float",) and isinstance(first["input"], Sequence) and not isinstance(first["input"], str):
        place = first["loc"][:-1]
        return next((each for each in errors[1:] if each["loc"][: len(place)] == place), first)
    return first


def build_pair(node: Any, prefix: str) -> Pair:
    """A pair from its node of the configuration; ``kind`` says which."""
    if not isinstance(node, Mapping) or not isinstance(node.get("kind"), str):
        raise ConfigError(f"{prefix}={_show(node)}: expected a pair with a kind, one of {', '.join(pairs.names())}")
    cls = pairs.get(node["kind"])
    pair: Pair = build(cls, {key: value for key, value in node.items() if key != "kind"}, f"{prefix}.")
    return pair


def expand_estimators(value: Any, sets: Mapping[str, list[str]]) -> list[str]:
    """Estimator names from a list or the name of a set; each is looked up, so that a wrong one is refused here."""
    if isinstance(value, str) and value not in sets:
        try:
            estimators.get(value)
        except ConfigError:
            if value.partition(":")[0] in estimators.names():
                raise  # it is the number that is wrong
            raise unknown("estimator or set of estimators", value, [*sets, *estimators.names()]) from None
        value = [value]
    chosen = sets[value] if isinstance(value, str) else value
    if not isinstance(chosen, list) or not all(isinstance(name, str) for name in chosen):
        raise ConfigError(f"estimators={_show(value)}: expected a list of names, or one of the sets {', '.join(sets)}")
    if not chosen:
        raise ConfigError(f"estimators=[]: name at least one, such as k1; available: {', '.join(estimators.names())}")
    resolved = [estimators.get(name).name for name in chosen]
    if len(set(resolved)) < len(resolved):
        twice = next(name for name in resolved if resolved.count(name) > 1)
        raise ConfigError(f"estimators={_show(chosen)}: {twice} is named twice")
    return resolved


def read_sets(conf: Path) -> dict[str, list[str]]:
    """The named sets of estimators; ``all`` is every registered one."""
    sets: dict[str, list[str]] = yaml.safe_load((conf / "estimator_sets.yaml").read_text(encoding="utf-8"))
    return {"all": estimators.names()} | sets


def _pairs(config: dict[str, Any], experiment: str) -> list[Pair]:
    one, many, instead = (config.pop(key, None) for key in ("pair", "pairs", "default_pairs"))
    if one is None and many is None:
        many = instead  # what an experiment measures where the user names no pair
    if one is not None and many is not None:
        raise ConfigError(
            f"pair={_show(one.get('kind', one))}: experiment {experiment} brings its own pairs; measure yours with +exp=value"
        )
    if one is None and many is None:
        raise ConfigError(f"experiment {experiment} needs pair=NAME; available: {', '.join(pairs.names())}")
    if one is not None:
        return [build_pair(one, "pair")]
    if not isinstance(many, Sequence) or isinstance(many, str):
        raise ConfigError(f"pairs={_show(many)}: must be a list of pairs, each with a kind, one of {', '.join(pairs.names())}")
    return [build_pair(node, f"pairs.{k}") for k, node in enumerate(many)]


def _give_to_pair(config: dict[str, Any], known: Container[str]) -> None:
    """Move to the pair's node what only the pair knows: ``pair=lm policy=...`` is ``pair=lm pair.policy=...``."""
    node = config.get("pair")
    if not isinstance(node, Mapping) or node.get("kind") not in pairs.names():
        return
    fields = pairs.get(node["kind"]).model_fields
    for key in [key for key in config if key in fields and key not in known and not isinstance(config[key], Mapping)]:
        value = config.pop(key)
        if node.get(key, value) not in (value, fields[key].default):
            raise ConfigError(f"{key}={_show(value)} and pair.{key}={_show(node[key])}: give it once")
        config["pair"] = node = {**node, key: value}


def _unknown(key: str, study: Study, measured: Iterable[Pair]) -> ConfigError:
    """What to say of a key that nobody knows, or only a pair that was not asked for by its name."""
    of_pairs = {name: pair.kind for pair in measured for name in type(pair).model_fields}
    if key in of_pairs:
        kind = of_pairs[key]
        return ConfigError(f"{key!r} is a key of the pair: say pair={kind} too, which takes the place of the experiment's own")
    fields = study.options.model_fields
    known = [*fields, *(["pair"] if "pairs" in fields else []), *Common.model_fields, "resume"]
    return unknown("key", key, known, of_pairs)


def _check_device(device: str, study: Study) -> None:
    if device not in study.devices:
        raise ConfigError(f"device={device!r}: the {study.name} study runs on {' or '.join(study.devices)}")
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
            f"address={address!r:.80}: expected HOST:PORT, alone or after {' or '.join(f'{each}://' for each in schemes)}"
        )


def settings(config: Mapping[str, Any], experiment: str, conf: Path) -> Settings:
    """Check a composed configuration.

    Raises
    ------
    ConfigError
        An unknown key, a value out of range, an unknown pair, estimator or study.
    """
    left = {key: value for key, value in config.items() if key not in ("out", "resume")}
    if left.get("study") in (None, "???"):
        raise ConfigError(f"experiment {experiment} names no study; available: {', '.join(studies.names())}")
    study = studies.get(str(left["study"]))
    fields = study.options.model_fields
    if "pairs" in fields:
        _give_to_pair(left, fields.keys() | Common.model_fields.keys())
    named_none = "default_pairs" in left
    del left["study"]
    common = build(
        Common, {key: left.pop(key) for key in list(left) if key in Common.model_fields} | {"out": config.get("out")}
    )
    _check_device(common.device, study)
    if common.cluster is not None and importlib.util.find_spec(_CLUSTER_MODULES[common.cluster]) is None:
        raise ConfigError(f"cluster={common.cluster!r}: {common.cluster} is not installed here; pip install 'klbench[cluster]'")
    if common.cluster is not None:
        _check_address(common.cluster, common.address)
    if "pairs" in fields:
        left["pairs"] = tuple(_pairs(left, experiment))
    if "estimators" in fields and (left.get("estimators") is not None or fields["estimators"].is_required()):
        left["estimators"] = tuple(expand_estimators(left.get("estimators", "all"), read_sets(conf)))
    # What is wrong with a pair first: it may bring a key that only another study knows, such as recorded rollouts their path.
    options = build(study.options, {key: value for key, value in left.items() if key in fields})
    for key in left:
        if key not in fields:
            raise _unknown(key, study, getattr(options, "pairs", ()) if named_none else ())
    return Settings(experiment, study, options, common)
