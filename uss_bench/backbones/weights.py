"""Fitting weights to a network, so that a misfit is explained and never ignored, and their digests."""

from __future__ import annotations

import hashlib
import itertools
import json
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import torch
from timm.data.constants import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from torch import Tensor, nn

from uss_bench.errors import DataError
from uss_bench.plugins.specs import BackboneSpec

_HEADS = (
    *("head", "fc.", "classifier", "mask_token", "decoder", "predictor", "projector", "projection_head"),
    *("prototypes", "last_layer", "queue", "dino_head", "ibot_head"),
)
"""How names begin of what checkpoints hold beyond the trunk: classifiers, heads, decoders, mask tokens."""

_PREFERRED = ("teacher", "encoder_q", "base_encoder")
"""Of two networks in one file, the one that its authors evaluate: of DINO, of MoCo v1 and v2, of MoCo v3."""


_WRAPPERS = ("_orig_mod.", "_fsdp_wrapped_module.", "_checkpoint_wrapped_module.")
"""What `torch.compile` and its like put into names, at any depth."""


def trunk_of(
    state: Mapping[str, Tensor], expected: Collection[str], *, prefer: str = ""
) -> dict[str, Tensor]:
    """Return the tensors of one network in a state dict, by the network's own names.

    What stands before these names (``module.``, ``_orig_mod.``, ``backbone.``, ``teacher.net.model.`` …) is
    removed, and what has another prefix, such as a head beside the trunk, left out. A state in which no
    name ends as expected comes back as it is.

    Args:
        expected: the names in the network's own state dict.
        prefer: of several networks, the one with this name in its prefix; by default the one that is
            evaluated by the authors of DINO and MoCo.

    Raises:
        DataError: when several networks fit equally well, and differ.
    """
    for wrapper in _WRAPPERS:
        state = {key.replace(wrapper, ""): value for key, value in state.items()}
    counts = Counter(
        "".join(f"{part}." for part in parts[:start])
        for parts in (key.split(".") for key in state)
        for start in range(len(parts))
        if ".".join(parts[start:]) in expected
    )
    most = max(counts.values(), default=0)
    fitting = [prefix for prefix, count in counts.items() if count == most] or [""]
    trunks = [
        {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
        for prefix in fitting
    ]
    for name in filter(None, (prefer, *_PREFERRED)):
        for prefix, trunk in zip(fitting, trunks, strict=True):
            if name in prefix.split("."):
                return trunk
    if any(_differ(trunks[0], other, expected) for other in trunks[1:]):
        raise DataError(
            f"The weights hold {len(fitting)} networks that differ: {' and '.join(map(repr, fitting))}.",
            hint="Save the tensors of one of them alone.",
        )
    return trunks[0]


def _differ(first: Mapping[str, Tensor], second: Mapping[str, Tensor], names: Collection[str]) -> bool:
    return any(
        (name in first) != (name in second) or (name in first and not torch.equal(first[name], second[name]))
        for name in names
    )


def load_state_dict(model: nn.Module, state: Mapping[str, Tensor], *, what: str) -> None:
    """Load `state` into `model`, cast to the model's dtype; `what` names both in the error.

    Heads that the model does not have are left out: a trunk has no classes.

    Raises:
        DataError: when keys are missing, unexpected or of another shape, naming the first few.
    """
    expected = model.state_dict()
    offered = {key: value for key, value in state.items() if key in expected or not key.startswith(_HEADS)}
    reshaped = [
        f"{key} is {list(offered[key].shape)} instead of {list(expected[key].shape)}"
        for key in sorted(expected.keys() & offered.keys(), key=lambda key: (key != "pos_embed", key))
        if offered[key].shape != expected[key].shape
    ]
    misfits = [
        _listing("missing", sorted(expected.keys() - offered.keys())),
        _listing("unexpected", sorted(offered.keys() - expected.keys())),
        _listing("of another shape", reshaped),
    ]
    if any(misfits):
        columns = zip(*(key.split(".") for key in offered), strict=False)
        common = ".".join(
            column[0] for column in itertools.takewhile(lambda one: len(set(one)) == 1, columns)
        )
        named = f" All names in the file begin with '{common}'." if common else ""
        raise DataError(
            f"{what} do not fit: {'; '.join(filter(None, misfits))}.{named}",
            hint="Choose the --backbone that these weights were made for.",
        )
    model.load_state_dict(offered)


def digest_state(state: Mapping[str, Tensor]) -> str:
    """Return a sha256 over names, dtypes, shapes and values of `state`, whatever their order."""
    digest = hashlib.sha256()
    for key in sorted(state):
        value = state[key].detach().cpu().contiguous()
        digest.update(f"{key} {value.dtype} {list(value.shape)}\n".encode())
        digest.update(value.numpy().tobytes())
    return digest.hexdigest()


def digest_with(digest: str, **settings: object) -> str:
    """Return `digest`, mixed with `settings` if there are any: how else than usual the weights are used.

    The same weights with another stride give other features, which must not pass for the same.
    """
    if not settings:
        return digest
    return hashlib.sha256(json.dumps([digest, settings], sort_keys=True).encode()).hexdigest()


def normalization(
    spec: BackboneSpec,
    mean: Sequence[float] = IMAGENET_DEFAULT_MEAN,
    std: Sequence[float] = IMAGENET_DEFAULT_STD,
) -> tuple[Tensor, Tensor, dict[str, object]]:
    """Return the mean and deviation of the pixels, (3, 1, 1), that `spec` states, or else those given.

    The third value holds what differs from those given, for `digest_with`.
    """
    usual = {"mean": list(mean), "std": list(std)}
    used = {"mean": spec.mean or usual["mean"], "std": spec.std or usual["std"]}
    tensors = {key: torch.tensor(values).view(3, 1, 1) for key, values in used.items()}
    return tensors["mean"], tensors["std"], {key: used[key] for key in used if used[key] != usual[key]}


def parameter_count(*modules: nn.Module) -> int:
    """Return how many numbers the parameters of `modules` are, each counted once."""
    found = {weight for module in modules for weight in module.parameters()}
    return sum(weight.numel() for weight in found)


def pixel_statistics(mean: Tensor, std: Tensor) -> dict[str, Any]:
    """Return the fields of a `BackboneInfo` that say what pixels are normalized with."""
    return {"mean": tuple(mean.flatten().tolist()), "std": tuple(std.flatten().tolist())}


def _listing(what: str, names: Sequence[str], shown: int = 3) -> str:
    more = ", …" if len(names) > shown else ""
    return f"{len(names)} {what} ({', '.join(names[:shown])}{more})" if names else ""
