"""Trained states in the cache: what is evaluated anew is not trained anew.

``CACHE/states/<key>/`` holds what one training gave: its state, the checkpoints that it offered, and a note
with its curves and the digests of the other files. The key is a digest of all that decides these bytes. Test
labels and the evaluation protocol do not, so that one state serves several of both. The note is written last
and begins with its own digest: a state without a note does not exist, and a changed byte is noticed.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

import msgspec

from uss_bench.errors import DataError
from uss_bench.files.atomic import atomic_write, cache_root
from uss_bench.files.digests import digest_file
from uss_bench.files.json_file import parse_json
from uss_bench.files.locks import held, locked
from uss_bench.results.record import Isolation, Phase
from uss_bench.runtime import progress
from uss_bench.runtime.formatting import byte_size

STATES = "states"
"""Folder of the cache that states are kept in."""
NOTE = "trained"
LARGEST = 20 * 10**9
"""Bytes of all states together; those that were used longest ago go."""
FILE = re.compile(r"(last|checkpoint-\d{8,})\.safetensors")
_LAST = "last.safetensors"
_SHARE_OF_FREE_DISK = 0.1
"""What one state may take: a cache must not fill the disk that records are written to."""


class Trained(msgspec.Struct, frozen=True, kw_only=True):
    """What one training gave."""

    state: bytes
    """At its end, as safetensors bytes."""
    offers: list[tuple[int, Path]]
    """The offered checkpoints by step."""
    curves: dict[str, list[tuple[int, float]]]
    notes: list[str]
    """What a record says of the training."""
    phase: Phase
    isolation: Isolation | None = None
    """How the method was kept from labels meanwhile."""
    source: str = ""
    """Id of the record whose run trained it; empty for a state that was trained just now."""
    may_be_kept: bool = True
    """Whether it began and ended with the inputs and on the kind of machine that the key states."""


class Note(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What lies beside the files of a state."""

    inputs: dict[str, Any]
    """What the key is the digest of."""
    source: str
    rerun_token: str
    """Of the command that trained it, see `uss_bench.results.files.new_rerun_token`; '' for none."""
    files: dict[Annotated[str, msgspec.Meta(pattern=rf"^{FILE.pattern}$")], str]
    """Their digests."""
    offers: list[tuple[int, str]]
    """Step and file."""
    curves: dict[str, list[tuple[int, float]]]
    notes: list[str]
    phase: Phase
    isolation: Isolation | None = None


class StoredState:
    """Where the state of one training is kept.

    Args:
        inputs: all that decides it, JSON values.
        root: the cache; None for the user's.
    """

    def __init__(self, inputs: Mapping[str, Any], root: Path | None = None) -> None:
        self._inputs = dict(inputs)
        key = hashlib.sha256(msgspec.json.encode(inputs, order="sorted")).hexdigest()[:24]
        self.folder = (cache_root() if root is None else Path(root)) / STATES / key

    def exists(self, rerun_token: str = "") -> bool:
        """Whether there is a state, made under this token if one is given; its files are not read."""
        try:
            note = read_note(self.folder)
        except DataError:
            return False
        return not rerun_token or note.rerun_token == rerun_token

    def find_or_train(
        self,
        train: Callable[[], Trained],
        *,
        record: str,
        scratch: Path,
        rerun_token: str,
    ) -> Trained:
        """Return the state that is kept; without one, train, and keep what that gives.

        Processes that need the same state wait for the first of them. Where nothing can be written,
        every run trains for itself.

        Args:
            record: id of the record that the run will write.
            scratch: where the offered checkpoints of a kept state are copied to.
            rerun_token: to use only what was trained under it; '' for none.
        """
        with contextlib.ExitStack() as stack:
            is_writable = True
            try:
                self.folder.mkdir(parents=True, exist_ok=True)
                stack.enter_context(locked(self.folder / "lock", progress.log, "trains the same state"))
            except OSError:
                is_writable = False
            if self.exists(rerun_token):
                try:
                    return self._read(scratch)
                except (DataError, OSError) as error:
                    progress.log(f"The trained state in {self.folder} is not used: {error}")
            trained = train()
            if is_writable and trained.may_be_kept:
                try:
                    self._write(trained, record, rerun_token)
                except OSError as error:
                    progress.log(f"The trained state is not kept in the cache: {error.strerror}.")
            return trained

    def _read(self, scratch: Path) -> Trained:
        note = read_note(self.folder)
        state = b""
        for name, sha256 in note.files.items():
            content = (self.folder / name).read_bytes()
            if hashlib.sha256(content).hexdigest() != sha256:
                raise DataError(f"{self.folder / name} is damaged: its digest is another.")
            if name == _LAST:
                state = content
            else:  # a copy: the cache may be pruned while checkpoints are scored
                atomic_write(scratch / name, content)
        with contextlib.suppress(OSError):
            os.utime(self.folder / NOTE)  # what is used stays
        offers = [(step, scratch / name) for step, name in note.offers]
        return Trained(
            state=state,
            offers=offers,
            curves=note.curves,
            notes=note.notes,
            phase=note.phase,
            isolation=note.isolation,
            source=note.source,
        )

    def _write(self, trained: Trained, record: str, rerun_token: str) -> None:
        needed = len(trained.state) + sum(path.stat().st_size for _, path in trained.offers)
        if not self._has_room(needed):
            progress.log(f"The trained state is not kept in the cache: it would take {byte_size(needed)}.")
            return
        (self.folder / NOTE).unlink(missing_ok=True)
        atomic_write(self.folder / _LAST, trained.state)
        files = {_LAST: hashlib.sha256(trained.state).hexdigest()}
        for _, path in trained.offers:
            content = path.read_bytes()
            atomic_write(self.folder / path.name, content)
            files[path.name] = hashlib.sha256(content).hexdigest()
        note = Note(
            inputs=self._inputs,
            source=record,
            rerun_token=rerun_token,
            files=files,
            offers=[(step, path.name) for step, path in trained.offers],
            curves=trained.curves,
            notes=trained.notes,
            phase=trained.phase,
            isolation=trained.isolation,
        )
        content = msgspec.json.encode(note)
        atomic_write(self.folder / NOTE, hashlib.sha256(content).hexdigest().encode() + b"\n" + content)

    def _has_room(self, needed: int) -> bool:
        """Make room by deleting the states that were used longest ago; say whether there is enough."""
        free = shutil.disk_usage(self.folder).free
        if needed > min(LARGEST, _SHARE_OF_FREE_DISK * free):
            return False
        others = [path.parent for path in self.folder.parent.glob(f"*/{NOTE}")]
        sizes = {one: sum(path.stat().st_size for path in files_of(one)) for one in others}
        sizes.pop(self.folder, None)
        for one in sorted(sizes, key=lambda folder: (folder / NOTE).stat().st_mtime):
            if sum(sizes.values()) + needed <= LARGEST:
                break
            with held(one / "lock") as is_ours:
                if is_ours:
                    for path in files_of(one):
                        path.unlink()
                    del sizes[one]
        return True


def files_of(folder: Path) -> list[Path]:
    """Return the files of a state in the order in which they may go: first the note, which makes it exist."""
    found = sorted(path for path in folder.iterdir() if FILE.fullmatch(path.name))
    return [*[folder / NOTE] * (folder / NOTE).is_file(), *found]


def read_note(folder: Path) -> Note:
    """Read what lies beside the files of a state.

    Raises:
        DataError: when there is no state, or its note is damaged.
    """
    path = folder / NOTE
    try:
        digest, _, content = path.read_bytes().partition(b"\n")
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}.") from None
    if hashlib.sha256(content).hexdigest().encode() != digest:
        raise DataError(f"{path} is damaged: its digest is another.")
    note = parse_json(content, Note, path, "note about a trained state")
    if not {_LAST, *(name for _, name in note.offers)} <= note.files.keys():
        raise DataError(f"{path} does not name all files of the state.")
    return note


def damaged_files(folder: Path) -> Iterator[tuple[Path, str]]:
    """Read all files of a finished state and yield those that are not what was written, and why."""
    if not (folder / NOTE).exists():
        return
    try:
        note = read_note(folder)
    except DataError as error:
        yield folder / NOTE, error.what
        return
    for name, sha256 in note.files.items():
        path = folder / name
        try:
            if digest_file(path) != sha256:
                yield path, "its digest is another"
        except OSError as error:
            yield path, f"it cannot be read: {error.strerror}"
