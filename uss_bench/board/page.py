"""Boards as one HTML file that opens from disk: no network, no framework, readable without scripts.

The template escapes whatever it is given, so nothing that a record says becomes markup; and the file's
content security policy lets no script run but ours, known by its digest, and no request leave.
"""

from __future__ import annotations

import base64
import hashlib
import os
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import quote

from markupsafe import Markup

from uss_bench.board import text
from uss_bench.board.headline import headline
from uss_bench.board.model import Board, Row, Run
from uss_bench.results.scores import METRICS, REFINEMENTS
from uss_bench.runtime import formatting
from uss_bench.runtime.pages import environment

_ASSETS = Path(__file__).parent / "assets"


def render(boards: Sequence[Board], home: Path, *, backbones: bool = False) -> str:
    """Return the page.

    Args:
        home: the folder that the page will lie in; links to records are relative to it.
        backbones: whether the page of backbones lies beside it.
    """
    script = (_ASSETS / "board.js").read_text(encoding="utf-8")

    def link(run: Run, suffix: str = ".json") -> str:
        return quote(Path(os.path.relpath(run.path.with_suffix(suffix), home)).as_posix())

    return (
        environment(__package__)
        .get_template("board.html")
        .render(
            boards=boards,
            backbones=backbones,
            headline=headline(boards),
            choices={
                "dataset": sorted({board.key.dataset for board in boards}),
                "backbone": sorted({board.backbone for board in boards}),
                "protocol": sorted({board.key.protocol for board in boards}),
            },
            text=text,
            formatting=formatting,
            METRICS=METRICS,
            REFINEMENTS=REFINEMENTS,
            link=link,
            heat=_heat,
            style=Markup((_ASSETS / "board.css").read_text(encoding="utf-8")),
            script=Markup(script),
            script_digest=Markup(base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()),
        )
    )


def _heat(board: Board) -> list[tuple[Row, list[tuple[float | None, int]]]]:
    """Return IoU per row and class, each with its shade: percent of the table's largest."""
    rows = [(row, row.iou[board.primary[0]] or row.iou["raw"]) for row in board.rows]
    largest = max((value for _, iou in rows for value in iou if value is not None), default=0.0) or 1.0
    return [(row, [(value, round(100 * (value or 0.0) / largest)) for value in iou]) for row, iou in rows]
