"""The dataset `folder`: any folder of images, optionally with label files."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from itertools import chain
from pathlib import Path

import numpy as np

from uss_bench.contracts import ClassInfo
from uss_bench.data import (
    FileImages,
    FileLabels,
    class_table,
    known_split,
    read_values,
    verify_splits,
)
from uss_bench.errors import DataError, UsageError
from uss_bench.plugins.specs import DatasetSpec, is_name

from .labelmap import ClassesFile, LabelMap, read_classes, suggestion
from .layout import SplitFiles, aux_in_order, find_splits, labels_in_order

_SAMPLED_LABELS = 200


class FolderImages(FileImages):
    """The images of one split. It knows the files of images and further channels, and no others."""

    def __init__(
        self, files: Mapping[str, Path], aux: Mapping[str, Mapping[str, Path]], remarks: Sequence[str]
    ) -> None:
        others = chain.from_iterable(paths.values() for paths in aux.values())
        super().__init__(files, others=others, remarks=remarks)
        self._aux = aux

    def aux(self, index: int) -> Mapping[str, np.ndarray]:
        """Return further channels by name, each (H, W) or (H, W, n), with their stored values.

        Raises:
            DataError: when a file is broken, is not an array of numbers or has another size than the image.
        """
        size = self.size(index) if self._aux else (0, 0)
        paths = {channel: files[self.ids[index]] for channel, files in self._aux.items()}
        return {channel: _read_channel(path, self._files.read(path), size) for channel, path in paths.items()}


class Folder:
    """The dataset.

    Args:
        root: the folder; its page says how files may lie in it.
        classes: a classes file, by path or by the name of one that comes along. Needed to read labels, and
            only then.
        name: what boards and records call the dataset; default the classes file's name, else the folder's.
        train: split to train on; default the classes file's choice, else ``train``, else the only one.
        test: split to test on; default the classes file's choice, else ``test``, else ``val``, else the
            only one.

    Raises:
        DataError: when the folder has no images, or its files contradict each other.
        UsageError: for a wrong name, or a split that does not exist.
    """

    def __init__(
        self,
        spec: DatasetSpec,
        *,
        root: str | Path,
        classes: str | Path | None = None,
        name: str | None = None,
        train: str | None = None,
        test: str | None = None,
    ) -> None:
        self.root = Path(root).expanduser()
        self._splits = find_splits(self.root)
        self.splits: Sequence[str] = tuple(self._splits)
        self._content: ClassesFile | None = None
        self._map: LabelMap | None = None
        if classes is not None:
            self._content, self._map = read_classes(classes)
        self.name = self._choose_name(name)
        self._found = list(chain.from_iterable(files.labels.values() for files in self._splits.values()))
        self._check_classes()
        self.classes: Sequence[ClassInfo] = class_table(self._content.classes if self._content else ())
        if self._content is not None:
            train, test = train or self._content.train, test or self._content.test
        self.train_split = self._choose_split("train", train, (spec.train_split,))
        self.test_split = self._choose_split("test", test, (spec.test_split, "val"))

    def images(self, split: str) -> FolderImages:
        files = self._known(split)
        return FolderImages(files.images, aux_in_order(files), files.remarks)

    def labels(self, split: str) -> FileLabels | None:
        """Return the split's labels, or None when it has none.

        Raises:
            DataError: when some of its images have a label and others have not.
            UsageError: when there are labels, in this split or another, and no classes file.
        """
        files, label_map = self._known(split), self._map
        if self._found and label_map is None:
            sample = self._found[:_SAMPLED_LABELS]
            start, remark = suggestion(sample, self.name)
            raise UsageError(
                f"{self.root} has labels, and no classes file says what their values mean. {remark}".strip(),
                hint="Save this as classes.toml, put in the true names, and give it: --classes classes.toml, "
                f'or classes="classes.toml" in Python. It lists the values of {len(sample)} '
                f"label file{'s' * (len(sample) > 1)}.\n\n{start}",
            )
        paths = labels_in_order(files, self.root / "labels")
        if paths is None or label_map is None:
            return None
        return FileLabels.one_each(paths, label_map.read, coding=label_map.coding)

    def prepare(self) -> None:
        """Check that every file has its partner; there is nothing to download.

        Raises:
            DataError: when a label or a further channel is missing.
        """
        for split in self.splits:
            self.images(split)
            self.labels(split)

    def verify(self) -> str:
        """Read every file; raise `DataError` for the first wrong one, else say what was read."""
        self.prepare()
        return verify_splits(self, self.splits)

    def _known(self, split: str) -> SplitFiles:
        return self._splits[known_split(self.name, split, self.splits)]

    def _choose_name(self, name: str | None) -> str:
        if name is not None and not is_name(str(name)):
            raise UsageError(
                f"'{name}' cannot be a dataset's name.",
                hint="Use lower-case letters, digits, '-', '_' and '.', and start with a letter or a digit.",
            )
        if name is not None:
            return str(name)
        if self._content is not None:
            return self._content.name
        plain = re.sub(r"[^a-z0-9_.-]+", "-", self.root.resolve().name.lower())
        return plain.lstrip("-_.")[:64].rstrip("-.") or "folder"

    def _choose_split(self, purpose: str, wanted: str | None, usual: Sequence[str]) -> str:
        if wanted:
            self._known(wanted)
            return wanted
        for split in usual:
            if split in self._splits:
                return split
        if len(self.splits) == 1:
            return self.splits[0]
        raise UsageError(
            f"{self.root} has the splits {', '.join(self.splits)}; which one is for {purpose}ing?",
            hint=f"Give the option {purpose}, for example {purpose}={self.splits[0]}.",
        )

    def _check_classes(self) -> None:
        """Refuse a classes file without labels."""
        if not self._found and self._content is not None:
            raise DataError(
                f"There is a classes file, and {self.root / 'labels'} has no label files (PNG).",
                hint="Put the labels there, split by split as the images are, or give no classes.",
            )


def _read_channel(path: Path, content: bytes, size: tuple[int, int]) -> np.ndarray:
    array = read_values(path, content)
    if array.ndim not in (2, 3) or array.dtype.kind not in "biuf":
        raise DataError(
            f"{path} is {array.dtype} of shape {array.shape}, not numbers of shape (H, W) or (H, W, n)."
        )
    if array.shape[:2] != size:
        raise DataError(
            f"{path} is {array.shape[1]}×{array.shape[0]} pixels, and its image is {size[1]}×{size[0]} "
            "(width × height).",
            hint="Both must have the same size: nothing is resized here.",
        )
    return array
