"""From names to things: what a run needs, resolved and checked before any work is done."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import torch

from uss_bench.backbones.facets import parse_facet
from uss_bench.contracts import Backbone, Dataset, Images, Labels, Method, TrainedRun
from uss_bench.crf import CrfPool, Engine
from uss_bench.data.geometry import TransformedImages
from uss_bench.data.images import channel_fingerprint
from uss_bench.data.overlay import AuxFolder, Overlay, check_channel
from uss_bench.data.split_process import check_split_apart
from uss_bench.data.subset import digest, limited, limited_labels
from uss_bench.data.validated import validated
from uss_bench.errors import DataError, UsageError, blame
from uss_bench.experiment.assets import Places, arguments, named_record, names_a_file, state_files, stated_run
from uss_bench.experiment.cells import CellSpec
from uss_bench.features.planes import aux_channel
from uss_bench.features.store import FeatureStore, positions_of
from uss_bench.files.atomic import cache_root
from uss_bench.plugins.lazy_backbone import lazy_backbone
from uss_bench.plugins.loading import inputs_of, load_dataset, load_method
from uss_bench.plugins.params import (
    choose_preset,
    method_params,
    parameters_of_type,
    spec_defaults,
    training_geometry,
)
from uss_bench.plugins.registry import Plugin, Registry
from uss_bench.plugins.specs import NO_BACKBONE, DatasetSpec, MethodSpec, facets_of
from uss_bench.protocol import Protocol, TrainingGeometry, default_protocol, get_protocol, read_protocol
from uss_bench.results.code import code_hash
from uss_bench.results.files import record_path
from uss_bench.results.record import (
    RELEASED,
    BackboneId,
    Cell,
    DatasetId,
    FeatureDtype,
    MethodId,
    base_cells,
    states_a_run,
)
from uss_bench.runtime import progress

T = TypeVar("T")


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


class Loaded:
    """Datasets and backbones that several cells name, each loaded once."""

    def __init__(self) -> None:
        self._kept: dict[tuple[str, ...], Any] = {}

    def once(self, make: Callable[[], T], *key: object) -> T:
        """Return what `make` gave when it was first called under this key."""
        name = tuple(map(repr, key))
        if name not in self._kept:
            self._kept[name] = make()
        kept: T = self._kept[name]
        return kept


def resolve(asked: CellSpec, registry: Registry, loaded: Loaded | None = None) -> Setup:
    """Resolve what was asked for; its seed and remarks do not matter here.

    Args:
        loaded: what earlier calls have loaded, and what later ones may use; none of it changes.

    Raises:
        UsageError: for a wrong name, option or parameter.
        DataError: when data or weights are missing or wrong.
    """
    loaded = loaded or Loaded()
    spec, plugin = registry.method(asked.method)
    data = loaded.once(
        lambda: load_data(asked, registry),
        *("data", asked.dataset, sorted(asked.data.items()), sorted(asked.aux.items()), asked.limit),
    )
    dataset = data.dataset
    backbone_name = asked.backbone or (data.spec.default_backbone if spec.facets else NO_BACKBONE)
    if not backbone_name:
        raise UsageError(
            f"Method '{spec.name}' reads frozen features, and '{dataset.name}' has no default backbone.",
            hint="Choose one: --backbone NAME (any timm ViT, or one that 'uss-bench ls backbones' shows).",
        )
    given = read_protocol(asked.protocol) if asked.protocol else None
    positions = asked.positions or (given.positions if given else None)
    backbone = loaded.once(
        lambda: lazy_backbone(
            registry,
            backbone_name,
            weights=None if asked.weights is None else Path(asked.weights),
            alias=asked.backbone_name,
            positions=positions,
        ),
        *("backbone", backbone_name, asked.weights, asked.backbone_name, positions),
    )
    protocol = given.protocol if given else get_protocol(default_protocol(backbone.patch))
    where = {"dataset": dataset.name, "backbone": backbone.name}
    released = training_geometry(spec, {}, **where)
    stated = dict(given.training) if given else {}
    if stated.get("crops", released.crops) == "none":
        stated.pop("crop_jpeg", None)  # in schema 1 it could be said of no crops
    training = training_geometry(spec, {**stated, **asked.training}, **where)
    _check_sides(protocol, training, backbone)
    preset = choose_preset(spec, asked.preset, **where)
    params = method_params(
        plugin,
        preset,
        asked.params,
        n_classes=len(dataset.classes),
        defaults=spec_defaults(spec, **where),
    )
    needed = int(spec.minimum.get("batch_size", 1))
    items = len(TransformedImages.for_training(data.train_images, training, patch=backbone.patch))
    if items < needed:
        raise UsageError(
            f"Method '{spec.name}' trains on batches of at least {needed} images, and split "
            f"'{dataset.train_split}' of '{dataset.name}' has {items}.",
            hint="Add images, or train on five crops of each: --training crops=five.",
        )
    files = state_files(plugin, params)
    folders, states = _state_runs(
        plugin, params, asked, (data.fingerprint, backbone.sha256), registry, loaded
    )
    return Setup(
        asked=asked,
        spec=spec,
        plugin=plugin,
        params=params,
        preset=preset.name if preset else None,
        dataset=dataset,
        dataset_spec=data.spec,
        train_images=data.train_images,
        test_images=data.test_images,
        test_labels=data.test_labels,
        backbone=backbone,
        training=training,
        protocol=protocol,
        alpha=protocol.alpha if spec.alpha is None else spec.alpha,
        limit=asked.limit,
        feature_dtype=asked.feature_dtype,
        code=loaded.once(lambda: code_hash(plugin, released), "code", plugin.folder, released),
        fingerprint=data.fingerprint,
        notes=_notes(asked, protocol),
        options=asked.data,
        maps=data.maps,
        files=files,
        folders=folders,
        states=states,
        registry=registry,
    ).checked()


def _state_runs(
    plugin: Plugin,
    params: dict[str, Any],
    asked: CellSpec,
    inputs: tuple[str, str],
    registry: Registry,
    loaded: Loaded,
) -> tuple[dict[str, Path], dict[str, tuple[Path, Cell]]]:
    """State the runs among the parameters as a cell does; return where those lie that were named by a file.

    Args:
        inputs: fingerprint of the data and digest of the backbone, which the runs must share.

    Raises:
        UsageError: when a name is neither a method's nor a record's, or a record is of other data.
    """
    folders, states = {}, {}
    for name in parameters_of_type(plugin.load(), TrainedRun):
        value = params[name]
        if value is None:
            continue
        if states_a_run(value):
            if value.get("state"):
                raise UsageError(
                    f"Method '{plugin.name}': {name} is a trained state, of which a record knows the digest "
                    f"alone ({value['state'][:12]}…).",
                    hint=f"Say where it lies: --set {name}=FILE.safetensors.",
                )
            continue
        if names_a_file(value):
            path, record = named_record(value)
            cell = record.cell
            if (cell.dataset.fingerprint, cell.backbone.sha256) != inputs:
                raise UsageError(
                    f"Method '{plugin.name}': {name} is {path}, which was made on other data or with another "
                    "backbone.",
                    hint="Name a record of the same dataset, limit and backbone, or a method.",
                )
            params[name] = stated_run(cell)
            if value.endswith(".json") and not cell.is_released:  # which is no run of any seed
                folders[name] = path.parents[1]
            else:
                params[name]["state"] = record.state_sha256
                states[name] = (path, cell)
        else:
            given = {"method": value} if isinstance(value, str) else dict(value)
            if unknown := given.keys() - {"method", "params", "training"} or {"method"} - given.keys():
                raise UsageError(
                    f"Method '{plugin.name}': {name} states {', '.join(sorted(unknown))} wrongly.",
                    hint='Give a method, a record\'s .json, or {"method": NAME, "params": {...}}.',
                )
            own = {"method": given["method"], "params": given.get("params", {})}
            own["training"] = given.get("training", asked.training)
            other = msgspec.structs.replace(asked, preset=None, **own)
            params[name] = stated_run(resolve(other, registry, loaded).cell(0))
    return folders, states


def _check_sides(protocol: Protocol, training: TrainingGeometry, backbone: Backbone) -> None:
    """Refuse items whose sides the backbone's patch does not divide; nothing is trimmed silently."""
    patch = backbone.patch
    evaluated = () if protocol.extent == "whole" else protocol.input_size
    for side in evaluated:
        if side % patch:
            raise UsageError(
                f"Protocol {protocol.id} works at {side} pixels, which is not a multiple of the patch of "
                f"{patch} of backbone '{backbone.name}'.",
                hint=f"Use --protocol {default_protocol(patch)}.",
            )
    for name, side in zip(("side", "width"), training.height_width, strict=True):
        if side % patch:
            raise UsageError(
                f"Training items of {side} pixels are not a multiple of the patch of {patch} of backbone "
                f"'{backbone.name}'.",
                hint=f"Choose another size: --training {name}={patch * max(1, round(side / patch))}",
            )


def _notes(asked: CellSpec, protocol: Protocol) -> tuple[str, ...]:
    name = (asked.protocol or "").partition("[")[0]
    if name in ("", f"{protocol.name}@{protocol.version}"):
        return ()
    return (f"asked for as protocol {asked.protocol} of schema 1",)


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
