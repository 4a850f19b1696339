"""From names to things: what a run needs, resolved and checked before any work is done."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

import torch

from uss_bench.contracts import Backbone, Dataset, Images, Labels, Method
from uss_bench.errors import DataError, UsageError, blame
from uss_bench.features import FeatureStore
from uss_bench.guarding import GuardedImages, GuardedLabels, Sizes
from uss_bench.params import check_options, choose_preset, method_params, required_options, spec_defaults
from uss_bench.paths import cache_root
from uss_bench.protocol import Protocol, default_protocol, get_protocol
from uss_bench.provenance import code_hash
from uss_bench.records import BackboneId, Cell, DatasetId, FeatureDtype, MethodId
from uss_bench.registry import Plugin, Registry
from uss_bench.specs import DatasetSpec, MethodSpec, is_name
from uss_bench.subset import digest, limited, limited_labels

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Request:
    """What a user asks for, in names and strings."""

    method: str
    dataset: str
    dataset_options: Mapping[str, Any] = field(default_factory=dict)
    backbone: str | None = None
    weights: Path | None = None
    backbone_name: str | None = None
    protocol: str | None = None
    preset: str | None = None
    params: Mapping[str, Any] = field(default_factory=dict)
    limit: int | None = None
    feature_dtype: FeatureDtype = "float16"


@dataclass(frozen=True, kw_only=True)
class Setup:
    """A request with every name resolved: all that the cells of several seeds share."""

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
    protocol: Protocol
    alpha: float
    limit: int | None
    feature_dtype: FeatureDtype
    code: str
    fingerprint: str

    def make_method(self) -> Method:
        """Return a fresh, untrained instance of the method."""
        with blame(f"Method '{self.spec.name}'", "its constructor"):
            method: Method = self.plugin.load()(**self.params)
        return method

    def with_params(self, chosen: Mapping[str, Any]) -> Setup:
        """Return the same setup with other parameters chosen, for which nothing is loaded again.

        Raises:
            UsageError: for a wrong parameter.
        """
        where = {"dataset": self.dataset.name, "backbone": self.backbone.name}
        params = method_params(
            self.plugin,
            choose_preset(self.spec, self.preset, **where),
            chosen,
            n_classes=len(self.dataset.classes),
            defaults=spec_defaults(self.spec, **where),
        )
        return replace(self, params=params)

    def open_store(self, device: torch.device, *, root: Path | None = None, **options: Any) -> FeatureStore:
        """Return the feature store of this backbone, which moves to `device`.

        Args:
            root: folder of the store; None for the one in the user's cache.
            options: `budget` and `log`, see `FeatureStore`.
        """
        return FeatureStore(
            root or cache_root() / "features",
            self.backbone.to(device),
            positions=self.protocol.positions,
            device=device,
            dtype=self.feature_dtype,
            **options,
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
            backbone=BackboneId(
                name=self.backbone.name, sha256=self.backbone.sha256, feature_dtype=self.feature_dtype
            ),
            protocol=self.protocol.id,
            protocol_hash=self.protocol.hash,
            alpha=self.alpha,
            seed=seed,
        )


class Loaded:
    """Datasets and backbones that several requests name, each loaded once."""

    def __init__(self) -> None:
        self._kept: dict[tuple[str, ...], Any] = {}

    def once(self, make: Callable[[], T], *key: object) -> T:
        """Return what `make` gave when it was first called under this key."""
        name = tuple(map(repr, key))
        if name not in self._kept:
            self._kept[name] = make()
        kept: T = self._kept[name]
        return kept


def resolve(request: Request, registry: Registry, loaded: Loaded | None = None) -> Setup:
    """Resolve a request.

    Args:
        loaded: what earlier requests have loaded, and what later ones may use; none of it changes.

    Raises:
        UsageError: for a wrong name, option or parameter.
        DataError: when data or weights are missing or wrong.
    """
    loaded = loaded or Loaded()
    spec, plugin = registry.method(request.method)
    data = loaded.once(
        lambda: _load_data(request, registry),
        *("data", request.dataset, sorted(request.dataset_options.items()), request.limit),
    )
    dataset = data.dataset
    backbone_name = request.backbone or (data.spec.default_backbone if spec.facets else "none")
    if not backbone_name:
        raise UsageError(
            f"Method '{spec.name}' reads frozen features, and '{dataset.name}' has no default backbone.",
            hint="Choose one: --backbone NAME (any timm ViT, or one that 'uss-bench ls backbones' shows).",
        )
    protocol = get_protocol(request.protocol) if request.protocol else None
    positions = protocol.positions if protocol else "dino"
    backbone = loaded.once(
        lambda: load_backbone(
            registry,
            backbone_name,
            weights=request.weights,
            alias=request.backbone_name,
            positions=positions,
        ),
        *("backbone", backbone_name, request.weights, request.backbone_name, positions),
    )
    protocol = protocol or get_protocol(default_protocol(backbone.patch))
    sides = [protocol.train_side] + ([protocol.eval_side] if protocol.extent == "square" else [])
    for side in sides:
        if side % backbone.patch:
            raise UsageError(
                f"Protocol {protocol.id} works at {side} pixels, which is no multiple of the patch of "
                f"{backbone.patch} of backbone '{backbone.name}'.",
                hint=f"Use --protocol {default_protocol(backbone.patch)}; nothing is trimmed silently.",
            )
    preset = choose_preset(spec, request.preset, dataset=dataset.name, backbone=backbone.name)
    defaults = spec_defaults(spec, dataset=dataset.name, backbone=backbone.name)
    return Setup(
        spec=spec,
        plugin=plugin,
        params=method_params(
            plugin, preset, request.params, n_classes=len(dataset.classes), defaults=defaults
        ),
        preset=preset.name if preset else None,
        dataset=dataset,
        dataset_spec=data.spec,
        train_images=data.train_images,
        test_images=data.test_images,
        test_labels=data.test_labels,
        backbone=backbone,
        protocol=protocol,
        alpha=protocol.alpha if spec.alpha is None else spec.alpha,
        limit=request.limit,
        feature_dtype=request.feature_dtype,
        code=loaded.once(lambda: code_hash(plugin.folder), "code", plugin.folder),
        fingerprint=data.fingerprint,
    )


@dataclass(frozen=True)
class _Data:
    """A dataset as a request sees it: limited, and with the digest of what is used of it."""

    dataset: Dataset
    spec: DatasetSpec
    train_images: Images
    test_images: Images
    test_labels: Labels | None
    fingerprint: str


def _load_data(request: Request, registry: Registry) -> _Data:
    dataset, spec = load_dataset(registry, request.dataset, request.dataset_options)
    who = f"Dataset '{request.dataset}'"
    with blame(who, "opening its splits"):
        train, test = dataset.images(dataset.train_split), dataset.images(dataset.test_split)
        labels = dataset.labels(dataset.test_split)
    sizes = Sizes()
    train_images = limited(GuardedImages(train, who), request.limit)
    test_images = limited(GuardedImages(test, who, sizes), request.limit)
    guarded = GuardedLabels(labels, who, sizes) if labels is not None else None
    test_labels = limited_labels(guarded, request.limit) if guarded is not None else None
    for split, images in ((dataset.train_split, train_images), (dataset.test_split, test_images)):
        if not len(images):
            raise DataError(f"Dataset '{dataset.name}' has no images in split '{split}'.")
    fingerprint = data_fingerprint(dataset, train_images, test_images, test_labels)
    return _Data(dataset, spec, train_images, test_images, test_labels, fingerprint)


def data_fingerprint(dataset: Dataset, train: Images, test: Images, labels: Labels | None) -> str:
    """Return the digest of all data of a run: what results must share to stand in one table.

    Args:
        train, test, labels: what is used of the splits, limited as the run is.
    """
    return digest(
        train.fingerprint(),
        test.fingerprint(),
        labels.fingerprint() if labels is not None else "unlabelled",
        *(row.name for row in dataset.classes),
    )


def load_dataset(registry: Registry, name: str, options: Mapping[str, Any]) -> tuple[Dataset, DatasetSpec]:
    """Construct a dataset from its name and the user's options."""
    spec, plugin = registry.dataset(name)
    entry = plugin.load()
    check_options(entry, options, f"Dataset '{name}'", "--data", skip=1)
    missing = required_options(entry, skip=1) - set(options)
    if missing:
        flags = " ".join(f"--{one} …" if one == "root" else f"--data {one}=…" for one in sorted(missing))
        raise UsageError(f"Dataset '{name}' needs to know more.", hint=f"Add {flags}")
    with blame(f"Dataset '{name}'", "its constructor"):
        dataset: Dataset = entry(spec, **options)
    _check_name(dataset.name, f"Dataset '{name}' calls itself", "Records lie in a folder of that name.")
    return dataset, spec


def load_backbone(
    registry: Registry,
    name: str,
    *,
    weights: Path | None = None,
    alias: str | None = None,
    positions: str = "dino",
) -> Backbone:
    """Construct a backbone: a plugin of that name, or else the timm model of that name."""
    options: dict[str, Any] = {"positions": positions}
    if weights is not None:
        options["weights"] = weights
    if alias is not None:
        options["name"] = alias
    if name in registry.names("backbones") and name != "timm":
        spec, plugin = registry.backbone(name)
    else:
        if name == "timm":
            raise UsageError(
                "'timm' stands for all its models.", hint="Name one: --backbone vit_small_patch14_dinov2."
            )
        spec, plugin = registry.backbone("timm")
        options["model"] = name
    entry = plugin.load()
    check_options(entry, options, f"Backbone '{name}'", "--backbone-name or --weights:", skip=1)
    params = check_options(entry, spec.params, f"The spec.toml of backbone '{name}'", "params:", skip=1)
    if alias is not None:
        _check_name(alias, "--backbone-name is", "Figures and probes are named by it.")
    with blame(f"Backbone '{name}'", "its constructor"):
        backbone: Backbone = entry(spec, **{**params, **options})
    return backbone


def _check_name(name: str, who: str, why: str) -> None:
    """Refuse what is no name: it becomes part of paths."""
    if not is_name(name):
        raise UsageError(
            f"{who} '{name}', which will not do. {why}",
            hint="Use small letters, digits, '-', '_' and '.', and begin with a letter or a digit.",
        )
