"""The files that uss-bench wrote into a folder, so that no command replaces or deletes other files.

A folder that a command writes figures, pages or label maps into keeps a list of them, `LIST`: a digest and
a name a line, as ``sha256sum`` writes them (``sha256sum -c .uss-bench-files`` checks it). A file is ours
while its present digest is listed; edited files, links and everything else belong to the user.

Records need no list: their names hold a digest of their inputs (`uss_bench.results.files`).
"""

from __future__ import annotations

import contextlib
import hashlib
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from uss_bench.errors import UsageError
from uss_bench.files.atomic import atomic_write, not_written, write_together

LIST = ".uss-bench-files"
_LINE = re.compile(r"([0-9a-f]{64})  (?!/|(?:.*/)?\.\./)(.+)")
"""Names that lead out of the folder are ignored."""


class OwnedFiles:
    """The files below one folder that uss-bench wrote; a context manager that tidies the list at its end.

    Args:
        folder: need not exist; names of files are relative to it, with slashes.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = Path(folder)
        self._digests = self._read()
        self._untidy = any(len(digests) > 1 for digests in self._digests.values())
        self._removed: set[str] = set()

    def __enter__(self) -> OwnedFiles:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        if kind is None and (self._untidy or self._removed):
            known = self._read()  # again: another process may have written
            lines = [f"{known[name][-1]}  {name}\n" for name in sorted(known.keys() - self._removed)]
            with contextlib.suppress(OSError):  # a list with the digests of before serves as well
                atomic_write(self.folder / LIST, "".join(lines).encode())

    def owned(self) -> list[str]:
        """Return the names of the files that uss-bench wrote and that were not changed since."""
        return [name for name, digests in self._digests.items() if _digest(self.folder / name) in digests]

    def check(self, names: Iterable[str]) -> None:
        """Raise `UsageError` if any of these files exists and is not as uss-bench wrote it."""
        foreign = []
        for name in names:
            path = self.folder / name
            if (path.is_symlink() or path.exists()) and _digest(path) not in self._digests.get(name, ()):
                foreign.append(path)
        if foreign:
            more = f" ({len(foreign) - 1} more files are in the same case)" if len(foreign) > 1 else ""
            raise UsageError(
                f"{foreign[0]} would be replaced, and is not as uss-bench wrote it, if it did{more}.",
                hint="Choose another --out, or move or delete the file.",
            )

    def write(self, files: Mapping[str, bytes]) -> None:
        """Write files, all or none; the last makes the others valid. Equal ones stay untouched.

        Raises:
            UsageError: when one would replace a file that uss-bench did not write.
            DataError: when one cannot be written.
        """
        digests = {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}
        new = [name for name, digest in digests.items() if _digest(self.folder / name) != digest]
        self.check(new)
        try:
            for name in files:
                (self.folder / name).parent.mkdir(parents=True, exist_ok=True)
            self._note(digests)  # before the files: a killed command leaves none that is not listed
            if new:
                write_together([(self.folder / name, files[name]) for name in new])
        except OSError as error:
            raise not_written(self.folder / next(iter(files)), error) from None

    def remove(self, names: Iterable[str]) -> None:
        """Delete those of the files that uss-bench wrote and that were not changed since.

        Raises:
            DataError: when one cannot be deleted.
        """
        for name in set(names) & set(self.owned()):
            try:
                (self.folder / name).unlink()
            except OSError as error:
                raise not_written(self.folder / name, error) from None
            self._removed.add(name)

    def _read(self) -> dict[str, list[str]]:
        """Return the digests that the list has for each name, the last one last."""
        found: dict[str, list[str]] = {}
        with contextlib.suppress(OSError):
            for line in (self.folder / LIST).read_text(encoding="utf-8", errors="replace").split("\n"):
                if match := _LINE.fullmatch(line):
                    found.setdefault(match[2], []).append(match[1])
        return found

    def _note(self, digests: Mapping[str, str]) -> None:
        lines = []
        for name, digest in digests.items():
            self._removed.discard(name)
            known = self._digests.setdefault(name, [])
            if digest not in known[-1:]:
                known.append(digest)
                lines.append(f"{digest}  {name}\n")
                self._untidy |= len(known) > 1
        if lines:
            with (self.folder / LIST).open("ab") as file:  # one write, which another process's cannot part
                file.write("".join(lines).encode())


def write_owned(path: Path, content: bytes) -> None:
    """Write one file, unless it would replace one that uss-bench did not write.

    Raises:
        UssBenchError: as `OwnedFiles.write`.
    """
    with OwnedFiles(path.parent) as owned:
        owned.write({path.name: content})


def _digest(path: Path) -> str | None:
    """Return a file's digest; None for a link, a folder, or what cannot be read."""
    try:
        return None if path.is_symlink() else hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError:
        return None
