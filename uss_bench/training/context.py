"""The context of one run: what `uss_bench.contracts.Context` promises a method, kept."""

from __future__ import annotations

import contextlib
import copy
import hashlib
import json
import math
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from safetensors.torch import save
from torch import Tensor

from uss_bench.contracts import Batch, Context, ItemArrays, Kept, Method, TrainablePart
from uss_bench.data.geometry import TransformedImages
from uss_bench.errors import ContractError, DataError, Diverged
from uss_bench.features.inputs import Inputs
from uss_bench.features.planes import PlaneReader
from uss_bench.features.reader import FeatureReader
from uss_bench.features.store import FeatureStore
from uss_bench.files.atomic import atomic_write
from uss_bench.protocol import Filter
from uss_bench.results.provenance import processor
from uss_bench.runtime import progress, tracking
from uss_bench.runtime.seeding import derive_seed
from uss_bench.training.clock import Clock
from uss_bench.training.derived import Build, Derivation
from uss_bench.training.loops import Bindings, Loop
from uss_bench.training.snapshots import read_snapshot, restore, save_snapshot
from uss_bench.training.source import TrainingSource
from uss_bench.training.workspace import SNAPSHOT

T = TypeVar("T")

SNAPSHOT_SECONDS = 60.0
"""How much training a kill may cost, unless a run says otherwise."""
_ELSEWHERE = " on another kind of machine"


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


class RunContext(Context):
    """See `uss_bench.contracts.Context`.

    Args:
        method: the method in training, whose state `checkpoint` keeps.
        items: the training items.
        store: the feature store.
        scratch: the cell's own folder, where checkpoints and snapshots lie; it may hold those of a run
            that was killed.
        snapshot_seconds: how much training a kill may cost.
        test_items: the evaluated images for a method that reads them; None for all others.
    """

    def __init__(
        self,
        *,
        method: Method,
        items: TransformedImages,
        store: FeatureStore,
        seed: int,
        scratch: Path,
        clock: Clock,
        snapshot_seconds: float = SNAPSHOT_SECONDS,
        test_items: TransformedImages | None = None,
    ) -> None:
        self.seed = seed
        self.device = store.device
        self.info = store.backbone.info
        self.patch = store.backbone.patch
        self.side = items.side
        self.grid = (items.size[0] // self.patch, items.size[1] // self.patch)
        self.scratch = scratch
        self.curves: dict[str, list[tuple[int, float]]] = {}
        self.offers: list[tuple[int, Path]] = []
        self.resumed: list[str] = []
        """Where training went on after an interruption, for the record."""
        self._method = method
        self._items = items
        self._test_items = test_items
        self._store = store
        self._clock = clock
        self._source = TrainingSource(items, store, clock)
        self._deriving = ""
        self.snapshot_seconds = snapshot_seconds
        self._loops: list[Loop] = []
        self._outer_loops = 0
        self._digests: dict[str, str] = {}
        self.credited = 0.0
        """Seconds of training before an interruption."""

    def log(self, message: str) -> None:
        progress.log(message)

    def progress(self, iterable: Iterable[T], *, total: int, label: str) -> Iterator[T]:
        return progress.track(iterable, total=total, label=label)

    def steps(self, total: int, /, *, label: str = "training", **keep: Kept) -> Iterator[int]:
        return self._steps(total, label, keep, Bindings(keep, sys._getframe(1)))

    def _steps(self, total: int, label: str, keep: Mapping[str, Kept], bindings: Bindings) -> Iterator[int]:
        loop = self._enter_loop()
        path = self.scratch / f"training-{loop.name}{SNAPSHOT}"
        try:
            first = self._resume(path, keep)
            with progress.bar(total=total, label=label) as bar:
                bar.update(first)
                saved = time.monotonic()
                for step in range(first + 1, total + 1):
                    loop.step, loop.inner = step, 0
                    yield step
                    bindings.check(step, sys._getframe(1))
                    bar.update()
                    due = time.monotonic() - saved >= self.snapshot_seconds
                    # With a snapshot of the last step a run killed later does not train again.
                    if step == total or due or loop.inner:
                        self._save(path, keep, step)
                        self._remove_inner(loop)
                        saved = time.monotonic()
        finally:  # also when a method leaves the loop early
            self._loops.remove(loop)

    def _enter_loop(self) -> Loop:
        """Begin a loop, by itself or within a step of another, under the name that it has every time."""
        if self._loops:
            outer = self._loops[-1]
            name = f"{outer.name}.{outer.step}.{outer.inner}"
            outer.inner += 1
        else:
            name = str(self._outer_loops)
            self._outer_loops += 1
        self._loops.append(Loop(name))
        return self._loops[-1]

    def _remove_inner(self, loop: Loop) -> None:
        """Remove snapshots of loops within steps that are done: the outer loop's covers them."""
        for path in self.scratch.glob(f"training-{loop.name}.*{SNAPSHOT}"):
            path.unlink(missing_ok=True)

    def _save(self, path: Path, keep: Mapping[str, Kept], step: int) -> None:
        seconds, peak = self._clock.so_far("train")
        extra = {
            "step": step,
            "curves": self.curves,
            "offers": [[at, offer.name, self._digests[offer.name]] for at, offer in self.offers],
            "seconds": seconds,
            "peak": peak,
            "machine": self._machine(),
            "resumed": self.resumed,
        }
        save_snapshot(path, keep, extra)

    def _resume(self, path: Path, keep: Mapping[str, Kept]) -> int:
        """Take up the state that a killed run left, and return its step, or 0 without a snapshot."""
        try:
            found = read_snapshot(path, keep, self.device)
            if found is None:
                return 0
            extra = found["extra"]
            digests = {name: sha256 for _, name, sha256 in extra["offers"]}
            for name, sha256 in digests.items():
                offer = self.scratch / name
                if not offer.exists() or _sha256(offer.read_bytes()) != sha256:
                    raise DataError(f"{offer}, which it names, is missing or damaged.")
        except DataError as error:
            self.log(f"Training begins again, for its snapshot cannot be used: {error.what}")
            path.unlink()
            return 0
        restore(found, keep)
        step = int(extra["step"])
        self.curves = {name: [tuple(point) for point in curve] for name, curve in extra["curves"].items()}
        self.offers = [(at, self.scratch / name) for at, name, _ in extra["offers"]]
        self._digests = digests
        name = self._loops[-1].name
        loop = f" of loop {name}" if name != "0" else ""
        elsewhere = _ELSEWHERE if extra["machine"] != self._machine() else ""
        self.resumed = [*extra["resumed"], f"training resumed after step {step}{loop}{elsewhere}"]
        self._clock.credit("train", extra["seconds"] - self.credited, extra["peak"])
        self.credited = extra["seconds"]
        self.log(f"Training goes on after step {step}.")
        return step

    @property
    def has_moved(self) -> bool:
        """Whether training went on where sums have other last bits than where it began."""
        return any(note.endswith(_ELSEWHERE) for note in self.resumed)

    def _machine(self) -> str:
        """Return what decides the last bits of a sum."""
        return json.dumps([torch.__version__, processor(), torch.get_num_threads(), str(self.device)])

    def report(self, step: int, **scalars: float | Tensor) -> None:
        values = {}
        for name, scalar in scalars.items():
            value = values[name] = float(scalar.detach() if isinstance(scalar, Tensor) else scalar)
            if not math.isfinite(value):
                raise Diverged(
                    f"Training diverged: '{name}' is {value} at step {step}.",
                    hint="Lower the learning rate, or standardize the features: --set standardize=true.",
                )
            self.curves.setdefault(name, []).append((step, value))
        tracking.report(step, values)

    def checkpoint(self, step: int) -> None:
        path = self.scratch / f"checkpoint-{step:08d}.safetensors"
        content = save(portable_state(self._method))
        try:
            atomic_write(path, content)
        except OSError as error:
            raise DataError(
                f"The checkpoint of step {step} cannot be kept in {self.scratch}: {error.strerror}.",
                hint="Free some space, or choose another folder with --out.",
            ) from None
        self._digests[path.name] = _sha256(content)
        self.offers.append((step, path))

    def generator(self, purpose: str, *key: int) -> torch.Generator:
        if self._deriving:
            raise ContractError(
                f"A generator of the run ('{purpose}') was asked for while '{self._deriving}' is derived, "
                "which must not depend on the run's seed.",
                hint="Declare seeded=True, and use the `generator` that the builder is given then.",
            )
        return torch.Generator().manual_seed(derive_seed(self.seed, purpose, *key))

    def features(self, inputs: Sequence[str] = ("tokens",)) -> FeatureReader | Inputs:
        return self._source.open(inputs, build=True)

    def sample(self, inputs: Sequence[str], indices: Sequence[int]) -> Batch:
        """Return `inputs` of a few training items, stacked on the device.

        A look at a few items must not extract the whole split: what is not stored is read for them alone.
        """
        return self._source.open(inputs, build=False).batch(indices)

    def images(self, *, side: int | None = None, filter: Filter | None = None) -> PlaneReader:
        items = copy.copy(self._items)
        if side:
            items.side, items.width = side, items.width and round(items.width * side / items.side)
        items.filter = filter or items.filter
        with self._clock.phase("extract"):
            return self._source.planes.open(items, "image")

    def test_images(self) -> PlaneReader:
        if self._test_items is None:
            raise ContractError(
                "Test images were asked for, and the method does not say that it reads them.",
                hint="Give its class an attribute reads_test_images = True, or read ctx.images().",
            )
        with self._clock.phase("extract"):
            return self._source.planes.open(self._test_items, "image")

    def derived(
        self,
        name: str,
        build: Build,
        inputs: Sequence[str] = ("tokens",),
        *,
        params: Mapping[str, Any] | None = None,
        seeded: bool = False,
    ) -> Mapping[str, np.ndarray]:
        with self._derive(name, build, inputs, params, seeded) as derivation:
            return derivation.whole(self._source, self.scratch)

    def derived_items(
        self,
        name: str,
        build: Build,
        inputs: Sequence[str] = ("tokens",),
        *,
        params: Mapping[str, Any] | None = None,
        seeded: bool = False,
    ) -> ItemArrays:
        with self._derive(name, build, inputs, params, seeded) as derivation:
            return derivation.by_item(self._source, self.scratch, self.device)

    @contextlib.contextmanager
    def _derive(
        self, name: str, build: Build, inputs: Sequence[str], params: Mapping[str, Any] | None, seeded: bool
    ) -> Iterator[Derivation]:
        outer, self._deriving = self._deriving, name
        try:
            with self._clock.phase("extract"):
                yield Derivation(name, build, inputs, params or {}, self.seed if seeded else None)
        finally:
            self._deriving = outer

    def backbone(self, images: Tensor, facets: Sequence[str], *, grad: bool = False) -> dict[str, Tensor]:
        return self._store.backbone(images.to(self.device), facets, grad=grad)

    def trainable(self, last_blocks: int | None = 1) -> TrainablePart:
        return self._store.backbone.trainable(last_blocks).to(self.device)


def portable_state(method: Method) -> dict[str, Tensor]:
    """Return the method's state as contiguous CPU tensors that share no memory, as safetensors asks."""
    return {name: value.detach().cpu().clone().contiguous() for name, value in method.state_dict().items()}
