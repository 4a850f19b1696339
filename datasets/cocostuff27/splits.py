"""Which images of COCO 2017 a split has: by curated lists, or all that are there."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import NamedTuple

from uss_bench.data import Names, check_count, check_partners, list_images
from uss_bench.errors import DataError

from .downloads import LIST_URL

SUBSETS = ("train2017", "val2017")


class Split(NamedTuple):
    subset: str
    """``train2017`` or ``val2017``."""
    list_name: str = ""
    """Stem of the curated list, or nothing for all images of the subset."""
    published: int = 0
    """Number of images, or 0 where the split is whatever is there."""
    sha256: str = ""
    """First characters of the list's digest, where they are known."""


CURATED = {
    "train": Split("train2017", "Coco164kFull_Stuff_Coarse", 97_702),
    "train-7": Split("train2017", "Coco164kFull_Stuff_Coarse_7", 49_629, "3b837594a81880a7"),
    "val": Split("val2017", "Coco164kFull_Stuff_Coarse_7", 2_175, "7c629734c88f1a74"),
    "val-5000": Split("val2017", "", 5_000),
    "train-few6": Split("train2017", "Coco164kFew_Stuff_6", 35_228),
    "val-few6": Split("val2017", "Coco164kFew_Stuff_6", 1_432),
}
"""The published splits. IIC made the lists; 7 stands for images of at least 360 pixels a side and at least
three quarters of stuff, and no number for the loosest choice; "few" is for three classes of stuff."""

WHOLE = {f"{subset}-all": Split(subset) for subset in SUBSETS}
"""The splits without lists."""

_ID = re.compile(r"\d{12}")


def image_files(root: Path, name: str, split: Split, *, partial: bool) -> dict[str, Path]:
    """Return the image files of a split by id (12 digits), in the order of its list, else by id.

    Args:
        name: the split's name, for messages.
        partial: leave out images that are not there.

    Raises:
        DataError: when the list or images are missing, or the list is not the published one.
    """
    folder = image_folder(root, split.subset)
    if split.list_name:
        path = list_file(root, split)
        names = Names(folder)
        files = {number: names.find(f"{number}.jpg") for number in _read_list(path, split, partial=partial)}
        if partial:
            files = {number: file for number, file in files.items() if file.is_file()}
        check_count(name, len(files), split.published, partial=partial, where=path)
        check_partners(files, f"images of split '{name}'")
        return files
    images = list_images(folder) if folder.is_dir() else []
    found = {path.stem: path for path in images if _ID.fullmatch(path.stem)}
    if not found:
        raise DataError(
            f"{folder} has no images called like 000000000139.jpg.",
            hint=f"Extract the official {split.subset}.zip there; 'uss-bench prepare' does it.",
        )
    if split.published:
        check_count(name, len(found), split.published, partial=partial, where=folder)
    return found


def image_folder(root: Path, subset: str) -> Path:
    """Return where a subset's images lie, or should lie: below ``images``, or in the root itself."""
    bare = root / subset
    return bare if bare.is_dir() and not (root / "images" / subset).is_dir() else root / "images" / subset


def list_file(root: Path, split: Split) -> Path:
    """Return where a curated list lies, or should lie."""
    return root / "curated" / split.subset / f"{split.list_name}.txt"


def _read_list(path: Path, split: Split, *, partial: bool) -> list[str]:
    try:
        content = path.read_bytes().replace(b"\r\n", b"\n")
    except FileNotFoundError:
        raise DataError(
            f"{path} does not exist: the curated list of {split.published:,} images.",
            hint="'uss-bench prepare' gets it, or download it from\n"
            f"  {LIST_URL.format(subset=split.subset, name=split.list_name)}\n"
            "The option lists=none takes every image that is there instead, as splits "
            f"{' and '.join(WHOLE)}.",
        ) from None
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}.") from None
    ids = content.decode("ascii", errors="replace").split()
    wrong = next((line for line in ids if not _ID.fullmatch(line)), None)
    if wrong is not None or len(set(ids)) != len(ids):
        why = "has ids twice" if wrong is None else f"holds '{wrong[:40]}', which is no id of 12 digits"
        raise DataError(f"{path} {why}.", hint="Download the list again.")
    other = not hashlib.sha256(content).hexdigest().startswith(split.sha256)
    if (other or len(ids) != split.published) and not partial:
        raise DataError(
            f"{path} is not the published list: it has {len(ids):,} ids"
            + (f" instead of {split.published:,}." if len(ids) != split.published else ", but others."),
            hint="Download it again, or give partial=true to use it all the same, in splits so marked.",
        )
    return ids
