"""The command that a cell stands for: written for its record, and read back without running it."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec

from uss_bench.errors import UsageError
from uss_bench.experiment.cells import CellSpec, Execution
from uss_bench.files.json_file import JSON_ERRORS
from uss_bench.runtime.formatting import value_text

_ONE: dict[str, type] = {
    **dict.fromkeys(("classes", "backbone_name", "positions", "preset", "device"), str),
    **dict.fromkeys(("feature_dtype", "launcher", "launcher_config", "crf", "track"), str),
    **dict.fromkeys(("root", "weights", "out"), Path),
    **dict.fromkeys(("seed", "seeds", "limit", "threads", "workers", "jobs", "retries"), int),
    **dict.fromkeys(("store_budget", "snapshot_every"), float),
}
"""Options that are given once, with the type of their value; flags are their names with hyphens."""
_MANY = {
    "method": "methods",
    "dataset": "dataset",
    "backbone": "backbone",
    "protocol": "protocol",
    "data": "data_pairs",
    "aux": "aux_pairs",
    "set": "set_pairs",
    "training": "training_pairs",
    "launcher-set": "launcher_pairs",
    "note": "notes",
    "labels-used": "labels_used",
    "plugin": "plugin",
}
"""Flags that may be repeated, and what their values are called together."""
_SWITCHES = ("force", "isolate", "dry-run", "quiet", "debug")
_DEFAULTS = {"track": "", "device": "auto", "store_budget": 50.0, "seed": 0, "out": Path("results")}


def command_line(cell: CellSpec, execution: Execution) -> str:
    """Return the command that runs this cell and no other, for its record."""
    return shlex.join(["uss-bench", "run", *_words(cell, execution)])


def read_command(command: str) -> dict[str, Any]:
    """Return the options of a ``uss-bench run`` or ``study``, by name; those left out have their defaults.

    Raises:
        ValueError: when it is another command, or is malformed.
    """
    try:
        words = shlex.split(command)
    except ValueError:  # a quote is not closed
        words = []
    if words[:1] != ["uss-bench"] or words[1:2] not in (["run"], ["study"]):
        text = command or "a program that does not state it"
        raise ValueError(f"it was not made by 'uss-bench run' or 'study', but by '{text}'")
    job = words[1]
    options: dict[str, Any] = {**dict.fromkeys(_ONE), **_DEFAULTS, **dict.fromkeys(_MANY.values(), ())}
    left = iter(words[2:])
    for word in left:
        flag, equals, value = word.removeprefix("--").partition("=")
        if not word.startswith("--"):
            if job == "run":
                raise ValueError(f"'{word}' belongs to no option")
            continue  # the study's name
        if flag in _SWITCHES:
            continue
        if not equals:
            value = next(left, "")
            if not value:
                raise ValueError(f"{word} has no value")
        name = flag.replace("-", "_")
        if flag in _MANY:
            options[_MANY[flag]] += (value,)
        elif name in _ONE:
            options[name] = _ONE[name](value)
        else:
            raise ValueError(f"there is no option {word.partition('=')[0]}")
    return options


_SEED = re.compile(r"(?: --seeds 1)? --seed (\d+)(?: --seeds 1)?(?= |$)")
"""How a command asks for one seed."""


def with_all_seeds(commands: Iterable[str]) -> list[str]:
    """Return commands without repetition; those that differ in consecutive seeds alone become one."""
    alike: dict[str, dict[int, str]] = {}
    for command in dict.fromkeys(commands):
        seed, rest = _SEED.search(command), _SEED.sub("\0", command)
        if seed is None or " --seeds " in rest:
            alike[command] = {0: command}
        else:
            alike.setdefault(rest, {})[int(seed[1])] = command
    merged = []
    for by_seed in alike.values():
        first, number = min(by_seed), len(by_seed)
        if number > 1 and by_seed.keys() == set(range(first, first + number)):
            start = f" --seed {first}" if first else ""
            merged.append(_SEED.sub(f"{start} --seeds {number}", by_seed[first]))
        else:
            merged += [by_seed[seed] for seed in sorted(by_seed)]
    return merged


def collect_data(root: Path | str | None, classes: str | None, pairs: tuple[str, ...]) -> dict[str, Any]:
    """Join --root, --classes and --data into the dataset's options."""
    options = parse_pairs(pairs, "--data")
    if root is not None:
        options["root"] = str(root)
    if classes is not None:
        options["classes"] = classes
    return options


def parse_pairs(pairs: tuple[str, ...], flag: str) -> dict[str, Any]:
    """Read ``key=value`` pairs; a value is JSON where it can be, else a string."""
    values: dict[str, Any] = {}
    for pair in pairs:
        key, equals, text = pair.partition("=")
        if not equals or not key:
            raise UsageError(f"{flag} takes KEY=VALUE, not '{pair}'.")
        method, dot, name = key.rpartition(".")  # of --set for one method
        key = f"{method}{dot}{name.replace('-', '_')}"
        try:
            values[key] = msgspec.json.decode(text)
        except (*JSON_ERRORS, UnicodeEncodeError):
            values[key] = text
    return values


def parse_folders(pairs: tuple[str, ...], flag: str) -> dict[str, str]:
    """Read ``NAME=DIR`` pairs."""
    folders = {}
    for pair in pairs:
        name, equals, folder = pair.partition("=")
        if not equals or not name or not folder:
            raise UsageError(f"{flag} takes NAME=DIR, not '{pair}'.")
        folders[name] = folder
    return folders


def _words(cell: CellSpec, execution: Execution) -> Iterator[str]:
    yield from ("--method", cell.method, "--dataset", cell.dataset)
    data = dict(cell.data)
    for name in ("root", "classes"):
        if name in data:
            yield from (f"--{name}", str(data.pop(name)))
    yield from _pairs("--data", data)
    yield from _pairs("--aux", cell.aux)
    for name in ("backbone", "weights", "backbone_name", "positions", "protocol", "preset"):
        value = getattr(cell, name)
        if value is not None:
            yield from (f"--{name.replace('_', '-')}", value)
    yield from _pairs("--set", cell.params)
    yield from _pairs("--training", cell.training)
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
    if execution.isolate:
        yield "--isolate"
    for folder in execution.plugins:
        yield from ("--plugin", folder)


def _pairs(flag: str, values: Mapping[str, Any]) -> Iterator[str]:
    """Write values so that `parse_pairs` reads the same ones."""
    for name, value in values.items():
        yield from (flag, f"{name}={value_text(value)}")
