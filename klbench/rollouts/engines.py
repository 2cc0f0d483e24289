"""Answers of engines.

Responses of OpenAI's interface, vLLM and SGLang as rows, and their log-probabilities as numbers.

Shapes as the projects document them: ``choices[].logprobs.content[].logprob`` (OpenAI, chat),
``logprobs.token_logprobs`` (completions), ``outputs[].logprobs[]`` as ``{id: {"logprob": x}}`` and
``prompt_logprobs`` with its leading null (vLLM), ``meta_info.output_token_logprobs`` as ``[logprob,
id, text]`` (SGLang).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

SEVERAL = ("choices", "outputs", "samples", "traces", "nodes")
"""Fields of a row that hold several completions of it, or, in what verifiers writes, turns."""
DEEPEST = 5
"""Levels of a row's objects whose fields are columns."""
WHOLE = ("prompt", "messages")
"""Fields whose objects are values."""
PARTS = {"logprob": ("logprob", "log_prob", "logp"), "id": ("token_id", "id")}


def _is_ids(value: Mapping[str, Any]) -> bool:
    """True where an object maps token ids to something, and so is a value rather than a row's
    part.
    """
    return bool(value) and all(key.lstrip("-").isdigit() for key in map(str, value))


def flat(row: Mapping[str, Any], prefix: str = "", depth: int = DEEPEST) -> dict[str, Any]:
    """Return a row with the fields of its objects as columns, named by their path."""
    result: dict[str, Any] = {}
    for key, value in row.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping) and depth and not _is_ids(value) and key not in WHOLE:
            result |= flat(value, f"{name}.", depth - 1)
        else:
            result[name] = value
    return result


def rows(row: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Return the rollouts of a row: one for each of its completions where there are several."""
    found = flat(row)
    inner = next(
        (
            name
            for name, value in found.items()
            if name.rsplit(".", 1)[-1] in SEVERAL
            and isinstance(value, list)
            and value
            and all(isinstance(each, Mapping) for each in value)
        ),
        None,
    )
    if inner is None:
        yield found
        return
    outer = {name: value for name, value in found.items() if name != inner}
    for each in found[inner]:
        yield from rows(outer | flat(each))


def part(entry: Any, kind: str, token: int | None = None) -> Any:
    """Return the log-probability or the id that an entry for one token holds.

    None where it has none.

    An entry is a number, an object with ``logprob``, ``[logprob, id, text]``, or an object by token
    ids: of several the sampled token's, where that is known, and else the first, which is where
    engines put it.
    """
    if isinstance(entry, Mapping):
        named = next((entry[name] for name in PARTS[kind] if name in entry), None)
        if named is not None or not _is_ids(entry):
            return named
        key = str(token) if token is not None and str(token) in entry else next(iter(entry))
        return int(key) if kind == "id" else part(entry[key], kind)
    if isinstance(entry, Sequence) and not isinstance(entry, str):
        if len(entry) in (2, 3) and isinstance(entry[1], int | None):
            return entry[0] if kind == "logprob" else entry[1]
        return entry[0] if kind == "logprob" and len(entry) == 1 else None
    return entry if kind == "logprob" else None


def _entries(value: Any) -> Sequence[Any]:
    """Return a rollout's entries, one a token."""
    if isinstance(value, Mapping):
        content = value.get("content", value.get("token_logprobs"))
        if content is not None:
            return content
        return list(value.values()) if _is_ids(value) else []
    if isinstance(value, str):
        return [float(each) for each in value.strip("[]() \n").replace(",", " ").split()]
    if isinstance(value, int | float):
        return [value]
    return value[0] if batch_of_one(value) else value


def batch_of_one(value: Any) -> bool:
    """True where a rollout's list is the only one in a list, as NeMo-RL writes it.

    SGLang's ``[logprob, id, text]`` is not.
    """
    if not (isinstance(value, list) and len(value) == 1 and isinstance(value[0], list)):
        return False
    entry = value[0]
    return not (len(entry) == 3 and isinstance(entry[1], int) and isinstance(entry[2], str | None))


def numbers(value: Any, tokens: Sequence[int] | None = None, flags: bool = True) -> Sequence[float]:
    """Return a rollout's log-probabilities, NaN where they are null.

    ``flags`` is whether true and false are numbers, as they are in a mask.

    Raises
    ------
    TypeError, ValueError
        There are none to be had.
    """
    entries = _entries(value)
    if (quick := _alike(entries, tokens)) is not None:
        return quick
    result = []
    for i, entry in enumerate(entries):
        token = tokens[i] if tokens is not None and i < len(tokens) else None
        found = part(entry, "logprob", token)
        if (found is None and entry is not None) or (isinstance(found, bool) and not flags):
            raise ValueError(f"no log-probability in {entry!r}")
        result.append(math.nan if found is None else float(found))
    return result


def _alike(entries: Sequence[Any], tokens: Sequence[int] | None) -> list[float] | None:
    """Return the numbers of entries that are all objects of one kind, and all plain numbers.

    The same as one by one, five times as fast; None where they are not alike.
    """
    first = entries[0] if len(entries) else None
    if not isinstance(first, dict):
        return None
    name = next((each for each in PARTS["logprob"] if each in first), None)
    try:
        if name is not None:
            found = [entry[name] for entry in entries]
        elif tokens is not None:
            pairs = zip(entries, tokens, strict=True)
            found = [entry[str(token)]["logprob"] for entry, token in pairs]
        else:
            return None
    except (KeyError, TypeError, ValueError):
        return None
    return found if set(map(type, found)) <= {float, int} else None


def ids(value: Any) -> list[float]:
    """Return the token ids that a rollout's entries name, NaN where they name none."""
    entries = _entries(value)
    first = entries[0] if len(entries) else None
    if (
        isinstance(first, dict)
        and part(first, "id") is None
        and all(isinstance(each, dict) and each.keys() == first.keys() for each in entries)
    ):
        return [math.nan] * len(entries)
    found = (part(entry, "id") for entry in entries)
    return [math.nan if each is None else float(each) for each in found]


def texts(value: Any) -> list[str] | None:
    """Return the texts of tokens that a rollout's entries hold, if they do."""
    result = []
    for entry in _entries(value):
        if isinstance(entry, Mapping) and _is_ids(entry):
            entry = next(iter(entry.values()))
        if isinstance(entry, Mapping):
            result.append(str(entry.get("token", entry.get("decoded_token", ""))))
        elif isinstance(entry, Sequence) and len(entry) == 3:
            result.append(str(entry[2] or ""))
        else:
            return None
    return result
