"""Boards for the terminal: what fits into about 120 columns."""

from __future__ import annotations

from collections.abc import Sequence

import click
from tabulate import tabulate

from uss_bench.board import text
from uss_bench.board.model import Board, Row
from uss_bench.runtime.formatting import duration

_LABEL_WIDTH = 27
_KEY = (
    "± over seeds; 95 % over test images; rank by paired bootstrap, '= 1st': indistinguishable from the best;"
    "\nlabel gap: points that choosing the checkpoint by the labels would have added."
)


def render(boards: Sequence[Board]) -> str:
    return "\n\n".join([*map(_table, boards), _KEY])


def _table(board: Board) -> str:
    seeds_differ = len({len(row.runs) for row in board.every_row}) > 1
    headers = [
        "method",
        *(["n"] if seeds_differ else []),
        *(text.score_name(score).replace(" ", "\n") for score in board.scores),
        f"{text.score_name(board.primary)}\n95 %",
        "\nrank",
        "label\ngap",
        "K\nused",
        "\ntrain",
        "mem.\nGiB",
    ]
    table = tabulate(
        [_cells(row, board, seeds_differ) for row in board.every_row],
        headers=headers,
        disable_numparse=True,
        colalign=("left", *["right"] * (len(headers) - 1)),
        maxcolwidths=[_LABEL_WIDTH, *[None] * (len(headers) - 1)],
    )
    published = [
        f"Published  {row.title}: {text.claim(one)} ({text.claim_source(one)}): {text.status(one)}"
        for row in board.rows
        for one in row.published[:1]  # the most comparable
    ]
    remarks = [*published, *text.remarks(board)]
    lines = [
        click.style(board.title, bold=True),
        f"{text.data_line(board)};\n{text.seeds_line(board.rows)}\n",
        table,
        *(["", *remarks] if remarks else []),
    ]
    return "\n".join(lines)


def _cells(row: Row, board: Board, with_seeds: bool) -> list[str]:
    primary = row.measures.get(board.primary)
    name = f"· {row.changes}" if row.changes else row.title
    return [
        f"{name}{text.marks(row)}{' (floor)' if row.floor else ''}",
        *([str(len(row.runs))] if with_seeds else []),
        *(text.mean(row.measures.get(score)).replace(" ", "") for score in board.scores),
        text.interval(primary),
        text.rank(primary).replace(text.TIED, "= 1st"),
        text.gap(row, board.primary),
        text.clusters(row).replace(" of ", "/"),
        duration(row.train_seconds),
        text.memory(row).removesuffix(" GiB"),
    ]
