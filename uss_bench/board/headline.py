"""The first table of a board page: every method against every dataset, by tiers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from uss_bench.board.model import Board, Measure, Row


@dataclass(frozen=True, slots=True)
class Headline:
    """One column per table under a protocol as published, one row per method."""

    boards: tuple[Board, ...]
    rows: tuple[tuple[str, bool, tuple[Row | None, ...]], ...]
    """Title, whether it is a floor, and the method's row in each table."""

    def measures(self) -> list[tuple[str, bool, list[Measure | None]]]:
        """Return the same with the primary score of each column."""
        found = []
        for title, floor, rows in self.rows:
            cells = zip(rows, self.boards, strict=True)
            found.append((title, floor, [None if row is None else _measure(row, one) for row, one in cells]))
        return found


def headline(boards: Sequence[Board]) -> Headline | None:
    """Return the headline, or None where there are fewer than two tables to set side by side.

    Methods are in the order of their first tiers, then of their mean tier; the floors come last. Rows that
    used labels are not in it, nor are label maps of others that have no scores with CRF.
    """
    shown = [board for board in boards if "[" not in board.key.protocol and len(board.rows) > 1]
    if len(shown) < 2:
        return None
    found: dict[tuple[str, str, bool], dict[int, Row]] = {}
    for column, board in enumerate(shown):
        for row in board.rows:
            if not row.labels_used and _measure(row, board):
                key = (row.method, _without_backbone(row, board), row.floor)
                found.setdefault(key, {})[column] = row

    def order(item: tuple[tuple[str, str, bool], dict[int, Row]]) -> tuple[bool, int, float, str]:
        (_, title, floor), rows = item
        tiers = [measure.tier for column, row in rows.items() if (measure := _measure(row, shown[column]))]
        known = [tier for tier in tiers if tier is not None]
        mean = sum(known) / len(known) if known else len(found)
        return floor, -known.count(1), mean, title

    rows = [
        (
            title,
            floor,
            tuple(rows.get(i) for i in range(len(shown))),
        )
        for (_, title, floor), rows in sorted(found.items(), key=order)
    ]
    return Headline(tuple(shown), tuple(rows))


def _measure(row: Row, board: Board) -> Measure | None:
    return row.measures.get(board.primary)


def _without_backbone(row: Row, board: Board) -> str:
    """Return a title that is the same in every column: each names its own backbone."""
    return row.title.replace(board.backbone, "frozen features")
