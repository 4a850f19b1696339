"""One style for every figure: sizes of a paper's columns, colours that the colour-blind tell apart.

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
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from uss_bench import progress
from uss_bench.errors import DataError, UsageError
from uss_bench.paths import atomic_write

Format = Literal["pdf", "png", "svg"]
Width = Literal["column", "page"]

WIDTHS: dict[Width, float] = {"column": 3.25, "page": 6.875}
"""Inches: one column, and both columns, of the two-column style of CVPR; ICLR's text is between them."""

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#8C8C8C")
"""The palette of Okabe and Ito (2008), with a grey for its yellow, which is too pale for lines on white."""

MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
INK = "#222222"
FAINT = "#8C8C8C"
SEQUENTIAL = "Blues"
"""The colour map of shares and scores; one hue, so it survives grey printing."""

PNG_DPI = 300
_BODY, _SMALL = 8.0, 7.0

_PLAIN: dict[Any, Any] = {"text.parse_math": False}  # a class may be called "$^$"
_RC: dict[Any, Any] = {
    "font.family": "DejaVu Sans",  # comes with matplotlib
    "mathtext.fontset": "dejavusans",
    "text.usetex": False,
    **_PLAIN,
    "font.size": _BODY,
    "axes.titlesize": _BODY,
    "axes.titleweight": "bold",
    "axes.labelsize": _BODY,
    "xtick.labelsize": _SMALL,
    "ytick.labelsize": _SMALL,
    "legend.fontsize": _SMALL,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.prop_cycle": f"cycler('color', {list(COLOURS)})",
    "grid.color": "#DDDDDD",
    "grid.linewidth": 0.5,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "xtick.major.size": 2.5,
    "ytick.major.size": 2.5,
    "xtick.minor.size": 1.5,
    "ytick.minor.size": 1.5,
    "lines.linewidth": 1.2,
    "lines.markersize": 4.0,
    "patch.linewidth": 0.5,
    "hatch.linewidth": 0.5,
    "legend.frameon": False,
    "legend.handlelength": 1.4,
    "legend.columnspacing": 1.2,
    "figure.facecolor": "white",
    "savefig.facecolor": "white",
    "pdf.fonttype": 42,  # TrueType: text stays text, and publishers' checks pass
    "svg.fonttype": "path",
    "svg.hashsalt": "uss-bench",
}


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
        UsageError: for another suffix.
        DataError: when the file cannot be written.
    """
    content = render(canvas, figure_format(path))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        atomic_write(path, content)
    except OSError as error:
        raise DataError(f"The figure cannot be written to {path}: {error.strerror}.") from None


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
    """Draw text as it is: a dollar begins no formula, and characters that the font lacks are told once."""
    with matplotlib.rc_context(_PLAIN), warnings.catch_warnings(record=True) as caught:
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
        UsageError: when it is none that figures are written in.
    """
    for known in get_args(Format):
        if path.suffix.lower() == f".{known}":
            return known  # type: ignore[no-any-return]
    raise UsageError(
        f"A figure is no '{path.suffix or path.name}' file.", hint="Use .pdf for a paper, or .png or .svg."
    )


def colour(index: int) -> str:
    """Return the colour of series `index`; beyond the palette it repeats, and markers differ."""
    return COLOURS[index % len(COLOURS)]


def marker(index: int) -> str:
    """Return the marker of series `index`, so that colour is never the only difference."""
    return MARKERS[(index + index // len(COLOURS)) % len(MARKERS)]


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
    defaults: dict[Any, Any] = dict(matplotlib.rcParamsDefault)
    kept = {name: value for name, value in defaults.items() if "backend" not in name}
    return matplotlib.rc_context({**kept, **_RC})
