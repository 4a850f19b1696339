"""The raw ISPRS tiles, cut as the archive's patches were cut.

The arithmetic is that of IIC's preparation script with OpenCV: a tile of 6000×6000 pixels is halved, the
image by the mean of 2×2 pixels (OpenCV's bilinear interpolation at exactly one half, rounded half up), the
label by its upper left pixel (OpenCV's nearest), and cut into 15×15 patches of 200×200, row by row.
"""

from __future__ import annotations

import functools
import io
import math
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import tifffile

from uss_bench.data import FileSet, Names, ValueTable, first_place, list_files, read_bytes, read_label
from uss_bench.errors import DataError

from .patches import INFRARED, SIDE, VALUES_HINT

ACROSS = 15
TILE_SIDE = 6000
IMAGE_FOLDER = "4_Ortho_RGBIR"
LABEL_FOLDERS = ("5_Labels_for_participants", "5_Labels_all")
LABELED = frozenset(
    f"{row}_{column}"
    for row, columns in {2: (10, 12), 3: (10, 12), 4: (10, 12), 5: (10, 12), 6: (7, 12), 7: (7, 12)}.items()
    for column in range(columns[0], columns[1] + 1)
)
"""The 24 tiles whose labels were public when the archive was made; `LABEL_FOLDERS` may hold more by now."""

TILES = 38
COLORS = ((255, 255, 255), (0, 0, 255), (0, 255, 255), (0, 255, 0), (255, 255, 0), (255, 0, 0))
"""Colors of the six classes, in the order of the archive's values."""

_MOST_PIXELS = 1 << 27
"""A tile has 6000×6000."""
_PLANAR = 2
_NEAR = 8  # steps by which a label's color may be off, per channel: the six are 255 apart
_IMAGE_NAME = re.compile(r"top_potsdam_(\d+_\d+)_RGBIR\.tiff?", re.IGNORECASE)


def find_tiles(root: Path, *, labeled: bool) -> dict[str, Path]:
    """Return the image files of tiles by name (``2_10``), sorted by file name; only those in `LABELED`
    with `labeled`. None at all is no error here."""
    folder = root / IMAGE_FOLDER
    files = list_files(folder, (".tif", ".tiff")) if folder.is_dir() else []
    named = ((_IMAGE_NAME.fullmatch(path.name), path) for path in files)
    tiles = {match[1]: path for match, path in named if match}
    return {name: path for name, path in tiles.items() if name in LABELED or not labeled}


def label_file(root: Path, tile: str) -> Path:
    """Return where a tile's label lies, or should lie."""
    places = [Names(root / folder).find(f"top_potsdam_{tile}_label.tif") for folder in LABEL_FOLDERS]
    return next((path for path in places if path.is_file()), places[0])


# Patches are mostly read in order, so that two tiles of 36 MB in memory save most of the reading. The
# caches belong to the module, so that no object on the images' side refers to a label; they are kept per
# set of files, which reads nothing but what was fingerprinted.
@functools.lru_cache(maxsize=2)
def _half_image(files: FileSet, path: Path) -> np.ndarray:
    """Return a tile at half size, uint8 (3000, 3000, 4)."""
    whole = read_channels(path, 4, files.read(path))
    _check_size(path, whole)
    rows = np.add(whole[::2], whole[1::2], dtype=np.uint16)
    mean: np.ndarray = ((rows[:, ::2] + rows[:, 1::2] + 2) >> 2).astype(np.uint8)
    return mean


@functools.lru_cache(maxsize=2)
def _half_values(files: FileSet, path: Path) -> np.ndarray:
    """Return a label tile at half size, int32 (3000, 3000): the archive's values 0..5."""
    colors = read_label(path, files.read(path))
    if colors.ndim != 3:
        raise DataError(f"{path} is grayscale; the labels of tiles are in six colors.")
    _check_size(path, colors)
    colors = colors[::2, ::2]
    values = np.full(colors.shape[:2], -1, np.int32)
    for value, color in enumerate(COLORS):
        near = np.ones(colors.shape[:2], bool)
        for channel, level in enumerate(color):
            plane = colors[..., channel]
            near &= plane >= level - _NEAR if level else plane <= _NEAR
        values[near] = value
    wrong = values < 0
    if wrong.any():
        row, column = first_place(wrong)
        raise DataError(
            f"{path} holds the color {colors[row, column].tolist()} at x={2 * column}, y={2 * row}, "
            f"which is none of the six ({int(wrong.sum())} such pixels at half size).",
            hint=f"Use the labels of {LABEL_FOLDERS[0]}, without borders ('noBoundary') or conversions.",
        )
    return values


class TileImages:
    """The patches of whole tiles; it knows the files of images and no others."""

    def __init__(self, tiles: Mapping[str, Path]) -> None:
        self.ids: Sequence[str] = patch_ids(tiles)
        self._files = FileSet(tiles.values())

    def __len__(self) -> int:
        return len(self.ids)

    def image(self, index: int) -> np.ndarray:
        """Return patch `index` as uint8 (200, 200, 3), RGB."""
        return _cut(_half_image, self._files, index)[..., :3].copy()

    def aux(self, index: int) -> Mapping[str, np.ndarray]:
        """Return ``infrared``, uint8 (200, 200)."""
        return {INFRARED: _cut(_half_image, self._files, index)[..., 3].copy()}

    def fingerprint(self) -> str:
        return self._files.fingerprint()


class TileLabels:
    """The labels of the patches of whole tiles."""

    def __init__(self, tiles: Mapping[str, Path], table: ValueTable) -> None:
        self.ids: Sequence[str] = patch_ids(tiles)
        self._files = FileSet(tiles.values())
        self._table = table

    def __len__(self) -> int:
        return len(self.ids)

    def label(self, index: int) -> np.ndarray:
        """Return the label of patch `index` as int16 (200, 200)."""
        values = _cut(_half_values, self._files, index)
        return self._table(values, self._files.paths[index // ACROSS**2], VALUES_HINT)

    def fingerprint(self) -> str:
        return self._files.fingerprint()


def read_channels(path: Path, channels: int, content: bytes | None = None) -> np.ndarray:
    """Return the first image of a TIFF as uint8 (H, W, channels), whatever tags call the channels.

    Pillow takes a fourth channel for alpha, or drops it, or refuses the file, depending on tags that GIS
    programs set at will.

    Raises:
        DataError: when the file is damaged, or its samples are of another kind.
    """
    stream = io.BytesIO(read_bytes(path) if content is None else content)
    try:
        with tifffile.TiffFile(stream) as file:
            page = file.pages.first
            if page.samplesperpixel != channels or page.dtype != np.uint8:
                raise DataError(
                    f"{path} has {page.samplesperpixel} channels of {page.dtype}, not {channels} of uint8."
                )
            if page.imagewidth * page.imagelength > _MOST_PIXELS:
                raise ValueError(f"{page.imagewidth}×{page.imagelength} pixels are more than a tile has")
            pieces = math.prod(page.chunked)
            if len(page.dataoffsets) != pieces or not all(page.databytecounts):  # tifffile would fill them
                raise ValueError(f"{len(page.dataoffsets)} pieces of data instead of {pieces}")
            array = page.asarray(maxworkers=1)
            return np.moveaxis(array, 0, 2) if page.planarconfig == _PLANAR else array
    except DataError:
        raise
    except Exception as error:  # what a damaged file makes tifffile raise has no common base
        raise DataError(
            f"{path} is damaged, or not a TIFF that can be read: {type(error).__name__}: {error}.",
            hint="Copy it again, or convert it: gdal_translate -co COMPRESS=NONE IN.tif OUT.tif",
        ) from None


def patch_ids(tiles: Mapping[str, Path]) -> tuple[str, ...]:
    """Return ``TILE_ROW_COLUMN`` for every patch, tile by tile and row by row."""
    return tuple(
        f"{name}_{row}_{column}" for name in tiles for row in range(ACROSS) for column in range(ACROSS)
    )


def _cut(read: Callable[[FileSet, Path], np.ndarray], files: FileSet, index: int) -> np.ndarray:
    tile, patch = divmod(range(len(files.paths) * ACROSS**2)[index], ACROSS**2)
    top, left = patch // ACROSS * SIDE, patch % ACROSS * SIDE
    return read(files, files.paths[tile])[top : top + SIDE, left : left + SIDE]


def _check_size(path: Path, array: np.ndarray) -> None:
    if array.shape[:2] != (TILE_SIDE, TILE_SIDE):
        raise DataError(
            f"{path} is {array.shape[1]}×{array.shape[0]} pixels, not {TILE_SIDE}×{TILE_SIDE}.",
            hint="Use the tiles as ISPRS distributes them.",
        )
