"""Extra channels of images: those of a dataset, and those that ``--aux NAME=DIR`` lays over any dataset.

A map lies over its image pixel by pixel, so it has the image's size, and follows every crop and flip. It is a
file of the image's id in DIR: ``ID.npy``, ``ID.png`` (8 or 16 bits) or ``ID.tif``; where an id is a path its
last part is enough. Values are taken as they are. An overlay leaves the fingerprint of the images alone: its
own digest enters the identity of the runs that use it, and of what is stored of its maps.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path, PurePosixPath

import numpy as np

from uss_bench.contracts import Images
from uss_bench.data.fingerprints import FileSet
from uss_bench.data.images import channel_fingerprint, read_values
from uss_bench.data.listing import check_link, same_name
from uss_bench.data.prefetch import read_ahead
from uss_bench.errors import DataError
from uss_bench.files.atomic import atomic_write, cache_root
from uss_bench.runtime import progress

SUFFIXES = (".npy", ".png", ".tif", ".tiff")
_SHOWN = 3


class AuxFolder:
    """The maps of one channel, by the ids of images.

    Args:
        name: the channel's.
        folder: where the maps lie, also in folders below it.

    Raises:
        DataError: when the folder cannot be read or holds no map.
    """

    def __init__(self, name: str, folder: Path) -> None:
        self.name = name
        self.folder = Path(folder)
        self._by_path: dict[str, Path] = {}
        self._by_stem: dict[str, list[Path]] = {}
        if not self.folder.is_dir():
            raise DataError(f"--aux {name}={folder}: the folder does not exist.")
        for path in sorted(self.folder.rglob("*")):
            if path.suffix.lower() in SUFFIXES and not path.name.startswith("."):
                check_link(path)
                if path.is_file():
                    within = path.relative_to(self.folder).with_suffix("").as_posix()
                    self._by_path.setdefault(same_name(within), path)
                    self._by_stem.setdefault(same_name(path.stem), []).append(path)
        if not self._by_path:
            raise DataError(
                f"--aux {name}={folder}: the folder holds no map.",
                hint=f"A map is called like its image, with one of {', '.join(SUFFIXES)}.",
            )

    def files(self, ids: Iterable[str]) -> list[Path]:
        """Return the maps of images.

        Raises:
            DataError: when some have none, or an id leads to several files.
        """
        found: list[Path] = []
        missing: list[str] = []
        for name in ids:
            path = self._by_path.get(same_name(name))
            same = self._by_stem.get(same_name(PurePosixPath(name).name), [])
            if path is None and len(same) > 1:
                raise DataError(
                    f"--aux {self.name}: image '{name}' may have the map {same[0]} or {same[1]}.",
                    hint="Keep one of them, or put maps into folders as the images' ids have them.",
                )
            if path is None and not same:
                missing.append(name)
            else:
                found.append(path or same[0])
        if missing:
            shown = ", ".join(missing[:_SHOWN]) + (", …" if len(missing) > _SHOWN else "")
            raise DataError(
                f"--aux {self.name}: {len(missing):,} images have no map in {self.folder} ({shown}).",
                hint=f"A map is called like its image, with one of {', '.join(SUFFIXES)}.",
            )
        return found


class Overlay(Images):
    """Images with further channels from folders.

    Raises:
        DataError: when an image has no map.
    """

    def __init__(self, images: Images, folders: Sequence[AuxFolder]) -> None:
        self.ids = images.ids
        self._images = images
        self._files = {one.name: FileSet(one.files(images.ids)) for one in folders}

    def __len__(self) -> int:
        return len(self._images)

    def image(self, index: int) -> np.ndarray:
        return self._images.image(index)

    def aux(self, index: int) -> Mapping[str, np.ndarray]:
        own = {name: _read(files, index) for name, files in self._files.items()}
        return {**self._images.aux(index), **own}

    def fingerprint(self) -> str:
        return self._images.fingerprint()

    def aux_fingerprint(self, channel: str) -> str:
        """Return a digest of a channel's maps, '' for a channel of the images' own that says nothing."""
        if channel not in self._files:
            return channel_fingerprint(self._images, channel)
        return self._files[channel].fingerprint()


def _read(files: FileSet, index: int) -> np.ndarray:
    path = files.paths[index]
    return read_values(path, files.read(path))


def check_channel(images: Images, channel: str) -> None:
    """Hold every map of a channel against its image, once for the same images and maps.

    Raises:
        DataError: naming the first image whose map has another size, or a value that is not finite.
    """
    key = hashlib.sha256(f"{images.fingerprint()} {channel} {channel_fingerprint(images, channel)}".encode())
    note = cache_root() / "digests" / f"{key.hexdigest()[:32]}.json"
    if note.exists():
        return

    def read(index: int) -> tuple[tuple[int, ...], np.ndarray]:
        return images.image(index).shape, extra_channel(images, index, channel)

    with contextlib.closing(read_ahead(read, range(len(images)), depth=8)) as ahead:
        for name, (size, values) in zip(
            images.ids,
            progress.track(ahead, total=len(images), label=f"checking aux:{channel}"),
            strict=True,
        ):
            if values.shape[:2] != size[:2]:
                raise DataError(
                    f"The map aux:{channel} of image '{name}' is {values.shape[1]}×{values.shape[0]} pixels, "
                    f"and the image {size[1]}×{size[0]} (width × height).",
                    hint="Resize the maps to their images, or take the maps of the images as they are.",
                )
            if not np.isfinite(values).all():
                raise DataError(
                    f"The map aux:{channel} of image '{name}' holds NaN or infinity.",
                    hint="Fill such pixels, for example with 0, and make the maps again.",
                )
    with contextlib.suppress(OSError, DataError):  # without a note it is checked again next time
        note.parent.mkdir(parents=True, exist_ok=True)
        atomic_write(note, b"{}")


def extra_channel(images: Images, index: int, channel: str) -> np.ndarray:
    """Return an extra channel of an image at its native size, float32 (H, W) or (H, W, n).

    Raises:
        DataError: when the images have no such channel, or it is not a map of numbers.
    """
    aux = images.aux(index)
    if channel not in aux:
        known = ", ".join(sorted(aux)) or "none"
        raise DataError(
            f"The images have no extra channel '{channel}' (they have: {known}).",
            hint=f"Add one: --aux {channel}=DIR.",
        )
    values = np.asarray(aux[channel])
    if values.ndim not in (2, 3) or values.dtype.kind not in "buif" or not values.size:
        raise DataError(
            f"The map aux:{channel} of image '{images.ids[index]}' is {values.dtype} {values.shape}; "
            "a map is numbers (H, W) or (H, W, n)."
        )
    return values.astype(np.float32)
