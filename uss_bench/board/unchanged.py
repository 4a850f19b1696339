"""What the last build of a folder of boards wrote, known as long as nothing that decides it has changed."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from importlib import metadata
from pathlib import Path

import msgspec

from uss_bench.board import files
from uss_bench.files.bundled import bundled_folders
from uss_bench.files.status import PACKAGE, Remembered
from uss_bench.plugins.registry import Registry


class Built(msgspec.Struct):
    """What a build gave."""

    digests: dict[str, str]
    """SHA-256 of every file, by its name in the folder."""
    tables: int
    skipped: list[str]
    """A sentence about each record that was left out."""


class Visit:
    """A visit of records and the folder that their boards go to.

    Args:
        records, claims: folders; `claims` None for those that come with uss-bench.
        labels: as the command line gave them.
        make: returns the files by name, the number of tables, and the records that were left out.
    """

    def __init__(
        self,
        registry: Registry,
        records: Sequence[Path],
        claims: Path | None,
        labels: Sequence[str],
        home: Path,
        make: Callable[[], tuple[Mapping[str, bytes], int, list[str]]],
    ) -> None:
        self._make, self._home = make, home
        self._contents: Mapping[str, bytes] = {}
        self._remembered = Remembered(Built)
        paths = _deciding_paths(registry, records, claims)
        # Links of the boards are relative to their folder.
        key = repr([sorted(labels), os.path.abspath(home), metadata.version("jinja2")])  # noqa: PTH100
        self.built = self._build() if paths is None else self._remembered.find(paths, key, self._build)

    @property
    def outdated(self) -> list[str]:
        """The names of files that are missing, hold something else, or should not exist."""
        return files.outdated(self.built.digests, self._home)

    def write(self) -> None:
        """Write the files.

        Raises:
            UsageError: when one would replace a file that uss-bench did not write.
            DataError: when the folder cannot be written.
        """
        if not self._contents and not self.outdated:
            return
        if not self._contents:
            self.built = self._build()
        files.write(self._contents, self._home)

    def save(self) -> None:
        """Remember it for the next visit."""
        self._remembered.save()

    def _build(self) -> Built:
        self._contents, tables, skipped = self._make()
        return Built(files.digests(self._contents), tables, skipped)


def _deciding_paths(registry: Registry, records: Sequence[Path], claims: Path | None) -> list[Path] | None:
    """Return all that decides boards; None where a generated dataset from elsewhere may read any file."""
    plugins = [one for kind in ("methods", "datasets", "backbones") for one in registry.all(kind)]
    generated = registry.generated()
    if any(one.name in generated and one.origin != "built-in" for one in registry.all("datasets")):
        return None
    published = [claims] if claims else bundled_folders("uss_bench.claims.data", "leaderboards/claims")
    folders = {PACKAGE, *records, *(one.folder for one in plugins), *published}
    return sorted({Path(os.path.abspath(one)) for one in folders})  # noqa: PTH100
