"""The dataset `cocostuff3`: the files of `cocostuff27`, read by a spec of 3 classes of stuff."""

from __future__ import annotations

from uss_bench.plugins.registry import Registry

CocoStuff3 = Registry().dataset("cocostuff27")[1].load()
