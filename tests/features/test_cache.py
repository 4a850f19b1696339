"""The cache: what is shown of it, what is found damaged, and what is deleted and what never is."""

from __future__ import annotations

import os
import re
import shutil
import time
from pathlib import Path

import filelock
import numpy as np
import pytest
import torch
from fakes import ArrayImages, FakeBackbone

from uss_bench.data.geometry import TransformedImages
from uss_bench.errors import ContractError, DataError, blame
from uss_bench.features.artifacts import Parts, describe
from uss_bench.features.store import FeatureStore

IMAGES = 200
"""More than one shard holds."""


@pytest.fixture
def root(tmp_path, monkeypatch) -> Path:
    """A cache that is empty yet."""
    folder = tmp_path / "cache"
    folder.mkdir()
    monkeypatch.setenv("USS_BENCH_CACHE", str(folder))
    return folder


def extract(root: Path, facets=("tokens", "cls"), *, seed: int = 0, fail_at: int | None = None) -> Path:
    """Extract features into the cache and derive an array from them; return the folder of their key."""
    store = FeatureStore(
        root / "features",
        FakeBackbone(fail_at=fail_at),
        device=torch.device("cpu"),
        log=lambda message: None,
    )
    items = TransformedImages(ArrayImages.random(IMAGES, 8, 8, seed=seed), side=8, filter="nearest")
    folder = store.root / store.key(items)
    try:
        store.open(items, facets)
        derived = folder / "derived" / ("d" * 24)
        derived.mkdir(parents=True, exist_ok=True)
        (derived / "lock").touch()  # whoever derives holds it
        describe(derived, 1, {"name": "sum"})
        Parts(derived, 1).write(0, [{"sum": np.arange(3)}], "The test")
    except ContractError:
        assert fail_at is not None
    return folder


def files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def without_locks(folder: Path) -> set[str]:
    return {name for name in files(folder) if not name.endswith("lock")}


# --- du ------------------------------------------------------------------------------------------


def test_du_shows_every_facet_with_its_items_and_the_exact_bytes(command, root):
    folder = extract(root)
    said = command("cache", "du")
    assert said.code == 0
    for facet in ("tokens", "cls"):
        (row,) = [line for line in said.out.splitlines() if re.search(rf"\b{facet}\b", line)]
        assert re.search(rf" {IMAGES} .* complete", row)
        bytes = sum(path.stat().st_size for path in (folder / facet).iterdir())
        assert f"{bytes / 1000:.1f} kB" in row
    assert re.search(rf"{folder.name[:8]}\s+fake\s+\w{{8}}\s+8 px", said.out)
    assert re.search("1 derived array .*complete", said.out)


def test_du_tells_an_interrupted_extraction_from_a_complete_one(command, root):
    extract(root, fail_at=150)
    said = command("cache", "du")
    assert len(re.findall(r"128 .* 1 of 2 shards", said.out)) == 2
    assert "complete" not in said.out


def test_a_cache_that_is_empty_or_not_there_is_said_to_be_empty(command, root):
    assert "The cache is empty." in command("cache", "du").out
    root.rmdir()
    assert "The cache is empty." in command("cache", "du").out
    assert not root.exists()


def test_what_is_not_of_uss_bench_is_shown_as_such(command, root):
    (root / "thesis").mkdir()
    (root / "thesis" / "text.tex").write_bytes(b"x" * 1500)
    assert re.search(r"not of uss-bench: thesis +1.5 kB", command("cache", "du").out)


# --- verify --------------------------------------------------------------------------------------


def flip_byte(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def test_a_sound_cache_is_verified_and_an_unfinished_part_is_no_fault(command, root):
    extract(root)
    folder = extract(root, seed=1, fail_at=150)
    said = command("cache", "verify")
    assert said.code == 0
    assert re.search(f"unfinished: .*{folder.name}/tokens .1 of 2 shards", said.out)


@pytest.mark.parametrize(
    ("name", "damage", "expected"),
    [
        ("tokens/00001-of-00002.npy", flip_byte, "its checksum is .* instead of"),
        ("tokens/00001-of-00002.npy", lambda path: path.write_bytes(b""), "it has 0 bytes instead of"),
        ("tokens/00001-of-00002.npy", Path.unlink, "it is missing"),
        (
            "cls/00000-of-00002.json",
            lambda path: path.write_bytes(b"{"),
            "it does not say what a shard holds",
        ),
        ("derived/*/00000-sum.npy", flip_byte, "its checksum is .* instead of"),
        ("derived/*/00000-sum.npy", lambda path: path.write_bytes(b""), "it has 0 bytes instead of"),
        ("derived/*/00000-sum.npy", Path.unlink, "it is missing"),
        ("derived/*/00000.json", flip_byte, "it does not say what arrays there are"),
    ],
)
def test_a_damaged_file_is_named_with_what_is_wrong_and_what_to_do(command, root, name, damage, expected):
    folder = extract(root)
    (path,) = folder.glob(name)
    damage(path)
    said = command("cache", "verify")
    assert said.code == 1
    assert re.search(f"{path} is damaged: ({expected})", said.err)
    assert "makes it again" in said.err


def test_a_file_that_cannot_be_read_is_named_and_the_others_are_read(command, root, monkeypatch):
    extract(root)

    def refused(path):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr("uss_bench.features.shards.crc32", refused)
    said = command("cache", "verify")
    assert said.code == 1
    assert (said.out + said.err).count("it cannot be read: Input/output error") == 5


def test_every_damaged_file_is_listed(command, root):
    folder = extract(root)
    paths = [folder / facet / "00000-of-00002.npy" for facet in ("cls", "tokens")]
    for path in paths:
        flip_byte(path)
    said = command("cache", "verify")
    assert f"{paths[0]} is damaged" in said.err
    assert "1 more" in said.err
    assert str(paths[1]) in said.out


def test_digests_that_cannot_be_read_are_found(command, root):
    (root / "digests").mkdir()
    path = root / "digests" / f"{'a' * 32}.json"
    path.write_text("[]")
    assert re.search(f"{path} is damaged: it does not hold what it should", command("cache", "verify").err)


# --- prune ---------------------------------------------------------------------------------------


def test_prune_deletes_nothing_before_yes(command, root):
    extract(root)
    before = files(root)
    said = command("cache", "prune", "--all")
    assert said.code == 0
    assert "Would delete 3 parts" in said.out
    assert files(root) == before


def test_prune_all_leaves_locks_only_and_the_store_works_on(command, root):
    folder = extract(root)
    said = command("cache", "prune", "--all", "--yes")
    assert said.code == 0
    assert "Deleted 3 parts" in said.out
    assert without_locks(root) == set()
    extract(root)
    assert {"about.json", "tokens/00001-of-00002.npy"} <= files(folder)


def test_prune_partial_keeps_what_is_complete(command, root):
    complete = extract(root)
    before = files(complete)
    partial = extract(root, seed=1, fail_at=150)
    leftover = complete / "tokens" / ".00001-of-00002.npy.partial"
    leftover.write_bytes(b"half")
    said = command("cache", "prune", "--partial", "--yes")
    assert said.code == 0
    assert files(complete) == before
    assert without_locks(partial) == set()


def test_prune_older_goes_by_the_newest_file_of_a_part(command, root):
    old, new = extract(root), extract(root, seed=1)
    ago = time.time() - 40 * 24 * 3600
    for path in [*old.rglob("*"), new / "tokens" / "00000-of-00002.npy"]:
        os.utime(path, (ago, ago))
    before = files(new)
    assert "Nothing of that kind" in command("cache", "prune", "--older", 50, "--yes").out
    assert "Deleted 3 parts" in command("cache", "prune", "--older", 30, "--yes").out
    assert without_locks(old) == set()
    assert files(new) == before


def test_what_is_both_old_and_partial_can_be_asked_for(command, root):
    extract(root)
    extract(root, seed=1, fail_at=150)
    before = files(root)
    assert "Nothing of that kind" in command("cache", "prune", "--older", 1, "--partial", "--yes").out
    assert files(root) == before


def test_what_a_running_extraction_holds_is_left_alone(command, root):
    held, other = extract(root), extract(root, seed=1)
    with filelock.FileLock(held / "lock"):
        said = command("cache", "prune", "--all", "--yes")
        assert said.code == 0
        assert said.out.count("a running process holds it") == 2
        kept = {
            "about.json",
            *(f"{facet}/0000{n}-of-00002.npy" for facet in ("cls", "tokens") for n in (0, 1)),
        }
        assert kept <= files(held)
    assert without_locks(other) == set()
    assert "holds it" not in command("cache", "prune", "--all", "--yes").out
    assert without_locks(held) == set()


def test_what_was_finished_since_it_was_listed_is_kept(root):
    from uss_bench.features.cache import delete, survey

    folder = extract(root, fail_at=150)
    contents = survey(root)
    extract(root)
    before = files(folder)
    for part in contents.parts:
        assert not delete(contents, part, lambda part: bool(part.missing))
    assert files(folder) == before


def test_links_are_neither_followed_nor_deleted(command, root, tmp_path):
    folder = extract(root)
    outside = tmp_path / "outside"
    (outside / "tokens").mkdir(parents=True)
    shard = outside / "tokens" / "00000-of-00001.npy"
    shard.write_bytes(b"of somebody else")
    links = {
        root / "features" / ("a" * 24): outside,
        folder / "keys": outside / "tokens",
        folder / "derived" / ("b" * 24): outside,
        folder / "cls" / "00009-of-00002.npy": shard,
        root / "digests": outside,
    }
    for link, target in links.items():
        link.symlink_to(target)
    assert command("cache", "du").out.count("a link, not followed") == len(links)
    assert command("cache", "prune", "--all", "--yes").code == 0
    assert shard.read_bytes() == b"of somebody else"
    assert all(link.is_symlink() for link in links)
    assert "tokens/00000-of-00002.npy" not in files(folder)


def test_a_folder_that_becomes_a_link_while_it_is_pruned_is_refused(root, tmp_path):
    from uss_bench.errors import DataError
    from uss_bench.features.cache import delete, survey

    folder = extract(root)
    contents = survey(root)
    outside = tmp_path / "outside"
    (folder / "tokens").rename(outside)
    (folder / "tokens").symlink_to(outside)
    (part,) = [part for part in contents.parts if part.path.name == "tokens"]
    before = files(outside)
    with pytest.raises(DataError, match="outside the cache"):
        delete(contents, part, lambda part: True)
    assert files(outside) == before


def test_what_uss_bench_did_not_write_is_never_deleted(command, root):
    folder = extract(root)
    mine = [
        root / "thesis.tex",
        folder / "notes.txt",
        folder / "tokens" / "plot.png",
        root / "features" / "x",
    ]
    for path in mine:
        path.write_text("mine")
    command("cache", "prune", "--all", "--yes")
    assert without_locks(root) == {str(path.relative_to(root)) for path in mine}


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ((), "Nothing is named to delete"),
        (("--all", "--partial"), "--all deletes everything"),
        (("--older", "-1"), "older"),
    ],
)
def test_a_prune_that_says_too_little_or_too_much_is_wrong_usage(command, root, arguments, expected):
    said = command("cache", "prune", "--yes", *arguments)
    assert said.code == 2
    assert expected in said.err


def test_a_file_that_cannot_be_deleted_is_named(command, root, monkeypatch):
    extract(root)

    def refuse(self, missing_ok=False):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "unlink", refuse)
    said = command("cache", "prune", "--all", "--yes")
    assert said.code == 1
    assert re.search("cannot be deleted: Permission denied", said.err)
    assert "Traceback" not in said.err


# --- Deleted while it is read ---------------------------------------------------------------------


@pytest.mark.parametrize("moment", ["before it is mapped", "before its moments are read", "derived"])
def test_what_is_deleted_while_a_run_reads_it_is_not_blamed_on_the_method(root, monkeypatch, moment):
    store = FeatureStore(root / "features", FakeBackbone(), device=torch.device("cpu"), log=lambda text: None)
    items = TransformedImages(ArrayImages.random(4, 8, 8), side=8, filter="nearest")
    folder = store.root / store.key(items)
    store.open(items, ["tokens"])
    parts = Parts(folder / "derived" / ("d" * 24), 1)
    parts.write(0, [{"sum": np.arange(3)}], "The test")
    load, reader = np.load, store.open(items, ["tokens"])

    def prune(*arguments, **options):
        shutil.rmtree(root / "features", ignore_errors=True)
        return load(*arguments, **options)

    if moment == "before it is mapped":
        monkeypatch.setattr(np, "load", prune)
    else:
        shutil.rmtree(root / "features")
    read = {
        "before it is mapped": lambda: store.open(items, ["tokens"]),
        "before its moments are read": lambda: reader.moments("tokens"),
        "derived": lambda: parts.item(0),
    }[moment]
    with pytest.raises(DataError, match="was deleted from the cache while"), blame("Method 'x'", "training"):
        read()
