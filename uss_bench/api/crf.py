"""The dense CRF on one image, for scores that come from anywhere."""

from __future__ import annotations

from typing import Any

import numpy as np
from msgspec.structs import replace

from uss_bench.api.arrays import as_image
from uss_bench.crf import CrfParams, Engine, refine


def dense_crf(image: Any, logits: Any, *, engine: Engine = "lattice", **params: Any) -> np.ndarray:
    """Return the class probabilities of an image after the dense CRF, float32 (K, H, W).

    Examples:
        >>> labels = uss_bench.dense_crf(image, logits).argmax(0)

    Args:
        image: uint8 (H, W, 3), RGB, or a Pillow image.
        logits: floating point (K, H, W), NumPy or torch; logits or log-probabilities.
        engine: ``lattice``, or ``pydensecrf`` where that is installed; see `uss_bench.crf.refine`.
        params: in place of the lineage's parameters: ``iterations``, ``bilateral_sxy``, … (see `CrfParams`).

    Raises:
        UsageError: for an unknown parameter, or one that is out of range.
        ContractError: for a wrong shape or dtype, or a logit that is NaN or infinite.
    """
    from uss_bench.errors import UsageError, did_you_mean

    known = CrfParams.__struct_fields__
    for name in params:
        if name not in known:
            raise UsageError(f"The CRF has no parameter '{name}'.", hint=did_you_mean(name, known))
    scores = logits.detach().float().cpu().numpy() if hasattr(logits, "detach") else np.asarray(logits)
    return refine(as_image(image), scores, replace(CrfParams(), **params), engine=engine)
