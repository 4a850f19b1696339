"""A report as one HTML file: no script, no network; light, dark and on paper."""

from __future__ import annotations

import base64

from uss_bench.plots.style import render
from uss_bench.report.document import Document, Picture
from uss_bench.runtime.pages import environment


def to_html(document: Document) -> str:
    """Return the page; every text of the document is escaped."""
    template = environment(__package__).get_template("report.html")
    return template.render(document=document, picture=_picture)


def _picture(picture: Picture) -> tuple[str, str, int | None]:
    """Return a picture's type, its content in base64, and its width on a screen if it has none of its own."""
    if isinstance(picture.content, bytes):
        return "image/png", base64.b64encode(picture.content).decode(), None
    # A column's figure is drawn for 3.25 inches of paper; a screen is read from further away.
    width = round(130 * picture.content.get_figwidth())
    return "image/svg+xml", base64.b64encode(render(picture.content, "svg")).decode(), width
