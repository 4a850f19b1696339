"""Studies: one method under several settings of its parameters, as a plan file lists them.

A plan is a TOML file, in the folder ``studies`` of a method's plugin or anywhere. It has either rows,
each with its parameters (an ablation), or one parameter and its values (a sensitivity study). What a
paper found is not in it: that is a claim, and a plan is a thing to run.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import msgspec

from uss_bench.errors import UsageError, did_you_mean
from uss_bench.files.old_spellings import known_spelling
from uss_bench.plugins.params import check_options
from uss_bench.plugins.registry import Registry
from uss_bench.plugins.specs import Name, decode_toml

FOLDER = "studies"
"""Of a method's plugin, where its plans lie."""


class Row(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One setting of a study."""

    label: str
    params: dict[str, Any] = {}
    """Empty for the method as it is."""


class Axis(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A parameter of which a study tries several values."""

    parameter: str
    values: Annotated[list[int | float], msgspec.Meta(min_length=1)]

    def __post_init__(self) -> None:
        if self.values != sorted(set(self.values)):
            raise ValueError("the values must increase")


class Plan(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What a plan file says."""

    name: Name
    title: str
    method: Name
    paper: str = ""
    """Where the method's paper has it, such as ``Table 2``."""
    params: dict[str, Any] = {}
    """Of all rows; ``--set`` overrides them."""
    rows: list[Row] = []
    axis: Axis | None = None
    notes: list[str] = []

    def __post_init__(self) -> None:
        if bool(self.rows) == (self.axis is not None):
            raise ValueError("a plan has either `rows` or an `axis`")
        if len({row.label for row in self.rows}) < len(self.rows):
            raise ValueError("two rows have the same label")
        if twice := self.varied & self.params.keys():
            raise ValueError(f"`params` fixes what the study varies: {', '.join(sorted(twice))}")

    @property
    def settings(self) -> list[Row]:
        """The rows, or one for each value of the axis."""
        if self.axis is None:
            return self.rows
        name = self.axis.parameter
        return [Row(f"{name} = {value}", {name: value}) for value in self.axis.values]

    @property
    def varied(self) -> set[str]:
        """The parameters that some setting gives."""
        return {name for row in self.settings for name in row.params}


@dataclass(frozen=True)
class Study:
    """A plan and the file that it was read from."""

    plan: Plan
    path: Path

    def check(self, registry: Registry) -> None:
        """Hold every parameter against the method's signature.

        Raises:
            UsageError: naming the file, and the key by its path, of the first that does not fit.
        """
        if self.plan.method not in registry.names("methods"):
            raise UsageError(
                f"{self.path}: there is no method '{self.plan.method}' - at `$.method`.",
                hint=did_you_mean(self.plan.method, registry.names("methods")),
            )
        entry = registry.find("methods", self.plan.method).load()
        self._check_params(entry, self.plan.params, "$.params")
        for index, row in enumerate(self.plan.settings):
            where = f"$.rows[{index}].params" if self.plan.axis is None else "$.axis"
            self._check_params(entry, row.params, where)

    def _check_params(self, entry: Callable[..., Any], params: Mapping[str, Any], where: str) -> None:
        known = inspect.signature(entry).parameters
        for name in params:
            if name not in known:
                raise UsageError(
                    f"{self.path}: method '{self.plan.method}' has no parameter '{name}' - at `{where}`.",
                    hint=did_you_mean(name, known),
                )
        check_options(entry, params, f"{self.path}, at `{where}`", "")

    def respelled(self, registry: Registry) -> Study:
        """Return the study with parameters that earlier versions spelled otherwise under today's names."""
        if self.plan.method not in registry.names("methods"):
            return self
        known = inspect.signature(registry.find("methods", self.plan.method).load()).parameters

        def today(params: Mapping[str, Any]) -> dict[str, Any]:
            return {known_spelling(name, known): value for name, value in params.items()}

        plan, axis = self.plan, self.plan.axis
        changed = msgspec.structs.replace(
            plan,
            params=today(plan.params),
            rows=[Row(row.label, today(row.params)) for row in plan.rows],
            axis=axis and Axis(known_spelling(axis.parameter, known), axis.values),
        )
        return Study(changed, self.path)

    def params(self, row: Row, chosen: Mapping[str, Any]) -> dict[str, Any]:
        """Return the parameters of a row's runs: the plan's, the user's, and the row's above both.

        Raises:
            UsageError: when the user's would undo what the study varies.
        """
        if clash := sorted(self.plan.varied & chosen.keys()):
            raise UsageError(
                f"Study '{self.plan.name}' varies {', '.join(clash)}, so --set cannot fix it.",
                hint="Leave it out, or write a plan of your own: uss-bench study FILE.toml.",
            )
        return {**self.plan.params, **chosen, **row.params}


def read_study(path: Path) -> Study:
    """Read a plan file.

    Raises:
        DataError: when it is missing or malformed, naming the wrong key by its path.
    """
    plan: Plan = decode_toml(path, Plan)
    return Study(plan, path)


def known_studies(registry: Registry) -> dict[str, Study]:
    """Return the studies of all methods that can be seen, by name.

    Raises:
        UsageError: when two have the same name.
    """
    found: dict[str, Study] = {}
    for plugin in registry.all("methods"):
        for path in sorted(plugin.folder.glob(f"{FOLDER}/*.toml")):
            study = read_study(path)
            first = found.setdefault(study.plan.name, study)
            if first is not study:
                raise UsageError(f"Two studies are called '{study.plan.name}': {first.path} and {path}.")
    return found


def find_study(text: str, registry: Registry) -> Study:
    """Return the study that `text` names: a plan file, or the name of a known study.

    Raises:
        UsageError: when there is none, with the closest names.
        DataError: when the file is missing or malformed.
    """
    if text.endswith(".toml"):
        return read_study(Path(text)).respelled(registry)
    known = known_studies(registry)
    if text not in known:
        raise UsageError(f"There is no study '{text}'.", hint=did_you_mean(text, known))
    return known[text]
