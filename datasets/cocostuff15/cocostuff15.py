"""The dataset `cocostuff15`: the files of `cocostuff27`, read by a spec of 15 classes of stuff."""

from __future__ import annotations

from uss_bench.plugins.registry import Registry

CocoStuff15 = Registry().dataset("cocostuff27")[1].load()
