"""Records on disk: written whole or not at all, immutable, and checked when read.

A record is one JSON file and one npz beside it. The npz holds the stored result, ``counts[n, k, c]``
per image for raw and CRF-refined predictions, and the index maps of a few fixed images; the JSON
holds everything else. The JSON is written last, so a record exists exactly when its JSON does, and
resuming means skipping what exists. A failed run leaves a record of another name with its reason.
"""

from __future__ import annotations

import hashlib
import io
import os
import secrets
import stat
import time
from collections.abc import Collection
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from uss_bench.errors import DataError
from uss_bench.files.arrays import read_npz
from uss_bench.files.atomic import write_together
from uss_bench.files.json_file import read_json
from uss_bench.results import schema1, verification
from uss_bench.results.arrays import Arrays, stack_maps
from uss_bench.results.consistency import check_arrays, misfit
from uss_bench.results.record import SCHEMA, Cell, RunRecord, stem

CURVES_SUFFIX = ".monitor.png"
"""What ends the name of the picture of a record's training."""

ASIDE = (".probe.json", ".features.json")
"""What ends the names of results that are no records of runs: a linear probe, measures of features."""

WORK = ".work"
"""In a dataset's results, where its cells at work have their folders."""


def record_path(out: Path, run: Cell | RunRecord) -> Path:
    """Return where the record of a cell belongs, or that of a record, which may have been converted."""
    cell, name = (run, stem(run)) if isinstance(run, Cell) else (run.cell, run.stem)
    return Path(out) / cell.dataset.name / f"{name}.json"


def picture_files(record: Path, content: RunRecord) -> list[Path]:
    """Return where the pictures of a run lie: its predictions, and how it trained if that was monitored."""
    return [record.with_suffix(suffix) for suffix in (".png", *[CURVES_SUFFIX] * bool(content.monitor))]


def work_folder(record: Path) -> Path:
    """Return the folder of a cell at work; see `uss_bench.training.workspace`."""
    return record.parent / WORK / record.stem


def companions(record: Path) -> list[Path]:
    """Return what lies beside a record under its name: arrays, state and pictures."""
    suffixes = (".npz", ".safetensors", ".png", CURVES_SUFFIX)
    return [path for suffix in suffixes if (path := record.with_suffix(suffix)).exists()]


def is_done(record: Path, order: str = "") -> bool:
    """Whether a cell's record is there, and no older than an order to make it again.

    Args:
        record: its path, there or not.
        order: as `new_rerun_token` names it; '' for none.
    """
    try:
        return record.stat().st_mtime_ns >= int(order.partition("-")[0] or 0)
    except OSError:
        return False


def new_rerun_token() -> str:
    """Name an order to make records again, given now: what is older is not what it asked for."""
    return f"{time.time_ns()}-{secrets.token_hex(4)}"


def apply_token(record: Path, token: str) -> None:
    """Make a new token apply to a record whose time lies in the future, because some clock was wrong.

    Raises:
        DataError: when the record's time cannot be changed.
    """
    given = int(token.partition("-")[0])
    try:
        if record.stat().st_mtime_ns >= given:
            os.utime(record, ns=(given - 1, given - 1))
    except FileNotFoundError:
        return
    except OSError as error:
        raise DataError(
            f"{record} is dated in the future, and its time cannot be changed: {error.strerror}.",
            hint="Delete the record, or ask its owner to.",
        ) from None


def refuse_foreign(record: Path, contents: Collection[tuple[Path, bytes]] = ()) -> None:
    """Raise `DataError` where a run's files would replace some that uss-bench did not write.

    A record's name holds a digest of its inputs, and its JSON states it; what lies beside it under its name
    belongs to it. Without a JSON that is what a killed run or merge has left, while the cell has a folder of
    work, or the files are those that would be written.

    Args:
        contents: what would be written, as far as it is known.
    """
    stated = (record, record.with_suffix(".failed.json"))
    digest = record.stem.rpartition("-")[2].encode()
    foreign = [path for path in stated if path.exists() and digest not in path.read_bytes() != b""]
    if not work_folder(record).exists() and not record.exists():  # in the order in which a run leaves them
        known = dict(contents)
        foreign += [path for path in companions(record) if path.read_bytes() != known.get(path)]
    if foreign:
        raise DataError(
            f"{foreign[0]} would be replaced, and belongs to no record of uss-bench.",
            hint="Move or delete it, or choose another folder with --out.",
        )


def write_record(
    out: Path, record: RunRecord, arrays: Arrays | None, state: bytes | None
) -> tuple[Path, RunRecord]:
    """Write a record and what belongs to it; the JSON comes last and makes it exist.

    Args:
        out: results folder.
        arrays: counts and maps; None for a failed run or an unlabeled dataset without maps.
        state: the trained state as safetensors bytes.

    Returns:
        The JSON's path, and the record with the digests of its companions filled in.

    Raises:
        DataError: when the files cannot be written, or would replace other files; nothing half-written stays.
    """
    path = record_path(out, record.cell)
    if record.status == "failed":
        path = path.with_suffix(".failed.json")
    files: list[tuple[Path, bytes]] = []
    if arrays is not None:
        packed = _pack(arrays)
        files.append((path.with_suffix(".npz"), packed))
        record = msgspec.structs.replace(record, arrays_sha256=hashlib.sha256(packed).hexdigest())
    if state is not None:
        files.append((path.with_suffix(".safetensors"), state))
        record = msgspec.structs.replace(record, state_sha256=hashlib.sha256(state).hexdigest())
    files.append((path, msgspec.json.format(msgspec.json.encode(record), indent=1) + b"\n"))
    try:
        refuse_foreign(record_path(out, record.cell), files)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_together(files)
    except OSError as error:
        raise DataError(
            f"The record cannot be written to {path.parent}: {error.strerror}.",
            hint="Free some space or choose another folder with --out; nothing half-written was left.",
        ) from None
    return path, record


def read_record(path: Path) -> RunRecord:
    """Read and check a record's JSON.

    Raises:
        DataError: when it is missing, damaged, or says something that its inputs do not.
    """
    record, converted = _decode(Path(path))
    if not converted and record.id != record.cell.id:
        raise DataError(f"{path} says id {record.id}, but its inputs give {record.cell.id}: it was edited.")
    if wrong := misfit(record):
        raise DataError(f"{path} does not fit itself: {wrong}.")
    return record


class _Versioned(msgspec.Struct):
    schema: int


def _decode(path: Path) -> tuple[RunRecord, bool]:
    """Return a record of any schema that can be read as one of today's, and whether it was converted."""
    version = read_json(path, _Versioned, "run record").schema
    if version == SCHEMA:
        return read_json(path, RunRecord, "run record"), False
    if version != 1:
        raise DataError(f"{path} has schema {version}; this version reads schemas 1 and {SCHEMA}.")
    try:
        return schema1.convert(read_json(path, dict[str, Any], "run record")), True
    except msgspec.ValidationError as error:
        raise DataError(f"{path} is not a run record: {error}.") from None
    except ValueError as error:
        raise DataError(f"{path} {error}.") from None


def read_arrays(path: Path, record: RunRecord) -> Arrays:
    """Read the npz beside the record at `path`.

    Raises:
        DataError: when it is missing or its digest is not the record's.
    """
    packed = _read_companion(Path(path).with_suffix(".npz"), record.arrays_sha256)
    try:
        arrays = _unpack(read_npz(packed))
        check_arrays(arrays, record)
    except (ValueError, KeyError) as error:
        raise DataError(f"The npz of {path} does not hold what a record's should: {error}.") from None
    if record.selected is not None and record.selected.step is None:
        for group in (arrays.counts, arrays.maps):
            group |= {("selected", refinement): value for (_, refinement), value in group.items()}
    return arrays


def read_state(path: Path, record: RunRecord) -> bytes:
    """Read the trained state beside the record at `path`, as safetensors bytes."""
    return _read_companion(Path(path).with_suffix(".safetensors"), record.state_sha256)


def record_files(folder: Path, unreadable: list[OSError] | None = None) -> list[Path]:
    """Return the JSON files of records below a folder, of failed runs too, sorted; nothing beside them.

    Args:
        unreadable: receives the errors of folders and files that cannot be looked at.
    """
    found: list[Path] = []
    skipped: list[OSError] = []
    for home, _, names in os.walk(folder, onerror=skipped.append):
        for name in names:
            if not name.endswith(".json") or name.endswith((*ASIDE, verification.SUFFIX)):
                continue
            path = Path(home, name)
            try:
                if stat.S_ISREG(path.stat().st_mode):
                    found.append(path)
            except OSError as error:
                skipped.append(error)
    if unreadable is not None and Path(folder).exists():
        unreadable += skipped
    return sorted(found)


def find_record(text: str, folders: list[Path]) -> Path:
    """Return the path of the record that `text` names: a path, or the beginning of an id.

    Raises:
        DataError: when there is none, or more than one.
    """
    if Path(text).is_file():
        return Path(text)
    wanted = text.lower()
    unreadable: list[OSError] = []
    found = [
        path
        for folder in folders
        for path in record_files(folder, unreadable)
        if path.stem.removesuffix(".failed").rpartition("-")[2].startswith(wanted[:12])
    ]
    if len(wanted) > 12:  # a file's name holds twelve digits of the id, its content all sixteen
        found = [path for path in found if read_record(path).id.startswith(wanted)]
    if len(found) == 1:
        return found[0]
    places = ", ".join(str(folder) for folder in folders)
    if not found:
        closed = "".join(f" {one.filename} cannot be read: {one.strerror}." for one in unreadable)
        raise DataError(
            f"There is no record '{text}' in {places}.{closed}", hint="uss-bench show lists the records."
        )
    raise DataError(f"'{text}' fits {len(found)} records: {', '.join(path.stem for path in found[:4])}.")


def _pack(arrays: Arrays) -> bytes:
    named: dict[str, np.ndarray] = {
        "image_ids": np.array(arrays.image_ids, dtype=np.str_),
        "map_ids": np.array(arrays.map_ids, dtype=np.str_),
    }
    for (checkpoint, refinement), value in arrays.counts.items():
        named[f"counts/{checkpoint}/{refinement}"] = value
    for (checkpoint, refinement), value in arrays.maps.items():
        if value.dtype == object:
            named |= {f"maps/{checkpoint}/{refinement}/{number}": one for number, one in enumerate(value)}
        else:
            named[f"maps/{checkpoint}/{refinement}"] = value
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **named)  # type: ignore[arg-type]
    return buffer.getvalue()


def _unpack(named: dict[str, np.ndarray]) -> Arrays:
    image_ids, map_ids = named.pop("image_ids").tolist(), named.pop("map_ids").tolist()
    groups: dict[str, dict[Any, np.ndarray]] = {"counts": {}, "maps": {}}
    apart: dict[Any, list[np.ndarray]] = {}
    for key, value in named.items():
        group, checkpoint, refinement, *number = key.split("/")
        if number:
            apart.setdefault((checkpoint, refinement), []).append(value)
        else:
            groups[group][checkpoint, refinement] = value
    groups["maps"] |= {key: stack_maps(maps) for key, maps in apart.items()}
    return Arrays(image_ids, groups["counts"], map_ids, groups["maps"])


def _read_companion(path: Path, sha256: str) -> bytes:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}, which belongs to the record, cannot be read: {error.strerror}.") from None
    if hashlib.sha256(content).hexdigest() != sha256:
        raise DataError(f"{path} is damaged: its digest is not the one in the record.")
    return content
