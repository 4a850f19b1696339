"""Where a folder keeps its images, labels and further channels, split by split."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from uss_bench.data import IMAGE_SUFFIXES, LABEL_SUFFIXES, by_stem, left_out, list_files, list_images
from uss_bench.errors import DataError

ONLY_SPLIT = "all"
"""The split of a folder that has none."""

AUX_SUFFIXES = (".png", ".npy")
_LAYOUTS = (
    "Put images into ROOT/images/train and ROOT/images/test (labels of the same stem into ROOT/labels/train "
    "and so on), into ROOT/images (ROOT/labels), or into ROOT itself."
)


@dataclass(frozen=True)
class SplitFiles:
    """The files of one split; `images` by id, in order."""

    images: Mapping[str, Path]
    labels: Mapping[str, Path]
    """By id; empty for a split without labels."""
    aux: Mapping[str, Path] = field(default_factory=dict)
    """Folders of further channels."""
    remarks: Sequence[str] = ()
    """What lies beside the images and is not read, in sentences."""


def find_splits(root: Path) -> dict[str, SplitFiles]:
    """Return the splits of a folder by name, sorted.

    Raises:
        DataError: when the folder is missing or has no images, when images lie both in split folders and
            beside them, when two images of a split have the same stem, when a label has no image, or
            when an image or a label is a link that leads nowhere.
    """
    if not root.is_dir():
        raise DataError(f"There is no folder {root}.", hint=_LAYOUTS)
    top = root / "images" if (root / "images").is_dir() else root
    loose = list_images(top)
    folders = _folders_with(top, IMAGE_SUFFIXES) if top != root else []
    if loose and folders:
        raise DataError(
            f"{top} holds images both in split folders ({', '.join(path.name for path in folders)}) and "
            f"beside them ({loose[0].name} and {len(loose) - 1} more).",
            hint="Move the images that lie loose into a split folder.",
        )
    if not loose and not folders:
        kinds = ", ".join(sorted(suffix.lstrip(".") for suffix in IMAGE_SUFFIXES))
        beside = left_out(top, ())
        raise DataError(f"{top} has no images ({kinds}). {beside}".strip(), hint=_LAYOUTS)
    if loose:
        _check_label_folders(root, [])
        return {ONLY_SPLIT: _files(root, top, "")}
    _check_label_folders(root, [path.name for path in folders])
    beside = left_out(top, folders)
    return {path.name: _files(root, path, path.name, beside) for path in folders}


def labels_in_order(split: SplitFiles, folder: Path) -> dict[str, Path] | None:
    """Return the label file of every image by id, or None when the split has no labels at all.

    Raises:
        DataError: when some images have none, naming the first and how many.
    """
    return _in_order(split.images, split.labels, folder, "label") if split.labels else None


def aux_in_order(split: SplitFiles) -> dict[str, dict[str, Path]]:
    """Return the file of every image by id, for each further channel."""
    found = {channel: by_stem(list_files(folder, AUX_SUFFIXES)) for channel, folder in split.aux.items()}
    return {
        channel: _in_order(split.images, files, split.aux[channel], f"'{channel}'")
        for channel, files in found.items()
    }


def _in_order(
    images: Mapping[str, Path], files: Mapping[str, Path], folder: Path, what: str
) -> dict[str, Path]:
    missing = [path for name, path in images.items() if name not in files]
    if missing:
        spare = next((path.name for name, path in files.items() if name not in images), None)
        raise DataError(
            f"{len(missing)} of {len(images)} images have no {what} in {folder}; the first is {missing[0]}.",
            hint=f"It should be called {missing[0].stem}.png"
            + (f"; a file without an image is {spare}." if spare else "."),
        )
    return {name: files[name] for name in images}


def _folders_with(top: Path, suffixes: Collection[str]) -> list[Path]:
    folders = sorted(path for path in top.iterdir() if path.is_dir() and not path.name.startswith("."))
    return [path for path in folders if list_files(path, suffixes)]


def _check_label_folders(root: Path, splits: Collection[str]) -> None:
    """Refuse labels that lie where no images do, such as labels/validation beside images/val."""
    if not (root / "labels").is_dir():
        return
    spare = [path for path in _folders_with(root / "labels", LABEL_SUFFIXES) if path.name not in splits]
    loose = list_files(root / "labels", LABEL_SUFFIXES) if splits else []
    if spare or loose:
        where = f"in the folder {spare[0]}" if spare else f"loose in {root / 'labels'}"
        expected = f"in the folders {', '.join(splits)} of {root / 'images'}" if splits else "in no folder"
        raise DataError(
            f"There are labels {where}, and the images lie {expected}.",
            hint="Name the folders of labels like those of their images, or move labels that are not used.",
        )


def _files(root: Path, folder: Path, split: str, beside: str = "") -> SplitFiles:
    place = root / "labels" / split
    images, labels = by_stem(list_images(folder)), _labels(place)
    spare = [path for name, path in labels.items() if name not in images]
    if spare:
        _in_order(images, labels, place, "label")  # where images lack labels as well, the names differ
        raise DataError(
            f"{len(spare)} labels in {place} have no image in {folder}; the first is {spare[0].name}.",
            hint="Put the images there, or move labels that are not used.",
        )
    aux = sorted(path for path in (root / "aux").glob("*") if (path / split).is_dir())
    channels = {path.name: path / split for path in aux}
    remarks = [beside, left_out(folder, [*images.values(), root / "labels", root / "aux"])]
    for channel in channels.values():
        files = by_stem(list_files(channel, AUX_SUFFIXES))
        remarks.append(left_out(channel, [path for name, path in files.items() if name in images]))
    return SplitFiles(images, labels, channels, [remark for remark in remarks if remark])


def _labels(folder: Path) -> dict[str, Path]:
    if not folder.is_dir():
        return {}
    files = list_files(folder, LABEL_SUFFIXES)
    beside = "" if files else left_out(folder, [path for path in folder.iterdir() if path.is_dir()])
    if beside:
        kinds = ", ".join(suffix.lstrip(".") for suffix in LABEL_SUFFIXES)
        raise DataError(f"{folder} has no labels ({kinds}). {beside}", hint="Save the labels as PNG.")
    return by_stem(files)
