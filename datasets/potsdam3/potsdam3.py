"""The dataset `potsdam3`: Potsdam in three classes, from the distributed patches or the raw tiles."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Sequence
from pathlib import Path

from uss_bench.contracts import ClassInfo, Images, Labels
from uss_bench.data import (
    PARTIAL,
    Names,
    ValueTable,
    check_count,
    check_flag,
    check_partners,
    choose_split,
    class_table,
    known_split,
    verify_splits,
)
from uss_bench.errors import DataError
from uss_bench.files.archives import unpack
from uss_bench.files.download import Resource, download
from uss_bench.plugins.specs import DatasetSpec

from .patches import LISTS, PARTS, PatchImages, patch_labels, read_names
from .tiles import ACROSS, LABELED, TILES, TileImages, TileLabels, find_tiles, label_file

ARCHIVE = Resource("https://www.robots.ox.ac.uk/~xuji/datasets/Potsdam.tar.gz", "Potsdam.tar.gz")

IGNORED_VALUE = 255
TILE_SPLITS = {"tiles-labeled": len(LABELED), "tiles-all": TILES}
"""Number of tiles of the splits that are cut from raw tiles; they are not the published ones."""

_LABELED_SPLITS = ("train", "test", "iic-labeled", "tiles-labeled")
_MEMBER = re.compile(r"(?:.*/)?((?:imgs|gt)/[A-Za-z0-9_]+\.mat|[a-z_]+\.txt)")
_STEPS = """To put it there by hand:
1. Download {url}
   (or potsdam.zip of the STEGO authors, https://github.com/mhamilton723/STEGO).
2. Extract it so that {root} holds
   imgs/*.mat   8,550 files (200×200×4)      labelled_train.txt  4,545 lines
   gt/*.mat     5,400 files (200×200)       labelled_test.txt      855 lines
The raw tiles come from ISPRS after a request form:
https://www.isprs.org/education/benchmarks/UrbanSemLab/default.aspx
   4_Ortho_RGBIR/top_potsdam_*_RGBIR.tif               38 files (6000×6000)
   5_Labels_for_participants/top_potsdam_*_label.tif   24 files
They make the splits tiles-labeled and tiles-all, which no published figure was measured on."""


class Potsdam3:
    """The dataset.

    Args:
        root: the folder with ``imgs``, ``gt`` and the lists, or with raw tiles.
        train: split to train on, default ``train``; for raw tiles ``tiles-labeled`` or ``tiles-all``.
        test: split to test on, default ``test``; for raw tiles ``tiles-labeled``.
        partial: accept splits that lack files; their names then end in ``-partial``.

    Raises:
        UsageError: for a split that does not exist. Missing files are told when a split is asked for.
    """

    def __init__(
        self,
        spec: DatasetSpec,
        *,
        root: str | Path,
        train: str | None = None,
        test: str | None = None,
        partial: bool = False,
    ) -> None:
        self.name = spec.name
        self.root = Path(root).expanduser()
        self.classes: Sequence[ClassInfo] = class_table(spec.classes)
        self._partial = check_flag(self.name, "partial", partial)
        end = PARTIAL if partial else ""
        self.splits: Sequence[str] = tuple(f"{split}{end}" for split in (*LISTS, *TILE_SPLITS))
        self.train_split = choose_split(self.name, train or spec.train_split, self.splits, end)
        self.test_split = choose_split(self.name, test or spec.test_split, self.splits, end)
        self._table = ValueTable(spec.classes, (IGNORED_VALUE,))

    def images(self, split: str) -> Images:
        """Return the split's images.

        Raises:
            DataError: when files are missing.
        """
        split = self._base(split)
        if split in TILE_SPLITS:
            return TileImages(self._tiles(split))
        return PatchImages(self._patches(split))

    def labels(self, split: str) -> Labels | None:
        """Return the split's labels, or None for the splits that have patches without them.

        Raises:
            DataError: when files are missing.
        """
        split = self._base(split)
        if split not in _LABELED_SPLITS:
            return None
        if split in TILE_SPLITS:
            files = {name: label_file(self.root, name) for name in self._tiles(split)}
            check_partners(files, "labels of tiles")
            return TileLabels(files, self._table)
        images = self._patches(split)
        folder = Names(self.root / "gt")
        files = {name: folder.find(f"{name}.mat") for name in images}
        check_partners(files, "labels")
        return patch_labels(files, self._table)

    def prepare(self) -> None:
        """Download and extract the distributed archive, unless the splits in use are there.

        The archive stays in ``ROOT/.downloads``, and may be removed afterwards.

        Raises:
            DataError: when that fails, with the steps to do it by hand.
        """
        with contextlib.suppress(DataError):
            self._check_all()
            return
        if any(self._base(split) in TILE_SPLITS for split in (self.train_split, self.test_split)):
            raise DataError(f"{self.root} lacks raw tiles, which ISPRS sends on request.", hint=self._steps())
        try:
            unpack(download(ARCHIVE, self.root / ".downloads"), self.root, _place)
            self._check_all()
        except DataError as error:
            raise DataError(error.what, hint=f"{error.hint or ''}\n{self._steps()}".strip()) from None

    def verify(self) -> str:
        """Read every file of the splits in use; raise `DataError` for the first wrong one."""
        return verify_splits(self)

    def _base(self, split: str) -> str:
        return known_split(self.name, split, self.splits).removesuffix(PARTIAL)

    def _patches(self, split: str) -> dict[str, Path]:
        stem, published = LISTS[split]
        path = self.root / f"{stem}.txt" if stem else self.root
        if split in PARTS and not path.is_file():  # IIC's archive has no list of all, STEGO's has
            names = [name for one in PARTS[split] for name in self._patches(one)]
        else:
            names = read_names(path)
        folder = Names(self.root / "imgs")
        files = {name: folder.find(f"{name}.mat") for name in names}
        if self._partial:
            files = {name: path for name, path in files.items() if path.is_file()}
        check_count(split, len(files), published, partial=self._partial, where=path)
        check_partners(files, "images")
        return files

    def _tiles(self, split: str) -> dict[str, Path]:
        tiles = find_tiles(self.root, labeled=split != "tiles-all")
        nominal = TILE_SPLITS[split]
        if len(tiles) != nominal and not (self._partial and tiles):
            raise DataError(
                f"Split '{split}' has {nominal} tiles ({nominal * ACROSS**2:,} patches), and {self.root} has "
                f"{len(tiles)} of them.",
                hint=f"{self._steps()}\nThe option partial=true uses the tiles that are there.",
            )
        return tiles

    def _check_all(self) -> None:
        for split in (self.train_split, self.test_split):
            self.images(split)
            self.labels(split)

    def _steps(self) -> str:
        return _STEPS.format(url=ARCHIVE.url, root=self.root)


def _place(member: str) -> str | None:
    """Return where a member of the archive goes, whatever folder the archive wraps around it."""
    found = _MEMBER.fullmatch(member)
    return found[1] if found else None
