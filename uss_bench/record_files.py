"""Records on disk: written whole or not at all, immutable, and checked when read.

A record is one JSON file and one npz beside it. The npz holds the stored result, ``counts[n, k, c]``
per image for raw and CRF-refined predictions, and the index maps of a few fixed images; the JSON
holds everything else. The JSON is written last, so a record exists exactly when its JSON does, and
resuming means skipping what exists. A failed run leaves a record of another name with its reason.
"""

from __future__ import annotations

import hashlib
import io
import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from uss_bench.arrays import read_npz
from uss_bench.errors import DataError
from uss_bench.json_files import read_json
from uss_bench.paths import write_together
from uss_bench.record_fit import check_arrays, misfit, unprintable_at
from uss_bench.records import SCHEMA, Cell, Checkpoint, Refinement, RunRecord, stem
from uss_bench.text import printable


@dataclass(frozen=True, slots=True)
class Arrays:
    """The npz of a record.

    `counts` has one int64 (N, K, C) array per (checkpoint, refinement). `maps` has uint8 or uint16
    index maps (M, H, W) in the same way, for the images whose ids are `map_ids`; see `pile` for maps of
    several sizes. Where the last checkpoint is the selected one the file holds its arrays once.
    """

    image_ids: list[str]
    counts: dict[tuple[Checkpoint, Refinement], np.ndarray]
    map_ids: list[str]
    maps: dict[tuple[Checkpoint, Refinement], np.ndarray]


def pile(maps: Sequence[np.ndarray]) -> np.ndarray:
    """Stack maps to (M, H, W), or, where they differ in size, put them into an array (M,) of objects."""
    if len({one.shape for one in maps}) == 1:
        return np.stack(maps)
    piled = np.empty(len(maps), dtype=object)
    for index, one in enumerate(maps):  # one by one: NumPy would try to stack those that agree in part
        piled[index] = one
    return piled


def record_path(out: Path, cell: Cell) -> Path:
    return Path(out) / cell.dataset.name / f"{stem(cell)}.json"


def is_done(record: Path, order: str = "") -> bool:
    """Whether a cell's record is there, and no older than an order to make it again.

    Args:
        record: its path, there or not.
        order: as `new_order` names it; '' for none.
    """
    try:
        return record.stat().st_mtime_ns >= int(order.partition("-")[0] or 0)
    except OSError:
        return False


def new_order() -> str:
    """Name an order to make records again, given now: what is older is not what it asked for."""
    return f"{time.time_ns()}-{secrets.token_hex(4)}"


def write_record(
    out: Path, record: RunRecord, arrays: Arrays | None, state: bytes | None
) -> tuple[Path, RunRecord]:
    """Write a record and what belongs to it; the JSON comes last and makes it exist.

    Characters in remarks and reasons that would steer a terminal are written out.

    Args:
        out: results folder.
        arrays: counts and maps; None for a failed run or an unlabelled dataset without maps.
        state: the trained state as safetensors bytes.

    Returns:
        The JSON's path, and the record with the digests of its companions filled in.

    Raises:
        DataError: when the files cannot be written; nothing half-written stays.
    """
    record = _written_out(record)
    if place := unprintable_at(record):
        raise DataError(f"The record cannot be written: it holds a control character - at `{place}`.")
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
    record = read_json(Path(path), RunRecord, "run record")
    if unprintable_at(record) and (place := unprintable_at(record := _written_out(record))):
        raise DataError(
            f"{path} holds a control character - at `{place}`.",
            hint="It can make a terminal show something else than is there: remove the record.",
        )
    if record.schema != SCHEMA:
        raise DataError(f"{path} has schema {record.schema}; this version reads schema {SCHEMA}.")
    if record.id != record.cell.id:
        raise DataError(f"{path} says id {record.id}, but its inputs give {record.cell.id}: it was edited.")
    if wrong := misfit(record):
        raise DataError(f"{path} does not fit itself: {wrong}.")
    return record


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


def record_files(folder: Path) -> list[Path]:
    """Return the JSON files of records below a folder, of failed runs too, sorted; no probes."""
    found = Path(folder).glob("**/*.json")
    return sorted(path for path in found if not path.name.endswith(".probe.json") and path.is_file())


def find_record(text: str, folders: list[Path]) -> Path:
    """Return the path of the record that `text` names: a path, or the beginning of an id.

    Raises:
        DataError: when there is none, or more than one.
    """
    if Path(text).is_file():
        return Path(text)
    wanted = text.lower()
    found = [
        path
        for folder in folders
        for path in record_files(folder)
        if path.stem.removesuffix(".failed").rpartition("-")[2].startswith(wanted[:12])
    ]
    if len(wanted) > 12:  # a file's name holds twelve digits of the id, its content all sixteen
        found = [path for path in found if read_record(path).id.startswith(wanted)]
    if len(found) == 1:
        return found[0]
    places = ", ".join(str(folder) for folder in folders)
    if not found:
        raise DataError(f"There is no record '{text}' in {places}.", hint="uss-bench show lists the records.")
    raise DataError(f"'{text}' fits {len(found)} records: {', '.join(path.stem for path in found[:4])}.")


def _written_out(record: RunRecord) -> RunRecord:
    """Return the record with what would steer a terminal written out, where that changes no identity."""
    return msgspec.structs.replace(
        record,
        classes=[msgspec.structs.replace(one, name=printable(one.name)) for one in record.classes],
        notes=[printable(note) for note in record.notes],
        labels_used=[printable(use) for use in record.labels_used],
        command=printable(record.command),
        reason=printable(record.reason),
    )


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
    groups["maps"] |= {key: pile(maps) for key, maps in apart.items()}
    return Arrays(image_ids, groups["counts"], map_ids, groups["maps"])


def _read_companion(path: Path, sha256: str) -> bytes:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}, which belongs to the record, cannot be read: {error.strerror}.") from None
    if hashlib.sha256(content).hexdigest() != sha256:
        raise DataError(f"{path} is damaged: its digest is not the one in the record.")
    return content
