"""Records of one cell that differ in a field of the protocol, of training, or of the method alone.

They are what an effect is read from.
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import msgspec

from uss_bench.protocol import TrainingGeometry, protocol_fields
from uss_bench.results.collection import Configuration, shared_identity
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


PARAMETER = "parameter."
"""What the name of a method's parameter has before it where it is the field in question."""


def find_pairs(configurations: Iterable[Configuration]) -> list[Pair]:
    """Return all pairs, each once.

    Method, parameters, code, data, backbone and at least one seed are the same. The temperature may
    differ only when it is the field in question, since a method's spec can override it.
    """
    pairs = []
    for first, second in _alike(configurations):
        found = changes(_fields(first), _fields(second))
        if len(found) == 1 and _same_alpha(first, second, found):
            pair = Pair(found[0], first, second)
            if pair.seeds:
                pairs.append(pair)
    return pairs


def pairs_of(
    configurations: Iterable[Configuration], wanted: Collection[Change]
) -> list[tuple[Configuration, Configuration]]:
    """Return what differs in all of these fields and in nothing else, from before to after.

    Both sides hold the seeds that they have in common.

    Args:
        wanted: changes of the fields of `find_pairs`, or of a parameter of the method, ``parameter.NAME``.
    """
    params = [one.field.removeprefix(PARAMETER) for one in wanted if one.field.startswith(PARAMETER)]
    asked = {one.field: one for one in wanted}
    pairs = []
    for pair in _alike(configurations, params):
        for first, second in (pair, pair[::-1]):
            found = changes(_fields(first, params), _fields(second, params))
            if {one.field: one for one in found} == asked and _same_alpha(first, second, found):
                seeds = {*first.seeds} & {*second.seeds}
                if seeds:
                    pairs.append((_only(first, seeds), _only(second, seeds)))
    return pairs


def _alike(
    configurations: Iterable[Configuration], params: Collection[str] = ()
) -> Iterator[tuple[Configuration, Configuration]]:
    """Yield every two that differ at most in protocol, training, seeds and these parameters."""
    alike: dict[bytes, list[Configuration]] = {}
    for one in configurations:
        bare = msgspec.structs.replace(
            one.cell, protocol="", protocol_hash="", alpha=0.0, training=TrainingGeometry()
        )
        alike.setdefault(shared_identity(bare, *params), []).append(one)
    for group in alike.values():
        yield from itertools.combinations(group, 2)


def _fields(configuration: Configuration, params: Iterable[str] = ()) -> Mapping[str, Any]:
    cell = configuration.cell
    trained = msgspec.structs.asdict(cell.training)
    found = protocol_fields(configuration.records[0].protocol)
    found |= {f"training.{name}": value for name, value in trained.items()}
    return found | {PARAMETER + name: cell.method.params.get(name) for name in params}


def _same_alpha(first: Configuration, second: Configuration, found: Iterable[Change]) -> bool:
    return first.cell.alpha == second.cell.alpha or any(one.field == "alpha" for one in found)


def _only(configuration: Configuration, seeds: Collection[int]) -> Configuration:
    kept = tuple(one for one in configuration.entries if one.record.cell.seed in seeds)
    return replace(configuration, entries=kept)
