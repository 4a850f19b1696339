"""The lock file: what it holds, and when a record says that it was used."""

from __future__ import annotations

from importlib import metadata

import pytest
from packaging.requirements import Requirement

from uss_bench.results import lock
from uss_bench.results.provenance import environment


def test_every_dependency_is_in_the_committed_lock():
    pinned = {line.partition("==")[0] for line in lock.LOCK.read_text().splitlines()}
    for text in metadata.requires("uss-bench") or ():
        needed = Requirement(text)
        if needed.marker is None:
            assert needed.name.replace("_", "-").lower() in pinned


def test_a_lock_is_named_where_every_version_is_its(monkeypatch, tmp_path):
    monkeypatch.setattr(lock, "LOCK", tmp_path / "requirements.lock")
    assert lock.lock_digest() == ""
    lock.LOCK.write_text(lock.locked())
    assert len(lock.lock_digest()) == 12
    assert environment("cpu")["lock"] == lock.lock_digest()
    before = lock.lock_digest()
    lock.LOCK.write_text("# another remark\n" + lock.locked())
    assert lock.lock_digest() not in ("", before)


@pytest.mark.parametrize("name", ["torch", "numpy", "jinja2"])
def test_another_version_is_not_the_lock(monkeypatch, tmp_path, name):
    monkeypatch.setattr(lock, "LOCK", tmp_path / "requirements.lock")
    version = metadata.version(name).partition("+")[0]
    assert f"{name}=={version}" in lock.locked()
    lock.LOCK.write_text(lock.locked().replace(f"{name}=={version}", f"{name}==0.0.1"))
    assert lock.lock_digest() == ""
    assert "lock" not in environment("cpu")
