"""One style for every figure: sizes of a paper's columns, colors that the color-blind tell apart.

A figure is drawn inside ``with figure(…) as canvas`` and written by `save`. The style does not depend on
the user's matplotlibrc, on installed fonts or on LaTeX, and the same figure gives the same bytes.
"""

from __future__ import annotations

import io
import math
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, get_args

import matplotlib
from matplotlib import rc_params_from_file
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from uss_bench.errors import DataError, UsageError
from uss_bench.files.atomic import atomic_write
from uss_bench.files.owned import OwnedFiles, write_owned
from uss_bench.runtime import progress

Format = Literal["pdf", "png", "svg"]
Width = Literal["column", "page"]

WIDTHS: dict[Width, float] = {"column": 3.25, "page": 6.875}
"""Inches: one column, and both columns, of the two-column style of CVPR; ICLR's text is between them."""

COLORS = (
    *("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9"),
    *("#332288", "#882255", "#999933", "#000000", "#8C510A", "#44AA99"),
)
"""The palette of Okabe and Ito (2008) but for its yellow, which is too pale for lines on white; then four of
Tol's muted scheme (2021), and a brown. Color-blind readers can tell them apart."""

MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
INK = "#222222"
FAINT = "#8C8C8C"
SEQUENTIAL = "Blues"
"""The color map of shares and scores; one hue, so it survives gray printing."""

PNG_DPI = 300
_SHEET = Path(__file__).parent / "assets" / "uss-bench.mplstyle"


@contextmanager
def figure(width: Width = "column", height: float = 2.2) -> Iterator[Figure]:
    """Give an empty figure, `height` inches high, and the style while it is drawn.

    Its layout is constrained, so that labels, legends and titles get the room they need.
    """
    with _style():
        canvas = Figure(figsize=(WIDTHS[width], height), layout="constrained")
        FigureCanvasAgg(canvas)
        yield canvas


def save(canvas: Figure, path: Path) -> None:
    """Write a figure as PDF, PNG or SVG, by the suffix, whole or not at all.

    Raises:
        UsageError: for another suffix, or when it would replace a file that uss-bench did not write.
        DataError: when the file cannot be written.
    """
    write_owned(path, render(canvas, figure_format(path)))


def save_beside(record: Path, suffix: str, canvas: Figure) -> None:
    """Write a figure as the PNG of this suffix that belongs to a record.

    Raises:
        DataError: when the file cannot be written.
    """
    target = record.with_suffix(suffix)
    try:
        atomic_write(target, render(canvas, "png"))
    except OSError as error:
        raise DataError(
            f"The picture {target} cannot be written: {error.strerror}.",
            hint="Free some space, and give the same command again: it draws what is missing.",
        ) from None


def check_target(path: Path) -> None:
    """Raise `UsageError` if no figure can be written to this path, before any work."""
    figure_format(path)
    OwnedFiles(path.parent).check([path.name])


def render(canvas: Figure, format: Format) -> bytes:
    """Return the bytes of a figure: the same for the same figure, with no date in them."""
    undated: dict[Format, dict[str, Any]] = {
        "pdf": {"CreationDate": None},
        "png": {"Software": None},
        "svg": {"Date": None},
    }
    buffer = io.BytesIO()
    with _style(), plain_text():
        canvas.savefig(buffer, format=format, dpi=PNG_DPI, metadata=undated[format])
    return buffer.getvalue()


@contextmanager
def plain_text() -> Iterator[None]:
    """Draw text as it is: a dollar begins no formula, and characters that the font lacks are named once."""
    with matplotlib.rc_context({"text.parse_math": False}), warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield
    others = [one for one in caught if not str(one.message).startswith("Glyph ")]
    if len(others) < len(caught):
        progress.log("The font of figures lacks some characters of the names in them: boxes stand for these.")
    for one in others:
        warnings.warn_explicit(one.message, one.category, one.filename, one.lineno)


def figure_format(path: Path) -> Format:
    """Return the format that a path's suffix asks for.

    Raises:
        UsageError: when figures are not written in that format.
    """
    for known in get_args(Format):
        if path.suffix.lower() == f".{known}":
            return known  # type: ignore[no-any-return]
    raise UsageError(
        f"A figure cannot be a '{path.suffix or path.name}' file.",
        hint="Use .pdf for a paper, or .png or .svg.",
    )


def color(index: int) -> str:
    """Return the color of series `index`; beyond the palette it repeats, and markers differ."""
    return COLORS[index % len(COLORS)]


def marker(index: int) -> str:
    """Return the marker of series `index`, so that color is never the only difference."""
    return MARKERS[(index + index // len(COLORS)) % len(MARKERS)]


def legend_below(canvas: Figure, handles: Sequence[Any], labels: Sequence[str]) -> None:
    """Put a legend under the axes, in as many columns as its labels leave room for."""
    rows = legend_rows(labels, canvas.get_figwidth())
    where: Literal["outside lower center", "lower center"] = "lower center"
    if canvas.get_layout_engine() is not None:
        where = "outside lower center"
    canvas.legend(handles, labels, loc=where, ncols=math.ceil(len(labels) / rows))


def legend_rows(labels: Sequence[str], width: float) -> int:
    """Return how many rows `legend_below` needs in a figure `width` inches wide."""
    handle, letter = 0.45, 0.06  # inches
    across = width / (handle + letter * max(len(label) for label in labels))
    return math.ceil(len(labels) / max(1, int(across)))


def _style() -> Any:
    """Return the context in which matplotlib's settings are its defaults and the style's."""
    settings: dict[Any, Any] = dict(rc_params_from_file(_SHEET, use_default_template=True))
    return matplotlib.rc_context({name: value for name, value in settings.items() if "backend" not in name})
