"""What a process is asked to do: one cell, or one extraction, in names and strings that JSON can hold."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import msgspec

from uss_bench.errors import DataError
from uss_bench.json_files import JSON_ERRORS, read_json
from uss_bench.paths import CACHE_VARIABLE, atomic_write
from uss_bench.records import FeatureDtype
from uss_bench.registry import ENVIRONMENT_VARIABLE
from uss_bench.specs import Name

if TYPE_CHECKING:
    from uss_bench.setup import Request

LOCAL = "local"
"""The launcher of this machine's processes."""

Count = Annotated[int, msgspec.Meta(ge=1)]
_VARIABLES = (CACHE_VARIABLE, ENVIRONMENT_VARIABLE)


class _Part(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    pass


class CellSpec(_Part, frozen=True):
    """One cell as it was asked for: the options of ``uss-bench run`` that say what is run."""

    method: Name
    dataset: Name
    data: dict[str, Any] = {}
    """Options of the dataset, ``root`` and ``classes`` among them."""
    backbone: str | None = None
    weights: str | None = None
    backbone_name: str | None = None
    protocol: str | None = None
    preset: str | None = None
    params: dict[str, Any] = {}
    limit: Count | None = None
    feature_dtype: FeatureDtype = "float16"
    seed: Annotated[int, msgspec.Meta(ge=0)] = 0
    notes: list[str] = []
    labels_used: list[str] = []

    def request(self) -> Request:
        """Return what `uss_bench.setup.resolve` takes; the seed and the remarks are no part of it."""
        from uss_bench.setup import Request

        return Request(
            method=self.method,
            dataset=self.dataset,
            dataset_options=self.data,
            backbone=self.backbone,
            weights=None if self.weights is None else Path(self.weights),
            backbone_name=self.backbone_name,
            protocol=self.protocol,
            preset=self.preset,
            params=self.params,
            limit=self.limit,
            feature_dtype=self.feature_dtype,
        )


class Execution(_Part, frozen=True):
    """How cells are run: the options that change no number, but for the last bits (`device`, `threads`)."""

    out: str
    device: str = "auto"
    store_budget: float = 50.0
    """GB that one extraction may take on disk."""
    crf_engine: Literal["lattice", "pydensecrf"] = "lattice"
    workers: Count | None = None
    """Processes of the CRF; None for one per core."""
    threads: Count | None = None
    """Threads of torch; None for what torch chooses."""
    snapshot_seconds: Annotated[float, msgspec.Meta(ge=0)] = 60.0
    """How much training a kill may cost."""
    force: str = ""
    """The order to run again what has a record (`record_files.new_order`), or ''. A process that is started
    again under the same one goes on with what was begun."""
    plugins: list[str] = []
    """Folders given by ``--plugin``."""
    folder: str = "."
    """The folder that the command was given in; relative paths are taken from it."""
    variables: dict[str, str] = {}
    """Environment variables that say where caches and plugins are."""

    def enter(self) -> None:
        """Make this process one that was started in the same folder with the same variables.

        Raises:
            DataError: when the folder is not there on this machine.
        """
        try:
            os.chdir(self.folder)
        except OSError as error:
            raise DataError(
                f"The folder of the command, {self.folder}, cannot be entered here: {error.strerror}.",
                hint="Start it in a folder that all machines see under the same path.",
            ) from None
        os.environ.update({name: self.variables[name] for name in _VARIABLES if name in self.variables})


@dataclass(frozen=True)
class Start:
    """Who runs the cells of a plan."""

    launcher: str | None = None
    """A launcher's name; None for this process, or ``local`` with more than one job."""
    options: Mapping[str, Any] = field(default_factory=dict)
    jobs: int | None = None
    """How many cells may run at a time."""
    retries: int = 2
    """How often a cell whose process dies is started again."""

    @property
    def name(self) -> str | None:
        """The launcher's name, None when cells run in this process."""
        return self.launcher or (LOCAL if (self.jobs or 1) > 1 else None)


def here() -> dict[str, Any]:
    """Return the fields of `Execution` that describe where this process is."""
    variables = {name: os.environ[name] for name in _VARIABLES if name in os.environ}
    return {"folder": str(Path.cwd()), "variables": variables}


class CellWork(_Part, frozen=True, tag="cell"):
    """Run one cell and write its record."""

    cell: CellSpec
    execution: Execution
    id: str
    """Of the cell as it was planned; what is another one where it is run is refused."""


class ExtractionWork(_Part, frozen=True, tag="extraction"):
    """Extract the features that several cells share: those of one cell's images."""

    cell: CellSpec
    execution: Execution
    facets: list[str]
    """Of all the cells that share it."""
    part: Annotated[int, msgspec.Meta(ge=0)] = 0
    parts: Count = 1
    """Which share of the items, of how many; see `FeatureStore.extract`."""


Work = CellWork | ExtractionWork


def write_work(path: Path, work: Work) -> None:
    atomic_write(path, msgspec.json.format(msgspec.json.encode(work), indent=1) + b"\n")


def read_work(path: Path) -> Work:
    """Read a task's file.

    Raises:
        DataError: when it is missing or malformed, naming the wrong key by its path.
    """
    work: Work = read_json(path, Work, "task")  # type: ignore[arg-type]  # a union is no type to mypy
    return work


def command_line(cell: CellSpec, execution: Execution) -> str:
    """Return the command that runs this cell and no other, for its record."""
    return shlex.join(["uss-bench", "run", *_words(cell, execution)])


def _words(cell: CellSpec, execution: Execution) -> Iterator[str]:
    yield from ("--method", cell.method, "--dataset", cell.dataset)
    data = dict(cell.data)
    for name in ("root", "classes"):
        if name in data:
            yield from (f"--{name}", str(data.pop(name)))
    yield from _pairs("--data", data)
    for name in ("backbone", "weights", "backbone_name", "protocol", "preset"):
        value = getattr(cell, name)
        if value is not None:
            yield from (f"--{name.replace('_', '-')}", value)
    yield from _pairs("--set", cell.params)
    if cell.limit is not None:
        yield from ("--limit", str(cell.limit))
    if cell.feature_dtype != "float16":
        yield from ("--feature-dtype", cell.feature_dtype)
    yield from ("--seed", str(cell.seed))
    for flag, values in (("--note", cell.notes), ("--labels-used", cell.labels_used)):
        for value in values:
            yield from (flag, value)
    defaults = Execution(out="results")
    for name, flag in (
        ("device", "--device"),
        ("store_budget", "--store-budget"),
        ("crf_engine", "--crf"),
        ("workers", "--workers"),
        ("threads", "--threads"),
        ("out", "--out"),
    ):
        value = getattr(execution, name)
        if value != getattr(defaults, name):
            yield from (flag, str(value))
    for folder in execution.plugins:
        yield from ("--plugin", folder)


def _pairs(flag: str, values: Mapping[str, Any]) -> Iterator[str]:
    """Write values so that `uss_bench.cli.options.parse_pairs` reads the same ones."""
    for name, value in values.items():
        yield from (flag, f"{name}={_text(value)}")


def _text(value: Any) -> str:
    encoded = msgspec.json.encode(value).decode()
    if not isinstance(value, str):
        return encoded
    try:
        msgspec.json.decode(value)
    except JSON_ERRORS:
        return value  # is read as the string that it is
    return encoded
