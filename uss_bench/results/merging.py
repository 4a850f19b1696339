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
from uss_bench.files.atomic import atomic_write, write_together
from uss_bench.results.differences import movement
from uss_bench.results.files import read_arrays, read_record, read_state, record_files, record_path
from uss_bench.results.record import RunRecord

CopyFate = Literal["new", "present", "repeated", "overtaken"]
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
class MergePlan:
    """What a merge would do."""

    steps: list[Step] = field(default_factory=list)
    fates: list[tuple[Copy, CopyFate]] = field(default_factory=list)
    """What becomes of every record that could be read."""
    skipped: list[str] = field(default_factory=list)
    """A sentence about each record and folder that is left out, because it cannot be read or copied."""


def plan_merge(
    folders: Sequence[Path], out: Path, advance: Callable[[int], Any] = lambda count: None
) -> MergePlan:
    """Read the records below `folders` and compare those of the same cell, with those in `out` too.

    Args:
        folders: results folders; where one cell has several equal records, the first is taken.
        out: the results folder that they go to; it need not exist.
        advance: is called with 1 after every record.

    Raises:
        DataError: when two records of the same inputs hold other results; all such are named.
    """
    plan = MergePlan()
    unreadable: list[OSError] = []
    cells: dict[Path, list[Copy]] = {}
    for folder in folders:
        for path in record_files(folder, unreadable):
            if copy := _read(folder, path, plan.skipped):
                cells.setdefault(record_path(out, copy.record), []).append(copy)
            advance(1)
    plan.skipped += [f"{one.filename} cannot be read: {one.strerror}." for one in unreadable]
    contradictions: list[str] = []
    for target, copies in cells.items():
        _plan_cell(plan, target, _distinct(copies), out, contradictions)
    if contradictions:
        count = "A record" if len(contradictions) == 1 else f"{len(contradictions)} records"
        listed = "".join(f"\n  {one}" for one in contradictions)
        raise DataError(
            f"{count} cannot be merged, and nothing was copied:{listed}",
            hint="Of two results of the same inputs keep one; 'uss-bench rerun RECORD' tells which of them "
            "this machine repeats.",
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


def _read(folder: Path, path: Path, skipped: list[str]) -> Copy | None:
    """Read a record with all that its digests cover; a state that was left out is not damage."""
    try:
        record = read_record(path)
        if record.arrays_sha256:
            read_arrays(path, record)
        if record.state_sha256 and path.with_suffix(".safetensors").exists():
            read_state(path, record)
    except DataError as error:
        skipped.append(error.what)
        return None
    return Copy(folder, path, record)


def _distinct(copies: Iterable[Copy]) -> list[Copy]:
    """Drop what was found twice because folders overlap, and keep the order."""
    return list({copy.path.resolve(): copy for copy in copies}.values())


def _plan_cell(
    plan: MergePlan, target: Path, copies: list[Copy], out: Path, contradictions: list[str]
) -> None:
    """Decide what becomes of the copies of one cell."""
    present = [path for path in (target, _failed(target)) if path.exists()]
    there = {path: copy for path in present if (copy := _read(out, path, plan.skipped))}
    if len(there) < len(present):
        return  # what the target has cannot be read, and is not replaced
    own = {path.resolve() for path in there}
    finished = [one for one in copies if one.record.status == "done"]
    kept = there.get(target) or next(iter(finished), None)
    if kept is None:
        _plan_failure(plan, target, copies, there.get(_failed(target)))
        return
    for copy in finished:
        if copy is not kept and (what := _contradiction(kept, copy)):
            contradictions.append(f"{kept.path} and {copy.path} have the same inputs, but {what}")
    files = _files(kept, finished, target)
    foreign = [goal for source, goal in files if goal.exists() and _content(source) != _content(goal)]
    if foreign:
        plan.skipped.append(f"{foreign[0]} exists without its record, and is not what would be copied there.")
        return
    for copy in copies:
        if copy.record.status == "failed":
            fate: CopyFate = "present" if copy.path.resolve() in own else "overtaken"
        elif kept.path == target:
            fate = "present"
        else:
            fate = "new" if copy is kept else "repeated"
        plan.fates.append((copy, fate))
    stale = _failed(target) if _failed(target) in there else None
    if files or stale:
        digests = {
            target.with_suffix(".npz"): kept.record.arrays_sha256,
            target.with_suffix(".safetensors"): kept.record.state_sha256,
        }
        plan.steps.append(Step(target, tuple(files), digests, stale))


def _plan_failure(plan: MergePlan, target: Path, copies: list[Copy], there: Copy | None) -> None:
    """Keep the failure that happened last, where no run finished."""
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


def _content(source: Path, sha256: str = "") -> bytes:
    """Read a file that must still have its digest; without one it may be anything."""
    content = source.read_bytes()
    if sha256 and hashlib.sha256(content).hexdigest() != sha256:
        raise DataError(
            f"{source} changed while it was copied.", hint="Merge once no run writes there any more."
        )
    return content
