"""Boards as Markdown tables."""

from __future__ import annotations

from collections.abc import Sequence

from uss_bench.board import text
from uss_bench.board.model import Board, Row, Score
from uss_bench.text import in_markdown


def render(boards: Sequence[Board], level: int = 2) -> str:
    """Return one section per board, under headings of this level."""
    return "\n".join(_section(board, level) for board in boards)


def _section(board: Board, level: int) -> str:
    headers = [
        "method",
        *(text.score_name(score) for score in board.scores),
        f"95 % interval, {text.score_name(board.primary)}",
        "rank",
        "label-selected gap",
        "clusters used",
        "train",
        "memory",
        "published Acc / mIoU",
        "reproduction",
    ]
    rows = [_cells(row, board) for row in board.rows]
    if not any(row.published for row in board.rows):
        headers, rows = headers[:-2], [cells[:-2] for cells in rows]
    lines = [
        f"{'#' * level} {in_markdown(board.title)}",
        "",
        f"{in_markdown(text.data_line(board))}; {text.seeds_line(board.rows)}.",
        "",
        _line(headers),
        _line(["---", *["---:"] * (len(headers) - 1)]),
        *(_line(cells) for cells in rows),
        "",
    ]
    remarks = [*text.legend(board.rows), *(f"Intervals: {note}" for note in text.notes(board))]
    if remarks:
        lines += ["  \n".join(in_markdown(remark) for remark in remarks), ""]
    return "\n".join(lines)


def _cells(row: Row, board: Board) -> list[str]:
    primary = row.measures.get(board.primary)
    floor = " *(floor)*" if row.floor else ""
    return [
        f"{in_markdown(row.label)}{text.marks(row)}{floor}",
        *(_score(row, score) for score in board.scores),
        text.interval(primary),
        text.rank(primary),
        text.gap(row, board.primary),
        text.clusters(row),
        text.duration(row.train_seconds),
        text.memory(row.peak_bytes),
        *_published(row),
    ]


def _score(row: Row, score: Score) -> str:
    measure = row.measures.get(score)
    written = text.mean(measure)
    return f"**{written}**" if measure is not None and measure.place == 1 else written


def _published(row: Row) -> tuple[str, str]:
    if not row.published:
        return text.MISSING, text.MISSING
    nearest = row.published[0]
    where = in_markdown(text.claim_source(nearest))
    return f"{text.claim(nearest)} ({where})", text.status(nearest)


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
