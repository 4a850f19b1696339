"""Running a frozen backbone over images: plainly on a CPU, as fast as float16 features allow on CUDA.

Features come rounded to the type that they are kept in, whether they are kept or not: results do
not depend on disk space.

On a CPU images go through in float32, eight at a time: more are not faster there. On CUDA features that are
kept as float16 or int8 are computed under float16 autocast, with images in channels-last order, in batches
whose size is found by trying. A batch that does not fit into memory is halved.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from uss_bench.contracts import Backbone
from uss_bench.errors import ContractError, RunError, blame
from uss_bench.features.quantized import round_to_int8
from uss_bench.results.record import FeatureDtype

CPU_BATCH = 8
LARGEST_BATCH = 512
_WORTHWHILE = 1.1
"""By how much a doubled batch must raise the rate to be tried further."""


class Encoder:
    """A backbone on a device, which maps uint8 images to features.

    Args:
        dtype: what features are rounded to.
        autocast: compute in float16 where autocast thinks it safe; values then differ in the third digit.
            None: on CUDA, where they are rounded to float16 or int8 anyway.
        batch_size: images that go through at once while extracting; None for `CPU_BATCH`, and on
            CUDA for what is found by trying.
    """

    def __init__(
        self,
        backbone: Backbone,
        device: torch.device,
        *,
        dtype: FeatureDtype = "float32",
        autocast: bool | None = None,
        batch_size: int | None = None,
    ) -> None:
        self.backbone = backbone
        self.device = device
        self.dtype = dtype
        self.autocast = device.type == "cuda" and dtype != "float32" if autocast is None else autocast
        self._batch_size = batch_size

    def __call__(self, squares: np.ndarray, facets: Sequence[str]) -> dict[str, Tensor]:
        """Return float32 (B, D, h, w) per facet of uint8 (B, H, W, 3).

        Raises:
            ContractError: when the backbone raises, or does not return what it was asked for.
            RunError: when one image alone is too much for the memory, or a value is not finite in `dtype`.
        """
        with blame(f"Backbone '{self.backbone.name}'", "encoding images"):
            with contextlib.suppress(torch.cuda.OutOfMemoryError):
                return self._forward(squares, facets)
            torch.cuda.empty_cache()
            if len(squares) == 1:
                return self._forward(squares, facets)  # with nothing else held; failing again, it is too big
        half = len(squares) // 2
        first, second = self(squares[:half], facets), self(squares[half:], facets)
        return {facet: torch.cat([first[facet], second[facet]]) for facet in facets}

    def batch_size(self, square: np.ndarray, facets: Sequence[str]) -> int:
        """Return how many images like `square`, uint8 (H, W, 3), should go through at once; found once."""
        if self._batch_size is None:
            if self.device.type != "cuda":
                return CPU_BATCH

            def run(size: int) -> None:
                self._forward(np.broadcast_to(square, (size, *square.shape)), facets)
                torch.cuda.synchronize(self.device)

            self._batch_size = fastest_batch(run)
        return self._batch_size

    def _forward(self, squares: np.ndarray, facets: Sequence[str]) -> dict[str, Tensor]:
        images = to_unit_range(squares, self.device)
        if self.autocast:
            images = images.contiguous(memory_format=torch.channels_last)
            with torch.autocast(self.device.type, torch.float16):
                given = self.backbone(images, facets)
        else:
            given = self.backbone(images, facets)
        missing = [facet for facet in facets if facet not in given]
        if missing:
            raise ContractError(f"Backbone '{self.backbone.name}' did not return '{missing[0]}'.")
        for facet in facets:
            self._check(facet, given[facet], len(squares))
        return {facet: self._rounded(facet, given[facet]) for facet in facets}

    def _rounded(self, facet: str, value: Tensor) -> Tensor:
        rounded = value.float() if self.dtype == "int8" else value.to(getattr(torch, self.dtype))
        if not torch.isfinite(rounded).all():
            raise RunError(
                f"Backbone '{self.backbone.name}' gave '{facet}' that are not finite in {self.dtype}.",
                hint="Try --feature-dtype float32, and check the weights.",
            )
        return round_to_int8(rounded) if self.dtype == "int8" else rounded.float()

    def _check(self, facet: str, value: object, images: int) -> None:
        who = f"Backbone '{self.backbone.name}'"
        if not isinstance(value, Tensor) or not value.is_floating_point():
            found = value.dtype if isinstance(value, Tensor) else type(value).__name__
            raise ContractError(f"{who} gave '{facet}' as {found}; features are floating point tensors.")
        if value.ndim < 2 or len(value) != images:
            raise ContractError(f"{who} gave '{facet}' of shape {tuple(value.shape)} for {images} images.")


def fastest_batch(run: Callable[[int], object], clock: Callable[[], float] = time.perf_counter) -> int:
    """Double the batch while that raises images per second by a tenth, and memory holds.

    Args:
        run: sends a number of images through, and returns when they are done.
    """
    best, rate = CPU_BATCH, 0.0
    size = CPU_BATCH
    while size <= LARGEST_BATCH:
        try:
            run(size)  # kernels are chosen and memory is reserved here
            start = clock()
            run(size)
            found = size / (clock() - start)
        except torch.cuda.OutOfMemoryError:
            break
        if found < _WORTHWHILE * rate:
            break
        best, rate = size, found
        size *= 2
    torch.cuda.empty_cache()
    return best


def to_unit_range(squares: np.ndarray, device: torch.device) -> Tensor:
    """Turn uint8 (B, H, W, 3) into float32 (B, 3, H, W) in [0, 1] on `device`."""
    writable = np.require(squares, requirements=["C", "W"])
    return torch.from_numpy(writable).to(device).permute(0, 3, 1, 2).contiguous().float().div_(255.0)
