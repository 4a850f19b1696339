"""Reading weights from a file, and loading them so that a misfit is explained and never ignored."""

from __future__ import annotations

import hashlib
import json
import pickle
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from timm.data.constants import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from torch import Tensor, nn

from uss_bench.errors import DataError, UsageError
from uss_bench.specs import WEIGHTS_SUFFIXES, BackboneSpec

_NESTS = ("teacher", "model", "state_dict")
"""Keys under which training scripts put the state dict; a self-distilled teacher before all."""

_HEADS = ("head.", "head_dist.", "mask_token")
"""What checkpoints hold beyond the trunk: classifiers, projection heads, the mask token of iBOT."""


def read_state_dict(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a ``.safetensors``, ``.pth``, ``.pt`` or ``.pth.tar`` file, on the CPU.

    State dicts nested under ``teacher``, ``model`` or ``state_dict`` are unpacked, and the prefixes
    ``module.`` (`DataParallel`) and ``backbone.`` (self-supervised training) removed. Nothing in the
    file is executed.

    Raises:
        UsageError: for another suffix.
        DataError: when the file is missing, truncated, or holds no weights.
    """
    if not path.name.endswith(WEIGHTS_SUFFIXES):
        raise UsageError(
            f"Weights '{path}' have an unknown suffix.", hint=f"Known: {', '.join(WEIGHTS_SUFFIXES)}."
        )
    try:
        content = _read(path)
    except FileNotFoundError:
        raise DataError(f"Weights '{path}' do not exist.") from None
    except safetensors.SafetensorError as error:
        raise DataError(
            f"Weights '{path}' are truncated, or no safetensors file: {error}.", hint="Fetch the file again."
        ) from None
    except pickle.UnpicklingError:
        raise DataError(
            f"Weights '{path}' are no PyTorch file, or hold pickled objects beside tensors.",
            hint="Only tensors are read, because unpickling runs code. If you trust the file, save its state "
            "dict alone: torch.save(torch.load(FILE, weights_only=False)['state_dict'], NEW).",
        ) from None
    except Exception as error:  # what damage makes torch's unpickler and safetensors raise has no end
        reason = (str(error) or type(error).__name__).split("\n", 1)[0]
        raise DataError(
            f"Weights '{path}' are truncated or unreadable: {reason}.", hint="Fetch the file again."
        ) from None
    return _strip_prefixes(_unpack(content, path))


def load_state_dict(model: nn.Module, state: Mapping[str, Tensor], *, what: str) -> None:
    """Load `state` into `model`, cast to the model's dtype; `what` names both in the error.

    Heads that the model does not have are left out: a trunk has no classes.

    Raises:
        DataError: when keys are missing, unexpected or of another shape, naming the first few.
    """
    expected = model.state_dict()
    offered = {key: value for key, value in state.items() if key in expected or not key.startswith(_HEADS)}
    misfits = [
        _listing("missing", expected.keys() - offered.keys()),
        _listing("unexpected", offered.keys() - expected.keys()),
        _listing(
            "of another shape",
            (
                f"{key} is {list(offered[key].shape)} instead of {list(expected[key].shape)}"
                for key in expected.keys() & offered.keys()
                if offered[key].shape != expected[key].shape
            ),
        ),
    ]
    if any(misfits):
        raise DataError(
            f"{what} do not fit: {'; '.join(filter(None, misfits))}.",
            hint="Choose the --backbone that these weights were made for.",
        )
    model.load_state_dict(offered)


def digest_file(path: Path) -> str:
    """Return the sha256 of the file at `path`, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


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


def normalisation(
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


def _read(path: Path) -> Any:
    if path.suffix == ".safetensors":
        return safetensors.torch.load_file(path)
    return torch.load(path, map_location="cpu", weights_only=True)


def _unpack(content: Any, path: Path) -> dict[str, Tensor]:
    for _ in _NESTS:  # and no deeper: a pickled dict can hold itself
        if not isinstance(content, Mapping):
            break
        inner = next((content[key] for key in _NESTS if isinstance(content.get(key), Mapping)), None)
        if inner is None:
            break
        content = inner
    if not isinstance(content, Mapping) or not content:
        raise DataError(f"Weights '{path}' hold no state dict but a {type(content).__name__}.")
    for key, value in content.items():
        if not isinstance(key, str) or not isinstance(value, Tensor):
            raise DataError(f"Weights '{path}' hold no state dict: '{key}' is no tensor under a name.")
    return dict(content)


def _strip_prefixes(state: dict[str, Tensor]) -> dict[str, Tensor]:
    state = {key.removeprefix("module."): value for key, value in state.items()}
    # A checkpoint that sets its trunk apart in this way keeps training heads beside it.
    trunk = {key: value for key, value in state.items() if key.startswith("backbone.")}
    return {key.removeprefix("backbone."): value for key, value in (trunk or state).items()}


def _listing(what: str, items: Iterable[str], shown: int = 3) -> str:
    names = sorted(items)
    more = ", …" if len(names) > shown else ""
    return f"{len(names)} {what} ({', '.join(names[:shown])}{more})" if names else ""
