"""A frozen ResNet, supervised or contrastive, as source of dense features."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import timm
import torch
from torch import Tensor

from uss_bench.backbones.checkpoint_files import read_state_dict
from uss_bench.backbones.checks import check_card, checked_name, only_tokens, patch_grid
from uss_bench.backbones.downloads import check_digest, find_weights
from uss_bench.backbones.trainable import WholeNetwork, only_whole
from uss_bench.backbones.weights import (
    digest_with,
    load_state_dict,
    normalization,
    parameter_count,
    pixel_statistics,
    trunk_of,
)
from uss_bench.contracts import BackboneInfo, TrainablePart
from uss_bench.errors import DataError
from uss_bench.files.digests import digest_file
from uss_bench.plugins.specs import BackboneSpec

_UPDATES = "num_batches_tracked"


class ResNet50:
    """A `Backbone` whose only facet is ``tokens``: conv5, the last stage before pooling.

    Args:
        spec: the plugin's spec, or that of a card which names this plugin as its adapter.
        stride: pixels per feature. 32 is the network as trained; at 16 or 8 the last stages do not
            subsample but dilate, with the same weights, which makes the map finer.
        model: the network; a ResNet-18 has 512 channels.
        encoder: of two networks in one file, the one of this name; default: see `trunk_of`.
        weights: a file in the layout of torchvision, or of MoCo's training script, of which the
            query encoder is taken; None downloads the file of `spec.url`.
        name: what records call it; default: that of the spec. Weights that are not the card's own
            need another name; with one they may have another sha256.

    Raises:
        UsageError: for a bad name.
        DataError: when the weights cannot be had, read, do not fit or are not those of the card.
        ContractError: when the card is wrong about the patch or the dimension.
    """

    def __init__(
        self,
        spec: BackboneSpec,
        *,
        stride: Literal[8, 16, 32] = 32,
        model: Literal["resnet18", "resnet50"] = "resnet50",
        encoder: Literal["", "encoder_q", "encoder_k"] = "",
        weights: Path | None = None,
        name: str | None = None,
    ) -> None:
        self.name = checked_name(name or spec.name)
        file = find_weights(spec, weights)
        if file is None:
            where = f", of {spec.url}" if spec.url else ""
            raise DataError(
                f"Backbone '{self.name}' needs a weights file.", hint=f"Pass --weights FILE{where}."
            )
        network: Any = timm.create_model(model, num_classes=0, output_stride=stride)
        trunk = trunk_of(read_state_dict(file), network.state_dict(), prefer=encoder)
        # How many updates the statistics saw is of no use in evaluation, and old files lack it.
        trunk = {key: value for key, value in network.state_dict().items() if key.endswith(_UPDATES)} | trunk
        load_state_dict(network, trunk, what=f"Weights '{file}' and backbone '{self.name}'")
        self._model = network.requires_grad_(False).eval()
        digest = digest_file(file)
        if name is None or weights is None:
            check_digest(spec, file, digest)
        self.patch: int = stride
        check_card(spec, patch=stride, dim=network.num_features)
        self._mean, self._std, own = normalization(spec)
        if stride != 32:
            own["stride"] = stride
        if encoder:
            own["encoder"] = encoder
        self.sha256 = digest_with(digest, **own)
        self.info = BackboneInfo(
            name=self.name,
            patch=stride,
            dim=network.num_features,
            parameters=parameter_count(network),
            **pixel_statistics(self._mean, self._std),
        )

    def to(self, device: torch.device) -> ResNet50:
        """Move to `device`, in place, and return self."""
        self._model.to(device)
        self._mean, self._std = self._mean.to(device), self._std.to(device)
        return self

    def __call__(self, images: Tensor, facets: Sequence[str], *, grad: bool = False) -> dict[str, Tensor]:
        """Return ``tokens`` (B, D, H/stride, W/stride) of `images`, float32 (B, 3, H, W), RGB in [0, 1].

        They come after the last ReLU, so none is negative.

        Raises:
            UsageError: for another facet, or a side that is not a multiple of the stride.
        """
        only_tokens(facets, self.name)
        patch_grid(images, self.patch, self.name)
        if not facets:
            return {}
        with torch.set_grad_enabled(grad):
            return {"tokens": self._model.forward_features((images - self._mean) / self._std)}

    def trainable(self, last_blocks: int | None = 1) -> TrainablePart:
        """Return a trainable copy of the whole network, for `last_blocks` None.

        Raises:
            UsageError: when blocks are asked for.
        """
        only_whole(self.name, last_blocks)

        def run(model: Any, images: Tensor) -> Tensor:
            tokens: Tensor = model.forward_features(images)
            return tokens

        return WholeNetwork(self._model, self._mean, self._std, run)
