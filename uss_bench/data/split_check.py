"""Reading a whole split before it is used: the first thing wrong, and what readers of results should know."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import msgspec
import numpy as np

from uss_bench.contracts import Dataset, Images, Labels
from uss_bench.data.generated import GeneratedImages
from uss_bench.data.geometry import check_sides
from uss_bench.data.prefetch import read_ahead
from uss_bench.data.subset import limited, limited_labels
from uss_bench.data.validated import validated
from uss_bench.errors import DataError, blame
from uss_bench.files.atomic import atomic_write, cache_root
from uss_bench.runtime import progress

CHECKS = "checks"
"""Folder of the cache that reports are kept in."""
_VERSION = 1
"""Of what is checked; part of the key that a report is cached under."""
_MUCH_IGNORED = 0.25
_READ_AHEAD = 4
_CHUNK = 16
"""Images that a thread reads in a row; handing over each small one would cost as much as reading it."""


class SplitReport(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What a full reading of a split found, where nothing was wrong."""

    split: str
    images: int
    labeled: bool
    class_pixels: list[int] = []
    """Of every class; empty without labels, and where scenes are generated and were not drawn."""
    ignored_pixels: int = 0
    orientations: dict[int, int] = {}
    """How many images carry an orientation tag, by its value; 1 is left out."""
    remarks: list[str] = []
    """What the dataset says of the split's files."""

    def notices(self, classes: Sequence[str]) -> list[str]:
        """Return sentences about what was found.

        Args:
            classes: their names, in label order.
        """
        found = list(self.remarks)
        if self.orientations:
            tags = ", ".join(f"{tag}: {count}" for tag, count in sorted(self.orientations.items()))
            found.append(
                f"{sum(self.orientations.values())} images of split '{self.split}' have an orientation tag "
                f"other than 1 ({tags}); they are read as stored, not as viewers turn them."
            )
        absent = [name for name, pixels in zip(classes, self.class_pixels, strict=False) if not pixels]
        if absent:
            found.append(f"No pixel of split '{self.split}' is labeled {', '.join(absent)}.")
        ignored = self.ignored_pixels / max(1, self.ignored_pixels + sum(self.class_pixels))
        if ignored >= _MUCH_IGNORED:
            found.append(f"{ignored:.0%} of the pixels of split '{self.split}' are ignored by the labels.")
        return found

    def summary(self) -> str:
        return f"{self.split} {self.images:,} {'labeled' if self.labeled else 'unlabeled'}"


def check_split(
    dataset: Dataset, split: str, *, limit: int | None = None, cached: bool = True
) -> SplitReport:
    """Read every image and label of a split; return what was found.

    The report is kept in the cache under the fingerprints of images and labels, which follow the status of
    the files, so that a second call reads none of them.

    Args:
        limit: check the images that a run of this limit uses.
        cached: whether an earlier report will do.

    Raises:
        DataError: for the first file that is damaged, does not fit its partner or holds an unknown value;
            for test labels that are all ignored, and labels that are coded otherwise as a whole.
        ContractError: where the dataset's plugin is at fault.
    """
    opened, place = _open(dataset, split, limit)
    if cached and (known := _read_report(place, opened[0])):
        return known
    report = _check(dataset, split, *opened)
    with contextlib.suppress(OSError):  # without a writable cache the next call is slow and just as right
        place.parent.mkdir(parents=True, exist_ok=True)
        atomic_write(place, msgspec.json.encode(report))
    return report


def verify_splits(dataset: Dataset, splits: Sequence[str] = ()) -> str:
    """Read every image and label of some splits; return a sentence that says what was read, and notices.

    Args:
        splits: by default the two in use.

    Raises:
        DataError: for the first wrong file.
    """
    splits = splits or list(dict.fromkeys((dataset.train_split, dataset.test_split)))
    reports = [check_split(dataset, split, cached=False) for split in splits]
    if dataset.train_split == dataset.test_split:
        use = f"'{dataset.train_split}' is used for training and testing alike."
    else:
        use = f"Trained on '{dataset.train_split}', tested on '{dataset.test_split}'."
    read = ", ".join(report.summary() for report in reports)
    lines = [f"Read every file of {dataset.name}: images {read}; {len(dataset.classes)} classes. {use}"]
    names = [row.name for row in dataset.classes]
    return "\n".join(dict.fromkeys(lines + [one for report in reports for one in report.notices(names)]))


def _open(
    dataset: Dataset, split: str, limit: int | None
) -> tuple[tuple[Images, Labels | None, Images, Labels | None], Path]:
    """Open a split as it is and as it is read, checked and limited; say where its report is kept."""
    who = f"Dataset '{dataset.name}'"
    with blame(who, "opening its splits"):
        images, labels = dataset.images(split), dataset.labels(split)
    read, checked = validated(images, labels, who, len(dataset.classes))
    seen = limited(read, limit)
    truth = limited_labels(checked, limit) if checked is not None else None
    parts = [str(_VERSION), split, dataset.test_split, seen.fingerprint()]
    parts += [truth.fingerprint() if truth is not None else "", *(row.name for row in dataset.classes)]
    key = hashlib.sha256("\0".join(parts).encode()).hexdigest()[:32]
    return (images, labels, seen, truth), cache_root() / CHECKS / f"{key}.json"


def _check(
    dataset: Dataset, split: str, images: Images, labels: Labels | None, seen: Images, truth: Labels | None
) -> SplitReport:
    remarks = _remarks(images)
    if isinstance(images, GeneratedImages):
        return SplitReport(split=split, images=len(seen), labeled=labels is not None, remarks=remarks)
    classes = len(dataset.classes)
    orientation = getattr(images, "orientation", lambda index: 1)
    place_of = {name: index for index, name in enumerate(images.ids)}

    def read_one(index: int) -> tuple[int, np.ndarray]:
        check_sides(seen.ids[index], seen.image(index))
        seen.aux(index)
        pixels = np.zeros(classes + 1, np.int64)
        if truth is not None:
            label = truth.label(index)
            pixels = np.bincount(label.reshape(-1).astype(np.int64) + 1, minlength=classes + 1)
        return orientation(place_of[seen.ids[index]]), np.roll(pixels, -1)

    def read(start: int) -> list[tuple[int, np.ndarray]]:
        return [read_one(index) for index in range(start, min(start + _CHUNK, len(seen)))]

    tags, pixels = Counter[int](), np.zeros(classes + 1, np.int64)
    with contextlib.closing(read_ahead(read, range(0, len(seen), _CHUNK), depth=_READ_AHEAD)) as chunks:
        results = itertools.chain.from_iterable(chunks)
        for tag, counted in progress.track(results, total=len(seen), label=f"check {split}"):
            tags[tag] += 1
            pixels += counted
    del tags[1]
    if truth is not None:
        doubt = getattr(labels, "doubt", None)
        reason = doubt(pixels, len(truth)) if doubt and pixels[:-1].any() else ""
        if reason:
            raise DataError(f"The labels of split '{split}' are not coded as they should be: {reason}")
        if split == dataset.test_split and not pixels[:-1].any():
            raise DataError(
                f"The labels of split '{split}' hold nothing but ignored pixels: nothing can be scored.",
                hint="Look at which label values are ignored, or test on another split.",
            )
    return SplitReport(
        split=split,
        images=len(seen),
        labeled=truth is not None,
        class_pixels=pixels[:-1].tolist() if truth is not None else [],
        ignored_pixels=int(pixels[-1]),
        orientations=dict(tags),
        remarks=remarks,
    )


def known_report(dataset: Dataset, split: str, limit: int | None = None) -> SplitReport | None:
    """Return what an earlier check found, if there was one and no file changed since; read no image."""
    (images, *_), place = _open(dataset, split, limit)
    return _read_report(place, images)


def _read_report(place: Path, images: Images) -> SplitReport | None:
    try:
        found = msgspec.json.decode(place.read_bytes(), type=SplitReport)
    except (OSError, msgspec.DecodeError, UnicodeDecodeError):
        return None
    return msgspec.structs.replace(found, remarks=_remarks(images))  # what lies beside them may have changed


def _remarks(images: Images) -> list[str]:
    return list(getattr(images, "remarks", ()))
