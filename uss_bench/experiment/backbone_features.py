"""Measuring the features of several backbones, blocks and seeds: what has a file is read from it."""

from __future__ import annotations

import datetime
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec
import torch

from uss_bench.errors import DataError, UsageError
from uss_bench.experiment.backbone_cost import backbone_cost
from uss_bench.experiment.cells import CellSpec
from uss_bench.experiment.feature_measures import FeatureMeasurement
from uss_bench.experiment.feature_picture import SHOWN, feature_picture
from uss_bench.experiment.resolving import Loaded
from uss_bench.features.store import FeatureStore
from uss_bench.files.atomic import not_written, write_together
from uss_bench.files.json_file import read_json
from uss_bench.plugins.registry import Registry
from uss_bench.results.feature_counts import counts_path, pack_counts
from uss_bench.results.feature_record import (
    LABELED,
    FeatureRecord,
    FeatureSettings,
    feature_path,
    picture_path,
)
from uss_bench.results.provenance import environment
from uss_bench.runtime import progress


def measure_backbones(
    asked: CellSpec,
    backbones: Sequence[str | None],
    settings: FeatureSettings,
    registry: Registry,
    *,
    blocks: Sequence[int] | None = None,
    seeds: Sequence[int] = (0,),
    device: torch.device,
    out: Path,
    command: str = "",
    force: bool = False,
) -> Iterator[tuple[Path, FeatureRecord]]:
    """Yield the record of each backbone, block and seed, and where it lies; measured where there is none.

    Every name is resolved before anything is measured.

    Args:
        blocks: blocks whose tokens are measured, from 1, or from the end with a minus; an empty list is all
            blocks, None the backbone's own ``tokens``.
        force: measure again what has a record.

    Raises:
        UsageError: for a wrong name or setting, or a block that a backbone does not have.
        DataError: when data, weights or a file are missing or wrong, or a file cannot be written.
    """
    loaded = Loaded()
    found: list[FeatureMeasurement] = []
    for backbone in backbones:
        one = msgspec.structs.replace(asked, backbone=backbone)
        first = FeatureMeasurement(one, settings, registry, loaded=loaded)
        found += [first] if blocks is None else _by_block(first, blocks)
    checked = False
    for measurement in found:
        store: FeatureStore | None = None
        for seed in seeds:
            cell = measurement.cell(seed)
            path = feature_path(out, cell)
            if path.exists() and not force:
                progress.log(f"Measured before: {path}")
                yield path, read_json(path, FeatureRecord, "record of features")
                continue
            if not checked:
                measurement.setup.check_scored_splits(training=measurement.labels is not None)
                checked = True
            store = store or _store(measurement, [one.facet for one in found], device)
            record, counts = _measured(measurement, store, seed, command)
            content = msgspec.json.format(msgspec.json.encode(record), indent=1) + b"\n"
            picture = _picture(measurement, store) if seed == seeds[0] else None
            beside = [(counts_path(path), counts), *([(picture_path(path), picture)] if picture else [])]
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                _refuse_foreign(path, cell.id, beside)
                write_together([*reversed(beside), (path, content)])
            except OSError as error:
                raise not_written(path, error) from None
            yield path, record


def _refuse_foreign(record: Path, digest: str, beside: Sequence[tuple[Path, bytes]]) -> None:
    """Raise `DataError` where a record of features would replace a file that uss-bench did not write.

    A record states the digest in its name, and what lies beside it belongs to it. Without a record that is
    what a killed command left, if it is what would be written.
    """
    if record.exists():
        foreign = [record] if digest.encode() not in record.read_bytes() else []
    else:
        foreign = [path for path, content in beside if path.exists() and path.read_bytes() != content]
    if foreign:
        raise DataError(
            f"{foreign[0]} would be replaced, and belongs to no record of uss-bench.",
            hint="Move or delete it, or choose another folder with --out.",
        )


def _by_block(first: FeatureMeasurement, blocks: Sequence[int]) -> list[FeatureMeasurement]:
    info = first.setup.backbone.info
    if not info.blocks or "tokens@i" not in info.facets:
        raise UsageError(
            f"Backbone '{info.name}' has no blocks whose tokens could be measured.",
            hint="Leave --blocks out, or name a ViT.",
        )
    for block in blocks:
        if not 1 <= abs(block) <= info.blocks:
            raise UsageError(
                f"Backbone '{info.name}' has {info.blocks} blocks, and no block {block}.",
                hint=f"Choose from 1 to {info.blocks}, or from the end: -1 to -{info.blocks}.",
            )
    chosen = blocks or range(1, info.blocks + 1)
    places = sorted({block if block > 0 else info.blocks + 1 + block for block in chosen})
    return [first.of_facet(f"tokens@{place}") for place in places]


def _store(measurement: FeatureMeasurement, facets: Sequence[str], device: torch.device) -> FeatureStore:
    """Open the store; all blocks that will be measured are extracted in one pass."""
    setup = measurement.setup
    wanted = list(dict.fromkeys([measurement.facet, *facets]))
    if len(wanted) > 1 and "tokens" not in wanted:
        plain = setup.open_store(device)
        for items in (setup.training_items(), setup.evaluation_items()):
            plain.open(items, wanted)
    return setup.open_store(device, aliases={"tokens": measurement.facet})


def _picture(measurement: FeatureMeasurement, store: FeatureStore) -> bytes | None:
    """Return the picture of the first test images, where it may be shown: of generated ones."""
    setup = measurement.setup
    items = setup.evaluation_items()
    if not setup.dataset_spec.generated or items.whole:
        return None
    features = store.open(items, ["tokens"])
    return feature_picture([features[index]["tokens"] for index in range(min(SHOWN, len(items)))])


def _measured(
    measurement: FeatureMeasurement, store: FeatureStore, seed: int, command: str
) -> tuple[FeatureRecord, bytes]:
    """Return the record of one seed, and its counts as a file."""
    setup, started, before = measurement.setup, time.monotonic(), store.encoded
    found = measurement.measure(store, seed)
    setup.check_unchanged()
    cell = measurement.cell(seed)
    record = FeatureRecord(
        id=cell.id,
        cell=cell,
        labels_used=[name for name in measurement.settings.measures if name in LABELED],
        classes=[one.name for one in setup.dataset.classes],
        channels=setup.backbone.info.dim,
        patch=setup.backbone.patch,
        images=len(setup.test_images),
        rows=[row for row, _ in found],
        cost=backbone_cost(store, setup.evaluation_items()[0], measurement.facet),
        notes=list(setup.asked.notes),
        left_out=measurement.left_out,
        encoded_items=store.encoded - before,
        seconds=round(time.monotonic() - started, 3),
        environment=environment(str(store.device)),
        command=command,
        created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    )
    return record, pack_counts([counts for _, counts in found])
