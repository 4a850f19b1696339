"""Spoilt archives: refused or unpacked, and nothing outside the folder."""

from __future__ import annotations

import io
import tarfile
import tempfile
import zipfile
from pathlib import Path

import numpy as np
from fuzzing import FUZZ, ignore_warnings, reading, spoilt
from hypothesis import given

from uss_bench.files.archives import unpack

pytestmark = ignore_warnings

MEMBERS = {
    "a.txt": b"sound " * 50,
    "deep/b.bin": np.random.default_rng(0).bytes(600),
    "ä/空.png": b"",
}


def zipped(compression: int) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as archive:
        for name, content in MEMBERS.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def taped(mode: str, form: int = tarfile.PAX_FORMAT) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode, format=form) as archive:
        for name, content in MEMBERS.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


WHOLE = [
    *(
        zipped(kind)
        for kind in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA)
    ),
    *(taped(mode) for mode in ("w", "w:gz", "w:bz2", "w:xz")),
    taped("w", tarfile.GNU_FORMAT),
]


@FUZZ
@given(spoilt(WHOLE))
def test_archives(content: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        archive, target = Path(folder) / "archive", Path(folder) / "here" / "target"
        archive.write_bytes(content)
        with reading():
            unpack(archive, target, str)
        elsewhere = [path for path in Path(folder).rglob("*") if not path.is_relative_to(target)]
        assert {path.name for path in elsewhere} <= {"archive", "here"}
