"""Images as people have them, turned into the array that the harness works on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from uss_bench.errors import UsageError


def as_image(image: Any) -> np.ndarray:
    """Return an image as uint8 (H, W, 3), RGB.

    Args:
        image: uint8 (H, W, 3), or (3, H, W) as a torch tensor; floating point in [0, 1] of either shape; a
            Pillow image; or the path of a file.

    Raises:
        UsageError: for anything else.
        DataError: when a file cannot be read.
    """
    if isinstance(image, str | Path):
        from uss_bench.data.images import read_image

        return read_image(Path(image))
    if hasattr(image, "convert"):
        return np.asarray(image.convert("RGB"))
    is_tensor = hasattr(image, "detach")
    array = image.detach().cpu().numpy() if is_tensor else np.asarray(image)
    if array.ndim == 3 and is_tensor and array.shape[0] == 3:
        array = np.moveaxis(array, 0, 2)
    if array.ndim != 3 or array.shape[2] != 3:
        raise UsageError(
            f"An image is (H, W, 3), RGB, not {array.shape}.",
            hint="Give one image at a time, without a batch.",
        )
    if array.dtype.kind == "f":
        if not (np.isfinite(array).all() and array.min() >= 0 and array.max() <= 1):
            raise UsageError("An image of floating point must lie in [0, 1].", hint="Do not normalize it.")
        array = (array * 255).round().astype(np.uint8)
    if array.dtype != np.uint8:
        raise UsageError(f"An image is uint8, or floating point in [0, 1], not {array.dtype}.")
    return np.ascontiguousarray(array)
