"""Records of one cell under two protocols that differ in a single field: what an effect is read from."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import msgspec

from uss_bench.collection import Setting
from uss_bench.protocol import Protocol

_NAMES = ("name", "version")
"""What a protocol is called changes nothing of what it does."""


@dataclass(frozen=True)
class Pair:
    """Two settings that differ in one field of their protocol, and in nothing else."""

    field: str
    """A field of `Protocol`, or of its CRF as ``crf.iterations``."""
    first: Setting
    second: Setting

    @property
    def values(self) -> tuple[Any, Any]:
        """The field's values in the two protocols."""
        first, second = (fields_of(one.records[0].protocol)[self.field] for one in (self.first, self.second))
        return first, second

    @property
    def seeds(self) -> list[int]:
        """The seeds that both have."""
        return sorted({*self.first.seeds} & {*self.second.seeds})

    def turned(self) -> Pair:
        return Pair(self.field, self.second, self.first)


def fields_of(protocol: Protocol) -> dict[str, Any]:
    """Return what a protocol says, flat, without its name: ``{"flip": True, "crf.iterations": 10, …}``."""
    values = msgspec.structs.asdict(protocol)
    crf = msgspec.structs.asdict(values.pop("crf"))
    kept = {name: value for name, value in values.items() if name not in _NAMES}
    return kept | {f"crf.{name}": value for name, value in crf.items()}


def changed_fields(first: Protocol, second: Protocol) -> list[str]:
    """Return the names of the fields in which two protocols differ; their own names do not count."""
    before, after = fields_of(first), fields_of(second)
    return [name for name in before if before[name] != after[name]]


def find_pairs(settings: Iterable[Setting]) -> list[Pair]:
    """Return all pairs, each once.

    Method, parameters, code, data, backbone and at least one seed are the same. The temperature may
    differ only when it is the field in question, since a method's spec can override it.
    """
    alike: dict[bytes, list[Setting]] = {}
    for one in settings:
        bare = msgspec.structs.replace(one.cell, protocol="", protocol_hash="", alpha=0.0, seed=0)
        alike.setdefault(msgspec.json.encode(bare, order="sorted"), []).append(one)
    pairs = []
    for group in alike.values():
        for first, second in itertools.combinations(group, 2):
            fields = changed_fields(first.records[0].protocol, second.records[0].protocol)
            if len(fields) != 1 or (first.cell.alpha != second.cell.alpha and fields != ["alpha"]):
                continue
            pair = Pair(fields[0], first, second)
            if pair.seeds:
                pairs.append(pair)
    return pairs
