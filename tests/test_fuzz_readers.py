"""Files that nobody meant to be read: whatever the bytes, a reader answers or says what is wrong.

A run makes a few hundred bad files of every kind; ``USS_BENCH_FUZZ=N`` makes N times as many.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import struct
import tempfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import coco_files
import msgspec
import numpy as np
import potsdam_files
import pytest
import safetensors.torch
import torch
from board_records import write_runs
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy.io import savemat

from uss_bench import arrays
from uss_bench.arrays import read_npy, read_npz
from uss_bench.backbones.weights import read_state_dict
from uss_bench.claims import load_claims
from uss_bench.errors import DataError, UsageError, UssBenchError
from uss_bench.images import image_size, read_image, read_label
from uss_bench.record_files import read_arrays, read_record
from uss_bench.registry import Registry
from uss_bench.regression.plan import PLAN, read_plan
from uss_bench.setup import load_dataset
from uss_bench.specs import decode_toml, read_spec
from uss_bench.studies import read_study

ROOT = Path(__file__).parent.parent
TIMES = int(os.environ.get("USS_BENCH_FUZZ", "1"))
FUZZ = settings(
    max_examples=40 * TIMES, deadline=None, derandomize=TIMES == 1, suppress_health_check=list(HealthCheck)
)
# Decoders warn of damage that they can live with; it is no error, and pytest would make it one.
pytestmark = pytest.mark.filterwarnings("ignore")


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


def survives(read: Callable[[Path], object], content: bytes, name: str) -> None:
    """Read a file of this content: a result and an error of ours will do, and nothing else."""
    with tempfile.TemporaryDirectory() as folder, contextlib.suppress(UssBenchError):
        path = Path(folder) / name
        path.write_bytes(content)
        read(path)


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


@FUZZ
@given(spoilt(IMAGES))
def test_images(content: bytes) -> None:
    for read in (read_image, read_label, image_size):
        survives(read, content, "image.png")


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">L", len(data)) + kind + data + struct.pack(">L", zlib.crc32(kind + data))


def png_bomb(width: int, height: int) -> bytes:
    """A PNG of a few bytes that declares a size."""
    head = struct.pack(">LLBBBBB", width, height, 8, 2, 0, 0, 0)
    packed = zlib.compress(bytes(1000))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", packed) + chunk(b"IEND", b"")


@pytest.mark.parametrize("read", [read_image, read_label, image_size])
@pytest.mark.parametrize("size", [(60_000, 60_000), (2**31 - 1, 2**31 - 1), (90_000, 1_000)])
def test_an_image_that_declares_more_pixels_than_memory_holds_is_refused(tmp_path, read, size) -> None:
    path = tmp_path / "bomb.png"
    path.write_bytes(png_bomb(*size))
    with pytest.raises(DataError, match=r"bomb\.png"):
        read(path)


@pytest.mark.parametrize("content", [b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n"])
def test_no_other_program_is_started_for_an_image(tmp_path, monkeypatch, content) -> None:
    monkeypatch.setattr("subprocess.check_call", lambda *_, **__: pytest.fail("Ghostscript was called"))
    (tmp_path / "image.png").write_bytes(content)
    with pytest.raises(DataError, match="is not an image that can be read"):
        read_image(tmp_path / "image.png")


# --- Records -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def record(tmp_path_factory: pytest.TempPathFactory) -> Path:
    (path,) = write_runs(tmp_path_factory.mktemp("records"), "alpha", seeds=(0,), params={"deep": [1, {}]})
    return path


@FUZZ
@given(st.data())
def test_records(record: Path, data: st.DataObject) -> None:
    survives(read_record, data.draw(spoilt([record.read_bytes()])), "record.json")


@FUZZ
@given(st.data())
def test_arrays_of_records_whose_digest_is_made_to_fit(record: Path, data: st.DataObject) -> None:
    content = data.draw(spoilt([record.with_suffix(".npz").read_bytes()]))
    fitting = msgspec.structs.replace(read_record(record), arrays_sha256=hashlib.sha256(content).hexdigest())
    survives(lambda path: read_arrays(path, fitting), content, "record.npz")


def refit(record: Path, folder: Path, **named: Any) -> tuple[Path, Any]:
    """Write an npz of these arrays, and return its path with a record that has its digest."""
    path = folder / "record.npz"
    np.savez_compressed(path, **named)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    return path, msgspec.structs.replace(read_record(record), arrays_sha256=digest)


IDS = {"image_ids": np.array(["a", "b"]), "map_ids": np.array(["a"])}
MISFITS = {
    "an unknown group": {"weights/last/raw": np.zeros(3)},
    "a name without parts": {"counts": np.zeros(3)},
    "counts of one dimension": {"counts/last/raw": np.zeros(3, int)},
    "counts of other images": {"counts/last/raw": np.zeros((5, 3, 3), int)},
    "counts of other classes": {"counts/last/raw": np.zeros((2, 3, 9), int)},
    "counts that are no whole numbers": {"counts/last/raw": np.full((2, 3, 3), np.nan)},
    "negative counts": {"counts/last/raw": np.full((2, 3, 3), -1)},
    "ids that are one number": {"image_ids": np.array(3)},
}


@pytest.mark.parametrize("kind", MISFITS)
def test_arrays_that_are_sound_and_do_not_fit_are_refused(tmp_path, record, kind) -> None:
    path, fitting = refit(record, tmp_path, **IDS | MISFITS[kind])
    with pytest.raises(DataError, match="does not hold what a record's should"):
        read_arrays(path, fitting)


def test_an_npz_that_unpacks_to_far_more_than_it_is_is_refused(monkeypatch) -> None:
    monkeypatch.setattr(arrays, "_SLACK", 1 << 20)
    buffer = io.BytesIO()
    np.savez_compressed(buffer, zeros=np.zeros(8 << 20, np.uint8))
    with pytest.raises(ValueError, match="as a bomb does"):
        read_npz(buffer.getvalue())


@FUZZ
@given(st.data())
def test_npy(data: st.DataObject) -> None:
    buffer = io.BytesIO()
    np.save(buffer, np.arange(12).reshape(3, 4))
    content = data.draw(spoilt([buffer.getvalue()]))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "array.npy"
        path.write_bytes(content)
        with contextlib.suppress(ValueError):
            assert isinstance(read_npy(path), np.ndarray)


# --- TOML and JSON -------------------------------------------------------------------------------

CLASSES = b'name = "mine"\nignore_values = [255]\n' + b"".join(
    b'[[classes]]\nname = "%d"\ncolour = [0, 0, %d]\n' % (index, index) for index in range(3)
)
TOML: dict[str, tuple[Callable[[Path], object], list[bytes]]] = {
    "spec.toml": (read_spec, [path.read_bytes() for path in sorted(ROOT.glob("*/*/spec.toml"))[:8]]),
    "study.toml": (read_study, [path.read_bytes() for path in sorted(ROOT.glob("methods/*/studies/*.toml"))]),
    PLAN: (lambda path: read_plan(path.parent), [(ROOT / "leaderboards/golden" / PLAN).read_bytes()]),
}


@pytest.mark.parametrize("name", TOML)
@FUZZ
@given(st.data())
def test_specs_studies_and_plans(name: str, data: st.DataObject) -> None:
    read, wholes = TOML[name]
    survives(read, data.draw(spoilt(wholes)), name)


@FUZZ
@given(st.data())
def test_claims(data: st.DataObject) -> None:
    sources = ROOT / "leaderboards" / "claims"
    which = data.draw(st.sampled_from(["conditions.toml", "stego.toml"]))
    other = {"conditions.toml": "stego.toml", "stego.toml": "conditions.toml"}[which]
    content = data.draw(spoilt([(sources / which).read_bytes()]))
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / other).write_bytes((sources / other).read_bytes())
        (Path(folder) / which).write_bytes(content)
        with contextlib.suppress(UssBenchError):
            load_claims(Path(folder))


@FUZZ
@given(spoilt([CLASSES]))
def test_classes_files_of_a_folder(content: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        for kind, array in (("images", RGB), ("labels", RGB[..., 0] % 3)):
            (root / kind).mkdir()
            (root / kind / "a.png").write_bytes(encoded("PNG", array))
        (root / "classes.toml").write_bytes(content)
        spec, plugin = Registry().dataset("folder")
        with contextlib.suppress(UssBenchError):
            plugin.load()(spec, root=str(root), classes=str(root / "classes.toml")).verify()


@pytest.mark.parametrize("text", ["x = " + "[" * 100_000, "x = " + "9" * 5_000, 'x = "\\uD800"', "\0"])
def test_toml_that_is_deep_or_long_is_an_error_that_names_the_file(tmp_path, text) -> None:
    (tmp_path / "a.toml").write_text(text)
    with pytest.raises(DataError, match=r"a\.toml"):
        decode_toml(tmp_path / "a.toml", dict[str, int])


def test_json_that_is_nested_by_the_thousand_is_no_record(tmp_path, record) -> None:
    text = record.read_text().replace('"deep": [', '"deep": [' + "[" * 100_000, 1)
    (tmp_path / "record.json").write_text(text)
    with pytest.raises(DataError, match="not a run record"):
        read_record(tmp_path / "record.json")


@pytest.mark.parametrize("value", ["9" * 5_000, "[" * 100_000, "NaN", "-Infinity", '"\\ud800"'])
def test_a_value_on_the_command_line_that_is_no_json_is_a_string(command, value) -> None:
    said = command("verify", "--dataset", "folder", "--root", "nowhere", "--data", f"partial={value}")
    assert said.code in (1, 2)
    assert "did not foresee" not in said.err


# --- Datasets ------------------------------------------------------------------------------------


def matlab(**options: Any) -> bytes:
    buffer = io.BytesIO()
    savemat(buffer, {"text": "abc", "img": RGB}, **options)
    return buffer.getvalue()


def geotiff(**changes: Any) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        pixels = np.dstack([RGB, RGB[..., :1]])
        return potsdam_files.tiff(Path(folder) / "a.tif", pixels, **changes).read_bytes()


@FUZZ
@given(spoilt([matlab(), matlab(do_compression=True)]))
def test_matlab_files(content: bytes) -> None:
    survives(lambda path: potsdam_files.module("matfile").read_array(path, "img"), content, "a.mat")


def test_packed_matlab_arrays_within_each_other_end(tmp_path) -> None:
    content = zlib.compress(b"")
    for _ in range(3):
        content = zlib.compress(struct.pack("<LL", 15, len(content)) + content)
    header = bytes(124) + b"\0\1IM"
    (tmp_path / "a.mat").write_bytes(header + struct.pack("<LL", 15, len(content)) + content)
    with pytest.raises(DataError, match="a packed array holds another"):
        potsdam_files.module("matfile").read_array(tmp_path / "a.mat", "img")


@FUZZ
@given(spoilt([geotiff(), geotiff(deflate=True, predictor=2, rows=8), geotiff(big=True, order=">")]))
def test_geotiff(content: bytes) -> None:
    survives(lambda path: potsdam_files.module("tiff").read_channels(path, 4), content, "a.tif")


@pytest.mark.parametrize("tags", [{256: [60_000], 257: [60_000]}, {256: [2**32 - 1], 278: [2**32 - 1]}])
def test_a_geotiff_that_declares_more_pixels_than_a_tile_has_is_refused(tmp_path, tags) -> None:
    (tmp_path / "a.tif").write_bytes(geotiff(tags=tags))
    with pytest.raises(DataError, match=r"a\.tif is damaged"):
        potsdam_files.module("tiff").read_channels(tmp_path / "a.tif", 4)


@pytest.fixture(scope="module")
def coco(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = coco_files.put_images(tmp_path_factory.mktemp("coco"))
    coco_files.put_panoptic(coco_files.put_json(root))
    return root / "annotations"


def segments(folder: Path, instances: Path) -> Any:
    module = coco_files.module("segments")
    table = coco_files.module("segments").ValueTable(coco_files.SPEC.classes, [255])
    return module.SegmentFiles(instances, folder / "stuff_val2017.json", coco_files.IDS, table)


@FUZZ
@given(st.data())
def test_instances(coco: Path, data: st.DataObject) -> None:
    content = data.draw(spoilt([(coco / "instances_val2017.json").read_bytes()]))
    survives(lambda path: [segments(coco, path).read(one) for one in coco_files.IDS], content, "a.json")


@FUZZ
@given(st.data())
def test_panoptic(coco: Path, data: st.DataObject) -> None:
    pngs = {number: coco / "panoptic_val2017" / f"{number}.png" for number in coco_files.IDS}
    names = [row.name for row in coco_files.SPEC.classes]
    content = data.draw(spoilt([(coco / "panoptic_val2017.json").read_bytes()]))

    def read(path: Path) -> None:
        file = coco_files.module("panoptic").PanopticFile(path, pngs, names)
        for number in coco_files.IDS:
            file.read(number)

    survives(read, content, "a.json")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"height": 60_000, "width": 60_000}, "the size 60000×60000"),
        ({"height": -1}, "the size 32×-1"),
        ({"segmentation": [[0.0, 0.0, 1e9, 0.0, 1e9, 1e9]]}, "leaves the image"),
        ({"segmentation": [[0.0, 0.0, 32.0, 24.0] * 500]}, "longer than all outlines"),
        ({"segmentation": {"size": [24, 32], "counts": "o" * 1_000_000}}, "too many digits"),
        ({"segmentation": {"size": [24, 32], "counts": [768 * 10**9]}}, "do not cover the image"),
    ],
)
def test_a_segment_that_would_fill_the_memory_is_refused(tmp_path, coco, change, words) -> None:
    content = json.loads((coco / "instances_val2017.json").read_text())
    for row in (*content["images"], *content["annotations"]):
        row.update({key: value for key, value in change.items() if key in row})
    stuff = json.loads((coco / "stuff_val2017.json").read_text())
    for row in stuff["images"]:
        row.update({key: value for key, value in change.items() if key in row})
    (tmp_path / "stuff_val2017.json").write_text(json.dumps(stuff))
    (tmp_path / "a.json").write_text(json.dumps(content))
    with pytest.raises(DataError, match=words):
        segments(tmp_path, tmp_path / "a.json").read(coco_files.IDS[0])


@FUZZ
@given(spoilt(["".join(f"{one}\n" for one in coco_files.IDS).encode()]))
def test_curated_lists(content: bytes) -> None:
    module = coco_files.module("splits")
    survives(lambda path: module._read_list(path, module.CURATED["val"], partial=True), content, "list.txt")


def test_a_file_whose_name_is_no_text_is_named(tmp_path) -> None:
    try:
        Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff.png")).write_bytes(IMAGES[0])
    except OSError:
        pytest.skip("this file system takes UTF-8 names only")
    spec, plugin = Registry().dataset("folder")
    with pytest.raises(DataError, match="whose name is not UTF-8"):
        plugin.load()(spec, root=str(tmp_path))


# --- Weights -------------------------------------------------------------------------------------


def weights(save: Callable[[dict[str, torch.Tensor], Any], None]) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        save({"a": torch.arange(6.0).reshape(2, 3), "b": torch.zeros(2)}, Path(folder) / "w")
        return (Path(folder) / "w").read_bytes()


@FUZZ
@given(spoilt([weights(safetensors.torch.save_file)]))
def test_safetensors(content: bytes) -> None:
    survives(read_state_dict, content, "w.safetensors")


@FUZZ
@given(
    spoilt(
        [weights(torch.save), weights(lambda s, p: torch.save(s, p, _use_new_zipfile_serialization=False))]
    )
)
def test_pth(content: bytes) -> None:
    survives(read_state_dict, content, "w.pth")


@pytest.mark.parametrize("content", [{"model": {3: torch.zeros(1)}}, {b"a": torch.zeros(1)}])
def test_tensors_under_what_is_no_name_are_no_state_dict(tmp_path, content) -> None:
    torch.save(content, tmp_path / "w.pth")
    with pytest.raises(DataError, match="is no tensor under a name"):
        read_state_dict(tmp_path / "w.pth")


def test_a_dict_that_holds_itself_ends(tmp_path) -> None:
    content: dict[str, Any] = {}
    content["model"] = content
    torch.save(content, tmp_path / "w.pth")
    with pytest.raises(DataError, match="hold no state dict"):
        read_state_dict(tmp_path / "w.pth")


# --- Names ---------------------------------------------------------------------------------------

ESCAPES = ["../out", "/tmp/out", "a/b", "..", ".", "", "a\\b", "a\n", "a\0b", "~", "Ä", "-x", "x" * 65]


@pytest.mark.parametrize("name", ESCAPES)
def test_a_name_on_the_command_line_never_becomes_a_path(command, tmp_path, name) -> None:
    folder = tmp_path / "in" / "deep"
    folder.mkdir(parents=True)
    photo = tmp_path / "photos" / "a.png"
    photo.parent.mkdir()
    photo.write_bytes(IMAGES[0])
    before = sorted(tmp_path.rglob("*"))
    data = ["--dataset", "folder", "--root", photo.parent]
    dino = ["run", "--method", "dino", *data, "--set", "clusters=2"]
    for arguments in (
        ("new", "method", name, "--out", folder),
        ("new", "dataset", name, "--out", folder),
        ("eval", photo.parent, *data, "--name", name, "--out", folder),
        ("run", "--method", name, *data, "--out", folder),
        ("run", "--method", "dino", "--dataset", name, "--out", folder),
        (*dino, "--data", f"name={name}", "--out", folder),
        (*dino, "--backbone", name, "--out", folder),
        (
            "run",
            "--method",
            "dino",
            *data,
            "--backbone",
            "patchstats",
            "--backbone-name",
            name,
            "--out",
            folder,
        ),
        ("study", name, "--out", folder),
    ):
        said = command(*arguments)
        assert said.code in (1, 2), (arguments, said)
        assert "did not foresee" not in said.err, arguments
        assert sorted(tmp_path.rglob("*")) == before, arguments


@pytest.mark.parametrize("field", ["method", "dataset"])
@pytest.mark.parametrize("name", [name for name in ESCAPES if name])
def test_a_record_that_would_lie_elsewhere_is_refused(tmp_path, record, field, name) -> None:
    content = msgspec.json.decode(record.read_bytes())
    content["cell"][field]["name"] = name
    (tmp_path / "record.json").write_bytes(msgspec.json.encode(content))
    with pytest.raises(DataError, match=rf"\$\.cell\.{field}\.name"):
        read_record(tmp_path / "record.json")


def test_a_dataset_that_calls_itself_a_path_is_refused(tmp_path) -> None:
    (tmp_path / "spec.toml").write_text(
        'kind = "dataset"\nname = "odd"\ntitle = "t"\nsummary = "s"\nentry = "odd:Odd"\n'
    )
    (tmp_path / "odd.py").write_text("class Odd:\n    def __init__(self, spec): self.name = '../odd'\n")
    with pytest.raises(UsageError, match=r"Dataset 'odd' calls itself '\.\./odd'"):
        load_dataset(Registry([tmp_path]), "odd", {})
