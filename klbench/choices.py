"""Types of settings that build themselves.

Estimators from names or the name of a set, pairs from plain data.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, TypeVar

from pydantic import BeforeValidator, Field, ValidationInfo, model_validator

from klbench import estimators, pairs
from klbench.pairs import Pair
from klbench.registry import LONGEST, unknown
from klbench.types import ConfigError, Options

Item = TypeVar("Item")


def listed(value: Any) -> Any:
    """Return one word or number as a list of one, and a list as it is."""
    return (value,) if isinstance(value, str | int | float) else value


def once(values: tuple[Item, ...]) -> tuple[Item, ...]:
    """Return the values.

    Raises
    ------
    ValueError
        One is named twice.
    """
    if twice := [value for value in values if values.count(value) > 1]:
        raise ValueError(f"{twice[0]} is named twice")
    return values


def ascending(values: tuple[Item, ...]) -> tuple[Item, ...]:
    """Return the values in rising order, each once."""
    return tuple(sorted(set(values)))  # type: ignore[type-var]


Listed = Annotated[tuple[Item, ...], BeforeValidator(listed), Field(min_length=1)]
"""A list that is not empty; one word or number may stand for it."""


def chosen_estimators(value: Any) -> tuple[str, ...]:
    """Return estimators' own names from a list of names or aliases, from one of them, or from the
    name of a set.

    Raises
    ------
    ValueError
        It is none of these, names nothing, or names an estimator twice.
    ConfigError
        There is no such estimator or set.
    """
    sets = estimators.sets()
    if isinstance(value, str) and value not in sets:
        try:
            estimators.get(value)
        except ConfigError:
            if value.partition(":")[0] in estimators.names():
                raise  # it is the number that is wrong
            raise unknown(
                "estimator or set of estimators", value, [*sets, *estimators.names()]
            ) from None
        value = [value]
    names = sets[value] if isinstance(value, str) else value
    if not isinstance(names, list | tuple) or not all(isinstance(name, str) for name in names):
        raise ValueError(f"expected a list of names, or one of the sets {', '.join(sets)}")
    if not names:
        raise ValueError(
            f"name at least one, such as k1; available: {', '.join(estimators.names())}"
        )
    return once(tuple(estimators.get(name).name for name in names))


def every_estimator() -> tuple[str, ...]:
    """Return the names of all estimators, for a study that measures all unless told otherwise."""
    return tuple(estimators.names())


def _chosen_or_none(value: Any) -> tuple[str, ...] | None:
    return None if value is None else chosen_estimators(value)


EstimatorNames = Annotated[tuple[str, ...], BeforeValidator(chosen_estimators)]
EstimatorNamesOrNone = Annotated[tuple[str, ...] | None, BeforeValidator(_chosen_or_none)]


def pair_of(node: Any) -> Pair:
    """Return the pair that plain data makes; ``kind`` says of which class.

    Raises
    ------
    ValueError
        It has no kind, or what else it says is wrong.
    ConfigError
        There is no such kind.
    """
    if isinstance(node, Pair):
        return node
    if not isinstance(node, Mapping) or not isinstance(node.get("kind"), str):
        raise ValueError(
            f"expected a pair with a kind, one of {', '.join(pairs.names())}; got"
            f" {node!r:.{LONGEST}}"
        )
    return pairs.get(node["kind"]).model_validate(
        {key: value for key, value in node.items() if key != "kind"}
    )


AnyPair = Annotated[Pair, BeforeValidator(pair_of)]


class OnePair(Options):
    """The pair that ``pair=NAME pair.KEY=...`` describes."""

    pair: AnyPair


class PairOptions(Options):
    """Settings of a study that measures ``pairs``, a field of its own with what it asks of each.

    They are the user's ``pair``, or those that the experiment has: ``pairs``, or ``default_pairs``,
    which give way to ``pair``. What only the pair knows needs no prefix: ``pair=lm policy=...`` is
    ``pair=lm pair.policy=...``.
    """

    @model_validator(mode="before")
    @classmethod
    def _gather(cls, given: Any, info: ValidationInfo) -> Any:
        if not isinstance(given, Mapping):
            return given
        left = dict(given)
        experiment = (info.context or {}).get("experiment", "this experiment")
        one, many, instead = (left.pop(key, None) for key in ("pair", "pairs", "default_pairs"))
        if one is not None and many is not None:
            kind = one.get("kind", one) if isinstance(one, Mapping) else one
            raise ValueError(
                f"pair={kind!r:.{LONGEST}}: experiment {experiment} brings its own pairs; measure"
                " yours with +exp=value"
            )
        if one is not None:
            return left | {
                "pairs": (OnePair.model_validate({"pair": cls._with_own_keys(one, left)}).pair,)
            }
        many = instead if many is None else many
        if many is None:
            raise ValueError(
                f"experiment {experiment} needs pair=NAME; available: {', '.join(pairs.names())}"
            )
        if not isinstance(many, list | tuple):
            available = ", ".join(pairs.names())
            raise ValueError(
                f"pairs={many!r:.{LONGEST}}: must be a list of pairs, each with a kind, one of"
                f" {available}"
            )
        return left | {"pairs": many}

    @classmethod
    def _with_own_keys(cls, node: Any, left: dict[str, Any]) -> Any:
        """Move to the pair's node what of the rest only the pair knows."""
        if not isinstance(node, Mapping) or node.get("kind") not in pairs.registry:
            return node
        fields = pairs.get(node["kind"]).model_fields
        for key in [
            key
            for key in left
            if key in fields and key not in cls.model_fields and not isinstance(left[key], Mapping)
        ]:
            value = left.pop(key)
            if node.get(key, value) not in (value, fields[key].default):
                raise ValueError(
                    f"{key}={value!r:.{LONGEST}} and pair.{key}={node[key]!r:.{LONGEST}}: give it"
                    " once"
                )
            node = {**node, key: value}
        return node

    @classmethod
    def known(cls) -> list[str]:
        return [*super().known(), "pair"]

    @classmethod
    def foreign(cls, node: Mapping[str, Any]) -> dict[str, str]:
        measured = [node["pair"]] if node.get("pair") else node.get("default_pairs") or ()
        kinds = [each.get("kind") for each in measured if isinstance(each, Mapping)]
        return {
            key: (
                f"is a key of the pair: say pair={kind} too, which takes the place of the"
                " experiment's own"
            )
            for kind in kinds
            if kind in pairs.registry and node.get("pairs") is None
            for key in pairs.get(str(kind)).model_fields
        }

    @classmethod
    def as_checked(cls, node: Mapping[str, Any]) -> Mapping[str, Any]:
        return {"pairs": node.get("default_pairs")} | dict(node)

    def plain(self) -> dict[str, Any]:
        config = super().plain()
        if len(config["pairs"]) == 1:
            (config["pair"],) = config.pop("pairs")
        return config
