"""Records against each other: what shares a table must share its images, its classes and its pixels."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

import msgspec
import numpy as np

from uss_bench.audit.findings import AuditFinding, note, wrong
from uss_bench.audit.record_checks import AGAIN, CodeOf, check_record, is_stale, record_name
from uss_bench.errors import DataError
from uss_bench.plugins.specs import decode_toml
from uss_bench.results.collection import Entry
from uss_bench.results.feature_counts import counts_path
from uss_bench.results.feature_record import SUFFIX
from uss_bench.results.files import read_record, record_files

STALE = "stale.toml"
"""File of a records folder that lists the records of older code which are to be made again."""


def audit_records(
    folders: Sequence[Path], current_code: CodeOf, known_stale: Collection[str] = ()
) -> tuple[int, list[AuditFinding]]:
    """Check every record below `folders`, alone and against the others.

    Args:
        current_code: returns the digest of a method's code as it is now; None where it is not installed.
        known_stale: methods whose records may be stale, beside the records that `STALE` of a folder lists.

    Returns:
        The number of records, failed runs included, and the findings, sorted by file.
    """
    listed = {folder / STALE: _listed(folder / STALE) for folder in folders if (folder / STALE).is_file()}
    known = {*known_stale}.union(*listed.values())
    entries: list[Entry] = []
    unreadable: list[OSError] = []
    paths = sorted({path for folder in folders for path in record_files(folder, unreadable)})
    findings = [
        wrong(Path(one.filename), f"cannot be read: {one.strerror}", "ask its owner for permission to read")
        for one in unreadable
    ]
    for path in paths:
        try:
            entry = Entry(path, read_record(path))
        except DataError as error:
            what = error.what.removeprefix(f"{path} ").removeprefix(f"The record {path} ").rstrip(".")
            findings.append(wrong(path, what, "restore the file, or " + AGAIN))
            continue
        if entry.record.status == "failed":
            findings.append(note(path, f"a run failed: {entry.record.reason}", "run it again, or delete it"))
            continue
        entries.append(entry)
        findings += check_record(entry, current_code, known)
    stale = {record_name(one.path) for one in entries if is_stale(one.record, current_code)}
    findings += [
        wrong(file, f"no record {name} is stale", "take it off the list")
        for file, names in listed.items()
        for name in sorted({*names} - stale)
    ]
    findings += _orphans(folders, paths)
    findings += _twice(entries)
    findings += _backbones(entries)
    findings += _fingerprints(entries)
    findings += _tables(entries)
    return len(paths), sorted(findings)


class _Stale(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A list of records that are to be made again."""

    reason: str
    records: list[str]
    """As ``DATASET/METHOD-sSEED-ID``."""


def _listed(path: Path) -> list[str]:
    found: _Stale = decode_toml(path, _Stale)
    return found.records


def _orphans(folders: Sequence[Path], paths: Sequence[Path]) -> Iterator[AuditFinding]:
    known = {path.with_suffix(".npz") for path in paths}
    known |= {counts_path(path) for folder in folders for path in folder.glob(f"**/*{SUFFIX}")}
    for path in sorted({path for folder in folders for path in folder.glob("**/*.npz")} - known):
        yield wrong(path, "no record stands beside it", "delete it, or restore its JSON")


def _twice(entries: Sequence[Entry]) -> Iterator[AuditFinding]:
    first: dict[str, Path] = {}
    for entry in entries:
        there = first.setdefault(entry.record.id, entry.path)
        if there != entry.path:
            yield wrong(entry.path, f"it is the same run as {there}", "delete one of the two")


def _backbones(entries: Sequence[Entry]) -> Iterator[AuditFinding]:
    """Say where one name stands for several weights, which a table could not tell apart."""
    weights: dict[str, dict[str, Entry]] = defaultdict(dict)
    for entry in entries:
        backbone = entry.record.cell.backbone
        weights[backbone.name].setdefault(backbone.sha256, entry)
    for name, found in weights.items():
        for entry in list(found.values())[1:]:
            yield wrong(
                entry.path,
                f"backbone '{name}' has other weights here than in {next(iter(found.values())).path.name}",
                "give one of them another name: --backbone-name",
            )


def _fingerprints(entries: Sequence[Entry]) -> Iterator[AuditFinding]:
    """Say where one dataset, split and limit stand for several sets of images."""
    seen: dict[tuple[object, ...], dict[str, Entry]] = defaultdict(dict)
    for entry in entries:
        data = entry.record.cell.dataset
        key = (data.name, data.train_split, data.test_split, data.limit, entry.record.cell.method.is_external)
        seen[key].setdefault(data.fingerprint, entry)
    for found in seen.values():
        for entry in list(found.values())[1:]:
            yield note(
                entry.path,
                f"other images or labels than {next(iter(found.values())).path.name} under the same name",
                "they never share a table; give one set another name",
            )


def _tables(entries: Sequence[Entry]) -> Iterator[AuditFinding]:
    """Yield records whose images, classes or pixels are not those of others with the same ground truth."""
    groups: dict[tuple[object, ...], list[Entry]] = defaultdict(list)
    for entry in entries:
        record = entry.record
        data, protocol = record.cell.dataset, record.protocol
        # The ground truth of a pixel depends on nothing else: neither on the rest of the protocol nor
        # on whether the predictions were made here.
        if record.last is not None:
            splits = (data.name, data.test_split, data.limit, data.fingerprint)
            groups[(*splits, protocol.extent, protocol.eval_side)].append(entry)
    for group in groups.values():
        yield from _odd_ones(group)


def _odd_ones(group: Sequence[Entry]) -> Iterator[AuditFinding]:
    usual = Counter(tuple(entry.record.classes) for entry in group).most_common(1)[0][0]
    reference: tuple[Path, list[str], np.ndarray] | None = None
    for entry in group:
        if tuple(entry.record.classes) != usual:
            yield wrong(entry.path, "its classes are not those of the other records of its table", AGAIN)
            continue
        try:
            arrays = entry.arrays
        except DataError:
            continue  # the record's own check names it
        for (checkpoint, refinement), counts in arrays.counts.items():
            pixels = counts.sum(axis=1)
            if reference is None:
                reference = (entry.path, arrays.image_ids, pixels)
            path, image_ids, due = reference
            if image_ids != arrays.image_ids:
                yield wrong(
                    entry.path, f"its images are not those of {path.name}, or in another order", AGAIN
                )
                break
            if pixels.shape != due.shape:
                break  # the record's own check names it
            if (pixels != due).any():
                image, index = np.argwhere(pixels != due)[0]
                yield wrong(
                    entry.path,
                    f"{checkpoint} {refinement}: image '{image_ids[image]}' has {pixels[image, index]} "
                    f"pixels of {usual[index].name}, {due[image, index]} in {path.name}",
                    AGAIN,
                )
                break
