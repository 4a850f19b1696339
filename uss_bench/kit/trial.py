"""A method on trial: trained on a small problem in every way that its checks ask for."""

from __future__ import annotations

import contextlib
import functools
import inspect
import os
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import timm
import torch
from safetensors.torch import save, save_file
from torch import Tensor

from uss_bench.contracts import Backbone, Batch, Images, Method
from uss_bench.errors import ContractError, blame
from uss_bench.evaluation.predictor import Predictor
from uss_bench.experiment.cells import CellSpec
from uss_bench.experiment.resolving import Loaded, resolve
from uss_bench.experiment.runner import run_cell
from uss_bench.experiment.setup import Setup
from uss_bench.features.encoder import Encoder
from uss_bench.features.inputs import assemble
from uss_bench.features.planes import aux_channel
from uss_bench.kit.observing import ObservedContext, ObservedItems, gradients
from uss_bench.kit.scenes import CLASSES, CLASSES_FILE, replaced_labels, write_scenes
from uss_bench.kit.trained import Trained
from uss_bench.kit.watching import lines_passed_over
from uss_bench.plugins.loading import load_backbone
from uss_bench.plugins.registry import Plugin, Registry
from uss_bench.plugins.specs import MethodSpec
from uss_bench.results.collection import Entry
from uss_bench.runtime.opened_files import opened_files
from uss_bench.runtime.seeding import seed_everything
from uss_bench.training.clock import Clock
from uss_bench.training.context import portable_state

CPU = torch.device("cpu")
SMALL: Mapping[str, int] = {"steps": 6, "epochs": 2, "batch_size": 4, "checkpoint_every": 3}
"""What parameters of these names are in a trial, unless the spec (`check`) or the user states others."""
SPLITS = {"train": range(6), "test": range(100, 103)}

_VIT = "vit_tiny_patch16_224"
_SIDE = 96
_TOMORROW = 86400


class Trial:
    """Trains one method on a folder of drawn scenes; a context manager, because files lie on disk.

    Args:
        params: parameters of the method; they take precedence over those of the spec's table `check`, and
            these over `SMALL`.
        backbone: where facets come from; default a small ViT with random weights, which offers them all.
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
        self.folder = Path(self._folder.name).resolve()
        self._loaded = Loaded()

    def __enter__(self) -> Trial:
        return self

    def __exit__(self, *error: object) -> None:
        self._folder.cleanup()

    @functools.cached_property
    def known(self) -> Mapping[str, inspect.Parameter]:
        """The parameters of the method's signature."""
        return inspect.signature(self.plugin.load()).parameters

    @functools.cached_property
    def chosen(self) -> dict[str, Any]:
        """The parameters that the trial does not leave at their defaults."""
        least = self.spec.minimum
        small = {
            name: max(value, least.get(name, value)) for name, value in SMALL.items() if name in self.known
        }
        return {**small, **self.spec.check.params, **self._given}

    @property
    def backbone(self) -> Backbone:
        return self.setup().backbone

    def setup(self, *, labeled: bool = True, limit: int | None = None, **params: Any) -> Setup:
        """Return the setup of a run on the scenes.

        Args:
            labeled: whether there are labels, and classes.
            limit: images of each split; None for all.
            params: parameters to change.
        """
        clusters = {"clusters": len(CLASSES)} if "clusters" in self.known else {}
        return self._resolve(self.spec.name, {**clusters, **self.chosen, **params}, labeled, limit)

    def _resolve(self, method: str, params: Mapping[str, Any], labeled: bool, limit: int | None) -> Setup:
        name, weights, alias, patch = self._network
        side = patch * round(_SIDE / patch)
        asked = CellSpec(
            method=method,
            dataset="folder",
            data=self._data[labeled],
            backbone=name,
            weights=weights,
            backbone_name=alias,
            protocol=f"stego320@2[eval_side={side}]",
            training={"side": side, "width": side},
            params=dict(params),
            limit=limit,
            feature_dtype="float32",
        )
        return resolve(asked, self._registry, self._loaded)

    @functools.cached_property
    def _network(self) -> tuple[str, str | None, str | None, int]:
        """The backbone's name, weights file, alias and patch."""
        name, weights = self._asked
        if name is None and self.spec.facets:
            weights = self.folder / "random.safetensors"
            save_file(_random_vit(), weights)
            return _VIT, str(weights), "random-vit", 16
        backbone = load_backbone(self._registry, name or "none", weights=weights)
        return name or "none", None if weights is None else str(weights), None, backbone.patch

    @functools.cached_property
    def _data(self) -> dict[bool, dict[str, str]]:
        """Write the scenes, with labels and without; return the options of either dataset."""
        aux = {
            aux_channel(name)[0] for name in (*self.spec.inputs, *self.spec.reads) if name.startswith("aux:")
        }
        channels = sorted(aux.union(self.spec.check.channels))
        options = {}
        for labeled, name, kinds in ((True, "labeled", ("images", "labels")), (False, "bare", ("images",))):
            write_scenes(self.folder / name, SPLITS, kinds=kinds, channels=channels)
            options[labeled] = {"root": str(self.folder / name), "name": "scenes"}
        for path in self.folder.glob("*/*/*/*"):  # the user's cache keeps no digest of files that may change
            os.utime(path, (time.time() + _TOMORROW,) * 2)
        classes = self.folder / "classes.toml"
        classes.write_text(CLASSES_FILE, encoding="utf-8")
        options[True]["classes"] = str(classes)
        return options

    def train(
        self,
        setup: Setup | None = None,
        *,
        seed: int = 0,
        device: torch.device = CPU,
        scratch: Path | None = None,
        anew: bool = False,
        watch_lines: bool = False,
        **options: Any,
    ) -> Trained:
        """Train as a run does, and return what that left.

        Args:
            scratch: the run's folder, which may hold snapshots of a training that was killed.
            anew: import the method's code again, as another process would.
            watch_lines: collect the lines that were passed over.
            options: of `ObservedContext`.

        Raises:
            ContractError: when the method fails.
        """
        setup = self._begun(setup or self.setup(), seed)
        if anew:
            self._import_again()
        with contextlib.ExitStack() as stack:
            stack.enter_context(blame(f"Method '{self.spec.name}'", "training"))
            folder = scratch or Path(stack.enter_context(tempfile.TemporaryDirectory(dir=self.folder)))
            # Features of its own: what is derived from them must come out the same, and not be found.
            store = setup.open_store(device, root=folder / "features")
            seed_everything(seed)
            method = setup.make_method()
            context = ObservedContext(
                method=method,
                items=setup.training_items(),
                store=store,
                seed=seed,
                scratch=folder,
                clock=Clock(),
                snapshot_seconds=0 if scratch else 3600,
                **options,
            )
            taken = stack.enter_context(gradients(context))
            opened = stack.enter_context(opened_files(self.folder / "labeled" / "labels"))
            passed_over = lines_passed_over(self.plugin.folder, context.loops)
            lines = stack.enter_context(passed_over) if watch_lines else []
            method.train(cast(Images, ObservedItems(setup.train_images, context)), context)
            state = save(portable_state(method))
            offers = [(step, path.read_bytes()) for step, path in context.offers]
        return Trained(method, context, state, offers, taken, opened, lines)

    @functools.cached_property
    def trained(self) -> Trained:
        """The method trained with seed 0, as it would be by a run."""
        return self.train(watch_lines=True)

    @functools.cached_property
    def relabeled(self) -> Trained:
        """The same, while every label on disk is another one."""
        root = self.folder / "labeled"
        with replaced_labels():
            write_scenes(root, SPLITS, kinds=("labels",))
            found = self.train()
        write_scenes(root, SPLITS, kinds=("labels",))
        return found

    def restore(self, trained: Trained, device: torch.device = CPU) -> Method:
        """Return a fresh instance that has loaded a trained state."""
        return self.setup().make_method(trained.state, device)

    @functools.cached_property
    def batch(self) -> Batch:
        """What `Method.embed` gets for the test images, without their mirror images."""
        setup = self.setup()
        items = setup.evaluation_items()
        store = setup.open_store(CPU, root=self.folder / "features")
        features = store.open(items, setup.facets) if setup.facets else None
        return assemble(setup.inputs, items, features, range(items.unflipped), CPU)

    def predictor(self, method: Method) -> Predictor:
        """Return what labels whole images, as ``uss-bench predict`` does."""
        setup = self.setup()
        encoder = Encoder(self.backbone, CPU, dtype=setup.feature_dtype)
        return Predictor(method, self.spec, encoder, setup.protocol, setup.alpha)

    def whole_run(self) -> Entry:
        """Run everything, the CRF and the record included."""
        return self._run(self._begun(self.setup(), 0), 0)

    def _run(self, setup: Setup, seed: int) -> Entry:
        store, out = setup.open_store(CPU, root=self.folder / "features"), self.folder / "results"
        with setup.open_crf(workers=1) as pool:
            return run_cell(setup, seed, store=store, pool=pool, out=out, crf_engine="lattice")

    def _begun(self, setup: Setup, seed: int) -> Setup:
        """Return the setup of a run that begins, after the runs that it builds upon."""
        begun = setup.beginning(seed, self.folder / "results")
        for path, cell in begun.places.values():
            if not path.exists():
                labeled = bool(setup.dataset.classes)
                base = self._resolve(cell.method.name, cell.method.params, labeled, setup.limit)
                self._run(self._begun(base, seed), seed)
        return begun

    def _import_again(self) -> None:
        """Forget the modules of the method, unless they cannot be imported twice."""
        package = self.plugin.load().__module__.rpartition(".")[0]
        ours = package.startswith("uss_bench_plugins")
        modules = {name: one for name, one in sys.modules.items() if ours and name.startswith(f"{package}.")}
        for name in modules:
            del sys.modules[name]
        try:
            self.plugin.load()
        except ContractError:
            sys.modules.update(modules)


def _random_vit() -> dict[str, Tensor]:
    """Return weights of a small ViT, the same for every trial."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        state = timm.create_model(_VIT, num_classes=0).state_dict()
    # timm's initial matrices are so small that all tokens look alike; larger ones tell patches apart.
    return {name: value * 3 if value.ndim == 2 else value for name, value in state.items()}
