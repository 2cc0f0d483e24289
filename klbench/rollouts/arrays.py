"""Files of whole arrays: npz and safetensors, without a pickle."""

from __future__ import annotations

import math
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import safetensors

from klbench.inputs import reason
from klbench.rollouts.containers import Chunk, Container
from klbench.rollouts.names import role_of
from klbench.types import ConfigError

DEFLATED = 1_032
"""The most bytes that one byte of a compressed file can stand for."""
ENDS = ("lengths", "offsets", "cu_seqlens")
"""Arrays that say where each rollout ends in arrays of all tokens."""
TYPES = {
    "F64": "<f8",
    "F32": "<f4",
    "F16": "<f2",
    "I64": "<i8",
    "I32": "<i4",
    "I16": "<i2",
    "I8": "i1",
    "U8": "u1",
    "BOOL": "?",
}
"""The names that NumPy has for the number formats of safetensors; BF16 is the upper half of a float32."""


class Arrays:
    """Rectangles ``(rows, tokens)``, values ``(rows,)``; or flat arrays of all tokens, and ``lengths`` or ``offsets``."""

    def __init__(self, arrays: Mapping[str, np.ndarray], name: str) -> None:
        self.offsets = self._offsets(arrays, name)
        flat = None if self.offsets is None else int(self.offsets[-1])
        self.arrays = {k: v for k, v in arrays.items() if k not in ENDS or self.offsets is None}
        sizes = {k: len(v) if v.ndim else 0 for k, v in self.arrays.items()}
        rows = {n for n in sizes.values() if n != flat} if flat is not None else set(sizes.values())
        self.rows = (
            len(self.offsets) - 1
            if self.offsets is not None
            else max(rows, key=list(sizes.values()).count, default=0)
        )
        if not self.rows:
            raise ConfigError(f"{name}: the file has no rows")
        odd = [k for k in sizes if sizes[k] not in (self.rows, flat)]
        if known := [k for k in odd if role_of(k)]:
            expected = f"{self.rows:,} rows" + ("" if flat is None else f" or {flat:,} tokens")
            raise ConfigError(
                f"{name}: {known[0]} has shape {arrays[known[0]].shape}, expected {expected}"
            )
        self.arrays = {k: v for k, v in self.arrays.items() if k not in odd}
        self.names = list(self.arrays)

    @staticmethod
    def _offsets(arrays: Mapping[str, np.ndarray], name: str) -> np.ndarray | None:
        found = next((each for each in ENDS if each in arrays), None)
        if found is None or any(a.ndim > 1 for k, a in arrays.items() if k != "prompt"):
            return None
        ends = arrays[found]
        if ends.ndim != 1 or ends.dtype.kind not in "iu" or (ends < 0).any():
            raise ConfigError(
                f"{name}: {found} must be whole numbers, one a row and none below 0; "
                f"it has shape {ends.shape} and holds {ends.dtype}"
            )
        total = math.fsum(ends) if found == "lengths" else float(ends[-1]) if ends.size else 0.0
        flat = max((a.shape[0] for k, a in arrays.items() if k not in ENDS and a.ndim), default=0)
        if total != flat:  # in integers of 64 bits, lengths that are wrong can sum to what is right
            tokens = next(k for k, a in arrays.items() if k not in ENDS and len(a) == flat)
            raise ConfigError(f"{name}: {found} sum to {total:,.0f}, {tokens} has {flat:,}")
        offsets = np.concatenate([[0], np.cumsum(ends)]) if found == "lengths" else ends
        if (np.diff(offsets) < 0).any():
            raise ConfigError(f"{name}: {found} must not fall")
        return offsets.astype(np.int64)

    def chunks(self, names: Any, tokens: int, start: int = 0) -> Any:
        """Chunks of about so many tokens, with these columns alone, from a row on."""
        total = max(array.size for array in self.arrays.values())
        step = max(1, int(tokens * self.rows / max(total, 1)))
        for first in range(start, self.rows, step):
            stop = min(first + step, self.rows)
            kept = {k: v for k, v in self.arrays.items() if names is None or k in names}
            yield Chunk(
                range(first, stop), {k: self._column(v, first, stop) for k, v in kept.items()}
            )

    def _column(self, array: np.ndarray, first: int, stop: int) -> Any:
        if self.offsets is not None and len(array) == self.offsets[-1]:
            ends = self.offsets[first : stop + 1]
            part = pa.array(array[ends[0] : ends[-1]])
            return pa.LargeListArray.from_arrays(pa.array(ends - ends[0]), part)
        part = array[first:stop]
        if part.ndim == 1 or array.dtype.kind not in "fiub":
            return part.tolist()
        part = part.reshape(len(part), -1)
        ends = np.arange(len(part) + 1, dtype=np.int64) * part.shape[1]
        return pa.LargeListArray.from_arrays(pa.array(ends), pa.array(part.ravel()))


def _check_header(path: Path, file: Any, name: str) -> None:
    """Refuse an array that claims more bytes than the whole file can hold, before there is room made for them."""
    inside = file.zip.namelist()
    with file.zip.open(name if name in inside else f"{name}.npy") as stream:
        readers = {1: np.lib.format.read_array_header_1_0, 2: np.lib.format.read_array_header_2_0}
        version, _ = np.lib.format.read_magic(stream)
        if version not in readers:
            return  # only of arrays with named fields, which are no numbers
        shape, _, dtype = readers[version](stream)
    claimed = dtype.itemsize * math.prod(shape)
    if not dtype.hasobject and (
        min(shape, default=0) < 0 or claimed > DEFLATED * path.stat().st_size
    ):
        raise ValueError(
            f"it claims the shape {shape}, {claimed:,} bytes, in a file of {path.stat().st_size:,}"
        )


def npz(path: Path) -> Container:
    """Return the arrays of an npz file; those of pickled objects are left out.

    Raises
    ------
    ConfigError
        It is none, or not whole.
    """
    if not zipfile.is_zipfile(path):
        raise ConfigError(f"{path.name}: not an npz file, as numpy.savez writes it")
    arrays, pickled = {}, []
    try:
        with path.open("rb") as content, np.load(content, allow_pickle=False) as file:
            for name in file.files:
                try:
                    _check_header(path, file, name)
                    arrays[name] = np.asarray(file[name])
                except ValueError as error:
                    if "pickle" not in str(error):
                        raise ConfigError(
                            f"{path.name}: {name} cannot be read, {reason(error)}"
                        ) from None
                    pickled.append(name)
    except ConfigError:
        raise
    except Exception as error:  # noqa: BLE001  # what zipfile and NumPy raise on damaged files is no closed list
        raise ConfigError(f"{path.name}: not a whole npz file, {reason(error)}") from None
    needed = [name for name in pickled if role_of(name)]
    if needed or not arrays:
        raise ConfigError(
            f"{path.name}: {(needed or pickled or ['it'])[0]} holds pickled Python objects, which are not read; save numbers: "
            "a rectangle with a mask, or all tokens one after the other, with lengths"
        )
    return Arrays(arrays, path.name)


def tensors(path: Path) -> Container:
    """Return the arrays of a safetensors file, bfloat16 among them."""
    try:
        found = safetensors.deserialize(path.read_bytes())
        arrays = {}
        for name, each in found:
            raw, kind, shape = each["data"], each["dtype"], each["shape"]
            if kind == "BF16":
                upper = np.frombuffer(raw, dtype="<u2").astype(np.uint32) << 16
                arrays[name] = upper.view(np.float32).reshape(shape)
            elif kind in TYPES:
                arrays[name] = np.frombuffer(raw, dtype=TYPES[kind]).reshape(shape)
    except (safetensors.SafetensorError, ValueError, OSError, KeyError) as error:
        raise ConfigError(f"{path.name}: not a safetensors file, {reason(error)}") from None
    return Arrays(arrays, path.name)
