"""Rollouts that somebody's own training has recorded: log-probabilities of policy and reference, token by token."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar

import numpy as np
from pydantic import BeforeValidator, Field

from klbench import rollouts
from klbench.oracles import ExactMoments
from klbench.pairs import register
from klbench.pairs._base import Pair
from klbench.rollouts.base import Block, Reader
from klbench.types import Capabilities, Completions, ConfigError, Draws, Estimator, Truth

CHECKED = 64
"""Rows that are looked at before a run begins."""
SLACK = 1e-4
"""The most that rounding may take from a divergence of 0."""
ROUNDED = 0.125
"""The most that rounding to bfloat16 may add to a log-probability of 0 if the logits are below 32."""
LOG_PROBS = ("logprobs", "ref_logprobs", "old_logprobs")
IMPOSSIBLE = {
    "logprobs": "so the policy cannot have sampled this token",
    "old_logprobs": "so nobody can have sampled this token",
    "ref_logprobs": "so the reference never says this token, and KL(q‖p) is infinite",
}
"""The explanation of a probability of 0."""
FILLER = -100.0
"""A whole log-probability as low as this is one that fills rows: -100, -9999, -1e10."""
ZEROS, SAME, UNCHANGED = 2, 3, 8
"""So many tokens are padding at the end of a row if their log-probabilities are all 0, and at either end if all are one number,
or do not change.
"""
MAX_TOKEN = 2.0**53
"""Larger whole numbers are not all told apart in float64."""
FIELDS = {
    "logprobs": "log_q",
    "ref_logprobs": "log_p",
    "old_logprobs": "log_mu",
    "kl": "kl_qp",
    "kl_pq": "kl_pq",
    "tokens": "token",
}


def _checked_path(value: Any) -> str:
    if not isinstance(value, str | Path) or not str(value):
        raise ValueError(
            f"name a file of rollouts: path=FILE{', path=FILE'.join(rollouts.SUFFIXES)}"
        )
    path = str(value)
    if "\0" in path:
        raise ValueError("no such file")
    read(rollouts.reader(path), 0, CHECKED)
    return path


@register
class RecordedPair(Pair):
    """Rollouts in a file, one a row, in the order of the file; what is exact about them is what the file says.

    Columns of one number a token: ``logprobs`` (of the policy ``q``) and ``ref_logprobs`` (of the reference ``p``); if there,
    ``old_logprobs`` (of whoever sampled, where that was not ``q``), ``kl`` and ``kl_pq`` (exact ``KL(q‖p)`` and ``KL(p‖q)``
    over the next token), ``tokens`` (ids) and ``mask`` (1 where a token counts), which may also be named ``response_mask``,
    ``completion_mask``, ``action_mask`` or ``loss_mask``. Of one value a row: ``prompt``.

    Rows may differ in length. Where they are padded to one, ``mask`` says what counts, and nothing is asked of the rest;
    without a mask, NaN or null at the end of a row is padding, in all columns alike, and what looks like other padding is
    refused. What does not count is left out, so that positions are counted among the tokens that do.

    Log-probabilities up to 0.125 above 0, as bfloat16 leaves them, are taken as they are; the tables count them.

    Raises
    ------
    ConfigError
        While reading: a row that is not as it should be, with the file, the row (counted from 1) and the column.
    """

    kind: ClassVar[str] = "recorded"
    summary: ClassVar[str] = (
        "rollouts of your own (path): Parquet, JSON lines or npz, with logprobs and ref_logprobs per token"
    )
    measured_with: ClassVar[str] = "+exp=recorded path=FILE"
    capabilities: ClassVar[Capabilities] = Capabilities(completions=True)
    path: Annotated[str, BeforeValidator(_checked_path)] = Field()

    @classmethod
    def node(cls) -> dict[str, Any]:
        """Return the plain data of ``pair=recorded``: its path is the experiment's, unless it has one of its own."""
        return super().node() | {"path": "${oc.select:path,null}"}

    @property
    def available(self) -> int:
        return rollouts.reader(self.path).rows

    @property
    def fingerprint(self) -> str:
        return "-".join(map(str, rollouts.fingerprint(self.path)))

    @property
    def off_policy(self) -> bool:
        return "old_logprobs" in rollouts.reader(self.path).columns

    @property
    def unread(self) -> tuple[str, ...]:
        return rollouts.reader(self.path).unread

    def describe(self) -> str:
        return f"Rollouts of {Path(self.path).name}"

    def completions(self, seed: int, shard: int, n: int) -> Completions:
        """Rows ``n * shard`` and following; the seed changes nothing."""
        return read(rollouts.reader(self.path), n * shard, n)

    def draw(self, stream: np.random.Generator, n: int) -> Draws:
        raise ConfigError(
            f"pair=recorded: {self.path} is read as it is and cannot be drawn from; measure it with +exp=recorded"
        )

    def truth(self, target: str) -> Truth | None:
        return None

    def finite_moment(self, order: float, weight_order: float = 0.0) -> bool:
        return True

    def exact(self, estimators: Sequence[Estimator]) -> list[ExactMoments | None]:
        return [None] * len(estimators)


def _prompt_id(value: Any) -> int:
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**63:
        return value
    return int.from_bytes(
        hashlib.sha256(json.dumps(value, default=repr).encode()).digest()[:7], "little"
    )


def read(reader: Reader, start: int, n: int) -> Completions:
    """Rows of a file as completions, checked; fewer where it ends, ``(0, 0)`` beyond its end."""
    block = reader.read(start, n)
    lengths = block.columns["logprobs"].lengths
    for name, column in block.columns.items():
        wrong = np.flatnonzero(column.lengths != lengths)
        if wrong.size:
            row = int(wrong[0])
            raise reader.fail(
                start + row, f"{name} has {column.lengths[row]} tokens, logprobs {lengths[row]}"
            )
    rows = np.repeat(np.arange(lengths.size), lengths)
    kept = _kept(reader, start, block, rows)
    counted = np.bincount(rows[kept], minlength=lengths.size)
    begins = np.cumsum(lengths) - lengths
    if not counted.all():
        row = int(np.flatnonzero(counted == 0)[0])
        why = "it is empty" if lengths[row] == 0 else "none of its tokens counts"
        raise reader.fail(start + row, f"logprobs: {why}; leave such rows out of the file")
    for name, column in block.columns.items():
        if name != reader.mask:
            _check_values(reader, start, name, column.values, rows, kept, begins)
    if reader.mask is None:
        _check_filled(reader, start, block, rows, kept, begins)
    mask = np.arange(counted.max(initial=0)) < counted[:, None]
    arrays: dict[str, Any] = {}
    for name, field in FIELDS.items():
        if name in block.columns:
            values = block.columns[name].values[kept]
            array = np.zeros(mask.shape, dtype=np.int64 if name == "tokens" else np.float64)
            array[mask] = values.astype(array.dtype)
            arrays[field] = array
    if block.prompt is not None:
        arrays["prompt"] = np.array([_prompt_id(each) for each in block.prompt], dtype=np.int64)
    return Completions(mask=mask, **arrays)


def _kept(reader: Reader, start: int, block: Block, rows: np.ndarray) -> np.ndarray:
    """Return the tokens that count: those of the mask, or else all but the NaNs at the end of a row."""
    if reader.mask is not None:
        mask = block.columns[reader.mask].values
        wrong = np.flatnonzero((mask != 0.0) & (mask != 1.0))
        if wrong.size:
            at = int(wrong[0])
            raise reader.fail(
                start + int(rows[at]), f"{reader.mask} must be 0 or 1, got {mask[at]:g}"
            )
        return mask == 1.0
    filled = np.zeros(rows.size, dtype=bool)
    for column in block.columns.values():
        filled |= ~np.isnan(column.values)
    places = np.arange(rows.size)
    last = np.full(block.columns["logprobs"].lengths.size, -1)
    np.maximum.at(last, rows[filled], places[filled])
    return np.asarray(places <= last[rows])


def _check_filled(
    reader: Reader, start: int, block: Block, rows: np.ndarray, kept: np.ndarray, begins: np.ndarray
) -> None:
    """Refuse what fills a row and is marked nowhere: log-probabilities that no model gives, or that stand still at its ends.

    Coarse formats repeat log-probabilities, 0 above all. So an end must stand still for half as long again as any place inside.
    """
    if not kept.any():
        return
    names = [name for name in LOG_PROBS if name in block.columns]
    values, rows, places = (
        np.array([block.columns[name].values for name in names])[:, kept],
        rows[kept],
        np.flatnonzero(kept),
    )
    other_row = np.concatenate([[True], rows[1:] != rows[:-1], [True]])
    changes = np.append(True, (values[:, 1:] != values[:, :-1]).any(axis=0)) | other_row[:-1]
    runs = np.flatnonzero(changes)  # of tokens whose log-probabilities are all the same
    sizes, value = np.diff(runs, append=rows.size), values[:, runs]
    opens, closes = other_row[runs], other_row[runs + sizes]
    low, one = (value <= FILLER) & (value == np.floor(value)), (value == value[0]).all(axis=0)
    still = (opens ^ closes) & ((sizes >= UNCHANGED) | ((sizes >= SAME) & one))
    still |= closes & (sizes >= ZEROS) & (value == 0.0).all(axis=0)
    still &= sizes > 1.5 * sizes[~opens & ~closes].max(initial=1)
    wrong = np.flatnonzero(still | (closes & low.any(axis=0)) | (one & low.all(axis=0)))
    if wrong.size:
        at, size = int(runs[wrong[0]]), int(sizes[wrong[0]])
        row, token = int(rows[at]), int(places[at] - begins[rows[at]]) + 1
        where = (
            f"token {token} is"
            if size == 1
            else f"the last {size} tokens are"
            if closes[wrong[0]]
            else (f"tokens {token} to {token + size - 1} are")
        )
        said = ", ".join(
            f"{x + 0.0:g} in {name}" for name, x in zip(names, values[:, at], strict=True)
        )
        raise reader.fail(
            start + row,
            f"{where} {said}, which looks like padding; say in a column mask which tokens count (1 for all, if these do)",
        )


def _check_values(
    reader: Reader,
    start: int,
    name: str,
    values: np.ndarray,
    rows: np.ndarray,
    kept: np.ndarray,
    begins: np.ndarray,
) -> None:
    """Refuse values that are not numbers, log-probabilities above 0, divergences below 0 and ids that are not whole."""
    with np.errstate(invalid="ignore"):
        bad = ~np.isfinite(values)
        if name == "tokens":
            bad |= (values != np.floor(values)) | (np.abs(values) > MAX_TOKEN)
        else:
            bad |= values < -SLACK if name.startswith("kl") else values > ROUNDED
    wrong = np.flatnonzero(bad & kept)
    if not wrong.size:
        return
    at = int(wrong[0])
    row, value = int(rows[at]), float(values[at])
    if not np.isfinite(value):
        said = f"is {value}, {IMPOSSIBLE[name] if name in IMPOSSIBLE and value < 0 else 'it must be finite'}"
        if np.isnan(value):
            said = (
                "is missing (NaN); padding goes at the end of a row, or is marked in a column mask"
            )
    elif name == "tokens":
        said = f"is {value:g}, a token id is a whole number of a size that is one"
    elif name.startswith("kl"):
        said = f"is {value:g}, a KL divergence is never negative"
    else:
        said = f"is {value:g}, a log-probability is never above 0 but for rounding, by {ROUNDED:g} at the most; if that is "
        said += "padding, mark it in a column mask"
    raise reader.fail(start + row, f"{name} at token {at - int(begins[row]) + 1} {said}")
