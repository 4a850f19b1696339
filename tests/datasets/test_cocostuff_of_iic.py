"""COCO-Stuff-15 and -3: the files of 27 classes by fewer classes, in the genuine layout."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from coco_files import IDS, MAPS, put_images, put_maps, put_panoptic

from uss_bench.contracts import IGNORE
from uss_bench.errors import UsageError
from uss_bench.plugins.registry import Registry

LISTS = {
    "cocostuff15": ("val", "Coco164kFull_Stuff_Coarse_7"),
    "cocostuff3": ("val-few6", "Coco164kFew_Stuff_6"),
}
FULL = Registry().dataset("cocostuff27")[0]


def load(name: str, root: Path, **options: object):
    spec, plugin = Registry().dataset(name)
    return plugin.load()(spec, root=root, **options)


def tree(root: Path, name: str) -> Path:
    put_maps(put_images(root))
    path = root / "curated" / "val2017" / f"{LISTS[name][1]}.txt"
    path.parent.mkdir(parents=True)
    path.write_text("".join(f"{number}\n" for number in IDS))
    return root


@pytest.mark.parametrize("name", LISTS)
def test_labels_are_those_of_27_classes_without_the_others(tmp_path, name):
    data = load(name, tree(tmp_path, name), partial=True)
    assert data.name == name
    assert data.test_split == f"{LISTS[name][0]}-partial"
    names = [row.name for row in data.classes]
    fine_to_class = {value: row.name for row in FULL.classes for value in row.values}
    labels = data.labels(data.test_split)
    assert tuple(labels.ids) == IDS
    seen = set()
    for index, number in enumerate(IDS):
        found = labels.label(index)
        for value in np.unique(MAPS[number]):
            own = fine_to_class.get(int(value))
            expected = names.index(own) if own in names else IGNORE
            assert (found[MAPS[number] == value] == expected).all()
            seen.add(expected)
    assert IGNORE in seen
    assert len(seen) > min(len(names), 3)


def test_classes_are_the_15_of_stuff_and_the_3_of_few():
    stuff = [row for row in FULL.classes if row.kind == "stuff"]
    assert Registry().dataset("cocostuff15")[0].classes == stuff
    few = Registry().dataset("cocostuff3")[0].classes
    assert [row.name for row in few] == ["sky", "ground", "plant"]
    assert all(row in stuff for row in few)


def test_panoptic_labels_are_refused(tmp_path):
    put_panoptic(put_images(tmp_path))
    with pytest.raises(UsageError, match="cannot be read from panoptic"):
        load("cocostuff15", tmp_path, labels="panoptic")
