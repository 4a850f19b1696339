"""Names that earlier versions wrote in British spelling: files and commands that hold them are still read."""

from __future__ import annotations

from collections.abc import Container
from typing import Any

KEYS = {"colour": "color", "labelled": "labeled", "licence": "license"}
"""Keys of specs, classes files and records."""

NAMES = {
    "centre_similarity": "center_similarity",
    "neighbours": "neighbors",
    "tiles-labelled": "tiles-labeled",
    "tiles-labelled-partial": "tiles-labeled-partial",
    "unlabelled": "unlabeled",
    "unlabelled-partial": "unlabeled-partial",
}
"""Parameters of methods, and splits of datasets."""


def known_spelling(name: str, known: Container[str]) -> str:
    """Return `name`, or how it is spelled today where only that is among the `known` names."""
    today = NAMES.get(name, name)
    return today if name not in known and today in known else name


def with_todays_keys(value: Any) -> Any:
    """Return JSON or TOML content with the keys of `KEYS` respelled, at any depth."""
    if isinstance(value, dict):
        return {KEYS.get(key, key): with_todays_keys(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [with_todays_keys(inner) for inner in value]
    return value
