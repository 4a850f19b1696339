"""The context of one run: what `uss_bench.contracts.Context` promises a method, kept."""

from __future__ import annotations

import contextlib
import hashlib
import math
import resource
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from safetensors.torch import save
from torch import Tensor

from uss_bench import progress
from uss_bench.contracts import Batch, Context, Features, Method
from uss_bench.errors import DataError, Diverged
from uss_bench.feature_reader import FeatureReader
from uss_bench.features import FeatureStore
from uss_bench.geometry import Items
from uss_bench.inputs import Inputs, assemble
from uss_bench.records import Phase
from uss_bench.specs import facets_of

T = TypeVar("T")


class Clock:
    """Seconds and peak memory per phase; an inner phase's time does not count for the outer one."""

    def __init__(self) -> None:
        self.phases: dict[str, Phase] = {}
        self._inner: list[float] = []

    @contextlib.contextmanager
    def phase(self, name: str) -> Iterator[None]:
        start = time.perf_counter()
        self._inner.append(0.0)
        try:
            yield
        finally:
            elapsed = time.perf_counter() - start
            own = elapsed - self._inner.pop()
            if self._inner:
                self._inner[-1] += elapsed
            before = self.phases[name].seconds if name in self.phases else 0.0
            self.phases[name] = Phase(seconds=before + own, peak_bytes=peak_memory())


def peak_memory() -> int:
    """Largest resident memory of this process so far, in bytes; on CUDA the allocator's peak is added."""
    unit = 1 if sys.platform == "darwin" else 1024
    resident = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    return resident + (torch.cuda.max_memory_allocated() if torch.cuda.is_available() else 0)


def derive_seed(seed: int, purpose: str) -> int:
    """Return a 63-bit seed that is independent for each purpose."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{purpose}".encode()).digest()[:8], "big") >> 1


class RunContext(Context):
    """See `uss_bench.contracts.Context`.

    Args:
        method: the method in training, whose state `checkpoint` keeps.
        items: the training items.
        store: the feature store.
        code: digest of the method's code, part of the name of derived arrays.
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
    ) -> None:
        self.seed = seed
        self.device = store.device
        self.patch = store.backbone.patch
        self.scratch = scratch
        self.curves: dict[str, list[tuple[int, float]]] = {}
        self.offers: list[tuple[int, Path]] = []
        self._method = method
        self._items = items
        self._store = store
        self._code = code
        self._clock = clock
        self._readers: dict[tuple[str, ...], FeatureReader] = {}

    def log(self, message: str) -> None:
        progress.log(message)

    def progress(self, iterable: Iterable[T], *, total: int, label: str) -> Iterator[T]:
        return progress.track(iterable, total=total, label=label)

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
        try:
            path.write_bytes(save(portable_state(self._method)))
        except OSError as error:
            raise DataError(
                f"The checkpoint of step {step} cannot be kept in {self.scratch}: {error.strerror}.",
                hint="Free some space, or set TMPDIR to another disk.",
            ) from None
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
