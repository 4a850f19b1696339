"""Files that nobody meant to be read: sound ones with bytes cut, flipped, overwritten, repeated, inserted.

Whatever the bytes, a reader answers or says what is wrong. A run makes a few hundred bad files of every
kind; ``USS_BENCH_FUZZ=N`` makes N times as many, and other ones each time.
"""

from __future__ import annotations

import contextlib
import io
import os
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from PIL import Image

from uss_bench.errors import UssBenchError

ROOT = Path(__file__).parents[2]
TIMES = int(os.environ.get("USS_BENCH_FUZZ", "1"))
FUZZ = settings(
    max_examples=40 * TIMES, deadline=None, derandomize=TIMES == 1, suppress_health_check=list(HealthCheck)
)
# Decoders warn of damage that they can live with; it is no error, and pytest would make it one.
ignore_warnings = pytest.mark.filterwarnings("ignore")


def spoil(draw: st.DrawFn, whole: bytes) -> bytes:
    """Cut, flip, overwrite, repeat or insert some bytes of a sound file."""
    content = bytearray(whole)
    for _ in range(draw(st.integers(1, 4))):
        place = draw(st.integers(0, max(len(content) - 1, 0)))
        match draw(st.sampled_from(["cut", "flip", "set", "repeat", "insert"])):
            case "cut":
                del content[place:]
            case "flip" if content:
                content[place] ^= 1 << draw(st.integers(0, 7))
            case "set":
                filling = draw(st.sampled_from([b"\xff" * 8, b"\0" * 8, b"\xff\xff\xff\x7f", b"\x01"]))
                content[place : place + len(filling)] = filling
            case "repeat":
                content += content[place : place + draw(st.integers(1, 64))]
            case _:
                content[place:place] = draw(st.binary(min_size=1, max_size=16))
    return bytes(content)


@st.composite
def spoilt(draw: st.DrawFn, wholes: list[bytes]) -> bytes:
    return spoil(draw, draw(st.sampled_from(wholes)))


ANSWERED: Counter[str] = Counter()
"""By test: spoilt files that were read all the same, as the damage hit nothing or still made sense."""
REFUSED: Counter[str] = Counter()


@contextlib.contextmanager
def reading(refusal: type[Exception] = UssBenchError) -> Iterator[None]:
    """Count one spoilt file: a result and an error of this kind will do, and nothing else."""
    test = os.environ["PYTEST_CURRENT_TEST"].rpartition("::")[2].partition(" ")[0]
    try:
        yield
    except refusal:
        REFUSED[test] += 1
    else:
        ANSWERED[test] += 1


def survives(read: Callable[[Path], object], content: bytes, name: str) -> None:
    """Read a file of this content: a result and an error of ours will do, and nothing else."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / name
        path.write_bytes(content)
        with reading():
            read(path)


def table() -> str:
    """Return what became of all spoilt files, as a Markdown table."""
    tests = sorted(ANSWERED.keys() | REFUSED.keys())
    rows = [
        f"| {test.removeprefix('test_').replace('_', ' ')} | {ANSWERED[test] + REFUSED[test]:,} "
        f"| {REFUSED[test]:,} | {ANSWERED[test]:,} |"
        for test in tests
    ]
    refused, answered = REFUSED.total(), ANSWERED.total()
    rows.append(f"| **all** | **{refused + answered:,}** | **{refused:,}** | **{answered:,}** |")
    return "\n".join(["| Spoilt files | Read | Refused | Answered |", "|---|---:|---:|---:|", *rows])


def encoded(format: str, array: np.ndarray, **options: Any) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, format, **options)
    return buffer.getvalue()


RGB = np.random.default_rng(0).integers(0, 256, (24, 32, 3), dtype=np.uint8)
IMAGES = [
    encoded("PNG", RGB),
    encoded("PNG", RGB[..., 0]),
    encoded("JPEG", RGB),
    encoded("JPEG", RGB, progressive=True),
    encoded("TIFF", RGB, compression="tiff_deflate"),
    encoded("BMP", RGB),
    encoded("WEBP", RGB),
]
