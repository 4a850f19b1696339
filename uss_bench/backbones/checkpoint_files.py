"""Reading weights from a file: tensors only, from wherever a training script put them, by their own names."""

from __future__ import annotations

import contextlib
import pickle
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from uss_bench.errors import DataError, UsageError
from uss_bench.plugins.specs import WEIGHTS_SUFFIXES
from uss_bench.runtime.text import first_line

_NESTS = (
    "teacher",
    "model",
    "state_dict",
    "model_state_dict",
    "network",
    "net",
    "encoder",
    "backbone",
    "student",
)
"""Keys under which training scripts put the state dict, in order of choice: a self-distilled teacher first,
its student only where it is alone."""
_DEEPEST = 4
"""Levels of nesting that are searched: a pickled dict can hold itself."""
_AGAIN = "Fetch the file again."
_TENSORS = "Save the tensors alone where the file was made: torch.save(model.state_dict(), FILE)."
_ARRAYS = "Convert its arrays to tensors by name, and save them as .safetensors."

_KINDS = {
    b"version https://git-lfs": ("a pointer of Git LFS", "Fetch the file that it stands for: git lfs pull."),
    b"\x89PNG": ("an image", ""),
    b"\xff\xd8\xff": ("an image", ""),
    b"\x89HDF": ("an HDF5 file", _ARRAYS),
    b"\x93NUMPY": ("a NumPy array", ""),
    b"\x1f\x8b": ("a gzip archive", "Unpack it first."),
    b"%PDF": ("a PDF", ""),
}
"""What a file that is no checkpoint may be, by its first bytes, and what to do."""


def read_state_dict(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a ``.safetensors``, ``.pth``, ``.pt`` or ``.pth.tar`` file by name, on the CPU.

    What the file is depends on its content, not on its suffix. A state dict that is nested, under
    ``teacher`` or ``model_state_dict`` for example, is unpacked. Nothing in the file is executed, and
    of objects only argparse's options may stand beside the tensors, as a training script leaves them.

    Raises:
        UsageError: for another suffix.
        DataError: when the file is missing, truncated, something else, or holds no weights.
    """
    if not path.name.endswith(WEIGHTS_SUFFIXES):
        raise UsageError(
            f"Weights '{path}' have an unknown suffix.", hint=f"Known: {', '.join(WEIGHTS_SUFFIXES)}."
        )
    try:
        with path.open("rb") as file:
            start = file.read(1024)
    except FileNotFoundError:
        raise DataError(f"Weights '{path}' do not exist.") from None
    except OSError as error:
        raise DataError(f"Weights '{path}' cannot be read: {error.strerror}.") from None
    try:
        if _is_safetensors(start):
            return safetensors.torch.load_file(path)
        # A path would tell torch what to expect by its suffix. The script's options are read over.
        options = torch.serialization.safe_globals([(_Inert, "argparse.Namespace")])
        with options, path.open("rb") as file:
            content = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # what damage makes torch's unpickler and safetensors raise has no end
        kind, advice = _kind(path, start)
        if kind:
            raise DataError(
                f"Weights '{path}' are no checkpoint but {kind}.", hint=advice or _AGAIN
            ) from None
        if isinstance(error, pickle.UnpicklingError) and not _is_cut(error):
            raise DataError(
                f"Weights '{path}' hold Python objects beside tensors, and only tensors are read: the others "
                "run code.",
                hint=_TENSORS,
            ) from None
        reason = first_line(str(error) or type(error).__name__)
        raise DataError(f"Weights '{path}' are truncated or unreadable: {reason}.", hint=_AGAIN) from None
    return _unpack(content, path)


def _is_safetensors(start: bytes) -> bool:
    """Whether a file begins with the length of a JSON header, and the header."""
    return len(start) > 8 and start[8:9] == b"{" and int.from_bytes(start[:8], "little") < 2**32


def _is_cut(error: pickle.UnpicklingError) -> bool:
    return "ran out of input" in str(error).lower() or "truncated" in str(error).lower()


def _kind(path: Path, start: bytes) -> tuple[str, str]:
    """Return what a file is that torch cannot load, and what to do; two empty strings if that is unknown."""
    if not start:
        return "an empty file", ""
    for magic, known in _KINDS.items():
        if start.startswith(magic):
            return known
    if start.lstrip()[:9].lower().startswith((b"<!doctype", b"<html", b"<?xml")):
        return (
            "a web page",
            "Open its address in a browser: it may ask for a login, or name the file's address.",
        )
    if not any(byte < 9 or 13 < byte < 32 for byte in start):
        return "a text file", ""
    try:
        with zipfile.ZipFile(path) as archive:
            names = [name.rpartition("/")[2] for name in archive.namelist()]
    except (OSError, zipfile.BadZipFile):
        return "", ""
    if "constants.pkl" in names:
        return "a TorchScript program", _TENSORS
    if any(name.endswith(".npy") for name in names):
        return "a NumPy archive", _ARRAYS
    return ("", "") if "data.pkl" in names else ("a zip archive", "Unpack it first.")


def _unpack(content: Any, path: Path) -> dict[str, Tensor]:
    """Return the state dict in what was loaded, from under the keys that training scripts use."""
    for _ in range(_DEEPEST):
        if not isinstance(content, Mapping):
            break
        inner = [
            key
            for key, value in content.items()
            if isinstance(key, str) and isinstance(value, Mapping) and value
        ]
        known = [key for key in _NESTS if key in inner]
        if not known and any(isinstance(value, Tensor) for value in content.values()):
            break
        if not known and len(inner) != 1:
            break
        content = content[(known or inner)[0]]
    if not isinstance(content, Mapping):
        raise DataError(f"Weights '{path}' hold no state dict but a {type(content).__name__}.", hint=_TENSORS)
    state = {
        key: value for key, value in content.items() if isinstance(key, str) and isinstance(value, Tensor)
    }
    others = [key for key, value in content.items() if key not in state and not _is_remark(key, value)]
    if not state or others:
        found = f"'{others[0]}' is not a tensor under a name" if others else "it has no tensors"
        raise DataError(f"Weights '{path}' hold no state dict: {found}.", hint=_TENSORS)
    return state


def _is_remark(key: object, value: object) -> bool:
    """Whether an entry says something of the training, such as the epoch or the name of the network."""
    return isinstance(key, str) and isinstance(value, (str, int, float, type(None), _Inert))


def read_checkpoint(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return all tensors of a training script's checkpoint, and the options that it keeps beside them.

    Unlike `read_state_dict` it reads files that hold Python objects, as those of Lightning do. Nothing in the
    file is executed and no class is imported: an object that is not a tensor or a plain container becomes an
    inert one that keeps the attributes which the file gives it.

    Returns:
        Tensors by name, names of nested tables joined by dots: ``state_dict.net.cluster1.0.weight``; and the
        rest as plain tables of strings and numbers, those of OmegaConf and argparse among them.

    Raises:
        DataError: when the file is missing, truncated or no checkpoint of torch.
    """
    try:
        strange = [
            name
            for name in torch.serialization.get_unsafe_globals_in_checkpoint(path)
            if name.partition(".")[0] not in ("os", "posix", "nt", "sys", "builtins")
        ]
        inert: list[Any] = [(type("Inert", (_Inert,), {}), name) for name in strange]
        with torch.serialization.safe_globals(inert), path.open("rb") as file:
            content = torch.load(file, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise DataError(f"The checkpoint '{path}' does not exist.") from None
    except Exception as error:
        kind = ""
        with contextlib.suppress(OSError), path.open("rb") as file:
            kind, _ = _kind(path, file.read(1024))
        reason = f"is {kind}" if kind else first_line(str(error) or type(error).__name__)
        raise DataError(f"The checkpoint '{path}' cannot be read: {reason}.", hint=_AGAIN) from None
    tensors: dict[str, Tensor] = {}
    _collect(content, "", tensors, 0)
    if not tensors:
        raise DataError(f"The checkpoint '{path}' holds no tensors under names.", hint=_AGAIN)
    plain = _plain(content, 0)
    return tensors, plain if isinstance(plain, dict) else {}


class _Inert:
    """Takes the place of an object of any class: it keeps attributes, and has no behavior."""

    def __new__(cls, *_: object, **__: object) -> _Inert:
        return object.__new__(cls)

    def __init__(self, *_: object, **__: object) -> None:
        """Ignore what the class would have been given."""

    def __setstate__(self, state: object) -> None:
        if isinstance(state, dict):
            self.__dict__.update(state)


_DEEPEST_OPTION = 12
"""Levels of tables of options: objects may hold each other in circles."""


def _collect(content: Any, prefix: str, found: dict[str, Tensor], depth: int) -> None:
    """Put the tensors of nested tables into `found`, by names joined by dots."""
    if isinstance(content, Mapping) and depth < _DEEPEST:
        for key, value in content.items():
            if isinstance(value, Tensor):
                found[f"{prefix}{key}"] = value
            else:
                _collect(value, f"{prefix}{key}.", found, depth + 1)


def _plain(value: Any, depth: int) -> Any:
    """Return tables, strings and numbers, inert objects by their attributes, and None for all else."""
    if isinstance(value, (str, int, float, bool, type(None))):
        return value
    if depth > _DEEPEST_OPTION:
        return None
    if isinstance(value, _Inert):
        own = vars(value)  # OmegaConf keeps a table in _content, and one value in _val
        return _plain(own.get("_content", own.get("_val", own)), depth + 1)
    if isinstance(value, Mapping):
        return {str(key): _plain(one, depth + 1) for key, one in value.items() if not isinstance(one, Tensor)}
    if isinstance(value, (list, tuple)):
        return [_plain(one, depth + 1) for one in value]
    return None
