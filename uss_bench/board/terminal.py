"""Boards for the terminal: what fits into about 120 columns."""

from __future__ import annotations

from collections.abc import Sequence

import click
from tabulate import tabulate

from uss_bench.board import text
from uss_bench.board.model import Board, Row

_LABEL_WIDTH = 27
_KEY = (
    "± over seeds; 95 % over test images; rank by paired bootstrap, '= 1st' cannot be told from the best;\n"
    "label gap: points that choosing the checkpoint by the labels would have added."
)


def render(boards: Sequence[Board]) -> str:
    return "\n\n".join([*(_table(board) for board in boards), _KEY])


def _table(board: Board) -> str:
    seeds_differ = len({len(row.runs) for row in board.rows}) > 1
    refinement, metric = board.primary
    headers = [
        "method",
        *(["n"] if seeds_differ else []),
        *(f"{text.METRICS[metric]}\n{text.REFINEMENTS[refinement]}" for refinement, metric in board.scores),
        f"{text.METRICS[metric]} {text.REFINEMENTS[refinement]}\n95 %",
        "\nrank",
        "label\ngap",
        "K\nused",
        "\ntrain",
        "mem.\nGiB",
    ]
    table = tabulate(
        [_cells(row, board, seeds_differ) for row in board.rows],
        headers=headers,
        disable_numparse=True,
        colalign=("left", *["right"] * (len(headers) - 1)),
        maxcolwidths=[_LABEL_WIDTH, *[None] * (len(headers) - 1)],
    )
    lines = [
        click.style(board.title, bold=True),
        f"{text.data_line(board)};",
        f"{text.seeds_line(board.rows)}",
        "",
        table,
    ]
    remarks = [
        *_published(board),
        *text.legend(board.rows),
        *(f"Intervals: {note}" for note in text.notes(board)),
    ]
    return "\n".join([*lines, *(["", *remarks] if remarks else [])])


def _cells(row: Row, board: Board, with_seeds: bool) -> list[str]:
    primary = row.measures.get(board.primary)
    rank = text.rank(primary)
    return [
        f"{row.label}{text.marks(row)}{' (floor)' if row.floor else ''}",
        *([str(len(row.runs))] if with_seeds else []),
        *(text.mean(row.measures.get(score)).replace(" ", "") for score in board.scores),
        text.interval(primary),
        "= 1st" if rank == text.TIED else rank,
        text.gap(row, board.primary),
        text.clusters(row).replace(" of ", "/"),
        text.duration(row.train_seconds),
        text.memory(row.peak_bytes).removesuffix(" GiB"),
    ]


def _published(board: Board) -> list[str]:
    """Return a line per row that has claims, about the most comparable one."""
    return [
        f"Published  {row.label}: {text.claim(row.published[0])} ({text.claim_source(row.published[0])}): "
        f"{text.status(row.published[0])}"
        for row in board.rows
        if row.published
    ]
