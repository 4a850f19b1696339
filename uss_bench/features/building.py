"""Building shards of features or images: each once, and as many as disk and budget hold."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import numpy as np

from uss_bench.errors import DataError
from uss_bench.features.shards import ABOUT, Shards, writing_to
from uss_bench.files.atomic import atomic_write
from uss_bench.files.locks import locked
from uss_bench.runtime import progress
from uss_bench.runtime.formatting import byte_size

Produce = Callable[[Mapping[int, list[str]]], Iterator[tuple[int, dict[str, np.ndarray]]]]
"""Yields, for shards and the facets that each lacks, the arrays of one shard after another."""


class Builder:
    """Builds the shards of one key.

    Args:
        layout: where they lie.
        about: notes for people who look into the folder, JSON values.
        what: is built, as "features".
        budget: bytes that all shards may take on disk.
        key: returns the digest that should name the layout's folder, of the images as they are by then.
    """

    def __init__(
        self,
        layout: Shards,
        about: Mapping[str, object],
        what: str,
        budget: int,
        log: Callable[[str], None],
        key: Callable[[], str],
    ) -> None:
        self._key = key
        self._layout = layout
        self._about = about
        self._what = what
        self._budget = budget
        self._log = log

    def complete(self, produce: Produce) -> set[int]:
        """Build what is missing of the shards that may be stored; return those that are stored then.

        Raises:
            DataError: when an image cannot be read or changes meanwhile, or the disk is full.
        """
        stored = self._layout.sound_shards()
        if len(stored) == self._layout.count:  # then nothing is written: the cache may be read-only
            return stored
        count, reason = self.storable()
        if reason:
            part = f"{count} of {self._layout.count} parts are stored" if count else "not stored"
            self._log(f"The {self._what} are streamed, {part}: {reason}.")
        if set(range(count)) <= stored or not self._has_folder():
            return stored
        with self._locked():
            self._describe()
            todo = {shard: missing for shard in range(count) if (missing := self._missing(shard))}
            with ThreadPoolExecutor(1) as writer:
                written: list[Future[None]] = []
                for shard, arrays in self._tracked(todo, produce):
                    for future in written:  # one shard is written while the next is computed
                        future.result()
                    if shard == max(todo):
                        self._refuse_changes(todo)
                    written = [
                        writer.submit(self._layout.write, facet, shard, array)
                        for facet, array in arrays.items()
                    ]
                for future in written:
                    future.result()
        return stored | set(range(count))

    def share(self, produce: Produce, part: int, parts: int) -> None:
        """Build one job's share: of every `parts` shards that follow each other, one.

        A shard that two processes work on is written by the first.
        """
        count, reason = self.storable()
        if reason:
            self._log(f"{count} of {self._layout.count} parts of the {self._what} are stored: {reason}.")
        if not count or not self._has_folder():
            return
        self._describe()
        share = range(part, count, parts)
        with progress.bar(total=self._items(share), label=self._what) as bar:
            for shard in share:
                with self._locked():
                    missing = self._missing(shard)
                if not missing:
                    bar.update(self._items([shard]))
                    continue
                for _, arrays in produce({shard: missing}):
                    self._refuse_changes({})
                    with self._locked():
                        for facet, array in arrays.items():
                            if self._layout.sidecar(facet, shard) is None:
                                self._layout.write(facet, shard, array)
                    bar.update(self._items([shard]))

    def storable(self) -> tuple[int, str]:
        """Return how many shards may be stored, and why not all; '' if all may."""
        layout = self._layout
        folder, needed = layout.folder, layout.bytes_needed()
        if needed > self._budget:
            sizes = f"they take {byte_size(needed)} and the budget is {byte_size(self._budget)}"
            count = layout.fitting(self._budget)
            if not count:
                return 0, sizes
        else:
            sizes, count = "", layout.count
        there = next(one for one in (folder.absolute(), *folder.absolute().parents) if one.exists())
        if not there.is_dir():
            return 0, f"{folder} cannot be written ({there} is not a folder)"
        if not os.access(there, os.W_OK):
            return 0, f"{folder} cannot be written (it is read-only)"
        free = shutil.disk_usage(there).free
        room = 0.95 * free + layout.bytes_present()
        if min(needed, self._budget) > room:
            sizes = f"they take {byte_size(needed)} and the disk has {byte_size(free)} left"
            count = min(count, layout.fitting(room))
        return count, sizes

    def _tracked(
        self, todo: Mapping[int, list[str]], produce: Produce
    ) -> Iterator[tuple[int, dict[str, np.ndarray]]]:
        with progress.bar(total=self._items(todo), label=self._what) as bar:
            for shard, arrays in produce(todo):
                bar.update(self._items([shard]))
                yield shard, arrays

    def _refuse_changes(self, built: Mapping[int, list[str]]) -> None:
        """Discard what was built if the images are no longer those that the folder is named after."""
        if self._key() == self._layout.folder.name:
            return
        for shard, facets in built.items():
            for facet in facets:
                self._layout.sidecar_path(facet, shard).unlink(missing_ok=True)
        raise DataError(
            f"Images changed while {self._what} were made of them.",
            hint="Leave the data alone while a command reads it, and give the command again.",
        )

    def _items(self, shards: Iterable[int]) -> int:
        return sum(len(self._layout.items_of(shard)) for shard in shards)

    def _missing(self, shard: int) -> list[str]:
        """Return the facets that are to be built of a shard; of a damaged one the sidecar goes."""
        missing = []
        for facet in self._layout.shapes:
            sound = self._layout.is_sound(facet, shard)
            if sound is False:
                path = self._layout.path(facet, shard)
                self._log(f"Shard {path.name} of '{facet}' is damaged and is built again ({path.parent}).")
                self._layout.sidecar_path(facet, shard).unlink(missing_ok=True)
            if not sound:
                missing.append(facet)
        return missing

    def _has_folder(self) -> bool:
        """Make the folder; where that fails everything is streamed, as in a cache that is read-only."""
        try:
            self._layout.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            self._log(f"The {self._what} are streamed, not stored: {error.filename}: {error.strerror}.")
            return False
        return True

    def _locked(self) -> contextlib.AbstractContextManager[None]:
        return locked(Path(self._layout.folder) / "lock", self._log, f"works on the same {self._what}")

    def _describe(self) -> None:
        folder = self._layout.folder
        with writing_to(folder):
            atomic_write(folder / ABOUT, json.dumps(self._about, indent=1).encode())
