"""Parameters that are files or other runs: how a cell states them, and what a method receives for them.

A cell states a file by its sha256, wherever it lies, and another run by all that tells it from its own:
method, parameters, code, training geometry and alpha. Data, backbone, protocol and seed of the two are the
same, so the other cell follows from the own one, before either has run. A trained state that is named by its
file is stated by its digest as well, and is the same for every seed.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import torch

from uss_bench.contracts import Backbone, Method, TrainedRun
from uss_bench.errors import UsageError
from uss_bench.files.digests import digest_file
from uss_bench.plugins.loading import inputs_of, load_method
from uss_bench.plugins.params import parameters_of_type
from uss_bench.plugins.registry import Plugin, Registry
from uss_bench.results.files import read_record, read_state
from uss_bench.results.record import FILE_DIGEST, Cell, RunRecord

Places = Mapping[str, tuple[Path, Cell]]
"""By parameter: the record of a run that is built upon, there or not yet, and its cell."""


def state_files(plugin: Plugin, params: dict[str, Any]) -> dict[str, Path]:
    """Return the files among the parameters, which `params` states by their digests from then on.

    Raises:
        UsageError: when a file cannot be read, or only its digest is known.
    """
    files = {}
    for name in parameters_of_type(plugin.load(), Path):
        value = params[name]
        if value is None:
            continue
        who = f"Method '{plugin.name}': {name}"
        if str(value).startswith(FILE_DIGEST):
            raise UsageError(
                f"{who} is a file, of which a record knows the digest alone ({str(value)[:19]}…).",
                hint=f"Say where it lies: --set {name}=FILE.",
            )
        try:
            params[name] = f"{FILE_DIGEST}{digest_file(Path(value))}"
        except OSError as error:
            raise UsageError(f"{who}: {value} cannot be read: {error.strerror}.") from None
        files[name] = Path(value)
    return files


def stated_run(cell: Cell) -> dict[str, Any]:
    """Return how a cell that builds upon the run of another one states it."""
    return {
        "method": cell.method.name,
        "params": cell.method.params,
        "code": cell.method.code,
        "training": msgspec.to_builtins(cell.training),
        "alpha": cell.alpha,
    }


def names_a_file(value: Any) -> bool:
    """Whether a parameter that is another run names a record, or the trained state beside it."""
    return isinstance(value, str) and value.endswith((".json", ".safetensors"))


def named_record(value: str) -> tuple[Path, RunRecord]:
    """Return the record that a file stands for: itself, or the trained state beside it.

    Raises:
        UsageError: when there is no trained state.
        DataError: when there is no record, or it is malformed.
    """
    path = Path(value).with_suffix(".json")
    record = read_record(path)
    if not record.state_sha256:
        raise UsageError(f"{path} has no trained state: its label maps were made elsewhere.")
    return path, record


def arguments(
    plugin: Plugin,
    params: Mapping[str, Any],
    backbone: Backbone,
    registry: Registry,
    *,
    files: Mapping[str, Path] | None = None,
    places: Places | None = None,
) -> dict[str, Any]:
    """Return what a method's constructor receives for parameters as a cell states them.

    Args:
        files: where files lie; a file that is not among them is a path that does not exist.
        places: where other runs are, when a run begins.
    """
    entry = plugin.load()
    given = dict(params)
    for name in parameters_of_type(entry, Path):
        if given.get(name) is not None:
            given[name] = (files or {}).get(name) or Path(given[name])
    for name in parameters_of_type(entry, TrainedRun):
        if given.get(name) is not None:
            given[name] = BaseRun(registry, backbone, given[name], (places or {}).get(name))
    return given


@dataclass(frozen=True)
class BaseRun(TrainedRun):
    """See `uss_bench.contracts.TrainedRun`.

    Args:
        stated: how the cell that builds upon it states it.
        place: its record and its cell, when a run has begun.
    """

    registry: Registry
    backbone: Backbone
    stated: Mapping[str, Any]
    place: tuple[Path, Cell] | None
    _loaded: dict[torch.device, Method] = field(default_factory=dict, compare=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, compare=False)

    @property
    def method(self) -> str:  # type: ignore[override]
        return str(self.stated["method"])

    @property
    def params(self) -> Mapping[str, Any]:  # type: ignore[override]
        found: Mapping[str, Any] = self.stated["params"]
        return found

    @property
    def inputs(self) -> tuple[str, ...]:  # type: ignore[override]
        spec, _ = self.registry.method(self.method)
        return tuple(inputs_of(spec, self.make()))

    @property
    def cell(self) -> str:  # type: ignore[override]
        return "" if self.place is None else self.place[1].id

    @property
    def state(self) -> str:  # type: ignore[override]
        return "" if self.place is None else read_record(self.record()).state_sha256

    def make(self) -> Method:
        return self._load(None, None)

    def load(self, device: torch.device) -> Method:
        with self._lock:  # builders of derived arrays call this in threads, for every item
            if device not in self._loaded:
                path = self.record()
                self._loaded[device] = self._load(read_state(path, read_record(path)), device)
        return self._loaded[device]

    def record(self) -> Path:
        """Return where its record lies.

        Raises:
            UsageError: when no run has begun, or there is no record.
        """
        if self.place is None:
            raise UsageError(f"The run of '{self.method}' is known while a method trains, not afterwards.")
        path, cell = self.place
        if not path.exists():
            raise UsageError(
                f"What is built upon, a run of '{self.method}' with seed {cell.seed} on the same data and "
                f"backbone, is not in {path.parents[1]} ({path.name}).",
                hint=f"Run it first: --method {self.method} --method … runs both in the right order.",
            )
        return path

    def with_state(self, state: bytes, device: torch.device) -> Method:
        """Return the method with a state that was read elsewhere."""
        return self._load(state, device)

    def _load(self, state: bytes | None, device: torch.device | None) -> Method:
        _, plugin = self.registry.method(self.method)
        given = arguments(plugin, self.params, self.backbone, self.registry)
        # Modules draw their initial weights, which must not move the draws of who loads them.
        with torch.random.fork_rng(devices=[]):
            return load_method(plugin, given, self.backbone, state, device)
