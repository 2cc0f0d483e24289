"""Rollouts that somebody's own training has recorded.

log-probabilities of policy and reference, token by token.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar

import numpy as np
from pydantic import BeforeValidator, Field

from klbench import rollouts
from klbench.oracles import ExactMoments
from klbench.pairs import register
from klbench.pairs._base import Pair
from klbench.rollouts.batch import Batch
from klbench.rollouts.names import EXACT, listed
from klbench.types import Capabilities, Completions, ConfigError, Draws, Estimator, Truth

CHECKED = 64
"""Rows that are looked at before a run begins."""
SLACK = 1e-4
"""The most that rounding may take from a divergence of 0."""
ROUNDED = 0.125
"""The most that rounding to bfloat16 may add to a log-probability of 0 if the logits are below
32.
"""
LOG_PROBS = ("policy", "reference", "sampler")
IMPOSSIBLE = {
    "policy": "so the policy cannot have sampled this token",
    "sampler": "so nobody can have sampled this token",
    "reference": "so the reference never says this token, and KL(q‖p) is infinite",
}
"""The explanation of a probability of 0."""
FILLER = -100.0
"""A whole log-probability as low as this is one that fills rows: -100, -9999, -1e10."""
ZEROS, SAME, UNCHANGED = 2, 3, 8
"""So many tokens are padding at the end of a row if their log-probabilities are all 0, and at
either end if all are one number, or do not change.
"""
ROLES = (
    "policy",
    "reference",
    "sampler",
    "kl",
    "kl_pq",
    "tokens",
    "prompt",
    "mask",
    "tool_mask",
    "rollout_mask",
    "length",
)
"""The roles that are read."""
FIELDS = {
    "policy": "log_q",
    "reference": "log_p",
    "sampler": "log_mu",
    "kl": "kl_qp",
    "kl_pq": "kl_pq",
    "tokens": "token",
}


def _checked_path(value: Any) -> str:
    if not isinstance(value, str | Path) or not str(value):
        raise ValueError("name a file of rollouts: path=FILE.jsonl, path=FILE.parquet, path=FOLDER")
    path = str(value)
    if "\0" in path:
        raise ValueError("no such file")
    read(path, 0, CHECKED)
    return path


@register
class RecordedPair(Pair):
    """Rollouts in a file, one a row, in the order of the file.

    What is exact about them is what the file says.

    Read are the shapes and names of trainers and engines that ``klbench.rollouts.batches`` knows.
    Needed are log-probabilities of the policy ``q`` and of the reference ``p``; if there, those of
    whoever sampled, where that was not ``q``, ``kl`` and ``kl_pq`` (exact ``KL(q‖p)`` and
    ``KL(p‖q)`` over the next token), ids of tokens, a mask (1 where a token counts) and prompts.

    Rows may differ in length. Where they are padded to one, ``mask`` says what counts, and nothing
    is asked of the rest; without a mask, NaN or null at the end of a row is padding, in all columns
    alike, and what looks like other padding is refused. What does not count is left out, so that
    positions are counted among the tokens that do.

    Log-probabilities up to 0.125 above 0, as bfloat16 leaves them, are taken as they are; the
    tables count them.

    Raises
    ------
    ConfigError
        While reading: a row that is not as it should be, with the file, the row (counted from 1)
        and the column.
    """

    kind: ClassVar[str] = "recorded"
    summary: ClassVar[str] = (
        "rollouts of your own (path), in the shapes of trainers and engines, with log-probabilities"
        " of policy and reference"
    )
    measured_with: ClassVar[str] = "+exp=recorded path=FILE"
    capabilities: ClassVar[Capabilities] = Capabilities(completions=True)
    path: Annotated[str, BeforeValidator(_checked_path)] = Field()

    @classmethod
    def node(cls) -> dict[str, Any]:
        """Return the plain data of ``pair=recorded``.

        Its path is the experiment's, unless it has one of its own.
        """
        return super().node() | {"path": "${oc.select:path,null}"}

    @property
    def available(self) -> int:
        return rollouts.place(self.path).rollouts

    @property
    def fingerprint(self) -> str:
        return "-".join(map(str, rollouts.fingerprint(self.path)))

    @property
    def off_policy(self) -> bool:
        return "sampler" in rollouts.place(self.path).reading.columns

    @property
    def unread(self) -> tuple[str, ...]:
        reading = rollouts.place(self.path).reading
        read = {reading.columns[role] for role in ROLES if role in reading.columns}
        return tuple(name for name in reading.sources[0].container.names if name not in read)

    def describe(self) -> str:
        return f"Rollouts of {Path(self.path).name}"

    def completions(self, seed: int, shard: int, n: int) -> Completions:
        """Rows ``n * shard`` and following; the seed changes nothing."""
        return read(self.path, n * shard, n)

    def draw(self, stream: np.random.Generator, n: int) -> Draws:
        raise ConfigError(
            f"pair=recorded: {self.path} is read as it is and cannot be drawn from; measure it with"
            " +exp=recorded"
        )

    def truth(self, target: str) -> Truth | None:
        return None

    def finite_moment(self, order: float, weight_order: float = 0.0) -> bool:
        return True

    def exact(self, estimators: Sequence[Estimator]) -> list[ExactMoments | None]:
        return [None] * len(estimators)


@dataclass(frozen=True)
class Piece:
    """Some rollouts of a file, and what its columns are called there."""

    batch: Batch
    names: dict[str, str]

    @property
    def rows(self) -> np.ndarray:
        """The rollout of each token."""
        return np.repeat(np.arange(self.batch.where.size), np.diff(self.batch.offsets))

    def fail(self, rollout: int, message: str) -> ConfigError:
        """An error about a rollout, by its row in the file, counted from 1."""
        return ConfigError(f"{self.batch.file} row {self.batch.where[rollout] + 1:,}: {message}")


def read(path: str, start: int, n: int) -> Completions:
    """Rollouts of a file as completions, checked.

    Fewer where it ends, ``(0, 0)`` beyond its end.
    """
    place = rollouts.place(path)
    reading = place.reading
    _check_columns(path)
    pieces = [Piece(batch, dict(reading.columns)) for batch in place.pieces(start, n)]
    for piece in pieces:
        _check(piece, "mask" in reading.columns)
    joined = [piece.batch for piece in pieces]
    counted = np.concatenate([np.empty(0, dtype=np.int64), *map(_counts, joined)])
    mask = np.arange(counted.max(initial=0)) < counted[:, None]
    arrays: dict[str, Any] = {}
    for role, field in FIELDS.items():
        if role in reading.columns or (
            role == "tokens" and joined and joined[0].tokens is not None
        ):
            values = [_column(batch, role)[batch.mask] for batch in joined]
            array = np.zeros(mask.shape, dtype=np.int64 if role == "tokens" else np.float64)
            array[mask] = np.concatenate([np.empty(0, dtype=array.dtype), *values])
            arrays[field] = array
    if "prompt" in reading.columns:
        prompts = [batch.prompt for batch in joined if batch.prompt is not None]
        arrays["prompt"] = np.concatenate([np.empty(0, dtype=np.int64), *prompts])
    return Completions(mask=mask, **arrays)


def _column(batch: Batch, role: str) -> np.ndarray:
    if role == "tokens":
        return np.full(batch.mask.size, -1) if batch.tokens is None else batch.tokens
    return batch.columns[role]


def _check_columns(path: str) -> None:
    """Refuse files without a policy or a reference, and without numbers a token.

    Refuse what may be a mask and is not read, too.
    """
    reading = rollouts.place(path).reading
    file, names = reading.files[0], reading.sources[0].container.names
    for role in ("policy", "reference"):
        if role not in reading.columns:
            raise ConfigError(
                f"{file}: no column of the {role}'s log-probabilities; there are: {listed(names)}"
                + (
                    f"; klbench doctor {path} compares the trainer and the sampler"
                    if role == "reference"
                    else ""
                )
            )
    if reading.layout == "sums" or reading.paired:
        raise ConfigError(
            f"{file}: {reading.columns['policy']} holds one number a row, expected a list, a number"
            " a token"
        )
    masks = [
        name for name in names if "mask" in name.lower() and name not in reading.columns.values()
    ]
    if masks and "mask" in reading.columns:
        both = " and ".join(map(repr, [reading.columns["mask"], *masks][:4]))
        raise ConfigError(
            f"{file}: columns {both} may all say which tokens count; leave one, as mask"
        )
    if reading.findings:
        raise ConfigError(f"{file}: {reading.findings[0]}")


def _counts(batch: Batch) -> np.ndarray:
    rows = np.repeat(np.arange(batch.where.size), np.diff(batch.offsets))
    return np.bincount(rows[batch.mask], minlength=batch.where.size)


def _check(piece: Piece, masked: bool) -> None:
    batch = piece.batch
    if batch.findings:
        raise ConfigError(batch.findings[0])
    empty = np.flatnonzero(_counts(batch) == 0)
    if empty.size:
        row = int(empty[0])
        why = (
            "it is empty"
            if batch.offsets[row] == batch.offsets[row + 1]
            else "none of its tokens counts"
        )
        raise piece.fail(row, f"{piece.names['policy']}: {why}; leave such rows out of the file")
    for role, values in batch.columns.items():
        _check_values(piece, role, values)
    if not masked:
        _check_filled(piece)


def _check_filled(piece: Piece) -> None:
    """Refuse what fills a row and is marked nowhere.

    log-probabilities that no model gives, or that stand still at its ends.

    Coarse formats repeat log-probabilities, 0 above all. So an end must stand still for half as
    long again as any place inside.
    """
    kept = piece.batch.mask
    if not kept.any():
        return
    names = [role for role in LOG_PROBS if role in piece.batch.columns]
    rows, begins = piece.rows, piece.batch.offsets
    values, rows, places = (
        np.array([piece.batch.columns[name] for name in names])[:, kept],
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
            else (
                f"the last {size} tokens are"
                if closes[wrong[0]]
                else (f"tokens {token} to {token + size - 1} are")
            )
        )
        said = ", ".join(
            f"{x + 0.0:g} in {piece.names[name]}"
            for name, x in zip(names, values[:, at], strict=True)
        )
        raise piece.fail(
            row,
            f"{where} {said}, which looks like padding; say in a column mask which tokens count (1"
            " for all, if these do)",
        )


def _check_values(piece: Piece, role: str, values: np.ndarray) -> None:
    """Refuse values that are not numbers, log-probabilities above 0 and divergences below 0."""
    with np.errstate(invalid="ignore"):
        bad = ~np.isfinite(values) | (values < -SLACK if role in EXACT else values > ROUNDED)
    wrong = np.flatnonzero(bad & piece.batch.mask)
    if not wrong.size:
        return
    at = int(wrong[0])
    row, value = int(piece.rows[at]), float(values[at])
    if np.isnan(value):
        said = "is missing (NaN); padding goes at the end of a row, or is marked in a column mask"
    elif not np.isfinite(value):
        said = (
            f"is {value},"
            f" {IMPOSSIBLE[role] if role in IMPOSSIBLE and value < 0 else 'it must be finite'}"
        )
    elif role in EXACT:
        said = f"is {value:g}, a KL divergence is never negative"
    else:
        said = (
            f"is {value:g}, a log-probability is never above 0 but for rounding, by {ROUNDED:g} at"
            " the most; if that is padding, mark it in a column mask"
        )
    raise piece.fail(
        row, f"{piece.names[role]} at token {at - int(piece.batch.offsets[row]) + 1} {said}"
    )
