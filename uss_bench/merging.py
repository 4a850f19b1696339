"""Results of several machines, joined: whole records, each once, and none that contradicts another.

All is read and compared before the first file is copied, so what is refused leaves the target as it was.
A record is copied as it is written: its JSON comes last, so that an interrupted merge leaves whole records
only, and the same command goes on from there.
"""

from __future__ import annotations

import glob
import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from uss_bench.errors import DataError
from uss_bench.paths import atomic_write, write_together
from uss_bench.record_files import read_arrays, read_record, read_state, record_files, record_path
from uss_bench.records import RunRecord
from uss_bench.rerun import movement

Fate = Literal["new", "present", "repeated", "overtaken"]
"""Copied; in the target already; in a folder given before; failed, where a finished or later run exists."""


@dataclass(frozen=True)
class Copy:
    """A record as one folder has it."""

    folder: Path
    path: Path
    record: RunRecord

    def companions(self) -> Iterator[tuple[str, Path]]:
        """Yield the suffix and path of every file that belongs to the record: arrays, state, pictures."""
        stem = self.path.name.removesuffix(".json")
        for path in sorted(self.path.parent.glob(f"{glob.escape(stem)}.*")):
            suffix = path.name.removeprefix(stem)
            if suffix not in (".json", ".failed.json"):
                yield suffix, path


@dataclass(frozen=True)
class Step:
    """What is copied for one cell."""

    target: Path
    """The record's JSON."""
    files: tuple[tuple[Path, Path], ...]
    """(from, to); the JSON is last, and missing where the target has it."""
    digests: dict[Path, str]
    """Of the files to be copied, as the record states them."""
    overtakes: Path | None
    """The record of a failed run in the target, which goes once this one is there."""


@dataclass
class Plan:
    """What a merge would do."""

    steps: list[Step] = field(default_factory=list)
    fates: list[tuple[Copy, Fate]] = field(default_factory=list)
    """What becomes of every record that was found."""


def plan_merge(
    folders: Sequence[Path], out: Path, advance: Callable[[int], Any] = lambda count: None
) -> Plan:
    """Read the records below `folders` and compare those of the same cell, with those in `out` too.

    Args:
        folders: results folders; where one cell has several equal records, the first is taken.
        out: the results folder that they go to; it need not exist.
        advance: is told of every record that was read.

    Raises:
        DataError: when a record is damaged, or two of the same inputs hold other results; all are named.
    """
    faults: list[str] = []
    cells: dict[Path, list[Copy]] = {}
    for folder in folders:
        for path in record_files(folder):
            if copy := _read(folder, path, faults):
                cells.setdefault(record_path(out, copy.record.cell), []).append(copy)
            advance(1)
    plan = Plan()
    for target, copies in cells.items():
        _plan_cell(plan, target, _distinct(copies), out, faults)
    if faults:
        count = "A record" if len(faults) == 1 else f"{len(faults)} records"
        raise DataError(
            "\n".join([f"{count} cannot be merged, and nothing was copied:", *(f"  {f}" for f in faults)]),
            hint="Delete or repair what is damaged. Of two results of the same inputs keep one; "
            "'uss-bench rerun RECORD' tells which of them this machine repeats.",
        )
    return plan


def carry_out(step: Step) -> None:
    """Copy what a step says, whole or not at all.

    Raises:
        DataError: when a file changed since the plan was made, or cannot be read or written.
    """
    try:
        contents = [(target, _content(source, step.digests.get(target, ""))) for source, target in step.files]
        step.target.parent.mkdir(parents=True, exist_ok=True)
        if contents and contents[-1][0] == step.target:
            write_together(contents)
        else:
            for path, content in contents:
                atomic_write(path, content)
        if step.overtakes is not None:
            step.overtakes.unlink(missing_ok=True)
    except OSError as error:
        raise DataError(
            f"{step.target} cannot be copied: {error.strerror}.",
            hint="What was copied before is whole; the same command goes on from there.",
        ) from None


def _read(folder: Path, path: Path, faults: list[str]) -> Copy | None:
    """Read a record with all that its digests cover; a state that was left out is no damage."""
    try:
        record = read_record(path)
        if record.arrays_sha256:
            read_arrays(path, record)
        if record.state_sha256 and path.with_suffix(".safetensors").exists():
            read_state(path, record)
    except DataError as error:
        faults.append(error.what)
        return None
    return Copy(folder, path, record)


def _distinct(copies: Iterable[Copy]) -> list[Copy]:
    """Drop what was found twice because folders overlap, and keep the order."""
    return list({copy.path.resolve(): copy for copy in copies}.values())


def _plan_cell(plan: Plan, target: Path, copies: list[Copy], out: Path, faults: list[str]) -> None:
    """Decide what becomes of the copies of one cell."""
    there = {
        path: copy
        for path in (target, _failed(target))
        if path.exists() and (copy := _read(out, path, faults))
    }
    own = {path.resolve() for path in there}
    finished = [one for one in copies if one.record.status == "done"]
    kept = there.get(target) or next(iter(finished), None)
    if kept is None:
        _plan_failure(plan, target, copies, there.get(_failed(target)))
        return
    for copy in finished:
        if copy is not kept and (what := _contradiction(kept, copy)):
            faults.append(f"{kept.path} and {copy.path} have the same inputs, but {what}")
    for copy in copies:
        if copy.record.status == "failed":
            fate: Fate = "present" if copy.path.resolve() in own else "overtaken"
        elif kept.path == target:
            fate = "present"
        else:
            fate = "new" if copy is kept else "repeated"
        plan.fates.append((copy, fate))
    files = _files(kept, finished, target)
    stale = _failed(target) if _failed(target) in there else None
    if files or stale:
        digests = {
            target.with_suffix(".npz"): kept.record.arrays_sha256,
            target.with_suffix(".safetensors"): kept.record.state_sha256,
        }
        plan.steps.append(Step(target, tuple(files), digests, stale))


def _plan_failure(plan: Plan, target: Path, copies: list[Copy], there: Copy | None) -> None:
    """Keep the failure that happened last; there is no finished run."""
    path = _failed(target)
    last = max([*([there] if there else []), *copies], key=lambda one: one.record.created)
    new = last is not there and last.path.resolve() != path.resolve()
    for copy in copies:
        is_there = copy.path.resolve() == path.resolve() or (not new and copy is last)
        plan.fates.append((copy, "present" if is_there else "new" if copy is last else "overtaken"))
    if new:
        plan.steps.append(Step(path, ((last.path, path),), {}, None))


def _files(kept: Copy, finished: list[Copy], target: Path) -> list[tuple[Path, Path]]:
    """Return what is to be copied of a finished cell: the kept record and what only others have with it."""
    files: dict[Path, Path] = {}
    is_there = kept.path == target
    for copy in [kept, *finished]:
        other = set() if copy is kept else {".npz"}  # it may hold the same arrays, packed otherwise
        if copy.record.state_sha256 != kept.record.state_sha256:
            other.add(".safetensors")
        for suffix, path in copy.companions():
            goal = target.with_name(target.stem + suffix)
            # Without its record, a file in the target is what an interrupted merge or run has left.
            if suffix not in other and not (is_there and goal.exists()):
                files.setdefault(goal, path)
    if not is_there:
        files[target] = kept.path
    return [(source, goal) for goal, source in files.items()]


def _contradiction(first: Copy, second: Copy) -> str:
    """Say in what two finished records of one cell differ that should not; nothing where they agree."""
    one, other = first.record, second.record
    if one.id != other.id:
        return "they have other inputs, and the same name by chance"
    if one.arrays_sha256 != other.arrays_sha256:
        if not (one.arrays_sha256 and other.arrays_sha256):
            return "only one of them has arrays"
        before, after = read_arrays(first.path, one), read_arrays(second.path, other)
        if before.counts.keys() != after.counts.keys():
            return "they hold counts of other checkpoints"
        if moved := movement(before, after):
            return (
                f"other counts: {moved.refinement} of the {moved.checkpoint} checkpoint, "
                f"{moved.share:.2%} of the pixels at least in another cluster"
            )
        if before.map_ids != after.map_ids or any(
            not _equal(value, after.maps.get(key)) for key, value in before.maps.items()
        ):
            return "other maps"
    if one.state_sha256 and other.state_sha256 and one.state_sha256 != other.state_sha256:
        return "another trained state"
    for what in ("clusters", "images", "classes", "last", "selected"):
        if getattr(one, what) != getattr(other, what):
            return f"'{what}' says something else, though the counts are equal: one was edited"
    return ""


def _equal(first: np.ndarray, second: np.ndarray | None) -> bool:
    if second is None or len(first) != len(second):
        return False
    return all(np.array_equal(one, other) for one, other in zip(first, second, strict=True))


def _failed(target: Path) -> Path:
    return target.with_suffix(".failed.json")


def _content(source: Path, sha256: str) -> bytes:
    """Read a file that must still have its digest; without one it may be anything."""
    content = source.read_bytes()
    if sha256 and hashlib.sha256(content).hexdigest() != sha256:
        raise DataError(
            f"{source} changed while it was copied.", hint="Merge once no run writes there any more."
        )
    return content
