"""Where a folder keeps its images, labels and further channels, split by split."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from uss_bench.errors import DataError
from uss_bench.images import IMAGE_SUFFIXES, list_images

ONLY_SPLIT = "all"
"""The split of a folder that has none."""

LABEL_SUFFIXES = frozenset({".png"})
_AUX_SUFFIXES = frozenset({".png", ".npy"})
_LAYOUTS = (
    "Put images into ROOT/images/train and ROOT/images/test (labels of the same stem into ROOT/labels/train "
    "and so on), into ROOT/images (ROOT/labels), or into ROOT itself."
)


@dataclass(frozen=True)
class SplitFiles:
    """The files of one split; `images` by id, in order. `labels` and `aux` are folders."""

    images: Mapping[str, Path]
    labels: Path | None
    aux: Mapping[str, Path] = field(default_factory=dict)


def find_splits(root: Path) -> dict[str, SplitFiles]:
    """Return the splits of a folder by name, sorted.

    Raises:
        DataError: when the folder is missing or has no images, when images lie both in split folders and
            beside them, or when two images of a split have the same stem.
    """
    if not root.is_dir():
        raise DataError(f"There is no folder {root}.", hint=_LAYOUTS)
    top = root / "images" if (root / "images").is_dir() else root
    loose = list_images(top)
    folders = _split_folders(root / "images") if top != root else []
    if loose and folders:
        raise DataError(
            f"{top} holds images both in split folders ({', '.join(path.name for path in folders)}) and "
            f"beside them ({loose[0].name} and {len(loose) - 1} more).",
            hint="Move the images that lie loose into a split folder.",
        )
    if not loose and not folders:
        kinds = ", ".join(sorted(suffix.lstrip(".") for suffix in IMAGE_SUFFIXES))
        raise DataError(f"{top} has no images ({kinds}).", hint=_LAYOUTS)
    if loose:
        return {ONLY_SPLIT: _files(root, top, "")}
    return {path.name: _files(root, path, path.name) for path in folders}


def list_files(folder: Path, suffixes: frozenset[str]) -> list[Path]:
    """Return the files of a folder with one of these suffixes, in any case, sorted; hidden ones left out."""
    found = (path for path in sorted(folder.iterdir()) if path.suffix.lower() in suffixes)
    return [path for path in found if not path.name.startswith(".") and path.is_file()]


def by_stem(files: list[Path]) -> dict[str, Path]:
    """Return files by stem, which is their id.

    Raises:
        DataError: when two have the same stem.
    """
    found: dict[str, Path] = {}
    for path in files:
        first = found.setdefault(path.stem, path)
        if first is not path:
            raise DataError(
                f"{first} and {path.name} have the same stem, which is an image's id.",
                hint="Rename or remove one of them.",
            )
    return found


def pair(ids: Mapping[str, Path], folder: Path, suffixes: frozenset[str], what: str) -> list[Path]:
    """Return the file of `folder` that has each image's stem, in the order of the images.

    Raises:
        DataError: when some have none, naming the first and how many.
    """
    files = by_stem(list_files(folder, suffixes))
    missing = [path for stem, path in ids.items() if stem not in files]
    if missing:
        spare = next((path.name for stem, path in files.items() if stem not in ids), None)
        raise DataError(
            f"{len(missing)} of {len(ids)} images have no {what} in {folder}; the first is {missing[0]}.",
            hint=f"It should be called {missing[0].stem}{min(suffixes, key=lambda s: s != '.png')}"
            + (f"; a file without an image is {spare}." if spare else "."),
        )
    return [files[stem] for stem in ids]


def pair_labels(split: SplitFiles) -> list[Path] | None:
    """Return the label file of every image, or None when the split has no labels at all."""
    return None if split.labels is None else pair(split.images, split.labels, LABEL_SUFFIXES, "label")


def pair_aux(split: SplitFiles) -> dict[str, list[Path]]:
    """Return the file of every image for each further channel."""
    return {
        channel: pair(split.images, folder, _AUX_SUFFIXES, f"'{channel}'")
        for channel, folder in split.aux.items()
    }


def _split_folders(top: Path) -> list[Path]:
    folders = sorted(path for path in top.iterdir() if path.is_dir() and not path.name.startswith("."))
    return [path for path in folders if list_images(path)]


def _files(root: Path, images: Path, split: str) -> SplitFiles:
    labels = root / "labels" / split
    has_labels = labels.is_dir() and bool(list_files(labels, LABEL_SUFFIXES))
    channels = sorted(path for path in (root / "aux").glob("*") if (path / split).is_dir())
    return SplitFiles(
        by_stem(list_images(images)),
        labels if has_labels else None,
        {path.name: path / split for path in channels},
    )
