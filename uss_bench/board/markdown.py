"""Boards as Markdown tables."""

from __future__ import annotations

from collections.abc import Sequence

from tabulate import tabulate

from uss_bench.board import text
from uss_bench.board.model import Board, Row, Score
from uss_bench.runtime.formatting import MISSING, duration
from uss_bench.runtime.text import in_markdown


def render(boards: Sequence[Board], level: int = 2) -> str:
    """Return one section per board, under headings of this level."""
    return "\n".join(_section(board, level) for board in boards)


def _section(board: Board, level: int) -> str:
    headers = [
        "method",
        *map(text.score_name, board.scores),
        f"95 % interval, {text.score_name(board.primary)}",
        "rank",
        "label-selected gap",
        "per-image oracle Acc / mIoU",
        "clusters used",
        "train",
        "memory",
    ]
    if claimed := any(row.published for row in board.rows):
        headers += ["published Acc / mIoU", "reproduction"]
    parts = [
        f"{'#' * level} {in_markdown(board.title)}",
        f"{in_markdown(text.data_line(board))}; {text.seeds_line(board.rows)}.",
        _table([_cells(row, board, claimed) for row in board.rows], headers),
        "  \n".join(map(in_markdown, [*text.remarks(board), text.ORACLE])),
    ]
    if variants := [(row, one) for row in board.rows for one in row.variants]:
        parts += [
            f"{'#' * (level + 1)} Other settings",
            _table(
                [_variant(row, one, board) for row, one in variants],
                [
                    "method",
                    "change",
                    *map(text.score_name, board.scores),
                    "against the method's row",
                    "seeds",
                ],
            ),
        ]
    return "\n\n".join(parts) + "\n"


def _table(rows: list[list[str]], headers: list[str]) -> str:
    return tabulate(
        rows,
        headers=headers,
        tablefmt="pipe",
        disable_numparse=True,
        colalign=["left", *["right"] * (len(headers) - 1)],
    )


def _variant(row: Row, variant: Row, board: Board) -> list[str]:
    return [
        f"{in_markdown(row.title)}{text.marks(variant)}",
        in_markdown(variant.changes),
        *(text.mean(variant.measures.get(score)) for score in board.scores),
        text.against(variant, row, board.primary),
        str(len(variant.runs)),
    ]


def _cells(row: Row, board: Board, claimed: bool) -> list[str]:
    primary = row.measures.get(board.primary)
    floor = " *(floor)*" if row.floor else ""
    return [
        f"{in_markdown(row.title)}{text.marks(row)}{floor}",
        *(_score(row, score) for score in board.scores),
        text.interval(primary),
        text.rank(primary),
        text.gap(row, board.primary),
        text.oracle(row, board.primary),
        text.clusters(row),
        duration(row.train_seconds),
        text.memory(row),
        *(_published(row) if claimed else ()),
    ]


def _score(row: Row, score: Score) -> str:
    measure = row.measures.get(score)
    return f"**{text.mean(measure)}**" if measure is not None and measure.place == 1 else text.mean(measure)


def _published(row: Row) -> tuple[str, str]:
    if not row.published:
        return MISSING, MISSING
    nearest = row.published[0]
    return f"{text.claim(nearest)} ({in_markdown(text.claim_source(nearest))})", text.status(nearest)
