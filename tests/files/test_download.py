"""Downloads from a server that breaks off, lies and changes its mind, and archives that attack."""

from __future__ import annotations

import hashlib
import io
import stat
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from file_server import Server, serve

from uss_bench.errors import DataError
from uss_bench.files import download as module
from uss_bench.files.archives import unpack
from uss_bench.files.download import Resource, download

CONTENT = np.random.default_rng(0).integers(0, 256, 300_000, dtype=np.uint8).tobytes()
DIGEST = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture
def server() -> Iterator[Server]:
    with serve() as server:
        server.files["file"] = CONTENT
        yield server


def at(server: Server, **facts: Any) -> Resource:
    return Resource(f"{server.url}/file", "file.bin", **facts)


def fetch(resource: Resource, folder: Path, **options: Any) -> Path:
    return download(resource, folder, **{"timeout": 5, "pause": 0, **options})


def test_a_whole_file_arrives_and_is_not_asked_for_again(server: Server, tmp_path: Path) -> None:
    resource = at(server, size=len(CONTENT), sha256=DIGEST[:16])
    for _ in range(2):
        assert fetch(resource, tmp_path / "new" / "folder").read_bytes() == CONTENT
    assert server.seen == [""]
    assert {path.name for path in (tmp_path / "new" / "folder").glob("*")} <= {"file.bin", ".file.bin.lock"}


def test_a_broken_connection_is_resumed(server: Server, tmp_path: Path) -> None:
    server.break_after = [100_000, 50_000]
    assert fetch(at(server), tmp_path).read_bytes() == CONTENT
    assert server.seen == ["", "bytes=100000-", "bytes=150000-"]


def test_a_later_call_resumes(server: Server, tmp_path: Path) -> None:
    server.break_after = [120_000, 0]
    with pytest.raises(DataError, match="broke off at 120,000 bytes") as caught:
        fetch(at(server), tmp_path, attempts=2)
    assert "continues from there" in str(caught.value.hint)
    assert not (tmp_path / "file.bin").exists()
    assert fetch(at(server), tmp_path).read_bytes() == CONTENT
    assert server.seen[-1] == "bytes=120000-"


def test_a_file_that_changed_meanwhile_is_taken_from_the_start(server: Server, tmp_path: Path) -> None:
    server.break_after = [100_000]
    with pytest.raises(DataError):
        fetch(at(server), tmp_path, attempts=1)
    server.files["file"], server.tag = CONTENT[::-1], '"two"'
    assert fetch(at(server), tmp_path).read_bytes() == CONTENT[::-1]


def test_a_server_that_ignores_ranges_starts_again(server: Server, tmp_path: Path) -> None:
    server.ranges = False
    server.break_after = [100_000]
    assert fetch(at(server), tmp_path).read_bytes() == CONTENT
    assert server.seen == ["", "bytes=100000-"]


def test_without_a_validator_nothing_is_resumed_unless_the_digest_is_known(
    server: Server, tmp_path: Path
) -> None:
    server.tag = ""
    server.break_after = [100_000]
    fetch(at(server), tmp_path / "a")
    assert server.seen == ["", ""]
    server.break_after = [100_000]
    fetch(at(server, sha256=DIGEST), tmp_path / "b")
    assert server.seen[2:] == ["", "bytes=100000-"]


def test_a_server_that_announces_more_than_it_sends(server: Server, tmp_path: Path) -> None:
    server.length = len(CONTENT) + 10
    server.ranges = False
    with pytest.raises(DataError, match="300,000 of 300,010 bytes"):
        fetch(at(server), tmp_path, attempts=2)
    assert not (tmp_path / "file.bin").exists()


def test_a_server_that_announces_another_size_than_published(server: Server, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"announces 300,000 bytes; file\.bin has 300,001"):
        fetch(at(server, size=300_001), tmp_path)
    assert not list(tmp_path.glob("file.bin*"))


def test_a_server_that_announces_nothing(server: Server, tmp_path: Path) -> None:
    server.send_length = False
    with pytest.raises(DataError, match="does not say how long"):
        fetch(at(server), tmp_path)
    assert fetch(at(server, size=len(CONTENT)), tmp_path).read_bytes() == CONTENT
    server.files["file"] = CONTENT + b"more"
    with pytest.raises(DataError, match="sends more than"):
        fetch(at(server, size=len(CONTENT)), tmp_path / "more")


@pytest.mark.parametrize("kind", ["text/html; charset=utf-8", "application/zip"])
def test_a_web_page_instead_of_a_file(server: Server, tmp_path: Path, kind: str) -> None:
    server.files["file"], server.kind = b"\n<!DOCTYPE HTML><title>Log in</title>", kind
    with pytest.raises(DataError, match="web page"):
        fetch(at(server), tmp_path)
    assert len(server.seen) == 1
    assert not list(tmp_path.glob("file.bin*"))


def test_wrong_content_is_thrown_away(server: Server, tmp_path: Path) -> None:
    resource = at(server, size=len(CONTENT), sha256=DIGEST)
    server.files["file"] = CONTENT[:-1] + b"x"
    with pytest.raises(DataError, match="is not the published"):
        fetch(resource, tmp_path)
    assert not list(tmp_path.glob("file.bin*"))
    server.files["file"] = CONTENT
    path = fetch(resource, tmp_path)
    path.write_bytes(b"something else of the user's")
    with pytest.raises(DataError, match="28 bytes instead of 300,000"):
        fetch(resource, tmp_path)
    assert path.exists()


def test_statuses(server: Server, tmp_path: Path) -> None:
    server.statuses = [404]
    with pytest.raises(DataError, match="404"):
        fetch(at(server), tmp_path)
    server.statuses = [503, 429]
    assert fetch(at(server), tmp_path).read_bytes() == CONTENT


def test_a_part_that_is_too_long_starts_again(server: Server, tmp_path: Path) -> None:
    (tmp_path / "file.bin.part").write_bytes(CONTENT * 2)
    (tmp_path / "file.bin.part.validator").write_text(server.tag)
    server.statuses = [416]
    assert fetch(at(server), tmp_path).read_bytes() == CONTENT


def test_a_folder_that_cannot_be_made(server: Server, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(DataError, match="cannot be made"):
        fetch(at(server), tmp_path / "file" / "folder")


def test_nobody_answers(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="broke off at 0 bytes"):
        fetch(Resource("http://127.0.0.1:9/file", "file.bin"), tmp_path, attempts=2)


def test_a_full_disk_is_told_before_anything_is_written(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = module.shutil.disk_usage(tmp_path)
    monkeypatch.setattr(module.shutil, "disk_usage", lambda path: usage._replace(free=1000))
    with pytest.raises(DataError, match=r"1,000 bytes free; file\.bin needs 300,000"):
        fetch(at(server), tmp_path)


def zipped(path: Path, members: dict[str, bytes], **changes: Any) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            info = zipfile.ZipInfo(name)
            info.compress_type = zipfile.ZIP_DEFLATED
            for key, value in changes.items():
                setattr(info, key, value)
            archive.writestr(info, content)
    return path


def taped(path: Path, *members: tarfile.TarInfo, content: bytes = b"abc") -> Path:
    with tarfile.open(path, "w:gz") as archive:
        for info in members:
            info.size = len(content) if info.isreg() else 0
            archive.addfile(info, io.BytesIO(content))
    return path


def files(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_wanted_members_go_where_they_belong(tmp_path: Path, kind: str) -> None:
    if kind == "zip":
        archive = zipped(tmp_path / "a", {"in/one.txt": b"abc", "in/": b"", "other": b"x"})
    else:
        folder = tarfile.TarInfo("in")
        folder.type = tarfile.DIRTYPE
        archive = taped(
            tmp_path / "a", folder, tarfile.TarInfo("in/one.txt"), tarfile.TarInfo("other"), content=b"abc"
        )
    place = {"in/one.txt": "out/1.txt"}.get
    assert unpack(archive, tmp_path / "to", place) == 1
    assert files(tmp_path / "to") == {"out/1.txt": b"abc"}
    (tmp_path / "to" / "out" / "1.txt").write_bytes(b"xyz")  # of the right size: it is left alone
    unpack(archive, tmp_path / "to", place)
    assert files(tmp_path / "to") == {"out/1.txt": b"xyz"}
    (tmp_path / "to" / "out" / "1.txt").write_bytes(b"other")
    with pytest.raises(DataError, match="nothing is replaced"):
        unpack(archive, tmp_path / "to", place)
    assert files(tmp_path / "to") == {"out/1.txt": b"other"}


@pytest.mark.parametrize("name", ["../up", "a/../../up", "/etc/up", "C:up", "a\\..\\up"])
@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_members_that_lead_out_are_refused(tmp_path: Path, name: str, kind: str) -> None:
    archive = (
        zipped(tmp_path / "a", {name: b"abc"})
        if kind == "zip"
        else taped(tmp_path / "a", tarfile.TarInfo(name))
    )
    with pytest.raises(DataError, match="leads out"):
        unpack(archive, tmp_path / "to", str)
    assert not (tmp_path / "to").exists()


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE])
def test_links_and_devices_are_refused(tmp_path: Path, kind: bytes) -> None:
    info = tarfile.TarInfo("innocent")
    info.type, info.linkname = kind, "/etc/passwd"
    with pytest.raises(DataError, match="link or a device"):
        unpack(taped(tmp_path / "a", info), tmp_path / "to", str)
    archive = zipped(tmp_path / "b", {"link": b"/etc"}, external_attr=(stat.S_IFLNK | 0o777) << 16)
    with pytest.raises(DataError, match="link or a device"):
        unpack(archive, tmp_path / "to", str)
    assert not (tmp_path / "to").exists()


def test_names_that_hide_each_other_are_refused(tmp_path: Path) -> None:
    archive = zipped(tmp_path / "a", {"x.txt": b"1", "X.txt": b"2"})
    with pytest.raises(DataError, match="twice"):
        unpack(archive, tmp_path / "to", str)


def test_bombs_are_refused_before_they_go_off(tmp_path: Path) -> None:
    archive = zipped(tmp_path / "a", {"bomb": bytes(80 << 20)})
    with pytest.raises(DataError, match="bomb"):
        unpack(archive, tmp_path / "to", str)
    assert not files(tmp_path / "to")


def test_members_that_lie_about_their_size(tmp_path: Path) -> None:
    archive = zipped(tmp_path / "a", {"liar": CONTENT})
    content = archive.read_bytes()
    archive.write_bytes(content.replace(len(CONTENT).to_bytes(4, "little"), (10).to_bytes(4, "little")))
    with pytest.raises(DataError):
        unpack(archive, tmp_path / "to", str)
    assert not files(tmp_path / "to")


@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_damaged_archives(tmp_path: Path, kind: str) -> None:
    archive = (
        zipped(tmp_path / "a", {"x": CONTENT})
        if kind == "zip"
        else taped(tmp_path / "a", tarfile.TarInfo("x"), content=CONTENT)
    )
    content = bytearray(archive.read_bytes())
    content[150_000:150_100] = bytes(100)
    archive.write_bytes(content)
    with pytest.raises(DataError, match=r"broken|breaks off"):
        unpack(archive, tmp_path / "to", str)
    assert not files(tmp_path / "to")
    archive.write_bytes(bytes(content[:100_000]))
    with pytest.raises(DataError):
        unpack(archive, tmp_path / "to", str)
    archive.write_bytes(b"<html>Not found</html>")
    with pytest.raises(DataError, match="no zip or tar"):
        unpack(archive, tmp_path / "to", str)


def test_encrypted_members_are_refused(tmp_path: Path) -> None:
    archive = zipped(tmp_path / "a", {"x": b"abc"})
    content = bytearray(archive.read_bytes())
    content[6] |= 1
    content[content.index(b"PK\x01\x02") + 8] |= 1
    archive.write_bytes(content)
    with pytest.raises(DataError, match="encrypted"):
        unpack(archive, tmp_path / "to", str)
