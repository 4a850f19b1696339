"""Which shards are read again when a store is opened, and which damage that finds."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
import torch
from fakes import ArrayImages, FakeBackbone

from uss_bench.data.geometry import TransformedImages
from uss_bench.features import shards
from uss_bench.features import verified as checked
from uss_bench.features.shards import CHECKED
from uss_bench.features.store import FeatureStore

ITEMS = TransformedImages(ArrayImages.random(140, 9, 11), side=8, filter="nearest")  # two shards


class Reads:
    """Counts the files that are read in full."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.paths: list[str] = []
        monkeypatch.setattr(shards, "crc32", self)

    def __call__(self, path: Path) -> int:
        self.paths.append(path.name)
        return _crc32(path)

    def take(self) -> list[str]:
        taken, self.paths = self.paths, []
        return taken


_crc32 = shards.crc32
FIRST, SECOND = "00000-of-00002.npy", "00001-of-00002.npy"


@pytest.fixture
def reads(monkeypatch):
    return Reads(monkeypatch)


def opened(root: Path) -> FeatureStore:
    store = FeatureStore(root, FakeBackbone(), device=torch.device("cpu"), log=lambda message: None)
    store.open(ITEMS, ["tokens"])
    return store


@pytest.fixture
def settled(tmp_path, monkeypatch):
    """A store whose shards are noted as sound, and a clock that stands a minute later."""
    opened(tmp_path)
    start = time.time()
    monkeypatch.setattr(time, "time", lambda: start + 60)
    opened(tmp_path)
    return tmp_path


def the(root: Path, name: str) -> Path:
    return next(root.glob(f"*/tokens/{name}"))


def test_a_shard_is_read_once_and_not_by_the_stores_that_are_opened_later(settled, reads):
    assert opened(settled).encoded == 0
    assert reads.take() == []


def test_a_shard_that_was_just_written_is_not_noted(tmp_path, reads):
    opened(tmp_path)
    opened(tmp_path)
    assert reads.take() == [FIRST, SECOND]
    assert not list(tmp_path.glob(f"*/{CHECKED}"))


def overwrite(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def overwrite_and_hide(path: Path) -> None:
    """Restores the time of modification, as some copying does; the system notes the change all the same."""
    before = path.stat()
    overwrite(path)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


@pytest.mark.parametrize("damage", [overwrite, overwrite_and_hide, Path.unlink])
def test_a_shard_that_was_touched_is_read_and_built_again_if_damaged(settled, reads, damage):
    damage(the(settled, FIRST))
    assert opened(settled).encoded == 128
    assert SECOND not in reads.take()


def test_a_sound_shard_that_was_touched_is_read_once_more_and_kept(settled, reads, monkeypatch):
    os.utime(the(settled, FIRST))
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + 60)
    assert opened(settled).encoded == 0
    assert opened(settled).encoded == 0
    assert reads.take() == [FIRST]


@pytest.mark.parametrize("days", [-1, 1.01])
def test_a_note_holds_for_a_day_and_not_before_it_was_made(settled, reads, monkeypatch, days):
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + days * 24 * 3600)
    opened(settled)
    assert reads.take() == [FIRST, SECOND]


@pytest.mark.parametrize("content", [b"", b"{}", b"\xff", b'{"tokens/00000-of-00002.npy": 3}'])
def test_damaged_notes_are_no_notes(settled, reads, content):
    next(settled.glob(f"*/{CHECKED}")).write_bytes(content)
    assert opened(settled).encoded == 0
    assert reads.take() == [FIRST, SECOND]


def test_notes_that_cannot_be_kept_are_done_without(tmp_path, reads, monkeypatch):
    opened(tmp_path)
    start = time.time()
    monkeypatch.setattr(time, "time", lambda: start + 60)

    def refuse(path: Path, content: bytes) -> None:
        raise PermissionError("read-only")

    monkeypatch.setattr(checked, "atomic_write", refuse)
    opened(tmp_path)
    opened(tmp_path)
    assert reads.take() == [FIRST, SECOND] * 2
