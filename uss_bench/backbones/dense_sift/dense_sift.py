"""Dense SIFT: Lowe's descriptor without his detector, on a grid, in tensor operations."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from uss_bench.backbones.checks import check_card, only_tokens, patch_grid, refuse_weights
from uss_bench.backbones.trainable import nothing_trainable
from uss_bench.contracts import BackboneInfo, TrainablePart
from uss_bench.plugins.specs import BackboneSpec

_PATCH = 8
_CENTER = 4
"""Pixel of each patch that is the keypoint. The middle would be 3.5; OpenCV rounds it to 4."""

_CELLS = 4
_CELL = 4
"""Cells per side of a descriptor, and pixels per cell: 16×16 pixels, Lowe's own window."""

_BINS = 8
_SCALE = _CELL / 3
"""The scale in pixels that the keypoint stands for: Lowe's cells are three times as wide."""

_CAMERA_BLUR = 0.5
"""Blur that an image is taken to have already (Lowe)."""

_CLIP = 0.2
_LUMA = (0.299, 0.587, 0.114)
_FLOOR = 1e-3
"""Least norm that a descriptor is divided by, for gray values in [0, 1]: flat patches give zeros, not
amplified rounding errors. An edge of one 8-bit level through the keypoint has over 30 times that."""


class DenseSift:
    """A `Backbone` of patch 8 whose only facet is ``tokens``, 128 channels: one SIFT descriptor per patch.

    Upright and of one scale: gradients of the image, blurred to σ = 4/3, in 4×4 cells of 4 pixels
    around pixel 4 of each patch, 8 orientations each, interpolated linearly in space and orientation
    and weighted by a Gaussian of 8 pixels. Channel (4 · row + column) · 8 + orientation; orientation
    0 is towards the right and 2 up. A descriptor has norm 1 after clipping at 0.2, as Lowe says
    (OpenCV's is 512 times that, in bytes). What lies outside the image has no gradient.

    Args:
        spec: the plugin's spec.
        weights: must be None.

    Raises:
        UsageError: when weights are given.
    """

    patch = _PATCH

    def __init__(self, spec: BackboneSpec, *, weights: Path | None = None) -> None:
        refuse_weights(weights, spec.name)
        check_card(spec, patch=_PATCH, dim=_CELLS**2 * _BINS)
        self.name = spec.name
        self.info = BackboneInfo(name=self.name, patch=_PATCH, dim=_CELLS**2 * _BINS, parameters=0)
        layout = [_PATCH, _CENTER, _CELLS, _CELL, _BINS]
        definition = ["dense_sift@1", layout, _SCALE, _CAMERA_BLUR, _CLIP, _LUMA, _FLOOR]
        self.sha256 = hashlib.sha256(json.dumps(definition).encode()).hexdigest()
        self._luma = torch.tensor(_LUMA).view(1, 3, 1, 1)
        self._blur = _gaussian(math.sqrt(_SCALE**2 - _CAMERA_BLUR**2))
        self._cells = _cell_kernels()

    def to(self, device: torch.device) -> DenseSift:
        """Move to `device`, in place, and return self."""
        self._luma, self._blur, self._cells = (
            tensor.to(device) for tensor in (self._luma, self._blur, self._cells)
        )
        return self

    def __call__(self, images: Tensor, facets: Sequence[str], *, grad: bool = False) -> dict[str, Tensor]:
        """Return ``tokens`` (B, 128, H/8, W/8) of `images`, float32 (B, 3, H, W), RGB in [0, 1].

        Raises:
            UsageError: for another facet, or a side that is not a multiple of 8.
        """
        only_tokens(facets, self.name)
        grid = patch_grid(images, _PATCH, self.name)
        with torch.set_grad_enabled(grad):
            return {"tokens": self._describe(images, grid)} if facets else {}

    def trainable(self, last_blocks: int | None = 1) -> TrainablePart:
        """Raise `UsageError`: there is nothing to train."""
        raise nothing_trainable(self.name)

    def _describe(self, images: Tensor, grid: tuple[int, int]) -> Tensor:
        oriented = _oriented_gradients(self._smooth(F.conv2d(images, self._luma)))
        reach = self._cells.shape[-1] // 2
        before, after = reach - _CENTER, reach - (_PATCH - 1 - _CENTER)
        oriented = F.pad(oriented.flatten(0, 1).unsqueeze(1), (before, after, before, after))
        histograms = F.conv2d(oriented, self._cells, stride=_PATCH)
        histograms = histograms.reshape(len(images), _BINS, _CELLS**2, *grid).transpose(1, 2).flatten(1, 2)
        clipped = torch.minimum(histograms, _CLIP * _norm(histograms))
        return clipped / _norm(clipped)

    def _smooth(self, gray: Tensor) -> Tensor:
        """Blur `gray` (B, 1, H, W) to the keypoints' scale."""
        reach = len(self._blur) // 2
        padded = F.pad(gray, (reach, reach, reach, reach), mode="reflect")
        return F.conv2d(F.conv2d(padded, self._blur.view(1, 1, 1, -1)), self._blur.view(1, 1, -1, 1))


def _oriented_gradients(gray: Tensor) -> Tensor:
    """Split the gradient's magnitude of `gray` (B, 1, H, W) over the nearest orientations, (B, 8, H, W)."""
    # Central differences exist only inside the outermost row and column; OpenCV counts nothing there.
    across = F.pad(gray[..., 1:-1, 2:] - gray[..., 1:-1, :-2], (1, 1, 1, 1))
    up = F.pad(gray[..., :-2, 1:-1] - gray[..., 2:, 1:-1], (1, 1, 1, 1))
    # Neither the root nor the arctangent has a gradient at zero.
    square = across**2 + up**2
    flat = square == 0
    magnitude = torch.where(flat, 0, torch.where(flat, 1, square).sqrt())
    angle = torch.atan2(up, torch.where(flat, 1, across)) * (_BINS / (2 * math.pi))
    bins = torch.arange(_BINS, device=gray.device, dtype=gray.dtype).view(1, -1, 1, 1)
    distance = (angle - bins).remainder(_BINS)
    return magnitude * (1 - torch.minimum(distance, _BINS - distance)).clamp_min(0)


def _cell_kernels() -> Tensor:
    """Return what each pixel around a keypoint gives to each cell, (16, 1, 19, 19)."""
    # Units are cells from the keypoint. Cells reach one cell beyond their center, and are centered
    # 0.5 and 1.5 to either side.
    reach = int((_CELLS / 2 + 0.5) * _CELL) - 1
    offset = torch.arange(-reach, reach + 1) / _CELL
    centers = torch.arange(_CELLS) - (_CELLS - 1) / 2
    shares = (1 - (offset - centers.view(-1, 1)).abs()).clamp_min(0)
    shares = shares * torch.exp(-2 * (offset / _CELLS) ** 2)  # the Gaussian, of half the window's width
    return torch.einsum("iy,jx->ijyx", shares, shares).flatten(0, 1).unsqueeze(1)


def _gaussian(sigma: float) -> Tensor:
    reach = round(4 * sigma)
    kernel = torch.exp(-((torch.arange(-reach, reach + 1) / sigma) ** 2) / 2)
    return kernel / kernel.sum()


def _norm(histograms: Tensor) -> Tensor:
    """Return the norm over channels, (B, 1, h, w), at least the floor."""
    # Under the root, because the norm itself has no gradient at zero.
    return histograms.square().sum(dim=1, keepdim=True).clamp_min(_FLOOR**2).sqrt()
