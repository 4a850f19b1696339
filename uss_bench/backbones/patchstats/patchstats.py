"""A dense descriptor without weights, so that a bare machine can run every method."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from uss_bench.backbones.checks import only_tokens, patch_grid, refuse_weights
from uss_bench.backbones.trainable import nothing_trainable
from uss_bench.contracts import BackboneInfo, TrainablePart
from uss_bench.plugins.specs import BackboneSpec

_PATCH = 8
_WINDOWS = (1, 3, 7)
"""Sides in patches of the windows around each patch: itself, its neighbors, its surroundings."""

_CHANNELS = 48
_BINS = 8
_SHARPNESS = 4
"""Exponent of the bins' tuning curve: half height at 16 degrees to either side."""

# Rows are luminance, red against green, and yellow against blue: the axes along which the colors
# of natural images vary independently (Ohta et al., 1980), made orthonormal.
_OPPONENT = (
    (3**-0.5, 3**-0.5, 3**-0.5),
    (2**-0.5, -(2**-0.5), 0.0),
    (6**-0.5, 6**-0.5, -2 * 6**-0.5),
)

# Offset and scale of each channel, or of each histogram, because mirroring an image permutes the
# orientations. Means and standard deviations over 100 COCO photographs, rounded: with them every
# channel has about zero mean and unit variance.
_STANDARD = {
    "mean": ((0.75, 0.01, 0.05) * 3, (0.40, 0.08, 0.11) * 3),
    "deviation": (
        (0.11, 0.020, 0.026, 0.17, 0.028, 0.037, 0.22, 0.035, 0.048),
        (0.11, 0.018, 0.025, 0.13, 0.025, 0.032, 0.14, 0.030, 0.036),
    ),
    "contrast": ((-2.2, -1.7), (1.3, 1.2)),
    "energy": ((-2.9, -2.8, -2.8, -2.7), (0.87, 0.80, 0.90, 0.81)),
    "orientation": ((0.125, 0.125, 0.125), (0.073, 0.061, 0.076)),
}
_FLOOR = 0.01
"""Regularises ratios and logarithms: about the noise of an 8-bit photograph."""


class PatchStats:
    """A `Backbone` of patch 8 whose only facet is ``tokens``, 48 channels of fixed statistics.

    ========  ===========  ==========================================================================
    channels  group        content
    ========  ===========  ==========================================================================
    0-8       mean         opponent color, over windows of 8, 24 and 56 pixels around the patch
    9-17      deviation    standard deviation of the same, over the same windows
    18-19     contrast     log of the luminance's deviation relative to its mean, over 8 and 24
    20-23     energy       log of the gradient's magnitude: at full and at half resolution, 8 and 24
    24-47     orientation  shares of 8 unsigned gradient orientations: full resolution over 8 and 24,
                           half resolution over 24
    ========  ===========  ==========================================================================

    Windows are cut at the border of the image. Mirroring the image mirrors the map and exchanges
    orientation k for -k modulo 8, so features of flipped images must not be averaged with these
    directly. Nothing does: the harness averages codes, which a method learns.

    Args:
        spec: the plugin's spec.
        weights: must be None.

    Raises:
        UsageError: when weights are given.
    """

    patch = _PATCH

    def __init__(self, spec: BackboneSpec, *, weights: Path | None = None) -> None:
        refuse_weights(weights, spec.name)
        self.name = spec.name
        definition = ["patchstats@1", _PATCH, _BINS, _SHARPNESS, _WINDOWS, _OPPONENT, _STANDARD, _FLOOR]
        self.sha256 = hashlib.sha256(json.dumps(definition).encode()).hexdigest()
        self.info = BackboneInfo(name=self.name, patch=_PATCH, dim=_CHANNELS, parameters=0)
        self._opponent = torch.tensor(_OPPONENT).view(3, 3, 1, 1)
        self._offset, self._scale = (_per_channel(i) for i in (0, 1))

    def to(self, device: torch.device) -> PatchStats:
        """Move to `device`, in place, and return self."""
        self._opponent, self._offset, self._scale = (
            tensor.to(device) for tensor in (self._opponent, self._offset, self._scale)
        )
        return self

    def __call__(self, images: Tensor, facets: Sequence[str], *, grad: bool = False) -> dict[str, Tensor]:
        """Return ``tokens`` (B, 48, H/8, W/8) of `images`, float32 (B, 3, H, W), RGB in [0, 1].

        Raises:
            UsageError: for another facet, or a side that is not a multiple of 8.
        """
        only_tokens(facets, self.name)
        patch_grid(images, _PATCH, self.name)
        with torch.set_grad_enabled(grad):
            return {"tokens": (self._describe(images) - self._offset) / self._scale} if facets else {}

    def trainable(self, last_blocks: int | None = 1) -> TrainablePart:
        """Raise `UsageError`: there is nothing to train."""
        raise nothing_trainable(self.name)

    def _describe(self, images: Tensor) -> Tensor:
        """Return the statistics before they are brought to a common scale."""
        color = F.conv2d(images, self._opponent)
        mean, square = F.avg_pool2d(color, _PATCH), F.avg_pool2d(color**2, _PATCH)
        means = [_around(mean, window) for window in _WINDOWS]
        deviations = [
            (_around(square, window) - around**2).clamp_min(0).add(_FLOOR**2).sqrt()
            for window, around in zip(_WINDOWS, means, strict=True)
        ]
        contrasts = [torch.log(deviations[i][:, :1] / (means[i][:, :1] + _FLOOR)) for i in (0, 1)]

        luminance = color[:, :1]
        energies, shares = [], []
        for resolution, windows in ((1, (1, 3)), (2, (3,))):
            energy, oriented = _gradients(F.avg_pool2d(luminance, resolution))
            energy = F.avg_pool2d(energy, _PATCH // resolution)
            oriented = F.avg_pool2d(oriented, _PATCH // resolution)
            energies += [torch.log(_around(energy, window) + _FLOOR) for window in (1, 3)]
            for window in windows:
                histogram = _around(oriented, window) + _FLOOR / _BINS
                shares.append(histogram / histogram.sum(dim=1, keepdim=True))
        return torch.cat([*means, *deviations, *contrasts, *energies, *shares], dim=1)


def _per_channel(i: int) -> Tensor:
    """Return the offsets (0) or scales (1) of all channels, (48, 1, 1)."""
    values = {group: pair[i] for group, pair in _STANDARD.items()}
    values["orientation"] = tuple(value for value in values["orientation"] for _ in range(_BINS))
    return torch.tensor([value for group in values.values() for value in group]).view(-1, 1, 1)


def _around(cells: Tensor, window: int) -> Tensor:
    """Average `cells` (B, D, h, w) over a window of `window` × `window` cells around each."""
    return F.avg_pool2d(cells, window, stride=1, padding=window // 2, count_include_pad=False)


def _gradients(image: Tensor) -> tuple[Tensor, Tensor]:
    """Return the magnitude (B, 1, H, W) of the gradient of `image` and its split over bins (B, 8, H, W)."""
    padded = F.pad(image, (1, 1, 1, 1), mode="replicate")
    across = (padded[..., 1:-1, 2:] - padded[..., 1:-1, :-2]) / 2
    down = (padded[..., 2:, 1:-1] - padded[..., :-2, 1:-1]) / 2
    square = across**2 + down**2 + 1e-8
    magnitude = square.sqrt()
    # Unsigned orientation has period pi, so it lives at the double angle, whose cosine and sine need
    # no arctangent (which has no gradient where the image is flat).
    cos, sin = (across**2 - down**2) / square, 2 * across * down / square
    angles = torch.arange(_BINS, device=image.device, dtype=image.dtype).mul(2 * math.pi / _BINS)
    tuning = cos * angles.cos().view(-1, 1, 1) + sin * angles.sin().view(-1, 1, 1)
    return magnitude, magnitude * tuning.clamp_min(0) ** _SHARPNESS
