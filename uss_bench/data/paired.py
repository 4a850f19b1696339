"""Datasets of image files with a label file each, in splits of published sizes."""

from __future__ import annotations

import contextlib
import functools
import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np

from uss_bench.contracts import ClassInfo
from uss_bench.data.file_datasets import (
    PARTIAL,
    FileImages,
    FileLabels,
    ValueTable,
    check_count,
    check_flag,
    check_partners,
    choose_split,
    class_table,
    known_split,
)
from uss_bench.data.listing import left_out
from uss_bench.data.split_check import verify_splits
from uss_bench.errors import DataError, UsageError, did_you_mean
from uss_bench.files.archives import unpack
from uss_bench.files.download import Resource, download
from uss_bench.plugins.specs import ClassSpec, DatasetSpec


class PairedDataset(ABC):
    """A dataset that says where the files of a split are, and gets the rest of its contract from here.

    Args:
        root: the folder that its files are in.
        train: split to train on; the default is the spec's.
        test: split to test on; the default is the spec's.
        partial: accept splits that lack files; their names then end in ``-partial``.
        taxonomy: one of the spec's taxonomies, whose classes and name the dataset then has.

    Raises:
        UsageError: for a split or a taxonomy that does not exist. Missing files are reported when a split is
            asked for.
    """

    published: ClassVar[Mapping[str, int]]
    """Number of images of every split."""
    ignored: ClassVar[Iterable[int]]
    """Label values that stand for no class."""
    steps: ClassVar[str]
    """How to get the files by hand; ``{root}`` stands for the folder."""
    hint: ClassVar[str]
    """What to do about a label that cannot be read through the class table."""
    archives: ClassVar[Sequence[tuple[Resource, re.Pattern[str]]]] = ()
    """Files to download, each with a pattern of the members that are extracted under their own names."""

    def __init__(
        self,
        spec: DatasetSpec,
        *,
        root: str | Path,
        train: str | None = None,
        test: str | None = None,
        partial: bool = False,
        taxonomy: str = "",
    ) -> None:
        self.name = taxonomy or spec.name
        self.root = Path(root).expanduser()
        classes, dropped = taxonomy_classes(spec, taxonomy)
        self.classes: Sequence[ClassInfo] = class_table(classes)
        self._partial = check_flag(spec.name, "partial", partial)
        end = PARTIAL if partial else ""
        self.splits: Sequence[str] = tuple(f"{split}{end}" for split in self.published)
        self.train_split = choose_split(self.name, train or spec.train_split, self.splits, end)
        self.test_split = choose_split(self.name, test or spec.test_split, self.splits, end)
        self._table, self._taxonomy = ValueTable(classes, [*self.ignored, *dropped]), taxonomy

    @abstractmethod
    def image_files(self, split: str) -> dict[str, Path]:
        """Return the image files of a split by id, in order; those that are missing may be left out."""

    @abstractmethod
    def label_files(self, split: str, images: Mapping[str, Path]) -> dict[str, Path] | None:
        """Return where the label of every image is or should be; None for a split without labels."""

    def doubt(self, pixels: np.ndarray, labels: int) -> str:
        """Return why the labels of a split, taken together, seem to be of another coding; see `Doubt`."""
        return ""

    def remarks(self, files: Mapping[str, Path]) -> list[str]:
        """Return what a reader of results should know of the files of a split."""
        folders = sorted({path.parent for path in files.values()})
        return [left_out(folder, files.values()) for folder in folders]

    def images(self, split: str) -> FileImages:
        """Return the split's images.

        Raises:
            DataError: when files are missing.
        """
        files = self._files(self._base(split))
        return FileImages(files, remarks=self.remarks(files))

    def labels(self, split: str) -> FileLabels | None:
        """Return the split's labels, or None where it has none.

        Raises:
            DataError: when files are missing.
        """
        split = self._base(split)
        paths = self.label_files(split, self._files(split))
        if paths is None:
            return None
        check_partners(paths, "labels")
        table, hint = self._table, self.hint
        return FileLabels.one_each(
            paths,
            lambda path, content: table.read(path, hint, content),
            doubt=None if self._taxonomy else self.doubt,
            coding=self._taxonomy,
        )

    def prepare(self) -> None:
        """Check that the splits in use are there; where they can be downloaded, download and extract them.

        Archives stay in ``ROOT/.downloads``, and may be removed afterwards.

        Raises:
            DataError: when files are missing, with the steps to get them by hand.
        """
        if self.archives:
            with contextlib.suppress(DataError):
                self._open_all()
                return
        try:
            for resource, members in self.archives:
                archive = download(resource, self.root / ".downloads")
                unpack(archive, self.root, functools.partial(_own_name, members))
            self._open_all()
        except DataError as error:
            steps = self.steps.format(root=self.root)
            raise DataError(error.what, hint=f"{error.hint or ''}\n{steps}".strip()) from None

    def verify(self) -> str:
        """Read every file of the splits in use; raise `DataError` for the first wrong one."""
        return verify_splits(self)

    def _base(self, split: str) -> str:
        return known_split(self.name, split, self.splits).removesuffix(PARTIAL)

    def _files(self, split: str) -> dict[str, Path]:
        files = self.image_files(split)
        check_count(split, len(files), self.published[split], partial=self._partial, where=self.root)
        return files

    def _open_all(self) -> None:
        for split in (self.train_split, self.test_split):
            self.images(split)
            self.labels(split)


def _own_name(members: re.Pattern[str], name: str) -> str | None:
    return name if members.fullmatch(name) else None


def taxonomy_classes(spec: DatasetSpec, name: str) -> tuple[Sequence[ClassSpec], list[int]]:
    """Return the classes of a taxonomy of a dataset, and the label values that it drops.

    A class has the color and kind of the first class that is merged into it. The empty name means the
    dataset's own classes.

    Raises:
        UsageError: when the dataset has no such taxonomy.
    """
    if not name:
        return spec.classes, []
    known = {one.name: one for one in spec.taxonomies}
    if name not in known:
        raise UsageError(f"{spec.name} has no taxonomy '{name}'.", hint=did_you_mean(name, known))
    rows = {row.name: row for row in spec.classes}
    kept = {source for sources in known[name].classes.values() for source in sources}
    merged = [
        ClassSpec(
            target,
            rows[sources[0]].color,
            rows[sources[0]].kind,
            [value for source in sources for value in rows[source].values],
        )
        for target, sources in known[name].classes.items()
    ]
    dropped = [value for row in spec.classes if row.name not in kept for value in row.values]
    return merged, [value for value in dropped if isinstance(value, int)]
