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

import jinja2
from markupsafe import Markup

from uss_bench.board import drawing, text
from uss_bench.board.model import SCORES, Board, Picture, Row, Run

_ASSETS = Path(__file__).parent / "assets"


def render(boards: Sequence[Board], home: Path) -> str:
    """Return the page.

    Args:
        home: the folder that the page will lie in; links to records are relative to it.
    """
    script = (_ASSETS / "board.js").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_ASSETS),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )

    def link(run: Run, suffix: str = ".json") -> str:
        relative = Path(os.path.relpath(run.path.with_suffix(suffix), home)).as_posix()
        return quote(relative)

    return environment.get_template("board.html").render(
        boards=boards,
        choices=_choices(boards),
        text=text,
        drawing=drawing,
        SCORES=SCORES,
        link=link,
        data_uri=_data_uri,
        commands=_commands,
        heat=_heat,
        style=Markup((_ASSETS / "board.css").read_text(encoding="utf-8")),
        script=Markup(script),
        script_digest=Markup(digest),
    )


def _choices(boards: Sequence[Board]) -> dict[str, list[str]]:
    """Return what can be filtered by, with the values that occur."""
    return {
        "dataset": sorted({board.key.dataset for board in boards}),
        "backbone": sorted({board.backbone for board in boards}),
        "protocol": sorted({board.key.protocol for board in boards}),
    }


def _commands(row: Row) -> list[str]:
    return list(dict.fromkeys(run.command for run in row.runs if run.command))


def _heat(board: Board) -> list[tuple[Row, list[tuple[float | None, int]]]]:
    """Return IoU per row and class, each with its shade: percent of the table's largest."""
    refinement = board.primary[0]
    rows = [(row, row.iou[refinement] or row.iou["raw"]) for row in board.rows]
    largest = max((value for _, iou in rows for value in iou if value is not None), default=0.0) or 1.0
    return [(row, [(value, round(100 * (value or 0.0) / largest)) for value in iou]) for row, iou in rows]


def _data_uri(picture: Picture) -> str:
    return "data:image/png;base64," + base64.b64encode(picture.png).decode()
