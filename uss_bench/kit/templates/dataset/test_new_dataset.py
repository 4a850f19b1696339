"""New dataset keeps the contract of a dataset, and its labels are what its files hold."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from uss_bench.kit import check_dataset
from uss_bench.plugins.loading import load_dataset
from uss_bench.plugins.registry import Registry

REGISTRY = Registry([Path(__file__).parent])


def test_every_check_of_a_dataset_holds() -> None:
    findings = check_dataset("new-dataset", REGISTRY)
    assert not [finding for finding in findings if finding.status == "failed"]


def test_a_label_holds_the_values_of_its_file_and_ignores_255() -> None:
    dataset, _ = load_dataset(REGISTRY, "new-dataset", {})
    labels = dataset.labels("test")
    assert labels is not None
    stored = np.asarray(Image.open(Path(__file__).parent / f"sample/labels/test/{labels.ids[0]}.png"))
    np.testing.assert_array_equal(labels.label(0), np.where(stored == 255, -1, stored.astype(np.int16)))
