"""`check_split` in a process of its own: nothing that it read stays in the one that trains."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from uss_bench.contracts import Dataset
from uss_bench.data.generated import Generated
from uss_bench.data.split_check import SplitReport, check_split, known_report
from uss_bench.errors import ContractError, DataError, RunError, UsageError, UssBenchError
from uss_bench.plugins.loading import load_dataset
from uss_bench.plugins.registry import Registry
from uss_bench.runtime import progress

_ERRORS = {error.__name__: error for error in (ContractError, DataError, UsageError)}


def check_split_apart(
    dataset: Dataset,
    split: str,
    *,
    registry: Registry,
    name: str,
    options: Mapping[str, Any],
    limit: int | None = None,
) -> SplitReport:
    """Do what `check_split` does in a process of its own, so that nothing read stays in this one.

    Args:
        dataset: as `load_dataset` returns it for the name and the options.
        registry, name, options: what the other process loads it from.

    Raises:
        DataError: as `check_split`.
        RunError: when the other process dies.
    """
    if known := known_report(dataset, split, limit):
        return known
    if isinstance(dataset, Generated):
        return check_split(dataset, split, limit=limit)  # which draws nothing
    task = _Task(
        plugins=[str(path) for path in registry.extra],
        dataset=name,
        options={key: str(value) if isinstance(value, Path) else value for key, value in options.items()},
        split=split,
        limit=limit,
        quiet=progress.is_quiet(),
    )
    ended = subprocess.run(
        [sys.executable, "-c", f"from {__name__} import main; main()"],
        input=msgspec.json.encode(task),
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        check=False,
    )
    try:
        answer = msgspec.json.decode(ended.stdout, type=_Answer)
    except msgspec.DecodeError:
        raise RunError(
            f"The process that checked split '{split}' ended without an answer (exit code "
            f"{ended.returncode}).",
            hint="It may have run out of memory. 'uss-bench verify' does the same in the foreground.",
        ) from None
    if answer.report is None:
        raise _ERRORS.get(answer.error, RunError)(answer.what, hint=answer.hint)
    return answer.report


class _Task(msgspec.Struct, kw_only=True):
    plugins: list[str]
    dataset: str
    options: dict[str, Any]
    split: str
    limit: int | None
    quiet: bool


class _Answer(msgspec.Struct, kw_only=True):
    """A report, or what was wrong."""

    report: SplitReport | None = None
    error: str = ""
    what: str = ""
    hint: str | None = None


def main() -> None:
    """Answer one task on standard input with one answer on standard output."""
    task = msgspec.json.decode(sys.stdin.buffer.read(), type=_Task)
    progress.set_quiet(task.quiet)
    with contextlib.redirect_stdout(sys.stderr):  # a plugin may print
        try:
            dataset, _ = load_dataset(Registry(map(Path, task.plugins)), task.dataset, task.options)
            answer = _Answer(report=check_split(dataset, task.split, limit=task.limit))
        except UssBenchError as error:
            answer = _Answer(error=type(error).__name__, what=error.what, hint=error.hint)
        except Exception as error:
            what = f"Split '{task.split}' could not be checked: {type(error).__name__}: {error}"
            answer = _Answer(error=RunError.__name__, what=what.rstrip(": "))
    sys.stdout.buffer.write(msgspec.json.encode(answer))
