"""From the names of the DINO family's own code to timm's.

DINO's names are timm's. DINOv2's are, but for the networks with registers; DINOv3's are not.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from uss_bench.errors import DataError


def by_timm_names(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return `state` by timm's names; a state that has these already comes back as it is.

    Raises:
        DataError: when DINOv3's projections have biases, which timm's networks of that name lack.
    """
    if "storage_tokens" in state:
        return _from_dinov3(state)
    if "register_tokens" in state:
        return _from_dinov2_registers(state)
    return dict(state)


def _from_dinov2_registers(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    renamed = dict(state)
    renamed["reg_token"] = renamed.pop("register_tokens")
    # DINOv2 adds the first position to the class token and gives registers none. timm's networks with
    # registers have positions for patches only, so the class token carries its own.
    positions = renamed["pos_embed"]
    renamed["cls_token"] = renamed["cls_token"] + positions[:, :1]
    renamed["pos_embed"] = positions[:, 1:]
    return renamed


def _from_dinov3(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    renamed = {}
    for key, value in state.items():
        if key.startswith("rope_embed.") or key.endswith("qkv.bias_mask"):
            continue  # buffers: the rotation is fixed, and the mask says that keys have no bias
        if key.endswith("qkv.bias"):
            # timm leaves these biases out, because those of the published networks are zero.
            queries, _, values = value.chunk(3)
            if queries.any() or values.any():
                raise DataError(
                    f"The weights have a bias that is not zero, '{key}', and timm's network has none there.",
                    hint="Only DINOv3 networks without these biases, as the published ones, can be loaded.",
                )
            continue
        key = key.replace("storage_tokens", "reg_token")
        renamed[key.replace("ls1.gamma", "gamma_1").replace("ls2.gamma", "gamma_2")] = value
    return renamed
