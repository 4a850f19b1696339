"""Classes files, and what they make of the values in a label file.

A classes file::

    name = "mydata"
    ignore_values = [255]      # grey values, or colours such as [0, 0, 0]
    train = "train"            # optional: which splits to train and test on
    test = "test"

    [[classes]]                # in label order
    name = "road"
    colour = [128, 64, 128]
    values = [3, 4]            # optional: default its own position, here 0
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

import msgspec
import numpy as np

from uss_bench.contracts import IGNORE
from uss_bench.errors import DataError, UsageError, did_you_mean
from uss_bench.images import read_label
from uss_bench.specs import ClassSpec, Colour, Name, decode_toml

SHIPPED = Path(__file__).parent / "classes"

_UNKNOWN = -2
_LARGEST_GREY = 65535

Value = int | Colour


class ClassesFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a classes file says."""

    name: Name
    classes: Annotated[list[ClassSpec], msgspec.Meta(min_length=1)]
    ignore_values: list[Value] = []
    train: str = ""
    test: str = ""


def read_classes(which: str | Path) -> tuple[ClassesFile, LabelMap]:
    """Read a classes file: the short name of one that comes along, or a path.

    Raises:
        UsageError: when there is no such file.
        DataError: when it is malformed or contradicts itself.
    """
    shipped = {path.stem: path for path in SHIPPED.glob("*.toml")}
    path = shipped.get(str(which)) or Path(which).expanduser()
    if not path.is_file():
        raise UsageError(
            f"There is no classes file '{which}'.",
            hint=f"Give a TOML file's path, or one that comes along. {did_you_mean(str(which), shipped)}",
        )
    content = decode_toml(path, ClassesFile)
    return content, LabelMap(content, path)


class LabelMap:
    """A lookup from the values in label files to classes 0..C-1 and `IGNORE`.

    Args:
        content: the classes file.
        source: its path, for messages.

    Raises:
        DataError: when a value means two things, is out of range, or grey values meet colours.
    """

    def __init__(self, content: ClassesFile, source: Path) -> None:
        meaning: dict[Value, int] = {}
        listed = [(value, IGNORE) for value in content.ignore_values]
        for position, row in enumerate(content.classes):
            listed += [(value, position) for value in row.values or [position]]
        for value, label in listed:
            if meaning.setdefault(value, label) != label:
                raise DataError(f"{source}: the value {_shown(value)} stands for two things.")
        colours = [value for value in meaning if isinstance(value, tuple)]
        if colours and len(colours) < len(meaning):
            grey = next(value for value in meaning if isinstance(value, int))
            raise DataError(
                f"{source}: the values mix colours with grey values such as {grey}.",
                hint="Give every class 'values' of one sort; a class without them has the grey value of its "
                "position.",
            )
        for value in meaning:
            top, parts = (255, value) if isinstance(value, tuple) else (_LARGEST_GREY, (value,))
            if not all(0 <= part <= top for part in parts):
                raise DataError(f"{source}: the value {_shown(value)} is not within 0..{top}.")
        self.coloured = bool(colours)
        codes = {_code(value): label for value, label in meaning.items()}
        self._codes = np.array(sorted(codes), np.int32)
        self._labels = np.array([codes[code] for code in sorted(codes)], np.int16)
        self._table = np.full(_LARGEST_GREY + 1, _UNKNOWN, np.int16)
        if not self.coloured:
            self._table[self._codes] = self._labels

    def read(self, path: Path) -> np.ndarray:
        """Return a label file as int16 (H, W): classes 0..C-1, or `IGNORE`.

        Raises:
            DataError: when it cannot be read, is of the other sort (grey, coloured), or holds a value that
                the classes file does not know, naming the value and where it is.
        """
        stored = read_label(path)
        label = self._by_colour(stored, path) if self.coloured else self._by_grey(stored, path)
        wrong = label == _UNKNOWN
        if wrong.any():
            row, column = (int(part) for part in np.unravel_index(int(wrong.argmax()), wrong.shape))
            value = stored[row, column]
            shown = _shown(tuple(value.tolist()) if self.coloured else int(np.ravel(value)[0]))
            raise DataError(
                f"{path} holds the value {shown} at x={column}, y={row}, which is in no class "
                f"({int(wrong.sum())} pixels hold such values).",
                hint="Add it to the 'values' of a class, or to 'ignore_values'.",
            )
        return label

    def _by_grey(self, stored: np.ndarray, path: Path) -> np.ndarray:
        if stored.ndim == 3:
            first = stored[..., 0]
            if (stored != first[..., None]).any():
                raise DataError(
                    f"{path} is coloured, and the classes file gives grey values.",
                    hint="Give the classes their colours as 'values', such as values = [[128, 64, 128]].",
                )
            stored = first  # grey saved as RGB
        inside = (stored >= 0) & (stored <= _LARGEST_GREY)
        label: np.ndarray = self._table[stored if inside.all() else np.where(inside, stored, 0)]
        return label if inside.all() else np.where(inside, label, np.int16(_UNKNOWN))

    def _by_colour(self, stored: np.ndarray, path: Path) -> np.ndarray:
        if stored.ndim == 2:
            raise DataError(
                f"{path} is greyscale or paletted, and the classes file gives colours.",
                hint="Save the labels as RGB PNG, or give grey values (for a palette: its indices).",
            )
        wide = stored.astype(np.int32)
        codes = (wide[..., 0] << 16) | (wide[..., 1] << 8) | wide[..., 2]
        place = np.minimum(np.searchsorted(self._codes, codes), len(self._codes) - 1)
        found = self._codes[place] == codes
        return np.where(found, self._labels[place], np.int16(_UNKNOWN))


def snippet(files: Iterable[Path], name: str) -> str:
    """Return a classes file to start from, with a class for each of the values found in `files`."""
    found: set[Value] = set()
    for path in files:
        stored = read_label(path)
        flat = stored.reshape(-1, 3) if stored.ndim == 3 else stored.reshape(-1)
        for value in np.unique(flat, axis=0).tolist():
            found.add(tuple(value) if isinstance(value, list) else value)
    # By convention 255 is void in greyscale labels, and black in coloured ones is often a class.
    lines = [f'name = "{name}"', f"ignore_values = [{'255' if 255 in found else ''}]"]
    for position, value in enumerate(sorted(found - {255}, key=_code)):
        colour = value if isinstance(value, tuple) else _hue(position)
        lines += ["", "[[classes]]", f'name = "class {position}"', f"colour = {list(colour)}"]
        lines.append(f"values = [{_shown(value)}]")
    return "\n".join(lines)


def _code(value: Value) -> int:
    return value if isinstance(value, int) else (value[0] << 16) | (value[1] << 8) | value[2]


def _shown(value: Value) -> str:
    return str(list(value)) if isinstance(value, tuple) else str(value)


def _hue(position: int) -> Colour:
    """Return one of many colours that differ: steps that share no factor with 256."""
    return (position * 97 + 60) % 256, (position * 157 + 120) % 256, (position * 59 + 180) % 256
