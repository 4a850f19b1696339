"""The dataset `folder`: any folder of images, optionally with label files."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from itertools import chain, islice
from pathlib import Path

import numpy as np

from uss_bench.arrays import read_npy
from uss_bench.contracts import ClassInfo
from uss_bench.errors import DataError, UsageError, did_you_mean
from uss_bench.images import fingerprint, image_size, read_image, read_label
from uss_bench.specs import DatasetSpec, is_name

from .labelmap import ClassesFile, LabelMap, read_classes, snippet
from .layout import LABEL_SUFFIXES, SplitFiles, find_splits, list_files, pair_aux, pair_labels

_SAMPLED_LABELS = 200


class FolderImages:
    """The images of one split. It knows the files of images and further channels, and no others."""

    def __init__(self, files: Mapping[str, Path], aux: Mapping[str, Sequence[Path]]) -> None:
        self.ids: Sequence[str] = tuple(files)
        self._files = tuple(files.values())
        self._aux = aux

    def __len__(self) -> int:
        return len(self.ids)

    def image(self, index: int) -> np.ndarray:
        """Return image `index` as uint8 (H, W, 3), RGB, at its native size; see `read_image`."""
        return read_image(self._files[index])

    def aux(self, index: int) -> Mapping[str, np.ndarray]:
        """Return further channels by name, each (H, W) or (H, W, n), with their stored values.

        Raises:
            DataError: when a file is broken, is no array of numbers or has another size than the image.
        """
        size = image_size(self._files[index]) if self._aux else (0, 0)
        return {channel: _read_channel(files[index], size) for channel, files in self._aux.items()}

    def fingerprint(self) -> str:
        return fingerprint([*self._files, *chain.from_iterable(self._aux.values())])


class FolderLabels:
    """The labels of one split, in the order of its images."""

    def __init__(self, images: Mapping[str, Path], files: Sequence[Path], label_map: LabelMap) -> None:
        self.ids: Sequence[str] = tuple(images)
        self._images = tuple(images.values())
        self._files = tuple(files)
        self._map = label_map

    def __len__(self) -> int:
        return len(self.ids)

    def label(self, index: int) -> np.ndarray:
        """Return label `index` as int16 (H, W): class 0..C-1, or `IGNORE`.

        Raises:
            DataError: when the file is broken, holds an unknown value or has another size than the image.
        """
        label = self._map.read(self._files[index])
        size = image_size(self._images[index])
        if label.shape != size:
            raise _other_size(self._files[index], label.shape, size)
        return label

    def fingerprint(self) -> str:
        return fingerprint(self._files)


class Folder:
    """The dataset.

    Args:
        root: the folder; its page says how files may lie in it.
        classes: a classes file, by path or by the name of one that comes along. Needed when there are
            labels, and only then.
        name: what boards and records call the dataset; default the classes file's name, else the folder's.
        train: split to train on; default the classes file's choice, else ``train``, else the only one.
        test: split to test on; default the classes file's choice, else ``test``, else ``val``, else the
            only one.

    Raises:
        DataError: when the folder has no images, or its files contradict each other.
        UsageError: for labels without a classes file, a wrong name, or a split that does not exist.
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
        self._check_labels()
        rows = self._content.classes if self._content else []
        self.classes: Sequence[ClassInfo] = tuple(ClassInfo(row.name, row.colour, row.kind) for row in rows)
        if self._content is not None:
            train, test = train or self._content.train, test or self._content.test
        self.train_split = self._choose_split("train", train, (spec.train_split,))
        self.test_split = self._choose_split("test", test, (spec.test_split, "val"))

    def images(self, split: str) -> FolderImages:
        files = self._known(split)
        return FolderImages(files.images, pair_aux(files))

    def labels(self, split: str) -> FolderLabels | None:
        """Return the split's labels, or None when it has none.

        Raises:
            DataError: when some of its images have a label and others have not.
        """
        files = self._known(split)
        paths = pair_labels(files)
        if paths is None or self._map is None:
            return None
        return FolderLabels(files.images, paths, self._map)

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
        parts = []
        for split in self.splits:
            images, labels = self.images(split), self.labels(split)
            for index in range(len(images)):
                images.image(index)
                images.aux(index)
                if labels is not None:
                    labels.label(index)
            parts.append(f"{split} {len(images)} {'labelled' if labels is not None else 'unlabelled'}")
        if self.train_split == self.test_split:
            use = f"'{self.train_split}' is used for training and testing alike."
        else:
            use = f"Trained on '{self.train_split}', tested on '{self.test_split}'."
        return (
            f"Read every file of {self.name}: images {', '.join(parts)}; {len(self.classes)} classes. {use}"
        )

    def _known(self, split: str) -> SplitFiles:
        if split not in self._splits:
            raise UsageError(f"{self.name} has no split '{split}'.", hint=did_you_mean(split, self.splits))
        return self._splits[split]

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

    def _check_labels(self) -> None:
        """Refuse labels without a classes file, and a classes file without labels."""
        folders = [files.labels for files in self._splits.values() if files.labels is not None]
        if folders and self._content is None:
            found = chain.from_iterable(list_files(folder, LABEL_SUFFIXES) for folder in folders)
            start = snippet(islice(found, _SAMPLED_LABELS), self.name)
            raise UsageError(
                f"{self.root} has labels, and no classes file says what their values mean.",
                hint="Save this as classes.toml, put in the true names, and give the option "
                f"classes=classes.toml. It lists the values of {_SAMPLED_LABELS} files.\n\n{start}",
            )
        if not folders and self._content is not None:
            raise DataError(
                f"There is a classes file, and {self.root / 'labels'} has no label files (PNG).",
                hint="Put the labels there, split by split as the images are, or give no classes.",
            )


def _read_channel(path: Path, size: tuple[int, int]) -> np.ndarray:
    if path.suffix.lower() == ".npy":
        try:
            array = read_npy(path)
        except ValueError as error:
            raise DataError(f"{path} cannot be read as an array: {error}.") from None
    else:
        array = read_label(path)
    if array.ndim not in (2, 3) or array.dtype.kind not in "biuf":
        raise DataError(
            f"{path} is {array.dtype} of shape {array.shape}, not numbers of shape (H, W) or (H, W, n)."
        )
    if array.shape[:2] != size:
        raise _other_size(path, array.shape, size)
    return array


def _other_size(path: Path, found: Sequence[int], size: tuple[int, int]) -> DataError:
    return DataError(
        f"{path} is {found[1]}×{found[0]} pixels, and its image is {size[1]}×{size[0]} (width × height).",
        hint="Both must have the same size: nothing is resized here, and labels must not be interpolated.",
    )
