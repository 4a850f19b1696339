"""States of the official checkpoints: two files of ByungKwanLee/Causal-Unsupervised-Segmentation.

``segment_tr.pth`` or ``segment_mlp.pth`` has the heads, ``cluster_tr.pth`` or ``cluster_mlp.pth`` the
codebook and the probe. The averaged head is evaluated, which the released third phase also trains by labels.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from uss_bench.errors import DataError
from uss_bench.nn.released import not_standardized, renamed

PATHS = {
    "linear.weight": "f1.weight",
    "linear.bias": "f1.bias",
    "nonlinear.0.weight": "f2.0.weight",
    "nonlinear.0.bias": "f2.0.bias",
    "nonlinear.2.weight": "f2.2.weight",
    "nonlinear.2.bias": "f2.2.bias",
}
_ATTENTION = ("in_proj_weight", "in_proj_bias", "out_proj.weight", "out_proj.bias")
_AFFINE = ("weight", "bias")
DECODER = {
    **{f"own.{name}": f"self_attn.{name}" for name in _ATTENTION},
    **{f"cross.{name}": f"multihead_attn.{name}" for name in _ATTENTION},
    **{f"feed.0.{name}": f"linear1.{name}" for name in _AFFINE},
    **{f"feed.3.{name}": f"linear2.{name}" for name in _AFFINE},
    **{f"norms.{number}.{name}": f"norm{number + 1}.{name}" for number in range(3) for name in _AFFINE},
}


def state(
    weights: Mapping[str, Tensor], options: Mapping[str, Any]
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Return the parameters that the checkpoint decides, and the state of `cause.Net`."""
    weights = {name.removeprefix("module."): value for name, value in weights.items()}
    has_decoder = "head_ema.query_pos" in weights
    stem = "head_ema.tr." if has_decoder else "head_ema."
    names = {f"head.{ours}": f"{stem}{theirs}" for ours, theirs in PATHS.items()}
    names["probe"] = "cluster_probe"
    if has_decoder:
        names |= {f"head.decoder.{ours}": f"{stem}{theirs}" for ours, theirs in DECODER.items()}
        names |= {"head.decoder.codebook": "codebook", "head.decoder.positions": "head_ema.query_pos"}
    found = renamed(weights, names)
    for name, value in found.items():
        if value.ndim == 4:  # convolutions of 1 × 1, which are linear layers here
            found[name] = value[:, :, 0, 0]
    parameters: dict[str, Any] = {"head": "tr" if has_decoder else "mlp", "standardize": False}
    parameters["clusters"], parameters["dim"] = found["probe"].shape
    if has_decoder:
        queries = found["head.decoder.positions"]
        side = math.isqrt(len(queries))
        if side * side != len(queries):
            raise DataError(f"It has {len(queries)} positions, which are no square of patches.")
        found["head.decoder.positions"] = queries.T.unflatten(1, (side, side))
        parameters["codes"] = len(found["head.decoder.codebook"])
    return parameters, found | not_standardized(found["head.linear.weight"].shape[1])
