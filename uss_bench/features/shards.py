"""Feature shards on disk: plain ``.npy`` files with a sidecar that makes them trustworthy.

A shard and its sidecar are each written under a temporary name and renamed, the sidecar last, so a
shard exists exactly when its sidecar does.
"""

from __future__ import annotations

import contextlib
import hashlib
import math
import zlib
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, BinaryIO

import msgspec
import numpy as np
import torch
from torch import Tensor

from uss_bench.errors import DataError
from uss_bench.features.quantized import pack, packed_bytes, unpack
from uss_bench.features.verified import Verified, look
from uss_bench.files.atomic import atomic_write
from uss_bench.runtime.cores import whole_cores

ABOUT = "about.json"
"""Name of the file in a key's folder that says in words what lies in it."""
CHECKED = "checked.json"
"""Name of the file in a key's folder that notes which shards were read in full; see `checked`."""
ITEMS_PER_SHARD = 128
"""The same for every facet, so that facets extracted at different times share item ranges."""


class Sidecar(msgspec.Struct, forbid_unknown_fields=True):
    """What is known of one shard: size, checksum, and sums over items and positions per channel."""

    items: int
    bytes: int
    crc32: int
    positions: int
    """Number of values that each channel's sums run over."""
    total: list[float]
    total_of_squares: list[float]
    digest: str | None = None
    """Of all the fields before; None in the sidecars of early versions, which had none."""

    def own_digest(self) -> str:
        """Return what `digest` should be."""
        content = msgspec.json.encode(msgspec.structs.replace(self, digest=None))
        return hashlib.sha256(content).hexdigest()[:16]


class Shards:
    """The shards of one key: where they lie, which items they hold, and how they are written.

    Args:
        folder: the key's folder; facet folders lie in it.
        shapes: shape of one item per facet, channels first.
        dtype: how values are kept; int8 as `quantized` says.
        n_items: number of items over all shards.
    """

    def __init__(
        self,
        folder: Path,
        shapes: Mapping[str, tuple[int, ...]],
        dtype: np.dtype[Any],
        n_items: int,
    ) -> None:
        self.folder = folder
        self.shapes = shapes
        self.dtype = dtype
        self.n_items = n_items
        self._checked = Verified(folder / CHECKED)

    @property
    def count(self) -> int:
        return -(-self.n_items // ITEMS_PER_SHARD)

    def items_of(self, shard: int) -> range:
        return range(shard * ITEMS_PER_SHARD, min(self.n_items, (shard + 1) * ITEMS_PER_SHARD))

    def path(self, facet: str, shard: int) -> Path:
        return self.folder / facet / f"{shard:05d}-of-{self.count:05d}.npy"

    def sidecar_path(self, facet: str, shard: int) -> Path:
        return self.path(facet, shard).with_suffix(".json")

    def sidecar(self, facet: str, shard: int) -> Sidecar | None:
        try:
            found = msgspec.json.decode(self.sidecar_path(facet, shard).read_bytes(), type=Sidecar)
        except (OSError, msgspec.DecodeError, UnicodeDecodeError):
            return None
        return found if found.digest in (None, found.own_digest()) else None

    @property
    def array_dtype(self) -> np.dtype[Any]:
        """Of the arrays that are written."""
        return np.dtype(np.float32) if self.dtype == np.int8 else self.dtype

    def bytes_needed(self) -> int:
        shapes = self.shapes.values()
        if self.dtype == np.int8:
            return sum(map(packed_bytes, shapes)) * self.n_items
        return sum(map(math.prod, shapes)) * self.dtype.itemsize * self.n_items

    def bytes_present(self) -> int:
        sidecars = (self.sidecar(facet, shard) for facet in self.shapes for shard in range(self.count))
        return sum(sidecar.bytes for sidecar in sidecars if sidecar)

    def is_sound(self, facet: str, shard: int) -> bool | None:
        """Whether a shard's bytes are what was written; None when it does not exist.

        They are read, unless that was done within a day and the file was not touched since.
        """
        sidecar = self.sidecar(facet, shard)
        if sidecar is None:
            return None
        path = self.path(facet, shard)
        try:
            if path.stat().st_size != sidecar.bytes:
                return False
            if self._checked.covers(path):
                return True
            before = look(path)
            if crc32(path) != sidecar.crc32:
                return False
            self._checked.add(path, before)
            return True
        except OSError:
            return False

    def sound_shards(self) -> set[int]:
        """Return the shards of which every facet is sound, reading what was not read within a day."""
        sound = {
            shard for shard in range(self.count) if all(self.is_sound(facet, shard) for facet in self.shapes)
        }
        self._checked.save()
        return sound

    def fitting(self, budget: float) -> int:
        """Return how many shards, from the first on, take at most `budget` bytes."""
        item = self.bytes_needed() // self.n_items
        return self.count if item * self.n_items <= budget else int(budget // item) // ITEMS_PER_SHARD

    def write(self, facet: str, shard: int, array: np.ndarray) -> None:
        """Write one shard and its sidecar.

        Raises:
            DataError: when the disk is full or cannot be written; nothing half-written stays.
        """
        path = self.path(facet, shard)
        partial = path.with_name(f".{path.name}.partial")
        with writing_to(path.parent, partial):
            path.parent.mkdir(parents=True, exist_ok=True)
            with partial.open("wb") as file:
                summed = ChecksumWriter(file)
                packed = pack(torch.from_numpy(array)).numpy() if self.dtype == np.int8 else array
                np.save(summed, packed, allow_pickle=False)
            partial.replace(path)
            total, squares, positions = channel_sums(array)
            sidecar = Sidecar(
                len(array), summed.bytes, summed.crc32, positions, total.tolist(), squares.tolist()
            )
            sidecar = msgspec.structs.replace(sidecar, digest=sidecar.own_digest())
            atomic_write(self.sidecar_path(facet, shard), msgspec.json.encode(sidecar))


class StoredRows:
    """Reads items of some shards from the memory map.

    Args:
        shards: those that are stored.
    """

    def __init__(self, layout: Shards, shards: set[int]) -> None:
        self._maps = {
            facet: {shard: torch.from_numpy(mapped(layout.path(facet, shard))) for shard in sorted(shards)}
            for facet in layout.shapes
        }
        self._shards = shards
        self._shapes = dict(layout.shapes) if layout.dtype == np.int8 else {}

    def has(self, index: int) -> bool:
        return index // ITEMS_PER_SHARD in self._shards

    def gather(self, facet: str, indices: Sequence[int], device: torch.device, dtype: torch.dtype) -> Tensor:
        """Return items stacked, (B, ...) of `dtype`, on `device`."""
        maps = self._maps[facet]
        first = next(iter(maps.values()))
        shape = self._shapes.get(facet)
        # On a CPU rows go straight to their place, converted on the way; over a bus they go as they are kept.
        as_kept = device.type != "cpu" or shape is not None
        batch = torch.empty((len(indices), *first.shape[1:]), dtype=first.dtype if as_kept else dtype)
        for place, index in enumerate(indices):
            shard, row = divmod(index, ITEMS_PER_SHARD)
            batch[place].copy_(maps[shard][row])
        batch = batch.to(device)
        return (batch if shape is None else unpack(batch, shape)).to(dtype)


def mapped(path: Path) -> np.ndarray:
    """Map an array into memory. What is written to it stays in this process; torch wants it writable.

    Raises:
        DataError: when the file was deleted after it was found.
    """
    try:
        found: np.ndarray = np.load(path, mmap_mode="c")
    except FileNotFoundError:
        raise vanished(path) from None
    return found


def vanished(path: Path) -> DataError:
    """Return the error for a file of the cache that was deleted while a run relied on it."""
    return DataError(
        f"{path} was deleted from the cache while this run read it.",
        hint="Give the command again once nothing cleans the cache (uss-bench cache prune): it makes what "
        "is missing again.",
    )


class ChecksumWriter:
    """Passes bytes on to a file, and keeps their number and checksum, so that they are not read again."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.bytes = 0
        self.crc32 = 0

    def write(self, data: bytes) -> int:
        self.crc32 = zlib.crc32(data, self.crc32)
        self.bytes += len(data)
        return self._file.write(data)


@contextlib.contextmanager
def writing_to(folder: Path, partial: Path | None = None) -> Iterator[None]:
    """Turn an OSError into a DataError that names `folder`, after removing what was half-written."""
    try:
        yield
    except OSError as error:
        with contextlib.suppress(OSError):
            if partial is not None:
                partial.unlink(missing_ok=True)
        raise DataError(
            f"Features cannot be written to {folder}: {error.strerror}.",
            hint="Free some space, set USS_BENCH_CACHE to another disk, or lower --store-budget.",
        ) from None


def channel_sums(array: np.ndarray) -> tuple[np.ndarray, np.ndarray, int]:
    """Sum values and squares per channel of (N, D, ...) in float64; say over how many values.

    Items are summed in threads and added up in their order, so that the last bit is the same every time.
    """

    def of_item(item: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        exact = item.reshape(len(item), -1).astype(np.float64)
        return exact.sum(axis=1), (exact**2).sum(axis=1)

    total = np.zeros(array.shape[1])
    squares = np.zeros(array.shape[1])
    with ThreadPoolExecutor(min(8, whole_cores())) as threads:
        for one, its_squares in threads.map(of_item, array):
            total += one
            squares += its_squares
    return total, squares, int(np.prod(array.shape)) // array.shape[1]


def crc32(path: Path) -> int:
    checksum = 0
    with path.open("rb") as file:
        while block := file.read(1 << 22):
            checksum = zlib.crc32(block, checksum)
    return checksum


def fault_of(path: Path, size: int, checksum: int) -> str:
    """Return what is wrong with a file that should have this size and checksum; '' if it is sound."""
    try:
        if not path.is_file():
            return "it is missing"
        if (found := path.stat().st_size) != size:
            return f"it has {found:,} bytes instead of {size:,}"
        if (found := crc32(path)) != checksum:
            return f"its checksum is {found:08x} instead of {checksum:08x}"
    except OSError as error:
        return f"it cannot be read: {error.strerror}"
    return ""
