"""Names with a prefix: ``timm:NAME`` for a model of timm, ``hf:OWNER/NAME`` for a repository on the hub.

A repository says in its ``config.json`` which network of timm its weights belong to, as timm's own do. What
lies in the hub's cache is used as it is, also without a network.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from huggingface_hub import hf_hub_download

from uss_bench.errors import DataError, UsageError
from uss_bench.runtime.text import first_line

from .model import offline_unless_reachable

_WEIGHTS = ("model.safetensors", "pytorch_model.bin")
_REPOSITORY = re.compile(r"[\w.-]+/[\w.-]+", re.ASCII)


@dataclass(frozen=True)
class Source:
    """Where a network and its weights come from."""

    model: str
    """As timm calls it."""
    name: str
    """What records call it."""
    weights: Path | None = None
    """None for those that timm knows of."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """Of the network, where the repository states some."""
    pixels: Mapping[str, list[float]] = field(default_factory=dict)
    """The ``mean`` and ``std`` that the repository states."""


def find_source(name: str, *, with_weights: bool = True) -> Source:
    """Return what a name means, with or without a prefix.

    Args:
        with_weights: whether weights are needed; without, only the network's shape is looked up.

    Raises:
        UsageError: for a name that is no repository's, or a repository that is not one of timm's.
        DataError: when its files are neither in the cache nor to be had.
    """
    prefix, colon, rest = name.partition(":")
    if not colon:
        return Source(name, name)
    if prefix == "timm":
        return Source(rest, rest)
    if prefix != "hf" or not _REPOSITORY.fullmatch(rest):
        raise UsageError(
            f"'{name}' names no backbone.",
            hint="Prefixes are timm:NAME and hf:OWNER/NAME, for example hf:timm/vit_small_patch8_224.dino.",
        )
    config = _config(rest)
    stated = config.get("pretrained_cfg") or {}
    return Source(
        model=str(config["architecture"]),
        name=rest.partition("/")[2].lower(),
        weights=_fetched(rest, *_WEIGHTS) if with_weights else None,
        options=config.get("model_args") or {},
        pixels={key: list(stated[key]) for key in ("mean", "std") if stated.get(key)},
    )


def _config(repository: str) -> dict[str, Any]:
    path = _fetched(repository, "config.json")
    try:
        config = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise DataError(f"The config.json of '{repository}' cannot be read: {error}.") from None
    if isinstance(config, dict) and isinstance(config.get("architecture"), str):
        return config
    kind = config.get("model_type") if isinstance(config, dict) else None
    what = f"a model of transformers, of type '{kind}'" if kind else "no model of timm"
    raise UsageError(
        f"The repository '{repository}' holds {what}, and hf: reads those of timm.",
        hint="Name timm's copy of it (hf:timm/…), a card (uss-bench ls backbones), or wrap the module: "
        "uss_bench.module_backbone.",
    )


def _fetched(repository: str, *names: str) -> Path:
    """Return the first of some files of a repository that there is: of the cache, or else of the hub."""
    for name in names:
        try:
            return Path(hf_hub_download(repository, name, local_files_only=True))
        except Exception:
            continue
    reason = ""
    with offline_unless_reachable() as silent:
        for name in names:
            try:
                return Path(hf_hub_download(repository, name, local_files_only=bool(silent)))
            except Exception as error:  # what it raises depends on the client and its version
                reason = reason or first_line(str(error) or type(error).__name__)
    reason = f"{silent} does not answer" if silent else reason
    raise DataError(
        f"'{names[0]}' of the repository '{repository}' is not in the hub's cache and cannot be fetched: "
        f"{reason}.",
        hint="Fetch it where there is a network (hf download OWNER/NAME) and set HF_HOME to that cache, or "
        "name the network and pass its file: --backbone timm:NAME --weights FILE.",
    )
