"""What lies in the cache, and how it is deleted.

What uss-bench writes is known by its name. Anything else in the folder is counted and left alone, so that
pointing a cache at a home folder loses no file; what a symbolic link leads to is neither counted nor touched.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import msgspec
import numpy as np

from uss_bench.data.split_check import CHECKS
from uss_bench.errors import DataError
from uss_bench.features.artifacts import count_parts
from uss_bench.features.shards import ABOUT, CHECKED, ITEMS_PER_SHARD, Shards
from uss_bench.files.locks import held
from uss_bench.results.states import FILE, NOTE, STATES, files_of, read_note

Kind = Literal["features", "derived", "state", "digests", "leftover"]

_BY_KEY = ("features", STATES)
_KEY = re.compile(r"[0-9a-f]{24}")
_SHARD = re.compile(r"\d{5}-of-(\d{5})\.(npy|json)")
_DERIVED_FILE = re.compile(r"\d{5}(\.json|-[A-Za-z0-9_-]+\.npy)")
_DIGESTS = re.compile(r"[0-9a-f]{32}\.json")
_LEFTOVER = re.compile(r"\..+\.partial|[0-9a-f]{16}\.npz")
"""What was half-written, and derived arrays of versions before 0.2."""
_LOCK = re.compile(r"(lock|[0-9a-f]{16}\.lock)(\.exclusive)?")


@dataclass(frozen=True)
class Part:
    """What is deleted or kept as one: shards of a facet, derived arrays, a trained state, some digests."""

    kind: Kind
    path: Path
    """The folder of a facet, of derived arrays or of a state, or a file."""
    files: tuple[Path, ...]
    """In the order in which they may go: a shard's sidecar, which makes it exist, before the shard."""
    bytes: int
    modified: float
    """When the newest file was written, in seconds since 1970."""
    lock: Path | None = None
    """What a process holds while it writes here."""
    items: int = 0
    """Of a facet: how many items its finished shards hold."""
    missing: str = ""
    """What an interrupted extraction still owes; empty for a complete part."""
    about: dict[str, Any] = field(default_factory=dict)
    """Of a facet: backbone and geometry, as the store noted them; of a state, what decides it."""

    @property
    def key(self) -> str:
        """The digest that features and what was derived from them, or a state, lie under; '' for digests."""
        folders = [self.path] if self.kind == "state" else self.path.parents
        return next((one.name for one in folders if _KEY.fullmatch(one.name)), "")


@dataclass
class Contents:
    """Everything below a cache's root."""

    root: Path
    parts: list[Part] = field(default_factory=list)
    unknown_files: list[tuple[Path, int]] = field(default_factory=list)
    """What uss-bench did not write, with its bytes."""
    links: list[Path] = field(default_factory=list)


def survey(root: Path) -> Contents:
    """List what lies below a cache's root, which itself may be a link.

    Raises:
        DataError: when a folder cannot be read.
    """
    contents = Contents(Path(root).resolve())
    for path in _children(contents.root, contents):
        if path.name in _BY_KEY and path.is_dir():
            for folder in _children(path, contents):
                if folder.is_dir() and _KEY.fullmatch(folder.name):
                    (_survey_key if path.name == "features" else _survey_state)(folder, contents)
                else:
                    _add_unknown(folder, contents)
        elif path.name in ("digests", CHECKS) and path.is_dir():
            for file in _children(path, contents):
                _add_file("digests" if _DIGESTS.fullmatch(file.name) else None, file, contents)
        else:
            _add_unknown(path, contents)
    return contents


def is_held(part: Part) -> bool:
    """Whether a running extraction holds the lock of a part."""
    with _holding(part.lock) as is_ours:
        return not is_ours


def delete(contents: Contents, part: Part, wanted: Callable[[Part], bool]) -> bool:
    """Delete a part, unless a running process holds it or finished it meanwhile; say whether it is gone.

    Lock files stay: without one that a process waits for, two could write at once.

    Args:
        wanted: asked again once the lock is held, of the part as it is then.

    Raises:
        DataError: when a file cannot be deleted.
    """
    with _holding(part.lock) as is_ours:
        if not is_ours:
            return False
        survey_again = {"features": _facet, "derived": _derived, "state": _state}.get(part.kind)
        now = survey_again(part.path, part.lock, part.about) if survey_again else part
        if now is None or not wanted(now):
            return False
        for file in now.files:
            _unlink(file, contents.root)
        if part.kind == "derived":
            for name in (ABOUT, CHECKED):
                _unlink(part.path / name, contents.root)
        if part.path.is_dir():
            with contextlib.suppress(OSError):
                part.path.rmdir()
        _forget_empty_key(part, contents.root)
    return True


def _survey_key(folder: Path, contents: Contents) -> None:
    about, lock = _read_about(folder / ABOUT), folder / "lock"
    for path in _children(folder, contents):
        if path.name == "derived" and path.is_dir():
            for inner in _children(path, contents):
                if inner.is_dir() and _KEY.fullmatch(inner.name):
                    _survey_derived(inner, contents)
                else:
                    _add_file(None, inner, contents, lock)
        elif path.is_dir():
            if facet := _facet(path, lock, about):
                contents.parts.append(facet)
            for file in _children(path, contents):
                if not _SHARD.fullmatch(file.name):
                    _add_file(None, file, contents, lock)
        elif path.name not in (ABOUT, CHECKED):
            _add_file(None, path, contents, lock)


def _survey_derived(folder: Path, contents: Contents) -> None:
    lock = folder / "lock"
    if part := _derived(folder, lock, _read_about(folder / ABOUT)):
        contents.parts.append(part)
    for file in _children(folder, contents):
        if not _DERIVED_FILE.fullmatch(file.name) and file.name not in (ABOUT, CHECKED):
            _add_file(None, file, contents, lock)


def _survey_state(folder: Path, contents: Contents) -> None:
    lock = folder / "lock"
    if part := _state(folder, lock, {}):
        contents.parts.append(part)
    for file in _children(folder, contents):
        if not FILE.fullmatch(file.name) and file.name != NOTE:
            _add_file(None, file, contents, lock)


def _state(folder: Path, lock: Path | None, about: dict[str, Any]) -> Part | None:
    """Read what lies in a trained state's folder; None when there is no file of one."""
    files = tuple(files_of(folder))
    if not files:
        return None
    missing = "" if files[0].name == NOTE else "never finished"
    with contextlib.suppress(DataError):  # which `verify` names
        about = read_note(folder).inputs
    return Part(
        kind="state",
        path=folder,
        files=files,
        bytes=sum(map(size, files)),
        modified=max(map(_modified, files)),
        lock=lock,
        missing=missing,
        about=about,
    )


def _derived(folder: Path, lock: Path | None, about: dict[str, Any]) -> Part | None:
    """Read what lies in a folder of derived arrays; None when there is no file of theirs."""
    files = [path for path in _children(folder) if _DERIVED_FILE.fullmatch(path.name)]
    if not files:
        return None
    finished, expected = count_parts(folder)
    return Part(
        kind="derived",
        path=folder,
        files=tuple(sorted(files, key=lambda path: path.suffix != ".json")),
        bytes=sum(size(file) for file in files),
        modified=max(_modified(file) for file in files),
        lock=lock,
        missing="" if finished == expected else f"{finished} of {expected} parts",
        about=about,
    )


def _facet(folder: Path, lock: Path | None, about: dict[str, Any]) -> Part | None:
    """Read what lies in a facet's folder; None when there is no shard."""
    named = {path: _SHARD.fullmatch(path.name) for path in _children(folder)}
    files = sorted((path for path, match in named.items() if match), key=lambda path: path.suffix != ".json")
    if not files:
        return None
    layout = shards_of(folder, files[0])
    finished, items = 0, 0
    for shard in range(layout.count):
        sidecar = layout.sidecar(folder.name, shard)
        if sidecar and size(layout.path(folder.name, shard)) == sidecar.bytes:
            finished += 1
            items += sidecar.items
    return Part(
        kind="features",
        path=folder,
        files=tuple(files),
        bytes=sum(size(file) for file in files),
        modified=max(_modified(file) for file in files),
        lock=lock,
        items=items,
        missing="" if finished == layout.count else f"{finished} of {layout.count} shards",
        about=about,
    )


def shards_of(folder: Path, file: Path) -> Shards:
    """Return the shards of a facet's folder, for reading, as the name of one of its files counts them."""
    match = _SHARD.fullmatch(file.name)
    assert match is not None, "only files that are named like shards come here"
    # Shapes and dtype matter for writing only.
    return Shards(folder.parent, {}, np.dtype("float16"), int(match[1]) * ITEMS_PER_SHARD)


def _add_file(kind: Kind | None, path: Path, contents: Contents, lock: Path | None = None) -> None:
    if kind is None and _LEFTOVER.fullmatch(path.name):
        kind = "leftover"
    if kind is not None and path.is_file():
        missing = "never finished" if kind == "leftover" else ""
        contents.parts.append(
            Part(kind, path, (path,), size(path), _modified(path), lock=lock, missing=missing)
        )
    elif not _LOCK.fullmatch(path.name):
        _add_unknown(path, contents)


def _add_unknown(path: Path, contents: Contents) -> None:
    inside = (Path(home) / name for home, _, names in os.walk(path) for name in names)
    contents.unknown_files.append((path, size(path) if path.is_file() else sum(map(size, inside))))


def _children(folder: Path, contents: Contents | None = None) -> list[Path]:
    """Return what a folder holds, sorted by name, but for links; those are noted in `contents`."""
    try:
        found = sorted(folder.iterdir())
    except FileNotFoundError:
        return []
    except OSError as error:
        raise DataError(f"{folder} cannot be read: {error.strerror}.") from None
    if contents is not None:
        contents.links += [path for path in found if path.is_symlink()]
    return [path for path in found if not path.is_symlink()]


def _read_about(path: Path) -> dict[str, Any]:
    try:
        return msgspec.json.decode(path.read_bytes(), type=dict[str, Any])
    except (OSError, msgspec.DecodeError, UnicodeDecodeError):
        return {}


@contextlib.contextmanager
def _holding(lock: Path | None) -> Iterator[bool]:
    """Hold a lock file, or say that another process does."""
    with contextlib.ExitStack() as stack:
        try:
            is_ours = lock is None or stack.enter_context(held(lock))
        except OSError as error:
            raise DataError(f"{lock} cannot be locked: {error.strerror}.") from None
        yield is_ours


def _forget_empty_key(part: Part, root: Path) -> None:
    """Delete the store's note about features of which nothing is left."""
    if part.kind in ("features", "derived"):
        folder = root / "features" / part.key
        left = Contents(root)
        _survey_key(folder, left)
        if not left.parts:
            for name in (ABOUT, CHECKED):
                _unlink(folder / name, root)


def _unlink(path: Path, root: Path) -> None:
    try:
        if not path.parent.resolve().is_relative_to(root):
            raise DataError(f"{path} lies outside the cache {root} and is not deleted.")
        path.unlink(missing_ok=True)
    except OSError as error:
        raise DataError(f"{path} cannot be deleted: {error.strerror}.") from None


def size(path: Path) -> int:
    """Return a file's bytes, 0 when there is none."""
    try:
        return path.lstat().st_size
    except OSError:
        return 0


def _modified(path: Path) -> float:
    try:
        return path.lstat().st_mtime
    except OSError:
        return 0.0
