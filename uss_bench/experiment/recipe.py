"""What a record leaves to its command: where data and weights lie, and how the run was started."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from uss_bench.errors import RunError, UsageError
from uss_bench.experiment.command_line import collect_data, parse_folders, parse_pairs, read_command
from uss_bench.plugins.specs import NO_BACKBONE

if TYPE_CHECKING:
    from uss_bench.contracts import Backbone
    from uss_bench.experiment.setup import Setup
    from uss_bench.plugins.registry import Registry
    from uss_bench.plugins.specs import Kind
    from uss_bench.results.record import RunRecord

_BELONGS = {
    "dataset": ("root", "classes", "data_pairs", "aux_pairs"),
    "backbone": ("weights", "backbone_name"),
}
"""Options that say where things lie, by the option that names the thing."""


@dataclass(frozen=True)
class Recipe:
    """A record and the options of its command."""

    record: RunRecord
    options: Mapping[str, Any]
    """By the names of the parameters of ``uss-bench run``; empty where the record states no such command."""
    command: str
    """The command, with the files that the user gives instead appended to it."""

    def setup(self, registry: Registry) -> Setup:
        """Resolve what the record states, from where its command has it.

        Raises:
            UssBenchError: when a name, an option, data or weights do not exist any more.
        """
        from uss_bench.experiment.cells import CellSpec
        from uss_bench.experiment.resolving import resolve

        cell = self.record.cell
        backbone, weights, alias = self._network(registry)
        places = (self.options.get("root"), self.options.get("classes"), self.options.get("data_pairs") or ())
        asked = CellSpec(
            method=cell.method.name,
            dataset=self._only("dataset") or cell.dataset.name,
            data=collect_data(*places),
            aux=parse_folders(self.options.get("aux_pairs") or (), "--aux"),
            backbone=backbone,
            weights=None if weights is None else str(weights),
            backbone_name=alias,
            positions=cell.backbone.positions or None,
            protocol=cell.protocol,
            params=self._params(registry),
            training=msgspec.structs.asdict(cell.training),
            limit=cell.dataset.limit,
            feature_dtype=cell.backbone.feature_dtype,
        )
        return resolve(asked, registry)

    def backbone(self, registry: Registry) -> Backbone:
        """Load the record's backbone alone, without its dataset.

        Raises:
            UssBenchError: when a name or the weights do not exist any more.
        """
        from uss_bench.plugins.loading import load_backbone

        name, weights, alias = self._network(registry)
        positions = self.record.cell.backbone.positions or None
        return load_backbone(registry, name, weights=weights, alias=alias, positions=positions)

    def _params(self, registry: Registry) -> dict[str, Any]:
        """Return the record's parameters, with the places of files, which only its command knows."""
        from uss_bench.contracts import TrainedRun
        from uss_bench.experiment.assets import names_a_file
        from uss_bench.plugins.params import parameters_of_type

        method = self.record.cell.method
        entry = registry.find("methods", method.name).load()
        files, runs = (parameters_of_type(entry, kind) for kind in (Path, TrainedRun))
        given = parse_pairs(self.options.get("set_pairs") or (), "--set")
        named = [name for name in given if name in files or (name in runs and names_a_file(given[name]))]
        return {**method.params, **{name: given[name] for name in named}}

    def _network(self, registry: Registry) -> tuple[str, Path | None, str | None]:
        """Return the backbone's name in the registry, its weights, and the record's own name for it."""
        recorded = self.record.cell.backbone.name
        self._check_origins(registry)
        if recorded == NO_BACKBONE:
            return recorded, None, None
        name: str | None = self._only("backbone")
        if name is None and self.options.get("backbone_name") is not None:
            name = registry.dataset(self._only("dataset"))[0].default_backbone
        name = name or recorded
        return name, self.options.get("weights"), None if name == recorded else recorded

    def _check_origins(self, registry: Registry) -> None:
        """Refuse a method or backbone that was defined in Python, and is not in the registry.

        Raises:
            UsageError: with how to give it.
        """
        from uss_bench.plugins.in_place import origin_note

        cell = self.record.cell
        used: dict[Kind, str] = {"methods": cell.method.name, "backbones": cell.backbone.name}
        for kind, name in used.items():
            if origin_note(kind, name) in self.record.notes and name not in registry.names(kind):
                raise UsageError(
                    f"{kind[:-1].capitalize()} '{name}' of record {self.record.id} was defined in Python, "
                    "and is not known here.",
                    hint=f"In Python, uss_bench.load(record, {kind[:-1]}=…) takes it. For commands, make it "
                    f"a plugin: uss-bench new {kind[:-1]} {name}.",
                )

    def _only(self, name: str) -> Any:
        """Return an option that ``run`` takes several times and a record's command gives once at most.

        Raises:
            RunError: when the command is of several cells.
        """
        given = self.options.get(name)
        if not isinstance(given, tuple):
            return given
        if len(given) > 1:
            raise RunError(f"The command names several of --{name}, and a record is of one.")
        return given[0] if given else None


def read_recipe(record: RunRecord, **given: Any) -> Recipe:
    """Return what a record's command states; nothing runs it.

    Args:
        given: options by name that take the place of the command's, unless they are None or ().

    Raises:
        RunError: when the record does not come from such a command.
    """
    try:
        options = read_command(record.command)
    except ValueError as error:
        raise RunError(
            f"Record {record.id} cannot be repeated: {error}.",
            hint=f"The command is: {record.command}" if record.command else None,
        ) from None
    words = shlex.split(record.command)
    given = _stated(given)
    for option, places in _BELONGS.items():  # the files of one dataset or network are not those of another
        known = options[option] if isinstance(options[option], tuple) else (options[option],)
        if option in given and given[option] not in known:
            options |= dict.fromkeys(places)
    for name, flag in (("root", "--root"), ("weights", "--weights"), ("aux_pairs", "--aux")):
        value = given.get(name, ())
        words += [
            word for one in (value if isinstance(value, tuple) else (value,)) for word in (flag, str(one))
        ]
    return Recipe(record, options | given, shlex.join(words))


def find_recipe(record: RunRecord, **given: Any) -> Recipe:
    """Return the same, or what the record's names alone tell where it does not come from such a command."""
    try:
        return read_recipe(record, **given)
    except RunError:
        return Recipe(record, _stated(given), "")


def _stated(options: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in options.items() if value not in (None, ())}
