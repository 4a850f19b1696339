"""Parameters of plugins: defaults, presets and the user's choice, checked against the signature."""

from __future__ import annotations

import dataclasses
import inspect
import json
import sys
import types
import typing
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

import msgspec

from uss_bench.errors import ContractError, UsageError, blame, did_you_mean, shortened
from uss_bench.files.old_spellings import known_spelling
from uss_bench.plugins.registry import Plugin
from uss_bench.plugins.specs import MethodSpec, Preset
from uss_bench.protocol import TrainingGeometry, change_training
from uss_bench.runtime.limits import LARGEST_COUNT, MOST_CLUSTERS


def own_params(method: str, given: Mapping[str, Any], methods: Collection[str]) -> dict[str, Any]:
    """Return the parameters of one method among those given to several: ``name``, or ``method.name``.

    Args:
        method: one of `methods`.
        given: by name; a value for one method has precedence over a value for all of them.

    Raises:
        UsageError: when a value is for a method that is none of `methods`.
    """
    for key in given:
        scope = key.rpartition(".")[0]
        if scope and scope not in methods:
            raise UsageError(
                f"The parameter '{key}' is for method '{scope}', which is not among those to run.",
                hint=did_you_mean(scope, methods),
            )
    shared = {key: value for key, value in given.items() if "." not in key}
    scoped = {
        key.rpartition(".")[2]: value for key, value in given.items() if key.rpartition(".")[0] == method
    }
    return {**shared, **scoped}


def choose_preset(spec: MethodSpec, asked: str | None, *, dataset: str, backbone: str) -> Preset | None:
    """Return the preset asked for, or the most specific one whose `when` the run meets."""
    if asked is not None:
        for preset in spec.presets:
            if preset.name == asked:
                return preset
        names = [preset.name for preset in spec.presets]
        raise UsageError(f"Method '{spec.name}' has no preset '{asked}'.", hint=did_you_mean(asked, names))
    here = {"dataset": dataset, "backbone": backbone}
    fitting = [
        preset
        for preset in spec.presets
        if preset.when and all(here[key] == value for key, value in preset.when.items())
    ]
    return max(fitting, key=lambda preset: len(preset.when), default=None)


def spec_defaults(spec: MethodSpec, *, dataset: str, backbone: str) -> dict[str, Any]:
    """Return the defaults that the spec gives to a run on this dataset and backbone.

    A run without a backbone is one on ``none``, a name like any other.
    """
    here = {"dataset": dataset, "backbone": backbone}
    params: dict[str, Any] = {}
    for defaults in spec.defaults:
        if not any(here[key] in names for key, names in defaults.unless.items()):
            params |= defaults.params
    return params


def training_geometry(
    spec: MethodSpec, chosen: Mapping[str, Any], *, dataset: str, backbone: str
) -> TrainingGeometry:
    """Return what a method trains on: the lineage's geometry, changed by its spec and then by the user.

    Raises:
        UsageError: for a field or a value that does not exist, or has no effect.
    """
    here = {"dataset": dataset, "backbone": backbone}
    changes: dict[str, Any] = {}
    for row in spec.training:
        wanted = {key: [names] if isinstance(names, str) else names for key, names in row.when.items()}
        if all(here[key] in names for key, names in wanted.items()):
            changes |= row.params
    released = change_training(TrainingGeometry(), changes, f"Method '{spec.name}', training")
    return change_training(released, chosen, "--training")


def method_params(
    plugin: Plugin,
    preset: Preset | None,
    chosen: Mapping[str, Any],
    *,
    n_classes: int,
    defaults: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Return every parameter of a method with its value.

    The default of the signature gives way to the spec's `defaults`, these to the preset, and this to
    what the user has `chosen`. `clusters` defaults to the number of classes, which is a hint and no label.

    Raises:
        UsageError: for an unknown parameter, a missing value, or one that has a wrong type, is too small or
            cannot be recorded.
    """
    entry = plugin.load()
    owner = f"Method '{plugin.name}'"
    params: dict[str, Any] = {}
    with blame(owner, "stating its parameters"):
        known = inspect.signature(entry).parameters
    if "clusters" in known and n_classes:
        params["clusters"] = n_classes
    params.update(
        {name: item.default for name, item in known.items() if item.default is not inspect.Parameter.empty}
    )
    params.update(
        check_options(entry, defaults or {}, f"The spec.toml of method '{plugin.name}'", "defaults:")
    )
    given = {**(preset.params if preset else {}), **chosen}
    params.update(check_options(entry, given, owner, "--set"))
    missing = [name for name in known if name not in params]
    if "clusters" in missing:
        raise UsageError(
            "The number of clusters must be given, because the dataset has no labels to count classes from.",
            hint="For example --set clusters=8.",
        )
    if missing:
        raise UsageError(
            f"{owner} needs a value for {', '.join(missing)}.",
            hint=f"Use --set {missing[0]}=…",
        )
    minimum = plugin.spec.minimum if isinstance(plugin.spec, MethodSpec) else {}
    _check_recordable(params, owner)
    check_least(params, {"clusters": 1, **minimum}, owner)
    for name, value in params.items():
        most = MOST_CLUSTERS if name == "clusters" else LARGEST_COUNT
        if isinstance(value, int) and value > most:
            raise UsageError(f"{owner}: {name} must be at most {most:,}, not {value:,}.")
    return params


def check_least(params: Mapping[str, Any], minimum: Mapping[str, float], owner: str) -> None:
    """Raise `UsageError` for a parameter that is less than its minimum, or no number; None is let pass."""
    for name, least in minimum.items():
        value = params.get(name)
        if value is None:
            continue
        if not isinstance(value, (int, float)):
            raise UsageError(f"{owner}: {name} must be a number, not {value!r}.")
        if value < least:
            raise UsageError(f"{owner}: {name} must be at least {least:g}, not {value}.")


def _check_recordable(params: Mapping[str, Any], owner: str) -> None:
    """Refuse what a record could not state: in its JSON infinity would become null, for one."""
    for name, value in params.items():
        try:
            json.dumps(msgspec.to_builtins(value), allow_nan=False)
        except (TypeError, ValueError, RecursionError, OverflowError):
            raise UsageError(
                f"{owner}: {name}={shortened(repr(value), 80)} cannot be recorded.",
                hint="Numbers must be finite, and values of types that JSON has.",
            ) from None


def check_options(
    entry: Callable[..., Any], options: Mapping[str, Any], owner: str, flag: str, skip: int = 0
) -> dict[str, Any]:
    """Return keyword options with the types that a signature says: 1 becomes 1.0 where a float is due.

    Raises:
        UsageError: naming the option, what it should be and what was given.
        ContractError: when the signature cannot be read, or a type in it is none of JSON's.
    """
    if not options:
        return {}
    with blame(owner or "The plugin", "stating its options"):
        hints = parameter_types(entry)
        known = list(inspect.signature(entry).parameters)[skip:]
    checked: dict[str, Any] = {}
    for given, value in options.items():
        name = known_spelling(given, known)
        if name not in known:
            raise UsageError(
                f"{owner} has no option '{shortened(name, 80)}' ({flag} …).",
                hint=did_you_mean(name[:80], known),
            )
        hint = hints.get(name, Any)
        choices = typing.get_args(hint) or (hint,)
        if Path in choices and isinstance(value, (str, Path)):
            checked[name] = value
            continue
        if any(getattr(choice, "__name__", "") in ("Path", "TrainedRun") for choice in choices):
            from uss_bench.contracts import TrainedRun  # imports torch, which few options need

            # Commands and files state a file by its path, and a run by a name or a table.
            written = {Path: str, TrainedRun: str | dict[str, Any]}
            hint = typing.Union[tuple(written.get(choice, choice) for choice in choices)]  # noqa: UP007
        try:
            checked[name] = msgspec.convert(value, hint, strict=True)
        except msgspec.ValidationError as error:
            raise UsageError(f"{owner}: {name}={shortened(repr(value), 80)} is not valid: {error}.") from None
        except TypeError as error:
            raise ContractError(
                f"{owner}: the type of {name} is none that a value can have: {error}"
            ) from None
    return checked


def parameter_types(entry: Callable[..., Any]) -> dict[str, Any]:
    """Return the types of the parameters of a class or function, by name.

    The type of an inherited field of a dataclass is read in the module that states it: the class's own,
    whose constructor repeats it, may not know its names.
    """
    try:
        return typing.get_type_hints(entry.__init__ if inspect.isclass(entry) else entry)
    except NameError:
        if not dataclasses.is_dataclass(entry):
            raise
        found: dict[str, Any] = {}
        for one in reversed(entry.__mro__):
            stated = types.SimpleNamespace(__annotations__=inspect.get_annotations(one))
            found |= typing.get_type_hints(stated, vars(sys.modules[one.__module__]))
        return found


def parameters_of_type(entry: Callable[..., Any], kind: type) -> list[str]:
    """Return the names of parameters that are annotated with a type, alone or among others."""
    hints = parameter_types(entry)
    known = inspect.signature(entry).parameters
    return [name for name in known if kind in (typing.get_args(hints.get(name)) or (hints.get(name),))]


def required_options(entry: Callable[..., Any], skip: int = 0) -> set[str]:
    """Return the names of keyword options that have no default."""
    parameters = list(inspect.signature(entry).parameters.values())[skip:]
    return {item.name for item in parameters if item.default is inspect.Parameter.empty}
