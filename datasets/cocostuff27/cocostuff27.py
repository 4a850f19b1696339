"""The dataset `cocostuff27`: COCO 2017 in 27 classes of things and stuff.

`cocostuff15` and `cocostuff3` are the same files: their specs have fewer classes, and pixels of others
are ignored.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from uss_bench.contracts import ClassInfo
from uss_bench.data import (
    PARTIAL,
    FileImages,
    FileLabels,
    ValueTable,
    check_flag,
    choose_split,
    class_table,
    known_split,
    verify_splits,
)
from uss_bench.errors import DataError, UsageError, did_you_mean
from uss_bench.plugins.specs import DatasetSpec

from .downloads import ANNOTATIONS, IMAGES, fetch_list, fetch_part
from .sources import IGNORED_VALUE, SOURCES, UNUSED_VALUES, VALUES, detect, explain_missing, open_source
from .splits import CURATED, WHOLE, image_files, list_file

LISTS = ("curated", "none")

_STEPS = """To put it there by hand, extract into {root} so that there are
   images/train2017/*.jpg   118,287 files   {train}
   images/val2017/*.jpg       5,000 files   {val}
   annotations/...                          {annotations}
   curated/train2017/Coco164kFull_Stuff_Coarse.txt  97,702 lines, and curated/val2017/
   Coco164kFull_Stuff_Coarse_7.txt  2,175 lines: https://github.com/janghyuncho/PiCIE (first commit)"""


class CocoStuff27:
    """The dataset.

    Args:
        root: the folder with ``images``, ``annotations`` and ``curated``.
        labels: ``stuffthingmaps``, ``json`` or ``panoptic``; default the first that the root holds.
        lists: ``curated`` for the published splits, or ``none`` for every image in the folders.
        train: split to train on, default ``train``; ``train-7`` for PiCIE and TransFGU.
        test: split to test on, default ``val``; ``val-5000`` for all of val2017.
        partial: accept splits that lack files, and other lists; their names then end in ``-partial``.

    Raises:
        UsageError: for an unknown option or split. Missing files are told when a split is asked for.
    """

    def __init__(
        self,
        spec: DatasetSpec,
        *,
        root: str | Path,
        labels: str | None = None,
        lists: str = "curated",
        train: str | None = None,
        test: str | None = None,
        partial: bool = False,
    ) -> None:
        self.name = spec.name
        self.root = Path(root).expanduser()
        self.classes: Sequence[ClassInfo] = class_table(spec.classes)
        for option, value, known in (("labels", labels or None, (*SOURCES, None)), ("lists", lists, LISTS)):
            if value not in known:
                raise UsageError(
                    f"The option {option} of {self.name} cannot be {value!r}.",
                    hint=did_you_mean(str(value), filter(None, known)),
                )
        self._partial = check_flag(self.name, "partial", partial)
        self._source = labels or detect(self.root)
        # Splits without lists claim no number of images, so that they cannot be partial.
        end = SOURCES[self._source] + (PARTIAL if partial and lists == "curated" else "")
        table = CURATED if lists == "curated" else WHOLE
        self._splits = {f"{split}{end}": row for split, row in table.items()}
        self.splits: Sequence[str] = tuple(self._splits)
        defaults = (spec.train_split, spec.test_split) if lists == "curated" else tuple(WHOLE)
        self.train_split = choose_split(self.name, train or defaults[0], self.splits, end)
        self.test_split = choose_split(self.name, test or defaults[1], self.splits, end)
        others = set(range(VALUES)) - {value for row in spec.classes for value in row.values}
        if others and self._source == "panoptic":
            raise UsageError(
                f"{self.name} cannot be read from panoptic labels, which have other kinds of stuff.",
                hint="Give --data labels=stuffthingmaps, or labels=json.",
            )
        self._table = ValueTable(spec.classes, (IGNORED_VALUE, *others), UNUSED_VALUES)

    def images(self, split: str) -> FileImages:
        """Return the split's images, in the order of its list.

        Raises:
            DataError: when the list or images are missing.
        """
        return FileImages(self._files(split))

    def labels(self, split: str) -> FileLabels:
        """Return the split's labels.

        Raises:
            DataError: when files are missing.
        """
        images = self._files(split)
        subset = self._splits[split].subset
        names = [row.name for row in self.classes]
        try:
            return open_source(self._source, self.root, subset, images, self._table, names)
        except DataError as error:
            raise explain_missing(self._source, self.root, error) from None

    def prepare(self) -> None:
        """Download what the two splits in use lack: images, labels of the chosen source, curated lists.

        All of COCO's images are 20 GB. Archives stay in ``ROOT/.downloads``, and may be removed afterwards.

        Raises:
            DataError: when that fails, with the steps to do it by hand.
        """
        used = {name: self._splits[name] for name in (self.train_split, self.test_split)}
        try:
            for split in used.values():
                if split.list_name and not list_file(self.root, split).is_file():
                    fetch_list(self.root, split.subset, split.list_name, split.sha256)
            for subset in dict.fromkeys(split.subset for name, split in used.items() if self._lacks(name)):
                fetch_part(IMAGES[subset], self.root)
            if any(self._lacks(name, labels=True) for name in used):
                for part in ANNOTATIONS[self._source]:
                    fetch_part(part, self.root)
            for name in used:
                self.labels(name)
        except DataError as error:
            raise DataError(error.what, hint=f"{error.hint or ''}\n{self._steps()}".strip()) from None

    def verify(self) -> str:
        """Read every file of the splits in use; raise `DataError` for the first wrong one."""
        return verify_splits(self)

    def _files(self, split: str) -> dict[str, Path]:
        row = self._splits[known_split(self.name, split, self.splits)]
        return image_files(self.root, split, row, partial=self._partial)

    def _lacks(self, split: str, *, labels: bool = False) -> bool:
        try:
            if labels:
                self.labels(split)
            else:
                self.images(split)
        except DataError:
            return True
        return False

    def _steps(self) -> str:
        urls = {subset: part.resource.url for subset, part in IMAGES.items()}
        annotations = ("\n" + " " * 44).join(part.resource.url for part in ANNOTATIONS[self._source])
        return _STEPS.format(
            root=self.root, train=urls["train2017"], val=urls["val2017"], annotations=annotations
        )
