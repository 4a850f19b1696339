"""The dataset `new-dataset`: images and labels in one PNG each, split by folders.

    ROOT/images/SPLIT/ID.png    RGB
    ROOT/labels/SPLIT/ID.png    grayscale, with the values that spec.toml gives to each class

Nothing is resized here: geometry belongs to the protocol.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from uss_bench.contracts import ClassInfo
from uss_bench.data import (
    FileImages,
    FileLabels,
    ValueTable,
    check_partners,
    class_table,
    known_split,
    list_images,
    verify_splits,
)
from uss_bench.plugins.specs import DatasetSpec

SAMPLE = Path(__file__).parent / "sample"
IGNORED_VALUES = [255]


class NewDataset:
    """The dataset.

    Args:
        root: the folder that holds ``images`` and ``labels``; default the sample beside this file.

    Raises:
        DataError: when a split is asked for and files are missing.
    """

    def __init__(self, spec: DatasetSpec, *, root: str | Path = SAMPLE) -> None:
        self.name = spec.name
        self.root = Path(root).expanduser()
        self.classes: Sequence[ClassInfo] = class_table(spec.classes)
        self.splits: Sequence[str] = ("train", "test")
        self.train_split, self.test_split = spec.train_split, spec.test_split
        self._table = ValueTable(spec.classes, IGNORED_VALUES)

    def images(self, split: str) -> FileImages:
        """Return the split's images: an object that knows their files, and no label's."""
        return FileImages(self._files(split))

    def labels(self, split: str) -> FileLabels | None:
        """Return the split's labels; None would say that it has none."""
        images = self._files(split)
        files = {name: self.root / "labels" / split / f"{name}.png" for name in images}
        check_partners(files, "labels")
        hint = "The values of each class stand in spec.toml, those to ignore in IGNORED_VALUES."
        return FileLabels.one_each(files, lambda path, content: self._table.read(path, hint, content))

    def prepare(self) -> None:
        """Check that the files are there. What may be downloaded, `uss_bench.files.download` fetches."""
        for split in self.splits:
            self.labels(split)

    def verify(self) -> str:
        """Read every file of the splits in use; raise `DataError` for the first wrong one."""
        return verify_splits(self)

    def _files(self, split: str) -> dict[str, Path]:
        folder = self.root / "images" / known_split(self.name, split, self.splits)
        return {path.stem: path for path in list_images(folder)}
