"""Random views of images, photometric and geometric, and how features of one view lie over another.

A view belongs to (seed, purpose, epoch, item), and not to a batch or the order of batches, so that every
pass of an epoch sees the same one (PiCIE) and a run that was interrupted draws it again. Color and blur are
torchvision's. Geometry is a square crop, a flip and an affine map, applied alike to images and to features of
any resolution.

    views = Views(ctx.generator, "view 1", photometric=Photometric(brightness=0.3, gray=0.2),
                  geometric=Geometric(scale=(0.5, 1.0), flip=0.5))
    first = views.draw(epoch, items)
    x = apply_geometric(apply_photometric(images / 255, first), first, (320, 320))
    source, seen = align(net(x), first, None, (80, 80))     # back over the images themselves

Coordinates run from -1 to 1 between the borders of an image, x before y, as in ``grid_sample`` with
``align_corners=False``; therefore they do not depend on the resolution.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.transforms.v2 import functional as tv

from uss_bench.errors import UsageError

Range = tuple[float, float]
Size = tuple[int, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Photometric:
    """How colors and sharpness may change; by default they do not.

    A strength x of `brightness`, `contrast` or `saturation` is a factor uniform in [max(0, 1-x), 1+x], and
    of `hue` a shift uniform in [-x, x] of a full turn.
    """

    brightness: float = 0.0
    contrast: float = 0.0
    saturation: float = 0.0
    hue: float = 0.0
    jitter: float = 1.0
    """Probability that these four are applied."""
    each: bool = False
    """Decide on each of the four by itself, as PiCIE does, and not on all at once."""
    shuffled: bool = True
    """Apply the four in random order, as torchvision's ColorJitter does, and not as they stand here."""
    gray: float = 0.0
    """Probability of a gray image."""
    blur: float = 0.0
    """Probability of a Gaussian blur."""
    sigma: Range = (0.1, 2.0)
    """Range of the blur's standard deviation in pixels; below 0.01 nothing is blurred."""
    kernel: int | None = None
    """Side of the blur's window in pixels, odd; None for three standard deviations to each side."""
    solarize: float = 0.0
    """Probability that values above 0.5 are inverted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Geometric:
    """How the field of view may change; by default it does not."""

    scale: Range = (1.0, 1.0)
    """Side of the crop as a share of the image's side, uniform in this range; its place is uniform too."""
    flip: float = 0.0
    """Probability that left and right are exchanged."""
    degrees: float = 0.0
    """Largest rotation to either side."""
    shear: float = 0.0
    """Largest shear along x to either side, in degrees."""
    zoom: Range = (1.0, 1.0)
    """Factor by which what the crop shows is enlarged."""


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """What was drawn for one image: photometric operations in order, and a geometry.

    A method may also make its own, such as a crop from a list of sides.
    """

    operations: tuple[tuple[str, float], ...] = ()
    kernel: int | None = None
    scale: float = 1.0
    top: float = 0.0
    """Place of the crop from 0, at the upper border, to 1, at the lower."""
    left: float = 0.0
    flip: bool = False
    degrees: float = 0.0
    shear: float = 0.0
    zoom: float = 1.0

    def is_upright(self) -> bool:
        """Whether the geometry is a crop and a flip alone."""
        return (self.degrees, self.shear, self.zoom) == (0.0, 0.0, 1.0)

    def matrix(self) -> Tensor:
        """Return the affine map from coordinates of the view to those of the image, float32 (2, 3)."""
        angle, shear = math.radians(self.degrees), math.tan(math.radians(self.shear))
        turn = torch.tensor([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
        linear = turn @ torch.tensor([[1.0, shear], [0.0, 1.0]]) * (self.scale / self.zoom)
        linear = linear @ torch.diag(torch.tensor([-1.0 if self.flip else 1.0, 1.0]))
        center = [2 * (place * (1 - self.scale) + self.scale / 2) - 1 for place in (self.left, self.top)]
        return torch.cat([linear, torch.tensor(center)[:, None]], dim=1)


class Views:
    """Draws the views of items.

    Args:
        generator: `Context.generator`.
        purpose: names the views among those of the same run: two views of a pair have two.
    """

    def __init__(
        self,
        generator: Callable[..., torch.Generator],
        purpose: str,
        *,
        photometric: Photometric | None = None,
        geometric: Geometric | None = None,
    ) -> None:
        self._generator = generator
        self._purpose = purpose
        self._photometric = photometric or Photometric()
        self._geometric = geometric or Geometric()

    def draw(self, epoch: int, items: Sequence[int]) -> list[View]:
        """Return the view of each item in an epoch (or step): always the same one."""
        return [self._draw(self._generator(self._purpose, epoch, int(item))) for item in items]

    def _draw(self, generator: torch.Generator) -> View:
        numbers = torch.rand(24, generator=generator, dtype=torch.float64).tolist()
        return _view(self._photometric, self._geometric, iter(numbers).__next__)


def apply_photometric(images: Tensor, views: Sequence[View]) -> Tensor:
    """Change colors and sharpness of images, (B, 3, H, W): uint8, or float in [0, 1], and the same back.

    Of floats outside that range torchvision clamps what an operation returns, as HP's released code
    relies on, which gives it normalized images.

    Raises:
        UsageError: for an image that is smaller than half the window of its blur.
    """
    return torch.stack([_photometric(image, view) for image, view in zip(images, views, strict=True)])


def apply_geometric(values: Tensor, views: Sequence[View], size: Size) -> Tensor:
    """Return each image's view, (B, C, *size), of images or features (B, C, H, W).

    A crop is cut at whole pixels and resized bilinearly without antialiasing; with a rotation, shear or
    zoom values are sampled bilinearly, and are 0 outside the image.
    """
    return torch.stack([_geometric(value, view, size) for value, view in zip(values, views, strict=True)])


def align(
    values: Tensor, of: Sequence[View] | None, to: Sequence[View] | None, size: Size
) -> tuple[Tensor, Tensor]:
    """Lay features of one view over another view, or over the images themselves.

    Args:
        values: (B, C, h, w), seen in the views `of`; None for the images themselves.
        to: the views whose field is wanted; None for the images themselves.
        size: resolution of the result.

    Returns:
        Values (B, C, *size), bilinear, 0 where `of` shows nothing; and where it shows something, bool
        (B, 1, *size). A gradient goes to `values`.
    """
    there, here = (_homogeneous(views, len(values)) for views in (to, of))
    theta = torch.linalg.solve(here, there)[:, :2].to(values.device, values.dtype)
    grid = F.affine_grid(theta, [len(values), 1, *size], align_corners=False)
    inside = (grid.abs() <= 1).all(dim=3)[:, None]
    # Up to the border values are those of the outermost features, which zeros would darken.
    aligned = F.grid_sample(values, grid, padding_mode="border", align_corners=False)
    return aligned * inside, inside


def _view(photometric: Photometric, geometric: Geometric, draw: Callable[[], float]) -> View:
    """Draw a view. Every number is drawn whatever is switched on, so that a switch moves no other one."""

    def between(low: float, high: float) -> float:
        return low + (high - low) * draw()

    jitters = [
        (name, between(max(0.0, 1 - strength), 1 + strength), strength)
        for name, strength in (
            ("brightness", photometric.brightness),
            ("contrast", photometric.contrast),
            ("saturation", photometric.saturation),
        )
    ]
    jitters.append(("hue", between(-photometric.hue, photometric.hue), photometric.hue))
    own = [draw() < photometric.jitter for _ in jitters]
    chosen = own if photometric.each else [own[0]] * len(own)
    order = sorted(range(len(jitters)), key=lambda _: draw())  # all keys are drawn before any is compared
    operations = [
        jitters[place][:2]
        for place in (order if photometric.shuffled else range(len(jitters)))
        if chosen[place] and jitters[place][2]
    ]
    gray, blur, solarize, sigma = draw(), draw(), draw(), between(*photometric.sigma)
    operations += [("gray", 1.0)] * (gray < photometric.gray)
    operations += [("blur", sigma)] * (blur < photometric.blur and sigma >= 0.01)
    operations += [("solarize", 0.5)] * (solarize < photometric.solarize)
    return View(
        operations=tuple(operations),
        kernel=photometric.kernel,
        scale=between(*geometric.scale),
        top=draw(),
        left=draw(),
        flip=draw() < geometric.flip,
        degrees=between(-geometric.degrees, geometric.degrees),
        shear=between(-geometric.shear, geometric.shear),
        zoom=between(*geometric.zoom),
    )


def _photometric(image: Tensor, view: View) -> Tensor:
    for name, value in view.operations:
        if name == "gray":
            image = tv.rgb_to_grayscale(image, num_output_channels=3)
        elif name == "blur":
            side = view.kernel or 2 * math.ceil(3 * value) + 1
            if side // 2 >= min(image.shape[1:]):
                raise UsageError(
                    f"An image of {image.shape[2]}×{image.shape[1]} pixels (width × height) is too small "
                    f"to be blurred over {side}, as a view of this run is.",
                    hint="Take larger training images: --training side=N.",
                )
            image = tv.gaussian_blur(image, [side, side], [value, value])
        elif name == "solarize":
            image = tv.solarize(image, value * (255 if image.dtype == torch.uint8 else 1))
        else:
            image = getattr(tv, f"adjust_{name}")(image, value)
    return image


def _geometric(value: Tensor, view: View, size: Size) -> Tensor:
    if not view.is_upright():
        theta = view.matrix()[None].to(value.device, value.dtype)
        grid = F.affine_grid(theta, [1, len(value), *size], align_corners=False)
        return F.grid_sample(value[None], grid, align_corners=False)[0]
    height, width = (max(1, int(view.scale * side)) for side in value.shape[1:])
    top, left = int(view.top * (value.shape[1] - height)), int(view.left * (value.shape[2] - width))
    shown = tv.resized_crop(value, top, left, height, width, list(size), antialias=False)
    flipped: Tensor = tv.horizontal_flip(shown) if view.flip else shown
    return flipped


def _homogeneous(views: Sequence[View] | None, count: int) -> Tensor:
    """Return the maps from views to images as float64 (B, 3, 3)."""
    last = torch.tensor([0.0, 0.0, 1.0])[None]
    matrices = [View().matrix()] * count if views is None else [view.matrix() for view in views]
    return torch.stack([torch.cat([matrix, last]) for matrix in matrices]).double()
