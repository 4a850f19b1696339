"""uss-bench: a benchmark and evaluation harness for unsupervised semantic segmentation.

Importing the package imports neither torch nor anything else that takes time: the names below are
looked up when they are first used. To write a plugin, see `uss_bench.contracts`.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from uss_bench.api.backbones import FrozenBackbone, backbone, module_backbone
    from uss_bench.api.cluster_scores import ClusterScores
    from uss_bench.api.crf import dense_crf
    from uss_bench.api.datasets import dataset
    from uss_bench.api.measures import measure_features
    from uss_bench.api.methods import method
    from uss_bench.api.records import compare, records
    from uss_bench.api.runs import run
    from uss_bench.api.trained import Prediction, TrainedModel, load

__version__ = "0.1.0"

_HOMES = {
    "ClusterScores": "cluster_scores",
    "FrozenBackbone": "backbones",
    "Prediction": "trained",
    "TrainedModel": "trained",
    "backbone": "backbones",
    "compare": "records",
    "dataset": "datasets",
    "dense_crf": "crf",
    "load": "trained",
    "measure_features": "measures",
    "method": "methods",
    "module_backbone": "backbones",
    "records": "records",
    "run": "runs",
}
"""The module of `uss_bench.api` that defines each name."""

__all__ = [
    "ClusterScores",
    "FrozenBackbone",
    "Prediction",
    "TrainedModel",
    "__version__",
    "backbone",
    "compare",
    "dataset",
    "dense_crf",
    "load",
    "measure_features",
    "method",
    "module_backbone",
    "records",
    "run",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'uss_bench' has no attribute '{name}'")
    return getattr(importlib.import_module(f"uss_bench.api.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
