"""Official checkpoints of methods, evaluated like runs: a plugin's hook turns one into a state of the method.

A method's ``spec.toml`` names a function of its folder, which ``uss-bench import-state METHOD FILE`` calls::

    [released]
    entry = "released:state"
    source = "https://github.com/…"
    network = "state_dict.net.model."
    labels_used = ["choice of the checkpoint"]
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

import msgspec
import torch
from safetensors.torch import save
from torch import Tensor

from uss_bench.backbones.checkpoint_files import read_checkpoint
from uss_bench.contracts import Backbone
from uss_bench.errors import DataError, UsageError, blame
from uss_bench.experiment.cells import CellSpec
from uss_bench.experiment.resolving import resolve
from uss_bench.experiment.setup import Setup
from uss_bench.files.digests import digest_file
from uss_bench.plugins.registry import Registry


class ReadState(Protocol):
    """The function that a spec names."""

    def __call__(
        self, weights: Mapping[str, Tensor], options: Mapping[str, Any]
    ) -> tuple[Mapping[str, Any], Mapping[str, Tensor]]:
        """Return the parameters that a checkpoint decides, and a state for `Method.load_state_dict`.

        Args:
            weights: all its tensors, by names that are joined by dots.
            options: what it keeps besides, as tables of strings and numbers; {} where it keeps nothing.

        Raises:
            DataError: with the reason, when the method could not predict as the official code would.
        """
        ...


def with_released_state(asked: CellSpec, paths: Sequence[Path], registry: Registry) -> Setup:
    """Return the setup of a cell whose state is that of an official checkpoint.

    Args:
        paths: its file, or its files, whose tensors are joined.

    Raises:
        UsageError: when the method takes no checkpoints, or --set contradicts the file.
        DataError: when the file is no such checkpoint, or belongs to another backbone.
    """
    spec, plugin = registry.method(asked.method)
    if spec.released is None:
        known = [one.name for one in registry.all("methods") if getattr(one.spec, "released", None)]
        raise UsageError(
            f"Method '{asked.method}' does not read official checkpoints.",
            hint=f"These do: {', '.join(known)}.",
        )
    weights: dict[str, Tensor] = {}
    options: dict[str, Any] = {}
    for path in paths:
        tensors, rest = read_checkpoint(path)
        weights |= tensors
        options |= rest
    named = " and ".join(map(str, paths))
    read: ReadState = plugin.load(spec.released.entry)
    try:
        with blame(f"Method '{asked.method}'", "reading a checkpoint"):
            params, state = read(weights, options)
    except DataError as error:
        raise DataError(
            f"{named} is no checkpoint that '{asked.method}' can take over. {error.what}", hint=error.hint
        ) from None
    for name, value in asked.params.items():
        if params.get(name, value) != value:
            raise UsageError(f"--set {name}={value} contradicts {named}, which has {name} = {params[name]}.")
    content = save({name: value.detach().clone().contiguous() for name, value in state.items()})
    setup = resolve(msgspec.structs.replace(asked, params={**asked.params, **params}), registry)
    _check_network(weights, spec.released.network, setup.backbone, named)
    setup = replace(setup, released=content)
    try:
        _check_reads(setup)
    except Exception as error:
        raise DataError(
            f"The state of {named} does not fit '{setup.backbone.name}': {error}",
            hint="Choose the network that the checkpoint was made with: --backbone NAME.",
        ) from None
    files = ", ".join(f"{path.name} (sha256 {digest_file(path)})" for path in paths)
    return replace(setup, notes=(*setup.notes, f"released weights of {spec.released.source}: {files}"))


def _check_reads(setup: Setup) -> None:
    """Code one image, so that a head of another width is noticed before anything is extracted."""
    method = setup.make_method(setup.released)
    image = torch.zeros(1, 3, 2 * setup.backbone.patch, 2 * setup.backbone.patch)
    with torch.no_grad():
        found = setup.backbone(image, setup.facets)
        method.classify(method.embed({**found, "image": image}))


def _check_network(weights: Mapping[str, Tensor], prefix: str, backbone: Backbone, named: str) -> None:
    """Hold the frozen network in a checkpoint against the backbone that was chosen.

    Position embeddings are left out, which libraries store at other sizes.

    Raises:
        DataError: when they have other weights, or nothing in common.
    """
    if not prefix:
        return
    theirs = {name.removeprefix(prefix): value for name, value in weights.items() if name.startswith(prefix)}
    if not theirs:
        return  # the official code saved its head alone
    ours = {
        name.removeprefix("network."): value.cpu()
        for name, value in backbone.trainable(None).state_dict().items()
        if "pos_embed" not in name
    }
    shared = [name for name in ours if name in theirs]
    other = [name for name in shared if not torch.equal(ours[name].float(), theirs[name].float())]
    if other or not shared:
        why = f"'{other[0]}' has other values" if other else "they have no tensor in common"
        raise DataError(
            f"{named} was made with another network than '{backbone.name}': {why}.",
            hint="Choose the network that it was made with: --backbone NAME, --weights FILE.",
        )
