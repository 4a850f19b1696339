"""From a setup to what its cost depends on."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import torch

from uss_bench.encoding import to_unit_range
from uss_bench.estimate.costs import whole_number
from uss_bench.estimate.estimating import CellSize, Extraction
from uss_bench.features import FeatureStore
from uss_bench.geometry import Items
from uss_bench.setup import Setup
from uss_bench.shards import Shards


def cell_size(setup: Setup, *, budget: int, root: Path | None = None) -> CellSize:
    """Return the size of every cell of a setup; its seeds do not differ.

    Nothing is extracted: the backbone runs once per split, on a black square, to tell its shapes.

    Args:
        budget: bytes that one extraction may take on disk.
        root: folder of the feature store; None for the one in the user's cache.
    """
    protocol, patch = setup.protocol, setup.backbone.patch
    splits = [
        Items.for_training(
            setup.train_images, protocol, dataset_five_crop=setup.dataset_spec.five_crop, patch=patch
        ),
        Items.for_evaluation(setup.test_images, protocol, patch=patch),
    ]
    facets = tuple(setup.spec.facets)
    store = setup.open_store(torch.device("cpu"), root=root, budget=budget)
    steps, every = (whole_number(setup.params.get(name)) for name in ("steps", "checkpoint_every"))
    offers = None if steps is None or not every else steps // every
    return CellSize(
        method=setup.spec.name,
        dataset=setup.dataset.name,
        backbone=setup.backbone.name,
        train_side=protocol.train_side,
        eval_side=protocol.eval_side,
        whole=protocol.extent == "whole",
        clusters=whole_number(setup.params.get("clusters")) or len(setup.dataset.classes),
        steps=steps,
        batch_size=whole_number(setup.params.get("batch_size")),
        candidates=_candidates(offers) if facets and setup.test_labels is not None else 0,
        images=len(setup.test_images),
        extractions=tuple(_extraction(store, items, facets) for items in splits if facets and len(items)),
    )


def _candidates(offers: int | None) -> int | None:
    """Return how many states are scored: what was offered and the last one, nothing if none was offered."""
    return offers + 1 if offers else offers


def _extraction(store: FeatureStore, items: Items, facets: tuple[str, ...]) -> Extraction:
    key = store.key(items)
    black = np.zeros((1, items.side, items.side, 3), dtype=np.uint8)
    given = store.backbone(to_unit_range(black, store.device), facets)
    shapes = {facet: tuple(given[facet].shape[1:]) for facet in facets}
    layout = Shards(store.root / key, shapes, store.dtype, len(items))
    needed, present = layout.bytes_needed(), layout.bytes_present()
    return Extraction(
        key=key,
        facets=facets,
        side=items.side,
        items=len(items),
        item_bytes=needed // len(items),
        present=present,
        streamed=_why_streamed(store, items, needed, present),
    )


def _why_streamed(store: FeatureStore, items: Items, needed: int, present: int) -> str:
    """Say why features will not be stored, by the rules of the store; empty if they will."""
    if items.whole:
        return "whole images differ in size"
    if needed > store.budget:
        return f"they take {needed / 1e9:.1f} GB and the budget is {store.budget / 1e9:.1f} GB"
    there = next(one for one in (store.root.absolute(), *store.root.absolute().parents) if one.exists())
    free = shutil.disk_usage(there).free
    if needed - present > 0.95 * free:
        return f"they take {needed / 1e9:.1f} GB and the disk has {free / 1e9:.1f} GB left"
    return ""
