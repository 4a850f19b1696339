"""The data that a cell uses: loaded, checked, limited, and named by one digest."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from uss_bench.contracts import Dataset, Images, Labels
from uss_bench.data.images import channel_fingerprint
from uss_bench.data.overlay import AuxFolder, Overlay
from uss_bench.data.subset import digest, limited, limited_labels
from uss_bench.data.validated import validated
from uss_bench.errors import DataError, UsageError, blame
from uss_bench.experiment.cells import CellSpec
from uss_bench.plugins.loading import load_dataset
from uss_bench.plugins.registry import Registry
from uss_bench.plugins.specs import DatasetSpec
from uss_bench.runtime import progress


@dataclass(frozen=True)
class Data:
    """A dataset as a cell sees it: limited, and with the digest of what is used of it."""

    dataset: Dataset
    spec: DatasetSpec
    train_images: Images
    test_images: Images
    test_labels: Labels | None
    fingerprint: str
    maps: dict[str, str]
    """Digests of the maps that were laid over the images, by channel."""


def load_data(asked: CellSpec, registry: Registry) -> Data:
    """Load what a cell uses of its dataset, checked and limited."""
    dataset, spec = load_dataset(registry, asked.dataset, asked.data)
    who = f"Dataset '{asked.dataset}'"
    with blame(who, "opening its splits"):
        train, test = dataset.images(dataset.train_split), dataset.images(dataset.test_split)
        labels = dataset.labels(dataset.test_split)
    classes = len(dataset.classes)
    whole_train, _ = validated(train, None, who, classes)
    whole_test, whole_labels = validated(test, labels, who, classes)
    for remark in dict.fromkeys((*whole_train.remarks, *whole_test.remarks)):
        progress.log(remark)
    train_images = limited(whole_train, asked.limit)
    test_images = limited(whole_test, asked.limit)
    test_labels = limited_labels(whole_labels, asked.limit) if whole_labels is not None else None
    if asked.aux:
        folders = [AuxFolder(name, Path(folder)) for name, folder in asked.aux.items()]
        train_images, test_images = (Overlay(images, folders) for images in (train_images, test_images))
    maps = {
        channel: digest(*(channel_fingerprint(images, channel) for images in (train_images, test_images)))
        for channel in asked.aux
    }
    for split, images in ((dataset.train_split, train_images), (dataset.test_split, test_images)):
        if not len(images):
            raise DataError(f"Dataset '{dataset.name}' has no images in split '{split}'.")
    fingerprint = data_fingerprint(dataset, train_images, test_images, test_labels)
    return Data(dataset, spec, train_images, test_images, test_labels, fingerprint, maps)


def training_labels(dataset: Dataset, test_labels: Labels | None, limit: int | None) -> Labels:
    """Return the labels of the training split, for a run on data whose test split has `test_labels`.

    Raises:
        UsageError: when one of the two splits has none.
    """
    who = f"Dataset '{dataset.name}'"
    with blame(who, "opening its training split"):
        images, labels = dataset.images(dataset.train_split), dataset.labels(dataset.train_split)
    if labels is None or test_labels is None:
        split = dataset.train_split if labels is None else dataset.test_split
        raise UsageError(
            f"Labels of the training split are needed, and split '{split}' of '{dataset.name}' has none.",
            hint="Choose a labeled split (--data train=…), or a dataset with labels.",
        )
    _, whole = validated(images, labels, who, len(dataset.classes))
    assert whole is not None, "there are labels"
    return limited_labels(whole, limit)


def data_fingerprint(dataset: Dataset, train: Images, test: Images, labels: Labels | None) -> str:
    """Return the digest of all data of a run: what results must share to stand in one table.

    Args:
        train, test, labels: what is used of the splits, limited as the run is.
    """
    return digest(
        train.fingerprint(),
        test.fingerprint(),
        labels.fingerprint() if labels is not None else "unlabelled",  # as in every digest so far
        *(row.name for row in dataset.classes),
    )
