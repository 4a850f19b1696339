"""Which cells share a trained state: what decides one, of a cell's inputs, the machine and other runs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from uss_bench.data.images import channel_fingerprint
from uss_bench.experiment.isolation import IsolatedPlugin
from uss_bench.experiment.setup import Setup
from uss_bench.results.files import read_record
from uss_bench.results.record import digest_of, states_a_run
from uss_bench.results.states import StoredState

_NOT_OF_TRAINING = ("git", "cores")
"""Of a record's environment, what does not decide the last bits of a sum."""


def training_inputs(setup: Setup, seed: int) -> dict[str, Any]:
    """Return what of a cell's inputs decides its trained state: no label, protocol or unread test image."""
    images, backbone = setup.train_images, setup.backbone
    read = {"test images": setup.test_images.fingerprint()} if setup.reads_test_images else {}
    return {
        **read,
        "method": setup.spec.name,
        "params": _without_alpha(setup.params),
        "code": setup.code,
        "images": images.fingerprint(),
        "channels": {channel: channel_fingerprint(images, channel) for channel in setup.channels},
        "classes": len(setup.dataset.classes),
        "backbone": msgspec.to_builtins(setup.backbone_id),
        "patch": backbone.patch,
        "training": setup.training.stated,
        "seed": seed,
    }


def training_key(setup: Setup, seed: int) -> str:
    """Return a digest that cells share when one trained state serves them all."""
    return digest_of(training_inputs(setup, seed))


def stored_state(setup: Setup, seed: int, environment: Mapping[str, Any]) -> StoredState | None:
    """Return where the state of a run that begins is kept; None where what decides it is not all known.

    That is so where a run that it builds upon is missing, and for a method that is defined in Python: its
    class may use what no digest covers.

    Args:
        setup: as `Setup.beginning` returns it.
        environment: as the record will state it.
    """
    paths = {name: path for name, (path, _) in setup.places.items()}
    if setup.plugin.made is not None or not all(path.exists() for path in paths.values()):
        return None
    machine = {name: value for name, value in environment.items() if name not in _NOT_OF_TRAINING}
    bases = {name: read_record(path).state_sha256 for name, path in paths.items()}
    apart = isinstance(
        setup.plugin, IsolatedPlugin
    )  # what a record says of isolation must be true of its state
    inputs = {**training_inputs(setup, seed), "bases": bases, "machine": machine, "isolated": apart}
    return StoredState(inputs)


def _without_alpha(params: Mapping[str, Any]) -> dict[str, Any]:
    """Return parameters without the softmax temperature of other runs, which is of their evaluation."""
    return {
        name: {**value, "alpha": None, "params": _without_alpha(value["params"])}
        if states_a_run(value)
        else value
        for name, value in params.items()
    }
