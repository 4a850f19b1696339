"""Geometry: against torchvision on PIL images, which the reference lineage uses, and against Pillow."""

from __future__ import annotations

import io

import msgspec
import numpy as np
import pytest
import torch
import torch.nn.functional as F
import torchvision.transforms.functional as TF
from fakes import ArrayImages
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torchvision.transforms import InterpolationMode

from uss_bench.data.geometry import (
    TransformedImages,
    center_crop,
    corner_crop,
    reencode_jpeg,
    resize,
    resize_center_crop,
    resize_floor,
    resize_short_side,
    scored_label,
)
from uss_bench.protocol import TrainingGeometry, get_protocol

FILTERS = ("nearest", "bilinear", "bicubic")
PILLOW = {name: Image.Resampling[name.upper()] for name in FILTERS}
many = settings(max_examples=100, deadline=None)
sizes = st.integers(2, 97)


def picture(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def torchvision_square(image: Image.Image, side: int, filter: str) -> np.ndarray:
    return np.asarray(TF.center_crop(TF.resize(image, side, InterpolationMode(filter)), [side, side]))


# --- One square ----------------------------------------------------------------------------------


@many
@given(height=sizes, width=sizes, side=st.integers(1, 80), filter=st.sampled_from(FILTERS))
def test_a_square_is_what_torchvision_makes_of_the_pil_image(height, width, side, filter):
    image = picture(height, width)
    expected = torchvision_square(Image.fromarray(image), side, filter)
    np.testing.assert_array_equal(resize_center_crop(image, side, filter), expected)


@many
@given(height=sizes, width=sizes, side=st.integers(1, 80))
def test_the_short_side_is_resized_as_torchvision_resizes_it(height, width, side):
    expected = TF.resize(Image.fromarray(picture(height, width)), side, InterpolationMode.NEAREST)
    np.testing.assert_array_equal(resize_short_side(picture(height, width), side, "nearest"), expected)


@many
@given(height=sizes, width=sizes, data=st.data())
def test_a_center_crop_rounds_its_offset_as_torchvision_does(height, width, data):
    size = [data.draw(st.integers(1, height)), data.draw(st.integers(1, width))]
    expected = TF.center_crop(Image.fromarray(picture(height, width)), size)
    np.testing.assert_array_equal(center_crop(picture(height, width), *size), expected)


@pytest.mark.parametrize("filter", FILTERS)
@pytest.mark.parametrize("size", [(9, 31), (50, 20), (23, 37)])
def test_resize_is_pillows(filter, size):
    image = picture(23, 37)
    expected = Image.fromarray(image).resize(size[::-1], PILLOW[filter])
    np.testing.assert_array_equal(resize(image, *size, filter), expected)


# --- Other arrays than RGB images ----------------------------------------------------------------


@many
@given(height=sizes, width=sizes, side=st.integers(1, 80))
def test_labels_go_where_the_pixels_of_the_lineages_label_images_go(height, width, side):
    label = np.random.default_rng(1).integers(-1, 27, (height, width)).astype(np.int16)
    shifted = Image.fromarray((label + 1).astype(np.uint8))  # stored with void as 0
    expected = torchvision_square(shifted, side, "nearest").astype(np.int16) - 1
    result = resize_center_crop(label, side, "nearest")
    np.testing.assert_array_equal(result, expected)
    assert result.dtype == np.int16


@pytest.mark.parametrize(
    "dtype", ["uint8", "int16", "uint16", "int32", "int64", "bool", "float32", "float64"]
)
def test_nearest_keeps_dtype_and_picks_the_same_pixels_for_every_dtype(dtype):
    values = np.random.default_rng(2).integers(0, 2 if dtype == "bool" else 200, (13, 21))
    result = resize_center_crop(values.astype(dtype), 8, "nearest")
    assert result.dtype == dtype
    np.testing.assert_array_equal(
        result, resize_center_crop(values.astype(np.uint8), 8, "nearest").astype(dtype)
    )


def test_large_integers_survive_nearest():
    values = np.array([[0, 65535], [40000, 256]], dtype=np.uint16)
    np.testing.assert_array_equal(resize(values, 4, 4, "nearest"), values.repeat(2, 0).repeat(2, 1))


@pytest.mark.parametrize("filter", FILTERS)
@pytest.mark.parametrize("dtype", ["uint8", "float32"])
@pytest.mark.parametrize("channels", [1, 2, 3, 5])
def test_every_channel_is_resized_as_a_plane_of_its_own(filter, dtype, channels):
    array = (np.random.default_rng(3).random((14, 19, channels)) * 250).astype(dtype)
    planes = [Image.fromarray(array[..., i]).resize((11, 7), PILLOW[filter]) for i in range(channels)]
    result = resize(array, 7, 11, filter)
    assert result.dtype == dtype
    np.testing.assert_array_equal(result, np.stack(planes, axis=2))


# --- Crops ---------------------------------------------------------------------------------------


@many
@given(height=sizes, width=sizes)
def test_corner_crops_are_torchvisions_five_crop_in_its_order(height, width):
    image = picture(height, width)
    expected = TF.five_crop(Image.fromarray(image), (int(0.5 * height), int(0.5 * width)))
    for crop in range(5):
        np.testing.assert_array_equal(corner_crop(image, crop), expected[crop])


def test_jpeg_is_what_pillow_saves_by_default():
    image = picture(33, 47)
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG")
    np.testing.assert_array_equal(reencode_jpeg(image), Image.open(buffer))
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", quality=75)
    np.testing.assert_array_equal(reencode_jpeg(image), Image.open(buffer))


@pytest.mark.parametrize("jpeg", [False, True])
def test_a_five_crop_item_is_cropped_then_reencoded_then_resized(jpeg):
    image = picture(41, 67)
    items = TransformedImages(ArrayImages([image]), side=16, filter="nearest", five_crop=True, jpeg=jpeg)
    crops = TF.five_crop(Image.fromarray(image), (20, 33))
    for item, crop in zip(items, crops, strict=True):
        if jpeg:
            buffer = io.BytesIO()
            crop.save(buffer, "JPEG")
            crop = Image.open(buffer)
        np.testing.assert_array_equal(item, torchvision_square(crop, 16, "nearest"))


def test_whole_images_are_never_reencoded():
    images = ArrayImages.random(2, 20, 24)
    plain = TransformedImages(images, side=12, filter="nearest")
    asked = TransformedImages(images, side=12, filter="nearest", jpeg=True)
    np.testing.assert_array_equal(asked[1], plain[1])
    assert asked.identity() == plain.identity()


# --- Items ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("five_crop", [False, True])
def test_mirror_images_follow_the_items_and_flip_left_and_right(five_crop):
    items = TransformedImages(
        ArrayImages.random(3, 21, 30), side=10, filter="nearest", five_crop=five_crop, flips=True
    )
    n = items.unflipped
    assert (n, len(items)) == ((15, 30) if five_crop else (3, 6))
    for index in range(n):
        np.testing.assert_array_equal(items[n + index], np.fliplr(items[index]))
        assert items.source(n + index) == items.source(index)


def test_the_source_of_an_item_is_its_image_and_its_crop():
    images = ArrayImages.random(3, 12, 18)
    crops = TransformedImages(images, side=8, filter="nearest", five_crop=True)
    assert [crops.source(i) for i in range(15)] == [(image, crop) for image in range(3) for crop in range(5)]
    whole = TransformedImages(images, side=8, filter="nearest")
    assert [whole.source(i) for i in range(3)] == [(0, 0), (1, 0), (2, 0)]


@pytest.mark.parametrize("index", [-1, 6])
def test_an_index_out_of_range_is_an_index_error(index):
    with pytest.raises(IndexError):
        TransformedImages(ArrayImages.random(3, 12, 12), side=8, filter="nearest", flips=True)[index]


def test_further_channels_lie_exactly_over_their_image():
    images = ArrayImages.random(2, 27, 40)
    items = TransformedImages(images, side=12, filter="nearest", five_crop=True, flips=True)
    for index in range(len(items)):
        red = images.image(items.source(index)[0])[..., 0].astype(np.float32)
        np.testing.assert_array_equal(items.transform(red, index), items[index][..., 0])


def test_identity_tells_every_setting_apart():
    images = ArrayImages.random(1, 12, 12)
    plain = {"side": 8, "filter": "nearest", "five_crop": True, "jpeg": False, "flips": False}
    changes = [{"side": 12}, {"filter": "bilinear"}, {"five_crop": False}, {"jpeg": True}, {"flips": True}]
    variants = [TransformedImages(images, **{**plain, **change}) for change in [{}, *changes]]
    variants.append(TransformedImages(ArrayImages.random(1, 12, 12, seed=1), **plain))
    identities = [str(items.identity()) for items in variants]
    assert len(set(identities)) == len(variants)


@pytest.mark.parametrize(("crops", "number"), [("none", 1), ("five", 5)])
def test_training_and_evaluation_have_geometries_of_their_own(crops, number):
    geometry = TrainingGeometry(side=8, resize="bicubic", crops=crops)
    protocol = get_protocol("stego320@2[eval_side=16]")
    images = ArrayImages.random(2, 20, 20)
    training = TransformedImages.for_training(images, geometry)
    evaluation = TransformedImages.for_evaluation(images, protocol)
    assert len(training) == 2 * number
    assert (training.size, training.filter, training.flips) == ((8, 8), "bicubic", False)
    assert (evaluation.size, evaluation.crops, evaluation.flips, len(evaluation)) == ((16, 16), 1, True, 4)


@pytest.mark.parametrize("ratio", [0.3, 0.5, 0.7, 1.0])
def test_crops_of_any_ratio_are_torchvisions(ratio):
    image = ArrayImages.random(1, 41, 67).image(0)
    height, width = int(ratio * 41), int(ratio * 67)
    expected = [np.asarray(crop) for crop in TF.five_crop(Image.fromarray(image), (height, width))]
    items = TransformedImages.for_training(
        ArrayImages([image]), TrainingGeometry(side=16, crops="five", crop_ratio=ratio)
    )
    for crop in range(5):
        np.testing.assert_array_equal(corner_crop(image, crop, ratio), expected[crop])
        np.testing.assert_array_equal(items[crop], resize_center_crop(expected[crop], 16, "nearest"))


@pytest.mark.parametrize("filter", ["nearest", "bilinear", "bicubic"])
@pytest.mark.parametrize(("height", "width"), [(41, 67), (67, 41), (16, 24)])
def test_squashed_items_are_whole_images_at_one_size(height, width, filter):
    image = ArrayImages.random(1, height, width).image(0)
    expected = np.asarray(Image.fromarray(image).resize((24, 16), Image.Resampling[filter.upper()]))
    geometry = TrainingGeometry(side=16, width=24, fit="squash", resize=filter)
    protocol = get_protocol(f"stego320@2[extent=squash,eval_side=16,eval_width=24,resize={filter}]")
    images = ArrayImages([image])
    np.testing.assert_array_equal(TransformedImages.for_training(images, geometry)[0], expected)
    evaluation = TransformedImages.for_evaluation(images, protocol)
    np.testing.assert_array_equal(evaluation[0], expected)
    np.testing.assert_array_equal(evaluation[1], expected[:, ::-1])
    np.testing.assert_array_equal(evaluation.scored(0), expected)


def by_torch(label, side):
    found = F.interpolate(torch.from_numpy(label)[None, None].float(), size=(side, side), mode="nearest")
    return found[0, 0].numpy().astype(label.dtype)


def test_flooring_is_that_of_torch_with_its_rounding():
    for cells in range(1, 600):
        column = np.arange(cells)[:, None]
        for side in (37, 100, 448, 504):
            expected = F.interpolate(torch.arange(cells).float()[None, None], size=side, mode="nearest")
            np.testing.assert_array_equal(resize_floor(column, side, 1)[:, 0], expected[0, 0].numpy())


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("stego320@2[eval_side=16]", lambda label: resize_center_crop(label, 16, "nearest")),
        ("stego320@2[eval_side=16,score_side=10]", lambda label: resize_center_crop(label, 10, "nearest")),
        ("stego320@2[extent=squash,eval_side=16]", lambda label: resize(label, 16, 16, "nearest")),
        (
            "stego320@2[extent=squash,eval_side=16,score_side=10]",
            lambda label: resize(label, 10, 10, "nearest"),
        ),
        ("full@2", lambda label: label),
        ("hummingbird@1[eval_side=16]", lambda label: by_torch(label, 16)),
        (
            "neco@1[eval_side=16,score_side=10]",
            lambda label: by_torch(resize(label, 16, 16, "nearest"), 10),
        ),
    ],
)
@pytest.mark.parametrize("filter", ["nearest", "bilinear"])
def test_labels_and_pictures_are_scored_at_the_protocols_size(text, expected, filter):
    protocol = msgspec.structs.replace(get_protocol(text), resize=filter)
    image = ArrayImages.random(1, 41, 67).image(0)
    label = np.random.default_rng(0).integers(-1, 3, (41, 67)).astype(np.int16)
    scored = scored_label(label, protocol)
    np.testing.assert_array_equal(scored, expected(label))
    items = TransformedImages.for_evaluation(ArrayImages([image]), protocol)
    assert items.scored(0).shape == (*scored.shape, 3)


def test_identity_tells_training_geometries_apart_and_keeps_the_keys_of_the_lineages():
    images = ArrayImages.random(1, 12, 12)
    changes = [
        {"side": 16},
        {"resize": "bilinear"},
        {"fit": "squash"},
        {"fit": "squash", "width": 16},
        {"crops": "five"},
        {"crops": "five", "crop_jpeg": True},
        {"crops": "five", "crop_ratio": 0.7},
    ]
    variants = [
        TransformedImages.for_training(images, TrainingGeometry(**change)) for change in [{}, *changes]
    ]
    assert len({str(items.identity()) for items in variants}) == len(variants)
    assert variants[0].identity() == {
        "images": images.fingerprint(),
        "side": 224,
        "filter": "nearest",
        "crops": 1,
        "jpeg": False,
        "flips": False,
    }
