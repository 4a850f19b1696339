"""What one image costs a backbone: operations, which are the same everywhere, and seconds, which are not."""

from __future__ import annotations

import time

import numpy as np
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from uss_bench.features.store import FeatureStore
from uss_bench.results.feature_record import BackboneCost

_PASSES = 5
"""After one that warms up; the fastest counts, because nothing makes a pass faster than it is."""


def backbone_cost(store: FeatureStore, image: np.ndarray, facet: str) -> BackboneCost:
    """Measure a backbone on one image, uint8 (H, W, 3), as the store extracts features.

    Attention is counted as the two matrix products that it is: fused kernels escape the counter.
    """
    images = image[None]
    on_gpu = store.device.type == "cuda"

    def passed() -> float:
        clock = time.perf_counter if on_gpu else time.process_time
        start = clock()
        store.encoder(images, [facet])
        if on_gpu:
            torch.cuda.synchronize(store.device)
        return clock() - start

    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        store.encoder(images, [facet])
    passed()
    return BackboneCost(
        parameters=store.backbone.info.parameters,
        size=(image.shape[0], image.shape[1]),
        flops=int(counter.get_total_flops()),
        seconds=round(min(passed() for _ in range(_PASSES)), 6),
    )
