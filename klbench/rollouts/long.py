"""Files with a row a token: rows of one rollout, one after the other, become a row of lists."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np
import pandas as pd
import pyarrow as pa

from klbench.rollouts import values
from klbench.rollouts.containers import Chunk
from klbench.rollouts.names import PER_TOKEN, listed
from klbench.types import ConfigError

WHERE = "\0row"
ONE_TOKEN = ("token", "token_id", "token_idx", "token_index", "token_text")
"""Names of columns that only a row a token has."""
WHOLE = (
    "a row is read as a whole rollout of one number, a sum; if it is a token, say which column"
    " names its rollout: --map rollout=..."
)


def layout(look: Chunk, roles: Mapping[str, str]) -> str:
    """``tokens`` where an id stays the same over rows, or only a position is there.

    Else ``sums``.
    """
    if "rollout" in roles:
        ids = pd.Series(values.listed(look.columns[roles["rollout"]]))
        return "tokens" if ids.astype(str).duplicated().any() else "sums"
    return "tokens" if "position" in roles else "sums"


def sums(file: str, available: Sequence[str], look: Chunk, roles: Mapping[str, str]) -> str:
    """Return the note on rows of one number each, which are taken for sums over rollouts.

    Raises
    ------
    ConfigError
        They are tokens, by a token's id or text beside each, and nothing tells rollouts apart.
    """
    named = any(name.rsplit(".", 1)[-1].lower() in ONE_TOKEN for name in available)
    ids = "tokens" in roles and not values.ragged(look.columns[roles["tokens"]]).nested
    if (named or ids) and "rollout" not in roles:
        raise ConfigError(
            f"{file}: a row is a token, and no column says which rollout it is of: add rollout_id,"
            " or position, which begins again with each, or name the column by --map rollout=..."
            f" (columns are {listed(available)})"
        )
    return WHOLE


def _frame(chunk: Chunk, roles: Mapping[str, str]) -> pd.DataFrame:
    columns: dict[str, object] = {WHERE: np.asarray(chunk.where)}
    for role, name in roles.items():
        if role in PER_TOKEN or role == "position":
            each = values.ragged(chunk.columns[name])
            numbers = np.full(len(chunk), np.nan)
            some = each.lengths == 1
            numbers[some] = each.values[np.repeat(some, each.lengths)]
            columns[name] = numbers
        else:
            columns[name] = pd.Series(values.listed(chunk.columns[name]), dtype=object)
    return pd.DataFrame(columns)


def _starts(frame: pd.DataFrame, roles: Mapping[str, str]) -> tuple[np.ndarray, pd.Series]:
    """Return where a rollout begins, and the key that tells rollouts apart."""
    names = [roles[role] for role in ("step", "prompt", "rollout") if role in roles]
    if "rollout" not in roles:
        place = frame[roles["position"]].to_numpy()
        starts = np.append(True, np.diff(place) <= 0.0)
        return starts, pd.Series(np.cumsum(starts))
    key = pd.Series(np.zeros(len(frame), dtype=np.int64))
    for name in names:
        codes, found = pd.factorize(frame[name].map(repr))
        key = key * (len(found) + 1) + codes
    return np.append(True, np.diff(key.to_numpy()) != 0), key


def grouped(chunks: Iterable[Chunk], roles: Mapping[str, str]) -> Iterator[Chunk]:
    """Return chunks with a row a rollout; its place is that of its first token.

    Rows of a rollout that stand apart are brought together, for which all is held in memory; else a
    chunk is at a time.
    """
    left: pd.DataFrame | None = None
    rest = iter(chunks)
    for chunk in rest:
        frame = _frame(chunk, roles)
        frame = frame if left is None else pd.concat([left, frame], ignore_index=True)
        starts, key = _starts(frame, roles)
        if starts.sum() > key.nunique():
            whole = pd.concat([frame, *(_frame(each, roles) for each in rest)], ignore_index=True)
            yield _lists(_together(whole, roles), roles)
            return
        last = int(np.flatnonzero(starts)[-1])
        if last:
            yield _lists(frame.iloc[:last], roles)
        left = frame.iloc[last:]
    if left is not None and len(left):
        yield _lists(left, roles)


def _together(frame: pd.DataFrame, roles: Mapping[str, str]) -> pd.DataFrame:
    _, key = _starts(frame, roles)
    place = frame[roles["position"]] if "position" in roles else frame[WHERE]
    first = pd.Series(np.arange(len(frame))).groupby(key.to_numpy()).transform("min")
    return frame.iloc[np.lexsort([place.to_numpy(), first.to_numpy()])].reset_index(drop=True)


def _lists(frame: pd.DataFrame, roles: Mapping[str, str]) -> Chunk:
    frame = frame.reset_index(drop=True)
    starts, _ = _starts(frame, roles)
    begins = np.flatnonzero(starts)
    ends = pa.array(np.append(begins, len(frame)).astype(np.int64))
    columns: dict[str, object] = {}
    for role, name in roles.items():
        if role in PER_TOKEN:
            columns[name] = pa.LargeListArray.from_arrays(ends, pa.array(frame[name].to_numpy()))
        else:
            columns[name] = frame[name].iloc[begins].tolist()
    return Chunk(frame[WHERE].to_numpy()[begins].tolist(), columns)
