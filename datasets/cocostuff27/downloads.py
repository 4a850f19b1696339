"""What of COCO-Stuff can be downloaded, and where it goes."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from uss_bench.files.archives import unpack
from uss_bench.files.download import Resource, download

Place = Callable[[str], str | None]

LIST_URL = (
    "https://raw.githubusercontent.com/janghyuncho/PiCIE/fc4e7c193c2ba77a6dbf9f24e5e7cf99da9f528a/"
    "curated/{subset}/{name}.txt"
)
"""The commit that has all lists of IIC's archive, which is no longer distributed by itself."""


class Part(NamedTuple):
    """An archive, which of its members are wanted, and where they go below the root."""

    resource: Resource
    member: str
    """A regular expression; its group is what is kept of the name."""
    folder: str


# Sizes and digests are those of url_checksums/coco.txt in TensorFlow Datasets; others are not published.
IMAGES = {
    "train2017": Part(
        Resource(
            "http://images.cocodataset.org/zips/train2017.zip",
            "train2017.zip",
            19_336_861_798,
            "69a8bb58ea5f8f99d24875f21416de2e9ded3178e903f1f7603e283b9e06d929",
        ),
        r"(train2017/\d{12}\.jpg)",
        "images",
    ),
    "val2017": Part(
        Resource(
            "http://images.cocodataset.org/zips/val2017.zip",
            "val2017.zip",
            815_585_330,
            "4f7e2ccb2866ec5041993c9cf2a952bbed69647b115d0f74da7ce8f4bef82f05",
        ),
        r"(val2017/\d{12}\.jpg)",
        "images",
    ),
}
ANNOTATIONS = {
    "stuffthingmaps": (
        Part(
            Resource(
                "http://calvin.inf.ed.ac.uk/wp-content/uploads/data/cocostuffdataset/"
                "stuffthingmaps_trainval2017.zip",
                "stuffthingmaps_trainval2017.zip",
            ),
            r"(?:.*/)?((?:train|val)2017/\d{12}\.png)",
            "annotations",
        ),
    ),
    "json": (
        Part(
            Resource(
                "http://images.cocodataset.org/annotations/annotations_trainval2017.zip",
                "annotations_trainval2017.zip",
                252_907_541,
                "113a836d90195ee1f884e704da6304dfaaecff1f023f49b6ca93c4aaae470268",
            ),
            r"annotations/(instances_(?:train|val)2017\.json)",
            "annotations",
        ),
        Part(
            Resource(
                "http://images.cocodataset.org/annotations/stuff_annotations_trainval2017.zip",
                "stuff_annotations_trainval2017.zip",
            ),
            r"annotations/(stuff_(?:train|val)2017\.json)",
            "annotations",
        ),
    ),
    "panoptic": (
        Part(
            Resource(
                "http://images.cocodataset.org/annotations/panoptic_annotations_trainval2017.zip",
                "panoptic_annotations_trainval2017.zip",
                860_725_834,
                "c05f76d2129b6b561eb70efe16e7006df62f73fb92889132d373b9d90e31a370",
            ),
            r"annotations/(panoptic_(?:train|val)2017\.(?:json|zip))",
            "annotations",
        ),
    ),
}

_PANOPTIC_PNG = r"(panoptic_(?:train|val)2017/\d{12}\.png)"


def fetch_part(part: Part, root: Path) -> None:
    """Download an archive and extract what is wanted of it; zips within it (panoptic) as well.

    Raises:
        DataError: when it cannot be had or is not what it should be.
    """
    archive = download(part.resource, root / ".downloads")
    unpack(archive, root / part.folder, functools.partial(_place, part.member))
    if part.resource.name.startswith("panoptic"):
        for inner in sorted((root / part.folder).glob("panoptic_*2017.zip")):
            unpack(inner, root / part.folder, functools.partial(_place, _PANOPTIC_PNG))
            inner.unlink()


def fetch_list(root: Path, subset: str, name: str, sha256: str) -> None:
    """Download a curated list.

    Raises:
        DataError: when it cannot be had or is not the published one.
    """
    url = LIST_URL.format(subset=subset, name=name)
    download(Resource(url, f"{name}.txt", sha256=sha256), root / "curated" / subset)


def _place(pattern: str, member: str) -> str | None:
    found = re.fullmatch(pattern, member)
    return found[1] if found else None
