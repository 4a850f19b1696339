"""Principal mask proposals: an image divided along the principal directions of its features."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from scipy.sparse.linalg import eigsh
from torch import Tensor

from uss_bench.contracts import TrainedRun
from uss_bench.crf import refine

IGNORED = 255
"""Pixels of the background, which belong to no mask."""
Sign = Literal["largest", "smallest"]

_COVERED = 0.95
"""Share of patches after which no further mask is looked for."""
_UNCHANGED = 3
"""Masks in a row that cover the same patches end the search too, when they are not the first ones."""
_GAIN = 10
"""Factor that the released code puts between the median filter and the clamp to [0, 1]."""


def mask_proposals(
    item: Mapping[str, Tensor], *, threshold: float, sign: Sign, base: TrainedRun | None
) -> dict[str, np.ndarray]:
    """Return the masks of a training item: ``masks``, uint8 (H, W), numbered from 1, or `IGNORED`.

    Args:
        item: ``image``, float (3, H, W) in [0, 1], and ``tokens``, or what `base` reads.
        base: the run whose code is divided in place of the features.
    """
    if base is None:
        features = item["tokens"].float()
    else:
        batch = {name: item[name][None] for name in base.inputs}
        features = base.load(torch.device("cpu")).embed(batch)[0]
    image = (item["image"] * 255).round().byte().permute(1, 2, 0).contiguous().numpy()
    return {"masks": refined(proposals(features, threshold, sign), image)}


def proposals(features: Tensor, threshold: float, sign: Sign = "largest") -> Tensor:
    """Return soft masks (M, h, w) in [0, 1], each scaled to a maximum of 1.

    Repeated until 95 % of the patches are covered: v is the first principal direction of the
    patches that are left; the anchor is the one of them that v points at most; a patch is in the mask when
    its cosine with the anchor is at least `threshold` times the largest.

    The scatter matrix of what is left is made once, and loses what each mask covers.

    Args:
        features: (D, h, w), as the backbone gives them.
        sign: of v; see `principal_direction`.
    """
    rows = features.flatten(1).T.double()
    unit = F.normalize(rows, dim=1)
    left = torch.ones(len(rows), dtype=torch.bool, device=rows.device)
    total, scatter = rows.sum(dim=0), rows.T @ rows
    masks: list[Tensor] = []
    history: list[Tensor] = []
    while (~left).double().mean() < _COVERED:
        mean = total / left.sum()
        v = principal_direction(scatter / left.sum() - torch.outer(mean, mean), unit[left], sign)
        # Covered patches get 0, as in the released code, and are chosen where all others are negative.
        anchor = unit[((unit @ v) * left).argmax()]
        cosine = (unit @ anchor) * left
        mask = torch.where(cosine < threshold * cosine.max(), 0, cosine)
        masks.append(mask / mask.max().clamp_min(1e-12))
        found = rows[left & (mask > 0)]
        total, scatter = total - found.sum(dim=0), scatter - found.T @ found
        left = left & (mask <= 0)
        history.append(left)
        latest = history[-_UNCHANGED:]
        if len(history) > _UNCHANGED and all(torch.equal(latest[0], one) for one in latest):
            break
    return torch.stack(masks).view(-1, *features.shape[1:]).to(features.dtype)


def principal_direction(covariance: Tensor, unit: Tensor, sign: Sign = "largest") -> Tensor:
    """Return the first eigenvector (D,) of a covariance (D, D), with a declared sign.

    **The sign of a singular vector is arbitrary**, and with it the anchor, so that the released masks depend
    on the linear algebra library. Here v has the sign that makes the largest of its products, in size, with
    a row of `unit` (n, D) positive: it points at a patch. ``smallest`` is the other one.
    """
    size = float(covariance.diagonal().sum())
    if not size > 1e-12:  # all rows are the same: they have no direction but their own
        v = unit[0]
    else:
        start = np.random.default_rng(0).normal(size=len(covariance))
        matrix = (covariance / size).cpu().numpy()
        vector = eigsh(matrix, k=1, v0=start)[1][:, 0] if len(matrix) > 1 else np.ones(1)
        v = torch.from_numpy(vector).to(unit)
    products = unit @ v
    points_at_a_patch = bool(products.max() >= -products.min())
    return v if points_at_a_patch == (sign == "largest") else -v


def refined(masks: Tensor, image: np.ndarray) -> np.ndarray:
    """Return the index map uint8 (H, W) of masks after a median filter and the CRF; `IGNORED` elsewhere.

    The background's value is the mean of all that is not 0, less the sum of the masks.

    Args:
        masks: (M, h, w) in [0, 1].
        image: uint8 (H, W, 3).
    """
    smooth = (median3(masks) * _GAIN).clamp(0, 1)
    inside = smooth[smooth != 0]
    level = inside.mean() if len(inside) else smooth.new_zeros(())
    background = (level - smooth.sum(dim=0)).clamp(0, 1)
    logits = torch.cat([background[None], smooth]).log_softmax(dim=0)
    large = F.interpolate(logits[None], size=image.shape[:2], mode="bilinear", align_corners=False)[0]
    index = refine(image, large.log_softmax(dim=0).cpu().numpy()).argmax(axis=0)
    # Proposals beyond 254 would not fit, and cover less than a patch each by then.
    return np.where((index == 0) | (index >= IGNORED), IGNORED, index).astype(np.uint8)


def median3(values: Tensor) -> Tensor:
    """Return the median of every 3 × 3 neighborhood, the border reflected; (M, h, w).

    A single row or column has nothing to reflect, and is repeated.
    """
    m, h, w = values.shape
    across, down = ("reflect" if size > 1 else "replicate" for size in (w, h))
    padded = F.pad(F.pad(values[:, None], (1, 1, 0, 0), mode=across), (0, 0, 1, 1), mode=down)
    windows = F.unfold(padded, 3)
    return windows.median(dim=1).values.view(m, h, w)
