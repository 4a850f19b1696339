"""From native arrays to what a method trains on and a protocol scores, by Pillow's own resampling.

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
from uss_bench.protocol import Filter, Protocol, TrainingGeometry

Fit = Literal["crop", "squash", "whole"]
"""How an array gets its working size: the central square, both sides resized, or aspect ratio kept."""

_RESAMPLING = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
}

LONGEST = 32
"""How many times its short side an image may be long."""
CROPS = ("top left", "top right", "bottom left", "bottom right", "center")


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


def resize_floor(array: np.ndarray, height: int, width: int) -> np.ndarray:
    """Resize (H, W, …) as torch's mode ``nearest`` does: row i is row ⌊i · H / height⌋.

    The ratio is rounded to float32, as there, so that the product may fall short of a whole number.
    """
    rows, columns = (
        np.floor(np.arange(size, dtype=np.float32) * np.float32(cells / size))
        .astype(np.int64)
        .clip(max=cells - 1)
        for size, cells in zip((height, width), array.shape[:2], strict=True)
    )
    resized: np.ndarray = array[rows[:, None], columns]
    return resized


def resize_short_side(array: np.ndarray, side: int, filter: Filter) -> np.ndarray:
    """Resize so that the short side is `side` pixels and the aspect ratio stays."""
    height, width = array.shape[:2]
    if height <= width:
        return resize(array, side, int(side * width / height), filter)
    return resize(array, int(side * height / width), side, filter)


def center_crop(array: np.ndarray, height: int, width: int) -> np.ndarray:
    """Cut the central `height` × `width` pixels of an array that is at least as large."""
    top = round((array.shape[0] - height) / 2)
    left = round((array.shape[1] - width) / 2)
    return array[top : top + height, left : left + width]


def resize_center_crop(array: np.ndarray, side: int, filter: Filter) -> np.ndarray:
    """Resize the short side to `side` and cut the central square."""
    return np.ascontiguousarray(center_crop(resize_short_side(array, side, filter), side, side))


def fitted(array: np.ndarray, fit: Fit, size: tuple[int, int], patch: int, filter: Filter) -> np.ndarray:
    """Bring an array (H, W) or (H, W, n) to its working size.

    Args:
        size: (height, width); of `crop` and `whole` the height is the short side.
        patch: side of the backbone's patch, for `whole`; see `working_size`.
    """
    if fit == "crop":
        return resize_center_crop(array, size[0], filter)
    if fit == "whole":
        size = working_size(array.shape[0], array.shape[1], size[0], patch)
    return resize(array, *size, filter)


def working_size(height: int, width: int, side: int, patch: int) -> tuple[int, int]:
    """Return the (height, width) at which a backbone sees a whole image.

    The image is scaled so that its short side is `side`; then each side is rounded to the nearest
    multiple of `patch` (halves to even multiples), and to one patch at least.
    """
    scale = side / min(height, width)
    rows, columns = round(scale * height / patch), round(scale * width / patch)
    return max(1, rows) * patch, max(1, columns) * patch


def check_sides(name: str, image: np.ndarray, patch: int = 1) -> None:
    """Refuse an image (H, W, 3) that is smaller than a patch, or a strip longer than `LONGEST`.

    A strip's short side becomes that of the protocol, so that its long side would fill the memory.

    Raises:
        DataError: naming the image and its size.
    """
    height, width = image.shape[:2]
    size = f"Image '{name}' is {width}×{height} pixels (width × height)"
    if min(height, width) < patch:
        raise DataError(
            f"{size}, and a patch of the backbone {patch}×{patch}: it shows nothing.",
            hint="Remove it, or use a backbone with a smaller patch.",
        )
    if max(height, width) > LONGEST * min(height, width):
        raise DataError(
            f"{size}: one side is more than {LONGEST} times the other.",
            hint="Cut it into pieces, or remove it.",
        )


def corner_crop(array: np.ndarray, crop: int, ratio: float = 0.5) -> np.ndarray:
    """Cut one of the five crops, in the order of `CROPS`, at native resolution.

    Args:
        ratio: sides of the crop over those of the array; the crop's are truncated to integers.
    """
    height, width = array.shape[:2]
    rows, columns = max(1, int(ratio * height)), max(1, int(ratio * width))
    if crop == 4:
        return center_crop(array, rows, columns)
    top = 0 if crop in (0, 1) else height - rows
    left = 0 if crop in (0, 2) else width - columns
    return array[top : top + rows, left : left + columns]


def reencode_jpeg(image: np.ndarray) -> np.ndarray:
    """Pass a uint8 (H, W, 3) image through JPEG at Pillow's default quality, 75."""
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(image)).save(buffer, format="JPEG")
    buffer.seek(0)
    return np.asarray(Image.open(buffer))


class TransformedImages(Sequence[np.ndarray]):
    """A split as the backbone sees it: one uint8 (H, W, 3) array per item.

    With `five_crop` item ``5·i + crop`` is a crop of image i. With `flips` the items are followed by their
    mirror images, so that item ``n + j`` is item j flipped left to right.

    Args:
        side: height of an item; where the aspect ratio is kept, the short side.
        width: of a squashed item, where it is not `side`.
        fit: see `fitted`; whole images keep their aspect ratio, so items differ in size.
        patch: side of the backbone's patch; an image that is smaller is refused.
        crop_ratio, jpeg: of the crops, see `uss_bench.protocol.TrainingGeometry`.
        score_size: (height, width) at which items are scored, where it is another; not for whole images.
    """

    def __init__(
        self,
        images: Images,
        *,
        side: int,
        filter: Filter,
        width: int | None = None,
        fit: Fit = "crop",
        patch: int = 1,
        five_crop: bool = False,
        crop_ratio: float = 0.5,
        jpeg: bool = False,
        flips: bool = False,
        score_size: tuple[int, int] | None = None,
    ) -> None:
        self.images = images
        self.side = side
        self.width = width
        self.filter: Filter = filter
        self.fit: Fit = fit
        self.patch = patch
        self.crops = len(CROPS) if five_crop else 1
        self.crop_ratio = crop_ratio
        self.jpeg = jpeg and five_crop
        self.flips = flips
        self._score_size = score_size

    @classmethod
    def for_training(cls, images: Images, geometry: TrainingGeometry, *, patch: int = 1) -> TransformedImages:
        return cls(
            images,
            side=geometry.side,
            width=geometry.width,
            filter=geometry.resize,
            fit=geometry.fit,
            patch=patch,
            five_crop=geometry.crops == "five",
            crop_ratio=geometry.crop_ratio,
            jpeg=geometry.crop_jpeg,
        )

    @classmethod
    def for_evaluation(cls, images: Images, protocol: Protocol, *, patch: int = 1) -> TransformedImages:
        return cls(
            images,
            side=protocol.eval_side,
            width=protocol.eval_width,
            filter=protocol.resize,
            fit="crop" if protocol.extent == "square" else protocol.extent,
            patch=patch,
            flips=protocol.flip,
            score_size=None if protocol.score_side is None else protocol.score_size,
        )

    @property
    def size(self) -> tuple[int, int]:
        """The (height, width) of an item; where the aspect ratio is kept, the height is the short side."""
        return self.side, self.width or self.side

    @property
    def score_size(self) -> tuple[int, int]:
        """The (height, width) at which an item is scored; not for whole images."""
        return self._score_size or self.size

    @property
    def whole(self) -> bool:
        """Whether items differ in size because images keep their aspect ratio."""
        return self.fit == "whole"

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
            DataError: when it is smaller than a patch, or a strip.
        """
        if not 0 <= index < len(self):
            raise IndexError(index)
        image_index, _ = self.source(index)
        image = self.images.image(image_index)
        check_sides(self.images.ids[image_index], image, self.patch)
        return image

    def scored(self, index: int, native: np.ndarray | None = None) -> np.ndarray:
        """Return the image (H, W, 3) whose pixels are scored, and over which the CRF runs.

        That is the item at `score_size`, or of whole images the native one.

        Args:
            native: the item's image, where it was read already.
        """
        if native is None:
            native = self.native(index)
        return native if self.whole else self.transform(native, index, size=self.score_size)

    def transform(
        self,
        array: np.ndarray,
        index: int,
        filter: Filter | None = None,
        size: tuple[int, int] | None = None,
    ) -> np.ndarray:
        """Apply item `index`'s crop, resize and flip to an array that lies over its image.

        Args:
            filter: another one than the items', such as NEAREST for labels.
            size: another one than the items'.
        """
        _, crop = self.source(index)
        if self.crops > 1:
            array = corner_crop(array, crop, self.crop_ratio)
            if self.jpeg and array.dtype == np.uint8 and array.ndim == 3:
                array = reencode_jpeg(array)
        item = fitted(array, self.fit, size or self.size, self.patch, filter or self.filter)
        return np.ascontiguousarray(item[:, ::-1]) if index >= self.unflipped else item

    def identity(self) -> dict[str, object]:
        """Return what tells these items from others, as JSON values: part of a feature's key."""
        height, width = self.size
        return {
            "images": self.images.fingerprint(),
            "side": height,
            "filter": self.filter,
            "crops": self.crops,
            "jpeg": self.jpeg,
            "flips": self.flips,
            # Left out where they say what was always so, which keeps the features of earlier versions.
            **({"whole": self.patch} if self.whole else {}),
            **({"squash": width} if self.fit == "squash" else {}),
            **({"ratio": self.crop_ratio} if self.crops > 1 and self.crop_ratio != 0.5 else {}),
        }


def scored_label(label: np.ndarray, protocol: Protocol) -> np.ndarray:
    """Return the part of a label map (H, W) that a protocol scores, at the size at which it is scored.

    Whole images are scored as they are; otherwise labels are resized by `Protocol.label_resize`, whatever the
    images are.
    """
    if protocol.label_resize == "nearest":
        return scored_area(label, protocol, "nearest")
    if protocol.label_resize == "nearest-floor":
        label = resize(label, *protocol.input_size, "nearest")
    return resize_floor(label, *protocol.score_size)


def scored_area(array: np.ndarray, protocol: Protocol, filter: Filter) -> np.ndarray:
    """Return the same of any array (H, W) that lies over an image, resized by a filter."""
    if protocol.extent == "whole":
        return array
    fit: Fit = "crop" if protocol.extent == "square" else "squash"
    return fitted(array, fit, protocol.score_size, 1, filter)
