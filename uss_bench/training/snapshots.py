"""Snapshots of training: all that a killed run needs to go on as if nothing had happened.

A snapshot holds what the method names (networks, optimizers, generators, samplers, tensors), the
states of the global random generators, and what the context has gathered. It is a torch file, read
with ``weights_only``: data, and nothing that could run.
"""

from __future__ import annotations

import hashlib
import io
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from uss_bench.contracts import Kept
from uss_bench.errors import ContractError, DataError
from uss_bench.files.atomic import atomic_write
from uss_bench.runtime.seeding import random_state, restore_random
from uss_bench.runtime.text import first_line

_DIGEST = hashlib.sha256().digest_size


def save_snapshot(path: Path, kept: Mapping[str, Kept], extra: Mapping[str, Any]) -> None:
    """Write a snapshot, whole or not at all: a SHA-256, and the torch file that it belongs to.

    Args:
        kept: what the method named; their states are written, not they themselves.
        extra: the caller's, plain values.

    Raises:
        ContractError: when a state holds what could not be read again, such as an array of NumPy.
        DataError: when the disk is full or cannot be written; the snapshot before stays.
    """
    content = {
        "kept": {name: _state(name, one) for name, one in kept.items()},
        "random": random_state(),
        "extra": dict(extra),
    }
    buffer = io.BytesIO()
    torch.save(content, buffer)
    packed = buffer.getvalue()
    if not path.exists():  # the first: now is the time to say so, and not when it is needed
        _check_readable(packed, kept)
    try:
        atomic_write(path, hashlib.sha256(packed).digest() + packed)
    except OSError as error:
        raise DataError(
            f"The state of training cannot be kept in {path.parent}: {error.strerror}.",
            hint="Free some space, or choose another folder with --out.",
        ) from None


def read_snapshot(path: Path, kept: Mapping[str, Kept], device: torch.device) -> dict[str, Any] | None:
    """Return the content of a snapshot of `kept`, for `restore`; None without a file.

    Raises:
        DataError: when it is damaged, or of other things.
    """
    try:
        content = path.read_bytes()
        if hashlib.sha256(content[_DIGEST:]).digest() != content[:_DIGEST]:
            raise ValueError("its digest is another")
        found = _load(content[_DIGEST:], device)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, pickle.UnpicklingError) as error:
        raise DataError(f"{path} cannot be read: {first_line(str(error))}.") from None
    if found["kept"].keys() != kept.keys():
        raise DataError(f"{path} holds {', '.join(found['kept'])}, and not {', '.join(kept)}.")
    return found


def restore(found: Mapping[str, Any], kept: Mapping[str, Kept]) -> None:
    """Bring `kept` and the global random generators into the state of a snapshot."""
    for name, one in kept.items():
        state = found["kept"][name]
        if isinstance(one, torch.Generator):
            one.set_state(state.cpu())
        elif isinstance(one, Tensor):
            with torch.no_grad():
                one.copy_(state)
        else:
            one.load_state_dict(state)
    restore_random(found["random"])


def _load(packed: bytes, device: torch.device) -> dict[str, Any]:
    found: dict[str, Any] = torch.load(io.BytesIO(packed), map_location=device, weights_only=True)
    return found


def _check_readable(packed: bytes, kept: Mapping[str, Kept]) -> None:
    try:
        _load(packed, torch.device("cpu"))
    except pickle.UnpicklingError as error:
        raise ContractError(
            f"What is kept of {', '.join(kept)} cannot be read again: {first_line(str(error))}",
            hint="Their state_dict may hold tensors, numbers, strings, lists and dictionaries.",
        ) from None


def _state(name: str, one: Kept) -> Any:
    if isinstance(one, torch.Generator):
        return one.get_state()
    if isinstance(one, Tensor):
        return one.detach().clone()
    if not hasattr(one, "state_dict"):
        raise ContractError(
            f"'{name}' is to be kept through an interruption, and a {type(one).__name__} has no state_dict."
        )
    return one.state_dict()
