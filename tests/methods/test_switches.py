"""Switches of the frozen methods: each one, moved to its other position, gives another trained state.

Switches of a released bug, of a reading and of an ablation alike. Whoever adds one adds it here, or the first
test fails; one that moves nothing fails the second and is named.
"""

from __future__ import annotations

import typing
from typing import Any, Literal

import pytest
from planted import NETWORKS, PROTOCOL, SIDE

from uss_bench.plugins.registry import Registry
from uss_bench.results.files import read_state

Params = dict[str, Any]

EVERY: dict[str, Params] = {
    "standardize": {"standardize": False},
    "zero_clamp": {"zero_clamp": False},
    "pointwise": {"pointwise": False},
}
"""Of all methods that have them."""
SWITCHES: dict[str, dict[str, Params]] = {
    "hp": {
        "feature_dropout": {"feature_dropout": False},
        "task_specific": {"task_specific": False},
        "propagate": {"propagate": False},
    },
    "eagle": {
        "colors": {"colors": "rgb"},
        "mean_first": {"mean_first": False},
        "weigh_patches": {"weigh_patches": False},
        "count_steps": {"count_steps": "optimizers"},
    },
    "depthg": {
        "depth_normalized": {"depth_normalized": True},
        "depth_at_points": {"depth_at_points": True},
        "sampling": {"sampling": "random"},
        "fps_xy": {"fps_xy": "correct"},
        "decay_at_start": {"decay_at_start": False},
    },
    "ppap": {
        "exclude_ambiguous": {"exclude_ambiguous": False},
        "optimizer": {"optimizer": "adamw", "weight_decay": 0.1},
    },
    "primaps": {
        "sign": {"sign": "smallest"},
        "flip": {"flip": False},
        "use_masks": {"use_masks": False},
        "count_ignored": {"count_ignored": False},
    },
    "cause": {
        "head": {"head": "mlp"},
        "codebook_by": {"codebook_by": "kmeans++"},
        "use_bank": {"use_bank": False},
        "shared_start": {"shared_start": False},
    },
    "equss": {"correspond": {"correspond": "quantized"}, "output": {"output": "code"}},
    "reib": {"reconstruction": {"reconstruction": "deep"}, "comparison": {"comparison": "ssim"}},
}
NEEDED: dict[str, Params] = {
    "eagle": {"smoothing": 0.1, "weigh_patches": True},
    "depthg": {"depth_normalized": False},
    "reib": {"base": None},
}
"""What must hold for a switch to count: as released, depth is a constant wherever it is read.

The first positions are those of the network here: features are standardized, EAGLE weighs its patches.
"""
LONG = ("hp", "primaps", "cause")
"""Methods whose runs take more than ten seconds together."""
ELSEWHERE = {
    ("hp", "view"): "test_hp: normalized pixels of the planted network are those of RGB",
    ("primaps", "view"): "test_primaps: the same",
    ("cause", "skip_without_positives"): "test_cause: it takes an image without a positive pair",
    ("primaps", "base_dropout"): "test_primaps: it takes a base",
}


def positions(kind: object) -> bool:
    """Whether a parameter of this type is a switch."""
    return kind is bool or typing.get_origin(kind) is Literal


@pytest.mark.parametrize("method", SWITCHES)
def test_every_switch_of_a_method_is_in_the_table(method: str) -> None:
    made = Registry().find("methods", method).load()
    own = {name for name, kind in typing.get_type_hints(made).items() if positions(kind)}
    elsewhere = {name for one, name in ELSEWHERE if one == method}
    assert own - EVERY.keys() == SWITCHES[method].keys() | elsewhere


@pytest.mark.parametrize(
    "method", [pytest.param(one, marks=pytest.mark.slow) if one in LONG else one for one in SWITCHES]
)
def test_both_positions_of_every_switch_give_different_states(run, method: str) -> None:
    plugin = Registry().find("methods", method)
    base = {**plugin.spec.check.params, **NEEDED.get(method, {})}
    names = typing.get_type_hints(plugin.load())
    moved = SWITCHES[method] | {name: one for name, one in EVERY.items() if name in names}

    def state(params: Params) -> bytes:
        asked = {"backbone": NETWORKS["all"], "protocol": PROTOCOL, "training": {"side": SIDE}}
        entry = run(method, "planted", params={**base, **params}, **asked)
        return read_state(entry.path, entry.record)

    start = state({})
    assert state({}) == start, "the same setting gives the same state"
    assert not [name for name, params in moved.items() if state(params) == start]
