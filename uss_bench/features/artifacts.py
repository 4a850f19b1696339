"""Arrays that a method derived from its inputs, on disk: whole, or item by item in parts.

A part holds the arrays of some items, one ``.npy`` per name: the values of all its items one after another,
whose shapes stand in a sidecar. As with features the sidecar is written last, so that a part exists when its
sidecar does, an interrupted build goes on where it was, and arrays are memory-mapped.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import msgspec
import numpy as np
import torch
from torch import Tensor

from uss_bench.contracts import ItemArrays
from uss_bench.errors import ContractError
from uss_bench.features.shards import (
    ABOUT,
    CHECKED,
    ChecksumWriter,
    crc32,
    fault_of,
    mapped,
    vanished,
    writing_to,
)
from uss_bench.features.verified import Verified, look
from uss_bench.files.atomic import atomic_write

ITEMS_PER_PART = 64
_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")


class _ArrayNote(msgspec.Struct, forbid_unknown_fields=True):
    shapes: list[list[int]]
    """Of each item."""
    bytes: int
    crc32: int


class _PartNote(msgspec.Struct, forbid_unknown_fields=True):
    arrays: dict[str, _ArrayNote]
    digest: str = ""
    """Of all before."""

    def own_digest(self) -> str:
        content = msgspec.json.encode(msgspec.structs.replace(self, digest=""))
        return hashlib.sha256(content).hexdigest()[:16]


class Parts:
    """The parts of one derived artifact.

    Args:
        folder: where they lie.
        count: number of items over all parts.
    """

    def __init__(self, folder: Path, count: int) -> None:
        self.folder = folder
        self.count = count
        self.parts = -(-count // ITEMS_PER_PART)
        self._verified = Verified(folder / CHECKED)
        self._open: dict[int, _OpenPart] = {}

    def items_of(self, part: int) -> range:
        return range(part * ITEMS_PER_PART, min(self.count, (part + 1) * ITEMS_PER_PART))

    def missing(self) -> list[int]:
        """Return the parts that are not there or are damaged."""
        missing = [part for part in range(self.parts) if not self._is_sound(part)]
        self._verified.save()
        return missing

    def write(self, part: int, items: Sequence[Mapping[str, np.ndarray]], who: str) -> None:
        """Write the arrays of a part's items.

        Args:
            who: built them, for messages.

        Raises:
            ContractError: when they are not arrays, or their names or types differ from item to item.
            DataError: when the disk is full or cannot be written.
        """
        notes: dict[str, _ArrayNote] = {}
        self._open.pop(part, None)
        for name in _names(items, who):
            arrays = [_checked(one[name], name, who) for one in items]
            if len({array.dtype for array in arrays}) > 1:
                raise ContractError(f"{who} returned '{name}' of different types for different items.")
            path = self._path(part, name)
            partial = path.with_name(f".{path.name}.partial")
            with writing_to(self.folder, partial):
                self.folder.mkdir(parents=True, exist_ok=True)
                with partial.open("wb") as file:
                    writer = ChecksumWriter(file)
                    np.save(writer, np.concatenate([array.ravel() for array in arrays]), allow_pickle=False)
                partial.replace(path)
            shapes = [list(array.shape) for array in arrays]
            notes[name] = _ArrayNote(shapes, writer.bytes, writer.crc32)
        note = _PartNote(notes)
        note.digest = note.own_digest()
        with writing_to(self.folder):
            atomic_write(self._sidecar(part), msgspec.json.encode(note))

    def item(self, index: int) -> dict[str, np.ndarray]:
        """Return the arrays of an item, mapped."""
        part, place = divmod(index, ITEMS_PER_PART)
        if part not in self._open:
            note = _read_note(self._sidecar(part))
            if note is None:
                raise vanished(self._sidecar(part))
            maps = {name: mapped(self._path(part, name)) for name in note.arrays}
            self._open[part] = _OpenPart(maps, note)
        return self._open[part].item(place)

    def _is_sound(self, part: int) -> bool:
        note = _read_note(self._sidecar(part))
        if note is None:
            return False
        for name, one in note.arrays.items():
            path = self._path(part, name)
            try:
                if path.stat().st_size != one.bytes:
                    return False
                if not self._verified.covers(path):
                    before = look(path)
                    if crc32(path) != one.crc32:
                        return False
                    self._verified.add(path, before)
            except OSError:
                return False
        return True

    def _path(self, part: int, name: str) -> Path:
        return _array_path(self._sidecar(part), name)

    def _sidecar(self, part: int) -> Path:
        return self.folder / f"{part:05d}.json"


class _OpenPart:
    """The maps of one part, and where in them each item's arrays begin."""

    def __init__(self, maps: Mapping[str, np.ndarray], note: _PartNote) -> None:
        self._maps = maps
        self._shapes = {name: one.shapes for name, one in note.arrays.items()}
        self._ends = {
            name: np.cumsum([int(np.prod(shape)) for shape in one.shapes])
            for name, one in note.arrays.items()
        }

    def item(self, place: int) -> dict[str, np.ndarray]:
        found = {}
        for name, values in self._maps.items():
            end, shape = int(self._ends[name][place]), self._shapes[name][place]
            found[name] = values[end - int(np.prod(shape)) : end].reshape(shape)
        return found


class ItemArrayReader(ItemArrays):
    """Derived arrays by item."""

    def __init__(self, parts: Parts, device: torch.device) -> None:
        self._parts = parts
        self._device = device

    def __len__(self) -> int:
        return self._parts.count

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        if not 0 <= index < len(self):
            raise IndexError(index)
        return self._parts.item(index)

    def batch(self, name: str, indices: Sequence[int] | Tensor) -> Tensor:
        arrays = [self[int(index)][name] for index in indices]
        if len({array.shape for array in arrays}) > 1:
            raise ValueError(f"'{name}' has different shapes for different items, which do not stack")
        return torch.from_numpy(np.stack(arrays)).to(self._device)


def describe(folder: Path, count: int, about: Mapping[str, object]) -> None:
    """Write into an artifact's folder what it is, and of how many items.

    Raises:
        DataError: when the disk is full or cannot be written.
    """
    with writing_to(folder):
        atomic_write(folder / ABOUT, json.dumps({"count": count, **about}, indent=1).encode())


def count_parts(folder: Path) -> tuple[int, int]:
    """Return how many parts of an artifact are finished, and how many there should be."""
    finished = sum(_read_note(path) is not None for path in _sidecars(folder))
    try:
        count = int(json.loads((folder / ABOUT).read_bytes())["count"])
    except (OSError, ValueError, KeyError, TypeError):
        count = 0
    return finished, -(-count // ITEMS_PER_PART)


def damaged_arrays(folder: Path) -> Iterator[tuple[Path, str]]:
    """Yield the files of finished parts that are not what was written, and what is wrong with them."""
    for sidecar in _sidecars(folder):
        note = _read_note(sidecar)
        if note is None:
            yield sidecar, "it does not say what arrays there are"
            continue
        for name, one in note.arrays.items():
            path = _array_path(sidecar, name)
            if what := fault_of(path, one.bytes, one.crc32):
                yield path, what


def _sidecars(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("[0-9]*.json") if path.stem.isdecimal())


def _array_path(sidecar: Path, name: str) -> Path:
    return sidecar.with_name(f"{sidecar.stem}-{name}.npy")


def _read_note(sidecar: Path) -> _PartNote | None:
    try:
        found = msgspec.json.decode(sidecar.read_bytes(), type=_PartNote)
    except (OSError, msgspec.DecodeError, UnicodeDecodeError):
        return None
    return found if found.digest == found.own_digest() else None


def _names(items: Sequence[Mapping[str, np.ndarray]], who: str) -> list[str]:
    """Return the names of an item's arrays, which are the same for all."""
    for one in items:
        if not isinstance(one, Mapping) or one.keys() != items[0].keys() or not one:
            raise ContractError(f"{who} must return arrays by name, under the same names for every item.")
    for name in items[0]:
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            raise ContractError(f"{who} returned an array called {name!r}; use letters, digits, '-' and '_'.")
    return list(items[0])


def _checked(value: object, name: str, who: str) -> np.ndarray:
    array = value.detach().cpu().numpy() if isinstance(value, Tensor) else np.asarray(value)
    if array.dtype.kind not in "buif":
        raise ContractError(f"{who} returned '{name}' as {array.dtype}, which is not an array of numbers.")
    return array
