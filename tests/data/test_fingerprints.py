"""Fingerprints follow contents, and what was fingerprinted is what is read."""

from __future__ import annotations

import os
import shutil
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from uss_bench.data import fingerprints
from uss_bench.data.fingerprints import FileSet, fingerprint
from uss_bench.errors import DataError

GRAY = np.arange(48, dtype=np.uint8).reshape(6, 8)
RGB = np.stack([GRAY, GRAY + 50, GRAY + 100], -1)


def save(path: Path, array: np.ndarray) -> Path:
    Image.fromarray(array).save(path)
    return path


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("USS_BENCH_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_the_fingerprint_follows_content_name_and_order(tmp_path: Path) -> None:
    a, b = save(tmp_path / "a.png", RGB), save(tmp_path / "b.png", GRAY)
    first = fingerprint([a, b])
    assert fingerprint([a, b]) == first
    assert fingerprint([b, a]) != first
    renamed = a.rename(tmp_path / "c.png")
    assert fingerprint([renamed, b]) != first
    renamed.rename(a)
    a.write_bytes(a.read_bytes() + b"!")
    assert fingerprint([a, b]) != first


def test_a_second_fingerprint_reads_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save(tmp_path / "a.png", RGB)
    monkeypatch.setattr(fingerprints, "_SETTLED_NS", -1)
    first = fingerprint([path])

    def fail(*_: object) -> None:
        raise AssertionError("The file was read again.")

    monkeypatch.setattr(fingerprints.hashlib, "file_digest", fail)
    assert fingerprint([path]) == first


def test_a_broken_cache_is_ignored(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save(tmp_path / "a.png", RGB)
    monkeypatch.setattr(fingerprints, "_SETTLED_NS", -1)
    first = fingerprint([path])
    assert list(cache.rglob("*.json"))
    for file in cache.rglob("*.json"):
        file.write_text('{"broken')
    assert fingerprint([path]) == first


def test_a_missing_file_has_no_fingerprint(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"gone\.png"):
        fingerprint([tmp_path / "gone.png"])


@pytest.mark.parametrize("how", ["rewritten", "copied with its times", "a link to another", "gone"])
def test_a_file_that_changed_is_not_read_under_its_old_fingerprint(tmp_path: Path, how: str) -> None:
    path, other = save(tmp_path / "a.png", RGB), save(tmp_path / "b.png", RGB[::-1])
    other.write_bytes(other.read_bytes().ljust(path.stat().st_size + 8, b"\0"))
    path.write_bytes(path.read_bytes().ljust(path.stat().st_size + 8, b"\0"))
    shutil.copystat(path, other)
    files = FileSet([path])
    files.read(path)
    first, content = files.fingerprint(), path.read_bytes()
    assert files.read(path) == content
    path.unlink()
    if how == "rewritten":
        path.write_bytes(content[:-1] + b"!")
    elif how == "copied with its times":
        shutil.copy2(other, path)
    elif how == "a link to another":
        path.symlink_to(other)
    with pytest.raises(DataError, match=r"a\.png (changed while it was in use|does not exist)"):
        files.read(path)
    assert files.fingerprint() == first, "an object stands for the files as they were"
    if how != "gone":
        assert fingerprint([path]) != first
    path.unlink(missing_ok=True)
    path.write_bytes(content)
    assert files.read(path) == content


def test_a_file_swapped_for_one_of_the_same_size_and_time_has_another_fingerprint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fingerprints, "_SETTLED_NS", -1)
    path, other = tmp_path / "a.png", tmp_path / "b.png"
    path.write_bytes(b"one")
    other.write_bytes(b"two")
    os.utime(path, (1e9, 1e9))
    os.utime(other, (1e9, 1e9))
    first = fingerprint([path])
    shutil.copy2(other, path)
    assert fingerprint([path]) != first


def test_a_note_that_does_not_fit_is_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file system may not note a change at all: then the content tells, and the next command is right."""
    monkeypatch.setattr(fingerprints, "_SETTLED_NS", -1)
    path = tmp_path / "a.png"
    path.write_bytes(b"one")
    look, stat = Path.stat, path.stat()
    monkeypatch.setattr(Path, "stat", lambda one, **how: stat if one == path else look(one, **how))
    first = fingerprint([path])
    path.write_bytes(b"two")
    files = FileSet([path])
    assert files.fingerprint() == first
    with pytest.raises(DataError, match="changed while it was in use"):
        files.read(path)
    assert fingerprint([path]) != first


def test_names_count_in_the_form_that_all_systems_share(tmp_path: Path) -> None:
    for folder, form in (("composed", "NFC"), ("decomposed", "NFD")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / unicodedata.normalize(form, "Straße-é.png")).write_bytes(b"x")
    found = [fingerprint(sorted((tmp_path / one).iterdir())) for one in ("composed", "decomposed")]
    assert found[0] == found[1]
