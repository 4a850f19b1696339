"""Parameters of plugins: defaults, presets and the user's choice, checked against the signature."""

from __future__ import annotations

import inspect
import json
import typing
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import msgspec

from uss_bench.errors import ContractError, UsageError, blame, did_you_mean
from uss_bench.registry import Plugin
from uss_bench.specs import MethodSpec, Preset
from uss_bench.text import steering_at


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
        UsageError: for an unknown parameter, a missing value, or one that is of a wrong type, too small or
            not to be recorded.
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
            plain = msgspec.to_builtins(value)
            json.dumps(plain, allow_nan=False)
            steers = steering_at(plain)
        except (TypeError, ValueError, RecursionError, OverflowError):
            steers = name
        if steers:
            raise UsageError(
                f"{owner}: {name}={value!r} will not do: a record could not state it.",
                hint="Numbers must be finite, and text without control characters.",
            )


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
        hints = typing.get_type_hints(entry.__init__ if inspect.isclass(entry) else entry)
        known = list(inspect.signature(entry).parameters)[skip:]
    checked: dict[str, Any] = {}
    for name, value in options.items():
        if name not in known:
            raise UsageError(
                f"{owner} has no option '{name}' ({flag} {name}=…).", hint=did_you_mean(name, known)
            )
        hint = hints.get(name, Any)
        choices = typing.get_args(hint) or (hint,)
        if Path in choices:
            if isinstance(value, (str, Path)):
                checked[name] = value
                continue
            # msgspec has no paths in unions; whoever writes one in a command or a file writes a string.
            hint = typing.Union[tuple(str if one is Path else one for one in choices)]  # noqa: UP007
        try:
            checked[name] = msgspec.convert(value, hint, strict=True)
        except msgspec.ValidationError as error:
            raise UsageError(f"{owner}: {name}={value!r} will not do: {error}.") from None
        except TypeError as error:
            raise ContractError(
                f"{owner}: the type of {name} is none that a value can have: {error}"
            ) from None
    return checked


def required_options(entry: Callable[..., Any], skip: int = 0) -> set[str]:
    """Return the names of keyword options that have no default."""
    parameters = list(inspect.signature(entry).parameters.values())[skip:]
    return {one.name for one in parameters if one.default is inspect.Parameter.empty}
