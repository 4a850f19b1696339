"""Arrays that a method derives once from its inputs: their key, their building and what that must not do.

The key holds all that decides the arrays, so that a method need not invent names: parameters, the code of the
builder's module, and the identity of the inputs. The run's seed is not among it unless the method says so;
therefore a builder gets no generator of the run, and drawing from a global one is an error.
"""

from __future__ import annotations

import ast
import contextlib
import hashlib
import inspect
import json
import os
import types
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from uss_bench.contracts import Features, ItemArrays, Sampler, TrainedRun
from uss_bench.errors import ContractError, DataError, blame
from uss_bench.features.artifacts import ItemArrayReader, Parts, describe
from uss_bench.files.digests import digest_file
from uss_bench.files.locks import locked
from uss_bench.results.code import source_digest
from uss_bench.runtime import progress
from uss_bench.runtime.cores import whole_cores
from uss_bench.runtime.seeding import derive_seed, random_state, restore_random

Build = Callable[..., Mapping[str, np.ndarray]]

_FORMAT = 1
_READ_ITEMS = 8
"""Items that are read at once while arrays are built item by item."""


class Source(Protocol):
    """Where the inputs of a run's training items come from."""

    def __len__(self) -> int: ...

    def open(self, inputs: Sequence[str], *, build: bool) -> Features: ...

    def identity(self, inputs: Sequence[str]) -> tuple[Path, list[str]]:
        """Return the folder that arrays derived from `inputs` lie under, and what tells the inputs apart."""
        ...


class Derivation:
    """One artifact that a method asks for.

    Args:
        name: what people call it.
        build: makes it, called with inputs and `params`.
        params: its keyword arguments.
        seed: of the run, when the arrays may depend on it.

    Raises:
        ContractError: when `build` is not a plain function of a module, or a parameter cannot enter the key.
    """

    def __init__(
        self, name: str, build: Build, inputs: Sequence[str], params: Mapping[str, Any], seed: int | None
    ) -> None:
        self.name = name
        self.inputs = list(inputs)
        self._build = build
        self._params = dict(params)
        self._seed = seed
        self._who = f"What builds '{name}'"
        _check_plain(build, self._who)
        self._stated = {key: _identity(value, key, self._who) for key, value in params.items()}

    def whole(self, source: Source, scratch: Path) -> dict[str, np.ndarray]:
        """Return the arrays of the split."""

        def build(parts: Parts) -> None:
            features = source.open(self.inputs, build=True)
            with self._guarded(), progress.bar(total=len(features), label=self.name) as bar:
                arrays = self._call(_Watched(features, bar.update), self._generator())
            parts.write(0, [arrays], self._who)

        return self._kept(source, scratch, 1, build).item(0)

    def by_item(self, source: Source, scratch: Path, device: torch.device) -> ItemArrays:
        """Return the arrays of every item."""

        def build(parts: Parts) -> None:
            features = source.open(self.inputs, build=False)
            missing = parts.missing()
            total = sum(len(parts.items_of(part)) for part in missing)
            threads = whole_cores()
            with (
                progress.bar(total=total, label=self.name) as bar,
                _single_threaded_pool(threads) as pool,
            ):
                for part in missing:
                    items = []
                    with self._guarded():
                        for arrays in self._each(features, parts.items_of(part), pool, 2 * threads):
                            items.append(arrays)
                            bar.update()
                    parts.write(part, items, self._who)

        return ItemArrayReader(self._kept(source, scratch, len(source), build), device)

    def _each(
        self, features: Features, indices: Sequence[int], pool: ThreadPoolExecutor, window: int
    ) -> Iterator[Mapping[str, np.ndarray]]:
        """Yield the arrays of items in order, while the next ones are read and built."""
        pending: deque[Future[Mapping[str, np.ndarray]]] = deque()
        try:
            for start in range(0, len(indices), _READ_ITEMS):
                chosen = indices[start : start + _READ_ITEMS]
                batch = {name: value.cpu() for name, value in features.batch(chosen).items()}
                for place, index in enumerate(chosen):
                    item = {name: value[place] for name, value in batch.items()}
                    pending.append(pool.submit(self._call, item, self._generator(index)))
                while len(pending) > window:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:
            for future in pending:
                future.cancel()

    def _call(
        self, given: Features | Mapping[str, Tensor], generator: torch.Generator | None
    ) -> Mapping[str, np.ndarray]:
        more = {} if generator is None else {"generator": generator}
        with blame(self._who, "building arrays"), torch.no_grad():
            return self._build(given, **self._params, **more)

    def _generator(self, *key: int) -> torch.Generator | None:
        if self._seed is None:
            return None
        return torch.Generator().manual_seed(derive_seed(self._seed, f"derived/{self.name}", *key))

    def _kept(self, source: Source, scratch: Path, count: int, build: Callable[[Parts], None]) -> Parts:
        """Return the parts of the artifact, built unless all are there."""
        folder, identity = source.identity(self.inputs)
        stated = {
            "format": _FORMAT,
            "name": self.name,
            "params": self._stated,
            "code": source_digest(_modules_of(self._build, self._who)),
            "inputs": identity,
            "items": count,
            **({} if self._seed is None else {"seed": self._seed}),
        }
        text = json.dumps(stated, sort_keys=True, allow_nan=False)
        digest = hashlib.sha256(text.encode()).hexdigest()[:24]
        place = folder / "derived" / digest
        found = Parts(place, count)
        if not found.missing():  # then nothing is written: the cache may be shared and read-only
            return found
        with contextlib.ExitStack() as stack:
            try:
                place.mkdir(parents=True, exist_ok=True)
                if not os.access(place, os.W_OK):
                    raise PermissionError
                stack.enter_context(
                    locked(place / "lock", progress.log, f"builds '{self.name}' of the same data")
                )
            except OSError:  # a cache that cannot be written: every run builds its own
                place = scratch / f"derived-{digest}"
                place.mkdir(exist_ok=True)
                found = Parts(place, count)
            if found.missing():
                describe(place, count, stated)
                build(found)
        return Parts(place, count)

    @contextlib.contextmanager
    def _guarded(self) -> Iterator[None]:
        """Refuse a build that draws from a global random generator, and put the generators back."""
        before = random_state()
        yield
        if not _same(before, random_state()):
            restore_random(before)
            raise ContractError(
                f"{self._who} drew from a global random generator, which depends on the run's seed.",
                hint="Draw from a generator of its own with a fixed seed, or declare seeded=True and use the "
                "`generator` that it is given then.",
            )


class _Watched(Features):
    """Features that tell how many items were read of them, so that every builder has a progress bar."""

    def __init__(self, features: Features, advance: Callable[[int], object]) -> None:
        self.facets = features.facets
        self._features = features
        self._advance = advance

    def __len__(self) -> int:
        return len(self._features)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        self._advance(1)
        return self._features[index]

    def batch(self, indices: Sequence[int] | Tensor) -> dict[str, Tensor]:
        self._advance(len(indices))
        return self._features.batch(indices)

    def batches(self, sampler: Sampler) -> Iterator[tuple[Sequence[int], dict[str, Tensor]]]:
        return self._features.batches(sampler)

    def moments(self, facet: str) -> tuple[Tensor, Tensor]:
        return self._features.moments(facet)

    def source(self, index: int) -> tuple[int, int]:
        return self._features.source(index)


@contextlib.contextmanager
def _single_threaded_pool(threads: int) -> Iterator[ThreadPoolExecutor]:
    """Give threads in which torch uses one core each, so that a sum has the same bits on every machine."""
    usual = torch.get_num_threads()
    with ThreadPoolExecutor(threads, "derive", initializer=torch.set_num_threads, initargs=(1,)) as pool:
        try:
            yield pool
        finally:
            torch.set_num_threads(usual)  # the number is also the default of threads to come


def _check_plain(build: Build, who: str) -> None:
    if not isinstance(build, types.FunctionType):
        raise ContractError(
            f"{who} must be a plain function, not a {type(build).__name__}.",
            hint="Write def build(features, *, ...) in a module, and give what decides it as params={...}.",
        )
    if build.__closure__:
        raise ContractError(
            f"{who} captures {', '.join(build.__code__.co_freevars)}, which its key would not show.",
            hint="Write it as a function of a module, and give what decides it as params={...}.",
        )


def _identity(value: Any, name: str, who: str) -> Any:
    """Return what stands in a key for a parameter."""
    if isinstance(value, Path):
        try:
            return {"sha256": digest_file(value)}
        except OSError as error:
            raise DataError(f"{who} needs the file {value} ({name}): {error.strerror}.") from None
    if hasattr(value, "cell") and hasattr(value, "make"):
        run: TrainedRun = value
        return {"state": run.state}
    if isinstance(value, (list, tuple)):
        return [_identity(one, name, who) for one in value]
    try:
        json.dumps(value, allow_nan=False)
    except (TypeError, ValueError):
        raise ContractError(
            f"{who} has a parameter '{name}' of type {type(value).__name__}, which cannot enter its key.",
            hint="Parameters are JSON values, files (Path) and other runs (TrainedRun).",
        ) from None
    return value


def _modules_of(build: Build, who: str) -> list[Path]:
    """Return the file that defines `build`, and those that it imports relatively, from its own plugin."""
    try:
        first = Path(inspect.getsourcefile(build) or "")
    except TypeError:
        first = Path()
    if not first.is_file():
        raise ContractError(f"{who} has no source file, so that its key could not tell when it changes.")
    found: list[Path] = []
    todo = [first]
    while todo:
        path = todo.pop()
        if path not in found:
            found.append(path)
            todo += _relative_imports(path)
    return sorted(found)


def _relative_imports(path: Path) -> Iterator[Path]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.level:
            base = path.parents[node.level - 1].joinpath(*(node.module or "").split("."))
            for candidate in (base, *(base / alias.name for alias in node.names)):
                yield from (
                    file
                    for file in (candidate.with_suffix(".py"), candidate / "__init__.py")
                    if file.is_file()
                )


def _same(one: Any, other: Any) -> bool:
    """Whether two states of generators are the same."""
    if isinstance(one, Tensor):
        return torch.equal(one, other)
    if isinstance(one, Mapping):
        return all(_same(one[key], other[key]) for key in one)
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(_same, one, other))
    return bool(one == other)
