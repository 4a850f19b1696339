"""Records of one cell under two protocols that differ in a single field: what an effect is read from."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import msgspec

from uss_bench.protocol import TrainingGeometry, protocol_fields
from uss_bench.results.collection import Configuration
from uss_bench.results.differences import Change, changes


@dataclass(frozen=True)
class Pair:
    """Two configurations that differ in one field of the protocol or of the training geometry alone."""

    change: Change
    """Of a field of `Protocol`, of its CRF as ``crf.iterations``, or of training as ``training.side``."""
    first: Configuration
    second: Configuration

    @property
    def seeds(self) -> list[int]:
        """The seeds that both have."""
        return sorted({*self.first.seeds} & {*self.second.seeds})

    def reversed(self) -> Pair:
        change = Change(self.change.field, self.change.after, self.change.before)
        return Pair(change, self.second, self.first)


def _fields(configuration: Configuration) -> dict[str, Any]:
    trained = msgspec.structs.asdict(configuration.cell.training)
    protocol = protocol_fields(configuration.records[0].protocol)
    return protocol | {f"training.{name}": value for name, value in trained.items()}


def find_pairs(configurations: Iterable[Configuration]) -> list[Pair]:
    """Return all pairs, each once.

    Method, parameters, code, data, backbone and at least one seed are the same. The temperature may
    differ only when it is the field in question, since a method's spec can override it.
    """
    alike: dict[bytes, list[Configuration]] = {}
    for one in configurations:
        bare = msgspec.structs.replace(
            one.cell, protocol="", protocol_hash="", alpha=0.0, seed=0, training=TrainingGeometry()
        )
        alike.setdefault(msgspec.json.encode(bare, order="sorted"), []).append(one)
    pairs = []
    for group in alike.values():
        for first, second in itertools.combinations(group, 2):
            found = changes(_fields(first), _fields(second))
            if len(found) != 1 or (first.cell.alpha != second.cell.alpha and found[0].field != "alpha"):
                continue
            pair = Pair(found[0], first, second)
            if pair.seeds:
                pairs.append(pair)
    return pairs
