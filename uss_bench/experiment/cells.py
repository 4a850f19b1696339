"""What is asked for: one cell, or one extraction, in names and strings that JSON can hold."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec

from uss_bench.errors import DataError
from uss_bench.files.atomic import CACHE_VARIABLE, atomic_write
from uss_bench.files.json_file import read_json
from uss_bench.plugins.registry import ENVIRONMENT_VARIABLE
from uss_bench.plugins.specs import Name
from uss_bench.results.record import FeatureDtype
from uss_bench.runtime.limits import LARGEST_COUNT, LARGEST_SEED

LOCAL = "local"
"""The launcher of this machine's processes."""

Count = Annotated[int, msgspec.Meta(ge=1, le=LARGEST_COUNT)]
Seed = Annotated[int, msgspec.Meta(ge=0, le=LARGEST_SEED)]
_VARIABLES = (CACHE_VARIABLE, ENVIRONMENT_VARIABLE)


class _Part(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    pass


class CellSpec(_Part, frozen=True):
    """One cell as it was asked for: the options of ``uss-bench run`` that say what is run.

    `uss_bench.experiment.resolving.resolve` turns it into what a run needs.
    """

    method: Name
    dataset: Name
    data: dict[str, Any] = {}
    """Options of the dataset, ``root`` and ``classes`` among them."""
    aux: dict[str, str] = {}
    """Folders of maps that are laid over the dataset's images, by the names of their channels."""
    backbone: str | None = None
    weights: str | None = None
    """File of the backbone's weights."""
    backbone_name: str | None = None
    """What records call the backbone with these weights."""
    positions: str | None = None
    """Who interpolates the backbone's position embedding, in place of its own code."""
    protocol: str | None = None
    preset: str | None = None
    params: dict[str, Any] = {}
    training: dict[str, Any] = {}
    """Fields of `uss_bench.protocol.TrainingGeometry`, in place of the method's."""
    limit: Count | None = None
    feature_dtype: FeatureDtype = "float16"
    seed: Seed = 0
    notes: list[str] = []
    labels_used: list[str] = []


class Execution(_Part, frozen=True):
    """How cells are run: the options that change no number, but for the last bits (`device`, `threads`)."""

    out: str
    device: str = "auto"
    store_budget: float = 50.0
    """GB that one extraction may take on disk."""
    crf_engine: Literal["lattice", "pydensecrf"] = "lattice"
    workers: Count | None = None
    """Threads of the CRF; None for one per core."""
    threads: Count | None = None
    """Threads of torch; None for what torch chooses."""
    snapshot_seconds: Annotated[float, msgspec.Meta(ge=0)] = 60.0
    """How much training a kill may cost."""
    force: str = ""
    """A `new_rerun_token` to run again what has a record, or ''. A process that is started again under the
    same token goes on with what was begun."""
    isolate: bool = False
    """Whether methods train and predict in processes of their own, without a way to the labels."""
    track: str = ""
    """Where curves are sent, see `uss_bench.runtime.tracking`; '' for nowhere."""
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
