"""The planted world, run from end to end: a method's accuracy where a chosen cue decides."""

from __future__ import annotations

from typing import Any

from running import Run

from uss_bench.results.collection import Entry

NETWORKS = {
    "all": "planted-net",
    "color": "planted-net-merged",
    "depth": "planted-net-quiet",
    "view": "planted-net-brightness",
    "object": "planted-net",
}
"""The network that goes with each variant of the world; see `tests/plugins/planted_world`."""
SIDE = 48
"""Pixels of a scene: at another side a patch would not be one of the world's."""
PROTOCOL = f"stego320@2[eval_side={SIDE},crf=none]"
MERGED = PROTOCOL.replace("]", ",extra_clusters=merge]")
"""For more clusters than classes: extra ones are merged, and the luck of k-means' start matters little."""


def trained(
    run: Run, method: str, variant: str = "all", *, seed: int = 0, backbone: str | None = None, **params: Any
) -> Entry:
    """Return the run of a method in the planted world, on the network that goes with it or on another one."""
    cell = _cell(variant, params)
    return run(method, "planted", seed=seed, **cell | {"backbone": backbone or cell["backbone"]})


def accuracy(
    run: Run, method: str, variant: str = "all", *, seed: int = 0, backbone: str | None = None, **params: Any
) -> float:
    """Return the accuracy in percent, without a CRF, of a method's last state in the planted world."""
    entry = trained(run, method, variant, seed=seed, backbone=backbone, **params)
    assert entry.record.last is not None
    assert entry.record.last.raw.accuracy is not None
    return entry.record.last.raw.accuracy


def merged_accuracy(run: Run, method: str, variant: str = "all", *, seed: int = 0, **params: Any) -> float:
    """Return what `accuracy` does with twelve clusters, of which those beyond the classes are merged."""
    cell = {**_cell(variant, {"clusters": 12, **params}), "protocol": MERGED}
    record = run(method, "planted", seed=seed, **cell).record
    assert record.last is not None
    assert record.last.raw.accuracy is not None
    return record.last.raw.accuracy


def _cell(variant: str, params: dict[str, Any]) -> dict[str, Any]:
    return {
        "data": {"variant": variant},
        "backbone": NETWORKS[variant],
        "protocol": PROTOCOL,
        "training": {"side": SIDE},
        "params": params,
    }


def kmeans(run: Run, variant: str = "all", *, seed: int = 0) -> float:
    """Return the accuracy of k-means on the network's features."""
    return accuracy(run, "dino", variant, seed=seed, steps=60)
