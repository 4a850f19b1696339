"""How a configuration looks in figures: color, marker and line of its method, lighter for other settings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

from matplotlib.colors import to_hex, to_rgb

from uss_bench.plots.style import COLORS, MARKERS
from uss_bench.results.collection import Configuration

Line = Literal["-", "--", ":", "-."]

_LINES: tuple[Line, ...] = get_args(Line)
_LIGHTER = 0.3
"""How far each further setting of a method is moved toward white."""
_LIGHTEST = 0.75


@dataclass(frozen=True)
class Look:
    """Color, marker and line: no two of 30 methods share all three."""

    color: str
    marker: str
    line: Line

    @property
    def drawn(self) -> dict[str, Any]:
        """Keywords of a line with marks."""
        return {"color": self.color, "marker": self.marker, "linestyle": self.line}


def look(place: int, setting: int = 0) -> Look:
    """Return the look of the method at a `place` among all, in its `setting`: 0 for the first of a figure."""
    turn, index = divmod(place, len(COLORS))
    share = min(_LIGHTER * setting, _LIGHTEST)
    red, green, blue = ((1 - share) * part + share for part in to_rgb(COLORS[index]))
    return Look(
        color=to_hex((red, green, blue)),
        marker=MARKERS[(index + turn + setting) % len(MARKERS)],
        line=_LINES[(turn + setting) % len(_LINES)],
    )


def looks(configurations: Sequence[Configuration]) -> list[Look]:
    """Return the looks of a figure's configurations.

    A method looks alike in every figure whose records were chosen with all methods known; else methods are
    numbered by their names in the figure.
    """
    known = sorted({one.cell.method.name for one in configurations})
    seen: dict[int, int] = {}
    found = []
    for one in configurations:
        place = known.index(one.cell.method.name) if one.place is None else one.place
        seen[place] = seen.get(place, -1) + 1
        found.append(look(place, seen[place]))
    return found
