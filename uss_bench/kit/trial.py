"""A method on trial: trained on the tiny problem in every way that the ladder asks for."""

from __future__ import annotations

import functools
import inspect
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import timm
import torch
from safetensors.torch import load, save, save_file
from torch import Tensor

from uss_bench.context import Clock, RunContext, portable_state
from uss_bench.contracts import Backbone, Batch, Method
from uss_bench.crf import CrfPool
from uss_bench.encoding import Encoder
from uss_bench.errors import blame
from uss_bench.features import FeatureStore
from uss_bench.geometry import Items
from uss_bench.inputs import assemble
from uss_bench.kit.scenes import SPEC, TRAIN, Scenes
from uss_bench.params import method_params
from uss_bench.prediction import Predictor
from uss_bench.protocol import get_protocol
from uss_bench.provenance import code_hash
from uss_bench.registry import Plugin, Registry
from uss_bench.runner import Outcome, run_cell, seed_everything
from uss_bench.setup import Setup, load_backbone
from uss_bench.specs import MethodSpec

CPU = torch.device("cpu")
FEW = {"steps": 6, "checkpoint_every": 3}
"""What a trial gives to parameters of these names unless it is told otherwise."""

_VIT = "vit_tiny_patch16_224"
_SIDE = 96


@dataclass(frozen=True, slots=True)
class Trained:
    """What one training left."""

    method: Method
    state: bytes
    """The state as safetensors."""
    curves: dict[str, list[tuple[int, float]]]
    offers: int
    """Checkpoints that were offered."""
    label_reads: int
    """Labels that were read while it trained."""

    def tensors(self, device: torch.device = CPU) -> dict[str, Tensor]:
        return {name: value.to(device) for name, value in load(self.state).items()}


class Trial:
    """Trains one method on the tiny problem; a context manager, because features lie on disk.

    Args:
        params: parameters of the method, beside those of `FEW`.
        backbone: where facets come from; default a small ViT with random weights, which knows them all.
        weights: the backbone's weights file.
        accelerator: the device to compare with the CPU; None if there is none.
    """

    def __init__(
        self,
        plugin: Plugin,
        registry: Registry,
        *,
        params: Mapping[str, Any] | None = None,
        backbone: str | None = None,
        weights: Path | None = None,
        accelerator: torch.device | None = None,
    ) -> None:
        assert isinstance(plugin.spec, MethodSpec)
        self.plugin = plugin
        self.spec = plugin.spec
        self.accelerator = accelerator
        self._registry = registry
        self._given = dict(params or {})
        self._asked = backbone, weights
        self._folder = tempfile.TemporaryDirectory(prefix="uss-bench-check-")
        self._stores: dict[torch.device, FeatureStore] = {}

    def __enter__(self) -> Trial:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._folder.cleanup()

    @functools.cached_property
    def known(self) -> Mapping[str, inspect.Parameter]:
        """The parameters of the method's signature."""
        return inspect.signature(self.plugin.load()).parameters

    @functools.cached_property
    def chosen(self) -> dict[str, Any]:
        """The parameters that the trial does not leave at their defaults."""
        return {name: value for name, value in FEW.items() if name in self.known} | self._given

    @functools.cached_property
    def backbone(self) -> Backbone:
        name, weights = self._asked
        if name is None and not self.spec.facets:
            name = "none"
        if name is not None:
            return load_backbone(self._registry, name, weights=weights)
        weights = Path(self._folder.name) / "random.safetensors"
        save_file(_random_vit(), weights)
        return load_backbone(self._registry, _VIT, weights=weights, alias="random-vit")

    @functools.cached_property
    def _code(self) -> str:
        return code_hash(self.plugin.folder)

    @functools.cached_property
    def trained(self) -> Trained:
        """The method trained with seed 0, as it would be by a run."""
        return self.train()

    def setup(self, *, clusters: int | None = None, images: int = TRAIN, labelled: bool = True) -> Setup:
        """Return the tiny problem's setup, with another K, fewer training images or no labels at all."""
        channels = [name.removeprefix("aux:") for name in self.spec.inputs if name.startswith("aux:")]
        dataset = Scenes(labelled=labelled, train=images, channels=channels)
        n_classes = len(SPEC.classes)
        params = self.chosen if clusters is None else {**self.chosen, "clusters": clusters}
        side = self.backbone.patch * round(_SIDE / self.backbone.patch)
        protocol = get_protocol(f"stego320@1[train_side={side},eval_side={side}]")
        return Setup(
            spec=self.spec,
            plugin=self.plugin,
            params=method_params(self.plugin, None, params, n_classes=n_classes),
            preset=None,
            dataset=dataset,
            dataset_spec=SPEC,
            train_images=dataset.images("train"),
            test_images=dataset.images("test"),
            test_labels=dataset.labels("test"),
            backbone=self.backbone,
            protocol=protocol,
            alpha=protocol.alpha if self.spec.alpha is None else self.spec.alpha,
            limit=None,
            feature_dtype="float32",
            code=self._code,
            fingerprint="",
        )

    def train(self, setup: Setup | None = None, *, seed: int = 0, device: torch.device = CPU) -> Trained:
        """Train as a run does, and return what that left.

        Raises:
            ContractError: when the method fails.
        """
        setup = setup or self.setup()
        assert isinstance(setup.dataset, Scenes)
        items = Items.for_training(setup.train_images, setup.protocol, dataset_five_crop=False)
        with tempfile.TemporaryDirectory(dir=self._folder.name) as scratch:
            seed_everything(seed)
            with blame(f"Method '{self.spec.name}'", "training"):
                method = setup.make_method()
                context = RunContext(
                    method=method,
                    items=items,
                    store=self._store(setup, device),
                    seed=seed,
                    scratch=Path(scratch),
                    code=setup.code,
                    clock=Clock(),
                )
                method.train(setup.train_images, context)
                state = save(portable_state(method))
        return Trained(method, state, context.curves, len(context.offers), setup.dataset.label_reads)

    def restore(self, trained: Trained, device: torch.device = CPU, *, clusters: int | None = None) -> Method:
        """Return a fresh instance that has loaded a trained state."""
        with blame(f"Method '{self.spec.name}'", "loading its state"):
            method = self.setup(clusters=clusters).make_method()
            method.load_state_dict(trained.tensors(device))
        return method

    def batch(self, device: torch.device = CPU) -> Batch:
        """Return what `Method.embed` gets for the test images, without their mirror images."""
        setup = self.setup()
        items = Items.for_evaluation(setup.test_images, setup.protocol)
        store = self._store(setup, CPU)
        features = store.open(items, self.spec.facets) if self.spec.facets else None
        batch = assemble(self.spec.inputs, items, features, range(items.unflipped), CPU)
        return {name: value.to(device) for name, value in batch.items()}

    def predictor(self, method: Method) -> Predictor:
        """Return what labels whole images, as ``uss-bench predict`` does."""
        setup = self.setup()
        encoder = Encoder(self.backbone, CPU, dtype=setup.feature_dtype)
        return Predictor(method, self.spec, encoder, setup.protocol, setup.alpha)

    def whole_run(self) -> Outcome:
        """Run everything, the CRF and the record included."""
        setup = self.setup()
        with CrfPool(setup.protocol.crf, workers=1) as pool:
            out = Path(self._folder.name) / "results"
            return run_cell(setup, 0, store=self._store(setup, CPU), pool=pool, out=out, crf_engine="lattice")

    def _store(self, setup: Setup, device: torch.device) -> FeatureStore:
        if device not in self._stores:
            root = Path(self._folder.name) / "features"
            self._stores[device] = setup.open_store(device, root=root)
        return self._stores[device]


def _random_vit() -> dict[str, Tensor]:
    """Return weights of a small ViT, the same for every trial."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        state = timm.create_model(_VIT, num_classes=0).state_dict()
    # timm's initial matrices are so small that all tokens look alike; larger ones tell patches apart.
    return {name: value * 3 if value.ndim == 2 else value for name, value in state.items()}
