"""From native arrays to what a protocol works on, by Pillow's own resampling.

For squares the order and the rounding are those of torchvision's ``Resize``, ``CenterCrop`` and
``five_crop`` on PIL images, which the STEGO lineage uses: the short side becomes `side`, the long side
is truncated to an integer, and the crop's offset is rounded half to even. Whole images keep their
aspect ratio up to half a patch, see `working_size`.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Literal

import numpy as np
from PIL import Image

from uss_bench.contracts import Images
from uss_bench.errors import DataError
from uss_bench.protocol import Protocol

Filter = Literal["nearest", "bilinear", "bicubic"]

_RESAMPLING = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
}

CROPS = ("top left", "top right", "bottom left", "bottom right", "centre")


def resize(array: np.ndarray, height: int, width: int, filter: Filter) -> np.ndarray:
    """Resize (H, W) or (H, W, 3) to `height` × `width`; integer and float arrays keep their dtype.

    Channels other than three are resized one by one, because Pillow has no such images.
    """
    if array.shape[:2] == (height, width):
        return array
    if array.ndim == 3 and not (array.shape[2] == 3 and array.dtype == np.uint8):
        return np.stack([resize(plane, height, width, filter) for plane in np.moveaxis(array, 2, 0)], axis=2)
    if array.dtype == np.uint8:
        picture = Image.fromarray(np.ascontiguousarray(array))
    else:
        exact = np.int32 if np.issubdtype(array.dtype, np.integer) else np.float32
        picture = Image.fromarray(np.ascontiguousarray(array, dtype=exact))
    return np.asarray(picture.resize((width, height), _RESAMPLING[filter])).astype(array.dtype, copy=False)


def resize_short_side(array: np.ndarray, side: int, filter: Filter) -> np.ndarray:
    """Resize so that the short side is `side` pixels and the aspect ratio stays."""
    height, width = array.shape[:2]
    if height <= width:
        return resize(array, side, int(side * width / height), filter)
    return resize(array, int(side * height / width), side, filter)


def centre_crop(array: np.ndarray, height: int, width: int) -> np.ndarray:
    """Cut the central `height` × `width` pixels of an array that is at least as large."""
    top = round((array.shape[0] - height) / 2)
    left = round((array.shape[1] - width) / 2)
    return array[top : top + height, left : left + width]


def square(array: np.ndarray, side: int, filter: Filter) -> np.ndarray:
    """Resize the short side to `side` and cut the central square."""
    return np.ascontiguousarray(centre_crop(resize_short_side(array, side, filter), side, side))


def working_size(height: int, width: int, side: int, patch: int) -> tuple[int, int]:
    """Return the (height, width) at which a backbone sees a whole image.

    The image is scaled so that its short side is `side`; then each side is rounded to the nearest
    multiple of `patch` (halves to even multiples), and to one patch at least.
    """
    scale = side / min(height, width)
    rows, columns = round(scale * height / patch), round(scale * width / patch)
    return max(1, rows) * patch, max(1, columns) * patch


def half_size_crop(array: np.ndarray, crop: int) -> np.ndarray:
    """Cut one of the five half-size crops, in the order of `CROPS`, at native resolution."""
    height, width = array.shape[:2]
    half_height, half_width = int(0.5 * height), int(0.5 * width)
    if crop == 4:
        return centre_crop(array, half_height, half_width)
    top = 0 if crop in (0, 1) else height - half_height
    left = 0 if crop in (0, 2) else width - half_width
    return array[top : top + half_height, left : left + half_width]


def reencode_jpeg(image: np.ndarray) -> np.ndarray:
    """Pass a uint8 (H, W, 3) image through JPEG at Pillow's default quality, 75."""
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(image)).save(buffer, format="JPEG")
    buffer.seek(0)
    return np.asarray(Image.open(buffer))


class Items(Sequence[np.ndarray]):
    """A split seen through a protocol: one uint8 (H, W, 3) array per item, as the backbone sees it.

    Items are squares of `side` pixels, or whole images at their `working_size`. With `five_crop` item
    ``5·i + crop`` is a crop of image i. With `flips` the items are followed by their mirror images, so
    that item ``n + j`` is item j flipped left to right.

    Args:
        patch: side of the backbone's patch; an image that is smaller is refused.
        whole: keep all of every image; items then differ in size, and there are no crops.
    """

    def __init__(
        self,
        images: Images,
        *,
        side: int,
        filter: Filter,
        patch: int = 1,
        whole: bool = False,
        five_crop: bool = False,
        jpeg: bool = False,
        flips: bool = False,
    ) -> None:
        self.images = images
        self.side = side
        self.filter: Filter = filter
        self.patch = patch
        self.whole = whole
        self.crops = len(CROPS) if five_crop else 1
        self.jpeg = jpeg and five_crop
        self.flips = flips

    @classmethod
    def for_training(
        cls, images: Images, protocol: Protocol, *, dataset_five_crop: bool, patch: int = 1
    ) -> Items:
        five_crop = dataset_five_crop if protocol.five_crop == "dataset" else protocol.five_crop == "on"
        return cls(
            images,
            side=protocol.train_side,
            filter=protocol.resize,
            patch=patch,
            five_crop=five_crop,
            jpeg=protocol.five_crop_jpeg,
        )

    @classmethod
    def for_evaluation(cls, images: Images, protocol: Protocol, *, patch: int = 1) -> Items:
        return cls(
            images,
            side=protocol.eval_side,
            filter=protocol.resize,
            patch=patch,
            whole=protocol.extent == "whole",
            flips=protocol.flip,
        )

    @property
    def unflipped(self) -> int:
        """Number of items before the mirror images."""
        return len(self.images) * self.crops

    def __len__(self) -> int:
        return self.unflipped * (2 if self.flips else 1)

    def source(self, index: int) -> tuple[int, int]:
        """Return (image index, crop) of an item."""
        return divmod(index % self.unflipped, self.crops)

    def __getitem__(self, index: int) -> np.ndarray:  # type: ignore[override]
        return self.transform(self.native(index), index)

    def native(self, index: int) -> np.ndarray:
        """Return the image of an item at its native size, neither cropped nor flipped.

        Raises:
            DataError: when it is smaller than a patch.
        """
        if not 0 <= index < len(self):
            raise IndexError(index)
        image_index, _ = self.source(index)
        image = self.images.image(image_index)
        height, width = image.shape[:2]
        if min(height, width) < self.patch:
            raise DataError(
                f"Image '{self.images.ids[image_index]}' is {width}×{height} pixels (width × height), and a "
                f"patch of the backbone {self.patch}×{self.patch}: it shows nothing.",
                hint="Remove it, or use a backbone with a smaller patch.",
            )
        return image

    def scored(self, index: int) -> np.ndarray:
        """Return the image (H, W, 3) whose pixels are scored, and over which the CRF runs.

        That is the item itself, or of whole images the native one.
        """
        return self.native(index) if self.whole else self[index]

    def transform(self, array: np.ndarray, index: int, filter: Filter | None = None) -> np.ndarray:
        """Apply item `index`'s crop, resize and flip to an array that lies over its image.

        Args:
            filter: another one than the items', such as NEAREST for labels.
        """
        filter = filter or self.filter
        _, crop = self.source(index)
        if self.crops > 1:
            array = half_size_crop(array, crop)
            if self.jpeg and array.dtype == np.uint8 and array.ndim == 3:
                array = reencode_jpeg(array)
        if self.whole:
            size = working_size(array.shape[0], array.shape[1], self.side, self.patch)
            item = resize(array, *size, filter)
        else:
            item = square(array, self.side, filter)
        return np.ascontiguousarray(item[:, ::-1]) if index >= self.unflipped else item

    def identity(self) -> dict[str, object]:
        """Return what tells these items from others, as JSON values: part of a feature's key."""
        return {
            "images": self.images.fingerprint(),
            "side": self.side,
            "filter": self.filter,
            "crops": self.crops,
            "jpeg": self.jpeg,
            "flips": self.flips,
            **({"whole": self.patch} if self.whole else {}),
        }


def label_square(label: np.ndarray, side: int) -> np.ndarray:
    """Bring an integer label map (H, W) to the evaluation square; labels are always NEAREST."""
    return square(label, side, "nearest")


def scored_label(label: np.ndarray, protocol: Protocol) -> np.ndarray:
    """Return the part of a label map (H, W) that a protocol scores: its square, or the map as it is."""
    return label if protocol.extent == "whole" else label_square(label, protocol.eval_side)
