"""What the cells of several seeds share: every name of a `CellSpec` resolved to a thing."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import msgspec
import torch

from uss_bench.backbones.facets import parse_facet
from uss_bench.contracts import Backbone, Dataset, Images, Labels, Method
from uss_bench.crf import CrfPool, Engine
from uss_bench.data.geometry import TransformedImages
from uss_bench.data.overlay import check_channel
from uss_bench.data.split_process import check_split_apart
from uss_bench.errors import ContractError, DataError, blame
from uss_bench.experiment.assets import Places, arguments
from uss_bench.experiment.cells import CellSpec
from uss_bench.experiment.data_in_use import data_fingerprint, training_labels
from uss_bench.features.planes import aux_channel
from uss_bench.features.store import FeatureStore, positions_of
from uss_bench.files.atomic import cache_root
from uss_bench.plugins.inputs import facets_of
from uss_bench.plugins.loading import inputs_of, load_method
from uss_bench.plugins.registry import Plugin, Registry
from uss_bench.plugins.specs import DatasetSpec, MethodSpec
from uss_bench.protocol import Protocol, TrainingGeometry
from uss_bench.results.files import record_path
from uss_bench.results.record import (
    RELEASED,
    BackboneId,
    Cell,
    DatasetId,
    FeatureDtype,
    MethodId,
    base_cells,
)
from uss_bench.runtime import progress


@dataclass(frozen=True, kw_only=True)
class Setup:
    """A `CellSpec` with every name resolved: all that the cells of several seeds share."""

    asked: CellSpec
    """What all of it follows from."""
    spec: MethodSpec
    plugin: Plugin
    params: dict[str, Any]
    preset: str | None
    dataset: Dataset
    dataset_spec: DatasetSpec
    train_images: Images
    test_images: Images
    test_labels: Labels | None
    backbone: Backbone
    training: TrainingGeometry
    protocol: Protocol
    alpha: float
    limit: int | None
    feature_dtype: FeatureDtype
    code: str
    fingerprint: str
    notes: tuple[str, ...] = ()
    """What a record should say of how it was asked for."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """What the dataset was constructed with."""
    maps: Mapping[str, str] = field(default_factory=dict)
    """Digests of the maps that were laid over the images, by channel."""
    files: Mapping[str, Path] = field(default_factory=dict)
    """Where parameters lie that are files; `params` states their digests."""
    folders: Mapping[str, Path] = field(default_factory=dict)
    """Results folders of runs that are built upon, where they were named by a record."""
    states: Places = field(default_factory=dict)
    """Runs that are built upon, where they were named by a trained state."""
    places: Places = field(default_factory=dict)
    """Where the runs are that this one builds upon; known when it begins."""
    registry: Registry = field(default_factory=Registry)
    released: bytes | None = None
    """The state of an official checkpoint, as safetensors, which takes the place of training."""

    def check_maps(self) -> None:
        """Hold the extra channels that the method reads, and those that were laid over, against the images.

        Raises:
            DataError: naming the first image whose map is missing, of another size or not finite.
        """
        for channel in self.channels:
            for images in (self.train_images, self.test_images):
                check_channel(images, channel)

    @property
    def channels(self) -> list[str]:
        """The extra channels that the method reads, and those that were laid over."""
        named = self.inputs if self.released is not None else [*self.inputs, *self.spec.reads]
        read = [aux_channel(name)[0] for name in named if name.startswith("aux:")]
        return sorted({*read, *self.maps})

    def check_scored_splits(self, *, training: bool = False) -> None:
        """Read the images and labels that the run is scored on, in a process of its own, and tell of them.

        Args:
            training: read those of the training split too, whatever the protocol.

        Raises:
            DataError: for the first file that is damaged or does not fit, before any work is done.
        """
        splits = [self.dataset.test_split]
        splits += [self.dataset.train_split] * (training or self.protocol.match_on == "train")
        for split in splits:
            report = check_split_apart(
                self.dataset,
                split,
                registry=self.registry,
                name=self.dataset_spec.name,
                options=self.options,
                limit=self.limit,
            )
            names = [row.name for row in self.dataset.classes]
            for notice in msgspec.structs.replace(report, remarks=[]).notices(names):
                _log_once(notice)

    @property
    def labels_used(self) -> list[str]:
        """What labels are used for under the switches that are on.

        Raises:
            ContractError: when the spec names a switch that the method does not have.
        """
        if unknown := set(self.spec.labels_used) - set(self.params):
            raise ContractError(
                f"Method '{self.spec.name}' states labels_used of '{min(unknown)}', which it does not have."
            )
        return [use for name, use in self.spec.labels_used.items() if self.params[name]]

    def training_items(self) -> TransformedImages:
        """Return what the method trains on."""
        return TransformedImages.for_training(self.train_images, self.training, patch=self.backbone.patch)

    @functools.cached_property
    def reads_test_images(self) -> bool:
        """Whether the method reads the evaluated images while it trains, with these parameters."""
        return bool(getattr(self.make_method(), "reads_test_images", False))

    def test_items(self) -> TransformedImages | None:
        """Return the evaluated images as a method reads them that trains on them too; None for all others."""
        if not self.reads_test_images:
            return None
        whole = msgspec.structs.replace(self.training, crops="none")
        return TransformedImages.for_training(self.test_images, whole, patch=self.backbone.patch)

    def evaluation_items(self, images: Images | None = None) -> TransformedImages:
        """Return what the method is evaluated on: the test images, or others under the same protocol."""
        images = self.test_images if images is None else images
        return TransformedImages.for_evaluation(images, self.protocol, patch=self.backbone.patch)

    def train_labels(self) -> Labels:
        """Return the labels of the training split, which no method sees; see `training_labels`."""
        return training_labels(self.dataset, self.test_labels, self.limit)

    @functools.cached_property
    def inputs(self) -> list[str]:
        """What the method's `embed` reads, with these parameters.

        Raises:
            UsageError: for a facet that the backbone does not have.
        """
        names = inputs_of(self.spec, self.make_method())
        for name in facets_of([*names, *self.spec.reads]):
            parse_facet(name, self.backbone.info)
        return names

    @property
    def facets(self) -> list[str]:
        """The inputs that come from the backbone."""
        return facets_of(self.inputs)

    def make_method(self, state: bytes | None = None, device: torch.device | None = None) -> Method:
        """Return a fresh instance of the method, untrained or with a trained state; see `load_method`."""
        with blame(f"Method '{self.spec.name}'", "stating its parameters"):
            given = arguments(
                self.plugin,
                self.params,
                self.backbone,
                self.registry,
                files=self.files,
                places=self.places,
            )
        return load_method(self.plugin, given, self.backbone, state, device)

    def upon(self, results: Path) -> Setup:
        """Return the setup that finds runs which it builds upon in a folder, unless a file named them."""
        return replace(self, folders={**dict.fromkeys(base_cells(self.cell(0)), results), **self.folders})

    def beginning(self, seed: int, out: Path) -> Setup:
        """Return the setup of a run that begins, which knows where the runs are that it builds upon.

        Args:
            out: the results folder.
        """
        bases = base_cells(self.cell(seed))
        same_seed = {
            name: (record_path(self.folders.get(name, out), cell), cell) for name, cell in bases.items()
        }
        return replace(self, places={**same_seed, **self.states})

    def checked(self) -> Setup:
        """Return the setup itself, whose method reads what the backbone has.

        Raises:
            UsageError: when it does not.
        """
        _ = self.inputs
        return self

    def check_unchanged(self) -> None:
        """Raise `DataError` if images or labels are no longer those that the record will name."""
        found = data_fingerprint(self.dataset, self.train_images, self.test_images, self.test_labels)
        if found != self.fingerprint:
            raise DataError(
                f"Images or labels of '{self.dataset.name}' changed while the run read them.",
                hint="Leave the data alone while a command reads it, and give the command again.",
            )

    def open_store(self, device: torch.device, *, root: Path | None = None, **options: Any) -> FeatureStore:
        """Return the feature store of this backbone, which moves to `device`.

        Args:
            root: folder of the store; None for the one in the user's cache.
            options: `budget` and `log`, see `FeatureStore`.
        """
        return FeatureStore(
            root or cache_root() / "features",
            self.backbone.to(device),
            device=device,
            dtype=self.feature_dtype,
            **options,
        )

    def open_crf(
        self, *, engine: Engine = "lattice", workers: int | None = None
    ) -> AbstractContextManager[CrfPool | None]:
        """Return the protocol's CRF, or None where it has none, as a context manager; see `CrfPool`."""
        crf = self.protocol.crf
        return nullcontext() if crf is None else CrfPool(crf, engine=engine, workers=workers)

    @property
    def backbone_id(self) -> BackboneId:
        return BackboneId(
            name=self.backbone.name,
            sha256=self.backbone.sha256,
            feature_dtype=self.feature_dtype,
            positions=positions_of(self.backbone),
        )

    def cell(self, seed: int) -> Cell:
        return Cell(
            method=MethodId(name=self.spec.name, params=self.params, code=self.code),
            dataset=DatasetId(
                name=self.dataset.name,
                fingerprint=self.fingerprint,
                train_split=self.dataset.train_split,
                test_split=self.dataset.test_split,
                limit=self.limit,
            ),
            backbone=self.backbone_id,
            training=self.training,
            protocol=self.protocol.id,
            protocol_hash=self.protocol.hash,
            alpha=self.alpha,
            seed=seed,
            assets={
                **{f"aux:{channel}": digest for channel, digest in self.maps.items()},
                **(
                    {"training labels": self.train_labels().fingerprint()}
                    if self.protocol.match_on == "train"
                    else {}
                ),
                **({} if self.released is None else {RELEASED: hashlib.sha256(self.released).hexdigest()}),
            },
        )


@functools.cache
def _log_once(notice: str) -> None:
    progress.log(notice)
