"""Images and labels are read as they are stored: every orientation tag, bit depth and kind of gray."""

from __future__ import annotations

import io
from pathlib import Path

import image_files
import numpy as np
import pytest
import tifffile
from image_files import GRAY, PALETTE
from PIL import Image

from uss_bench.data.images import image_size, orientation, read_image, read_label
from uss_bench.errors import DataError

RNG = np.random.default_rng(0)
RGB = RNG.integers(0, 256, (6, 10, 3), dtype=np.uint8)
TAGS = range(1, 9)
XMP = '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf tiff:Orientation="{}"/></x:xmpmeta>'


def put(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def with_exif(format: str, tag: int, **options) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = tag
    buffer = io.BytesIO()
    Image.fromarray(RGB).save(buffer, format, exif=exif, **options)
    return buffer.getvalue()


TURNED = {
    "TIFF": lambda tag: image_files.tiff(RGB, tags={274: [tag]}),
    "TIFF, big-endian": lambda tag: image_files.tiff(RGB, tags={274: [tag]}, order=">"),
    "TIFF, deflated": lambda tag: image_files.tiff(RGB, tags={274: [tag]}, deflate=True),
    "TIFF, in its XMP": lambda tag: image_files.tiff(RGB, xmp=XMP.format(tag).encode()),
    "PNG": lambda tag: with_exif("PNG", tag),
    "WebP": lambda tag: with_exif("WEBP", tag, lossless=True),
    "JPEG": lambda tag: with_exif("JPEG", tag, quality=100, subsampling=0),
}


@pytest.mark.parametrize("kind", TURNED)
@pytest.mark.parametrize("tag", TAGS)
def test_images_are_read_as_stored_whatever_their_orientation_tag(tmp_path, kind, tag):
    path = put(tmp_path / "image", TURNED[kind](tag))
    found = read_image(path)
    assert image_size(path) == found.shape[:2] == (6, 10)
    np.testing.assert_allclose(found.astype(int), RGB.astype(int), atol=24 if kind == "JPEG" else 0)
    np.testing.assert_array_equal(read_image(path, path.read_bytes()), found)
    # Pillow before 11 does not look into the XMP of a TIFF, neither for the tag nor to turn the image.
    assert orientation(path) == tag or (kind == "TIFF, in its XMP" and orientation(path) == 1)


@pytest.mark.parametrize("tag", TAGS)
@pytest.mark.parametrize("bits", [1, 2, 4, 8, 16])
@pytest.mark.parametrize("deflate", [False, True])
def test_tiff_labels_are_read_as_stored_whatever_their_orientation_tag(tmp_path, tag, bits, deflate):
    values = RNG.integers(0, 2**bits, (7, 9))
    path = put(tmp_path / "x.tif", image_files.tiff(values, bits, tags={274: [tag]}, deflate=deflate))
    np.testing.assert_array_equal(read_label(path), values)
    assert image_size(path) == (7, 9)


@pytest.mark.parametrize("tag", [0, 9, 65535])
def test_orientation_tags_that_mean_nothing_are_none(tmp_path, tag):
    path = put(tmp_path / "x.tif", image_files.tiff(RGB, tags={274: [tag]}))
    np.testing.assert_array_equal(read_image(path), RGB)
    assert orientation(path) == 1


@pytest.mark.parametrize("interlaced", [False, True])
@pytest.mark.parametrize(
    ("bits", "color_type"),
    [*((bits, GRAY) for bits in (1, 2, 4, 8, 16)), *((bits, PALETTE) for bits in (1, 2, 4, 8))],
)
def test_png_labels_hold_what_is_stored_at_every_depth(tmp_path, bits, color_type, interlaced):
    values = RNG.integers(0, 2**bits, (11, 13))
    values[0, :2] = 0, 2**bits - 1
    path = put(tmp_path / "x.png", image_files.png(values, bits, color_type, interlaced=interlaced))
    found = read_label(path)
    np.testing.assert_array_equal(found, values)
    assert found.dtype == (np.int32 if bits == 16 else np.uint8)


PHOTOMETRIC = {"white is 0": 0, "black is 0": 1, "palette": 3}


@pytest.mark.parametrize("kind", PHOTOMETRIC)
@pytest.mark.parametrize("bits", [1, 2, 4, 8])
@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("deflate", [False, True])
@pytest.mark.parametrize("fill", [1, 2])
def test_tiff_labels_hold_the_samples_or_are_refused(tmp_path, kind, bits, order, deflate, fill):
    values = RNG.integers(0, 2**bits, (11, 13))
    tags = {262: [PHOTOMETRIC[kind]], **({266: [2]} if fill == 2 else {})}
    content = image_files.tiff(values, bits, tags=tags, order=order, deflate=deflate)
    path = put(tmp_path / "x.tif", content)
    unread = {("white is 0", 8), ("palette", 1), ("palette", 2), ("palette", 4)}
    if fill == 2 and not deflate and (kind, bits) in unread:  # Pillow does not know these
        with pytest.raises(DataError, match="unknown raw mode"):
            read_label(path)
    else:
        np.testing.assert_array_equal(read_label(path), values)


@pytest.mark.parametrize("bits", [16, 32])
@pytest.mark.parametrize("deflate", [False, True])
def test_deep_tiff_labels(tmp_path, bits, deflate):
    values = RNG.integers(0, 2 ** min(bits, 31), (5, 7))
    path = put(tmp_path / "x.tif", image_files.tiff(values, bits, deflate=deflate))
    np.testing.assert_array_equal(read_label(path), values)


SIGNED = np.arange(60, dtype=np.int8).reshape(6, 10) % 5 - 1
UNEXACT = {
    "pages": (
        lambda path: tifffile.imwrite(path, np.zeros((2, 6, 10), np.uint8)),
        "holds 2 images",
    ),
    "three pages": (
        lambda path: tifffile.imwrite(path, np.zeros((3, 6, 10), np.uint16), photometric="minisblack"),
        "holds 3 images",
    ),
    "JPEG": (lambda path: Image.fromarray(RGB[..., 0]).save(path, "TIFF", compression="jpeg"), "as JPEG"),
    "JPEG, color": (lambda path: Image.fromarray(RGB).save(path, "TIFF", compression="jpeg"), "as JPEG"),
    "32 bits, too large": (
        lambda path: tifffile.imwrite(path, SIGNED.astype(np.uint32) + np.uint32(2**31 + 1)),
        "holds 2147483652",
    ),
    "animated PNG": (
        lambda path: Image.fromarray(RGB).save(
            path, "PNG", save_all=True, append_images=[Image.fromarray(RGB[::-1])]
        ),
        "holds 2 images",
    ),
}


@pytest.mark.parametrize("kind", UNEXACT)
def test_label_files_that_hold_no_one_array_of_exact_values_are_refused(tmp_path, kind):
    path = tmp_path / "label.tif"
    write, words = UNEXACT[kind]
    write(path)
    with pytest.raises(DataError, match=words):
        read_label(path)


@pytest.mark.parametrize("compression", [None, "zlib"])
@pytest.mark.parametrize("kind", [np.int8, np.int16, np.int32])
def test_signed_labels_keep_their_sign_and_are_no_images(tmp_path, kind, compression):
    path = tmp_path / "label.tif"
    tifffile.imwrite(path, SIGNED.astype(kind), compression=compression)
    np.testing.assert_array_equal(read_label(path), SIGNED)
    with pytest.raises(DataError, match=r"signed values|more than 8 bits"):
        read_image(path)


@pytest.mark.parametrize("subfile", [1, 4])
def test_overviews_and_masks_beside_a_label_are_no_second_one(tmp_path, subfile):
    path = tmp_path / "label.tif"
    with tifffile.TiffWriter(path) as file:
        file.write(SIGNED.astype(np.uint8), photometric="minisblack")
        kind, values = ("mask", bool) if subfile == 4 else ("minisblack", np.uint8)
        file.write(SIGNED[::2, ::2].astype(values), photometric=kind, subfiletype=subfile)
    np.testing.assert_array_equal(read_label(path), SIGNED.astype(np.uint8))


BMP_PALETTES = {
    "gray by index": lambda n: np.repeat(np.arange(n)[:, None], 3, 1),
    "black to white": lambda n: np.repeat(np.linspace(0, 255, n)[:, None], 3, 1),
    "white to black": lambda n: np.repeat(np.linspace(255, 0, n)[:, None], 3, 1),
    "colors": lambda n: RNG.integers(0, 256, (n, 3)),
}


@pytest.mark.parametrize("kind", BMP_PALETTES)
@pytest.mark.parametrize(("bits", "colors"), [(1, 2), (4, 2), (4, 16), (8, 2), (8, 4), (8, 256)])
@pytest.mark.parametrize("width", [3, 13])
def test_bmp_labels_hold_the_indices_or_are_refused(tmp_path, kind, bits, colors, width):
    values = RNG.integers(0, colors, (5, width))
    palette = BMP_PALETTES[kind](colors).astype(np.uint8)
    path = put(tmp_path / "x.bmp", image_files.bmp(values, bits, palette))
    misread = {("black to white", 2): 1, ("gray by index", 4): 8, ("gray by index", 16): 8}
    if bits != misread.get((kind, colors), bits):
        with pytest.raises(DataError, match="which Pillow reads wrongly"):
            read_label(path)
    else:
        np.testing.assert_array_equal(read_label(path), values)


def test_low_bit_images_are_shown_as_viewers_show_them(tmp_path):
    values = np.array([[0, 1, 2, 3]])
    path = put(tmp_path / "x.png", image_files.png(values, 2))
    assert read_image(path)[0, :, 0].tolist() == [0, 85, 170, 255]


@pytest.mark.parametrize("channels", [5, 8, 13])
@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("read", [read_image, read_label, image_size])
def test_a_tiff_of_many_channels_is_named_with_its_channels(tmp_path, channels, bits, read):
    samples = RNG.integers(0, 2**bits, (4, 5, channels))
    content = image_files.tiff(samples, bits, tags={262: [1], 338: [0] * (channels - 1)})
    path = put(tmp_path / "x.tif", content)
    with pytest.raises(DataError, match=rf"x\.tif has {channels} channels of {bits} bits") as caught:
        read(path)
    assert "gdal_translate -b 1 -b 2 -b 3" in str(caught.value.hint)
