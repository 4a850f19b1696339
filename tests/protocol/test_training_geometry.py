"""Training geometry: its defaults, its identity, and how it is changed."""

from __future__ import annotations

import msgspec
import pytest

from uss_bench.errors import UsageError
from uss_bench.protocol import TrainingGeometry, change_training

FIVE_JPEG = TrainingGeometry(crops="five", crop_jpeg=True)


def test_the_default_is_the_lineages_without_crops():
    assert msgspec.structs.asdict(TrainingGeometry()) == {
        "side": 224,
        "width": None,
        "resize": "nearest",
        "fit": "crop",
        "crops": "none",
        "crop_ratio": 0.5,
        "crop_jpeg": False,
    }
    assert TrainingGeometry().stated == {}


@pytest.mark.parametrize(
    ("changes", "stated", "words"),
    [
        ({"side": 256}, {"side": 256}, "256×256, nearest"),
        ({"crops": "five"}, {"crops": "five"}, "224×224, nearest, five crops"),
        (
            {"crops": "five", "crop_jpeg": True, "crop_ratio": 0.7},
            {"crops": "five", "crop_jpeg": True, "crop_ratio": 0.7},
            "224×224, nearest, five JPEG crops of ratio 0.7",
        ),
        (
            {"fit": "squash", "side": 320, "width": 640, "resize": "bilinear"},
            {"fit": "squash", "side": 320, "width": 640, "resize": "bilinear"},
            "320×640, squashed, bilinear",
        ),
        ({"fit": "squash", "width": 224}, {"fit": "squash"}, "224×224, squashed, nearest"),
    ],
)
def test_a_change_is_kept_stated_and_put_into_words(changes, stated, words):
    changed = change_training(TrainingGeometry(), changes, "--training")
    assert (changed.stated, changed.describe()) == (stated, words)
    assert msgspec.json.decode(msgspec.json.encode(changed), type=TrainingGeometry) == changed


def test_without_crops_nothing_of_them_is_left():
    assert change_training(FIVE_JPEG, {"crops": "none"}, "--training") == TrainingGeometry()


def test_an_item_that_is_cropped_again_is_square_again():
    squashed = TrainingGeometry(fit="squash", side=320, width=640)
    assert change_training(squashed, {"fit": "crop"}, "--training") == TrainingGeometry(side=320)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sides": 96}, "no field 'sides'.*\nDid you mean 'side'"),
        ({"side": "96px"}, r"Expected `int`, got `str` - at `\$\.side`"),
        ({"side": 0}, "side"),
        ({"resize": "lanczos"}, r"lanczos.* - at `\$\.resize`"),
        ({"width": 640}, "`width` is for fit = squash"),
        ({"crop_ratio": 0}, "crop_ratio"),
        ({"crop_ratio": 1.5}, "crop_ratio"),
        ({"crop_jpeg": True}, "crop_jpeg=True has no effect without crops"),
        ({"crop_ratio": 0.7, "crops": "none"}, "crop_ratio=0.7 has no effect without crops"),
    ],
)
def test_a_wrong_change_is_refused_with_a_reason(changes, message):
    with pytest.raises(UsageError, match=f"(?s)^--training: .*{message}"):
        change_training(TrainingGeometry(), changes, "--training")
