"""From a setup to what its cost depends on."""

from __future__ import annotations

from pathlib import Path

import torch

from uss_bench.data.geometry import TransformedImages
from uss_bench.estimate.costs import whole_number
from uss_bench.estimate.estimating import CellSize, Extraction
from uss_bench.experiment.setup import Setup
from uss_bench.features.store import FeatureStore

Known = dict[tuple[object, ...], tuple[Extraction, ...]]
"""Extractions by what decides them: images, backbone, protocol, dtype and facets."""


def cell_size(setup: Setup, *, budget: int, root: Path | None = None, known: Known | None = None) -> CellSize:
    """Return the size of every cell of a setup; its seeds do not differ.

    Nothing is extracted, and no image is read.

    Args:
        budget: bytes that one extraction may take on disk.
        root: folder of the feature store; None for the one in the user's cache.
        known: what other setups have shown, to which this one adds.
    """
    known = {} if known is None else known
    protocol = setup.protocol
    facets = tuple(setup.facets)
    # By the objects themselves, which setups that differ in parameters share.
    shared = map(id, (setup.train_images, setup.test_images, setup.backbone))
    key = (*shared, protocol, setup.training, setup.feature_dtype, facets)
    if facets and key not in known:
        store = setup.open_store(torch.device("cpu"), root=root, budget=budget)
        splits = (setup.training_items(), setup.evaluation_items())
        known[key] = tuple(_extraction(store, items, facets) for items in splits if len(items))
    steps, every = (whole_number(setup.params.get(name)) for name in ("steps", "checkpoint_every"))
    offers = None if steps is None or not every else steps // every
    return CellSize(
        method=setup.spec.name,
        dataset=setup.dataset.name,
        backbone=setup.backbone.name,
        train_side=setup.training.side,
        eval_side=protocol.eval_side,
        whole=protocol.extent == "whole",
        refined=protocol.crf is not None,
        clusters=whole_number(setup.params.get("clusters")) or len(setup.dataset.classes),
        steps=steps,
        batch_size=whole_number(setup.params.get("batch_size")),
        candidates=_candidates(offers) if facets and setup.test_labels is not None else 0,
        images=len(setup.test_images),
        extractions=known[key] if facets else (),
    )


def _candidates(offers: int | None) -> int | None:
    """Return how many states are scored: what was offered and the last one, nothing if none was offered."""
    return offers + 1 if offers else offers


def _extraction(store: FeatureStore, items: TransformedImages, facets: tuple[str, ...]) -> Extraction:
    layout = store.layout(items, facets)
    return Extraction(
        key=store.key(items),
        facets=facets,
        side=items.side,
        items=len(items),
        item_bytes=layout.bytes_needed() // len(items),
        present=layout.bytes_present(),
        streamed=store.storable(items, facets)[1],
    )
