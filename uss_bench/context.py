"""The context of one run: what `uss_bench.contracts.Context` promises a method, kept."""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import resource
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from safetensors.torch import save
from torch import Tensor

from uss_bench import progress
from uss_bench.contracts import Batch, Context, Features, Kept, Method
from uss_bench.errors import DataError, Diverged
from uss_bench.feature_reader import FeatureReader
from uss_bench.features import FeatureStore
from uss_bench.geometry import Items
from uss_bench.inputs import Inputs, assemble
from uss_bench.paths import atomic_write
from uss_bench.provenance import processor
from uss_bench.records import Phase
from uss_bench.snapshots import read_snapshot, restore, save_snapshot
from uss_bench.specs import facets_of
from uss_bench.workspace import SNAPSHOT

T = TypeVar("T")

SNAPSHOT_SECONDS = 60.0
"""How much training a kill may cost, unless a run says otherwise."""


class Clock:
    """Seconds and peak memory per phase; an inner phase's time does not count for the outer one."""

    def __init__(self) -> None:
        self.phases: dict[str, Phase] = {}
        self._open: list[_OpenPhase] = []

    @contextlib.contextmanager
    def phase(self, name: str) -> Iterator[None]:
        current = _OpenPhase(name, time.perf_counter())
        self._open.append(current)
        try:
            yield
        finally:
            elapsed = time.perf_counter() - current.start
            self._open.pop()
            if self._open:
                self._open[-1].inner += elapsed
            self.credit(name, elapsed - current.inner)

    def credit(self, name: str, seconds: float) -> None:
        """Add seconds to a phase, such as those that it had before an interruption."""
        self.phases[name] = Phase(seconds=self._closed(name) + seconds, peak_bytes=peak_memory())

    def seconds(self, name: str) -> float:
        """Return what a phase has taken so far, also while it goes on."""
        now = time.perf_counter()
        return self._closed(name) + sum(now - one.start - one.inner for one in self._open if one.name == name)

    def _closed(self, name: str) -> float:
        return self.phases[name].seconds if name in self.phases else 0.0


@dataclass
class _OpenPhase:
    name: str
    start: float
    inner: float = 0.0


def peak_memory() -> int:
    """Largest resident memory of this process so far, in bytes; on CUDA the allocator's peak is added."""
    unit = 1 if sys.platform == "darwin" else 1024
    resident = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    return resident + (torch.cuda.max_memory_allocated() if torch.cuda.is_available() else 0)


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def derive_seed(seed: int, purpose: str) -> int:
    """Return a 63-bit seed that is independent for each purpose."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{purpose}".encode()).digest()[:8], "big") >> 1


class RunContext(Context):
    """See `uss_bench.contracts.Context`.

    Args:
        method: the method in training, whose state `checkpoint` keeps.
        items: the training items.
        store: the feature store.
        scratch: the cell's own folder, where checkpoints and snapshots lie; it may hold those of a run
            that was killed.
        code: digest of the method's code, part of the name of derived arrays.
        snapshot_seconds: how much training a kill may cost.
    """

    def __init__(
        self,
        *,
        method: Method,
        items: Items,
        store: FeatureStore,
        seed: int,
        scratch: Path,
        code: str,
        clock: Clock,
        snapshot_seconds: float = SNAPSHOT_SECONDS,
    ) -> None:
        self.seed = seed
        self.device = store.device
        self.patch = store.backbone.patch
        self.scratch = scratch
        self.curves: dict[str, list[tuple[int, float]]] = {}
        self.offers: list[tuple[int, Path]] = []
        self.resumed: list[str] = []
        """What a record should say of interruptions: nothing, if all was done on one kind of machine."""
        self._method = method
        self._items = items
        self._store = store
        self._code = code
        self._clock = clock
        self._readers: dict[tuple[str, ...], FeatureReader] = {}
        self._snapshot_seconds = snapshot_seconds
        self._loops = 0
        self._digests: dict[str, str] = {}
        self._credited = 0.0

    def log(self, message: str) -> None:
        progress.log(message)

    def progress(self, iterable: Iterable[T], *, total: int, label: str) -> Iterator[T]:
        return progress.track(iterable, total=total, label=label)

    def steps(self, total: int, /, *, label: str = "training", **keep: Kept) -> Iterator[int]:
        path = self.scratch / f"training-{self._loops}{SNAPSHOT}"
        self._loops += 1
        first = self._resume(path, keep)
        with progress.bar(total=total, label=label) as bar:
            bar.update(first)
            saved = time.monotonic()
            for step in range(first + 1, total + 1):
                yield step
                bar.update()
                # The last step's snapshot spares whoever goes on the whole of training.
                if step == total or time.monotonic() - saved >= self._snapshot_seconds:
                    self._save(path, keep, step)
                    saved = time.monotonic()

    def _save(self, path: Path, keep: Mapping[str, Kept], step: int) -> None:
        extra = {
            "step": step,
            "curves": self.curves,
            "offers": [[at, offer.name, self._digests[offer.name]] for at, offer in self.offers],
            "seconds": self._clock.seconds("train"),
            "machine": self._machine(),
            "resumed": self.resumed,
        }
        save_snapshot(path, keep, extra)

    def _resume(self, path: Path, keep: Mapping[str, Kept]) -> int:
        """Take up the state that a killed run left, and return its step; 0 where there is none."""
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
        self.resumed = list(extra["resumed"])
        if extra["machine"] != self._machine():
            self.resumed.append(f"training went on at step {step} on another kind of machine")
        self._clock.credit("train", extra["seconds"] - self._credited)
        self._credited = extra["seconds"]
        self.log(f"Training goes on after step {step}.")
        return step

    def _machine(self) -> str:
        """Return what decides the last bits of a sum."""
        return json.dumps([torch.__version__, processor(), torch.get_num_threads(), str(self.device)])

    def report(self, step: int, **scalars: float | Tensor) -> None:
        for name, scalar in scalars.items():
            value = float(scalar.detach() if isinstance(scalar, Tensor) else scalar)
            if not math.isfinite(value):
                raise Diverged(
                    f"Training diverged: '{name}' is {value} at step {step}.",
                    hint="Lower the learning rate, or standardise the features: --set standardize=true.",
                )
            self.curves.setdefault(name, []).append((step, value))

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

    def generator(self, purpose: str) -> torch.Generator:
        return torch.Generator().manual_seed(derive_seed(self.seed, purpose))

    def features(self, inputs: Sequence[str] = ("tokens",)) -> Features:
        facets = facets_of(inputs)
        reader = self._reader(facets) if facets else None
        if reader is not None and len(facets) == len(inputs):
            return reader
        return Inputs(inputs, self._items, reader, self.device)

    def sample(self, inputs: Sequence[str], indices: Sequence[int]) -> Batch:
        """Return `inputs` of a few training items, stacked on the device.

        Facets come from the store where training has read them there, and else from the backbone, which
        keeps nothing: a look at a few items must not extract the whole split.
        """
        facets = facets_of(inputs)
        batch = dict(assemble(inputs, self._items, None, indices, self.device))
        if facets:
            read = [one for one in self._readers.values() if set(facets) <= set(one.facets)]
            found = read[0].batch(indices) if read else self._store.encode(self._items, indices, facets)
            batch |= {facet: found[facet] for facet in facets}
        return batch

    def derived(
        self,
        name: str,
        build: Callable[[Features], Mapping[str, np.ndarray]],
        facets: Sequence[str] = ("tokens",),
    ) -> dict[str, np.ndarray]:
        reader = self._reader(facets)
        with self._clock.phase("extract"):
            return reader.derived(name, self._code, build)

    def backbone(self, images: Tensor, facets: Sequence[str], *, grad: bool = False) -> dict[str, Tensor]:
        return self._store.backbone(images.to(self.device), facets, grad=grad)

    def _reader(self, facets: Sequence[str]) -> FeatureReader:
        key = tuple(facets)
        if key not in self._readers:
            with self._clock.phase("extract"):
                self._readers[key] = self._store.open(self._items, facets)
        return self._readers[key]


def portable_state(method: Method) -> dict[str, Tensor]:
    """Return the method's state as contiguous CPU tensors that share no memory, as safetensors asks."""
    return {name: value.detach().cpu().clone().contiguous() for name, value in method.state_dict().items()}
