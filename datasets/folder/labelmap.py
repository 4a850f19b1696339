"""Classes files, and what they make of the values in a label file.

A classes file::

    name = "mydata"
    ignore_values = [255]      # gray values, or colors such as [0, 0, 0]
    train = "train"            # optional: which splits to train and test on
    test = "test"

    [[classes]]                # in label order
    name = "road"
    color = [128, 64, 128]
    values = [3, 4]            # optional: default its own position, here 0
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

import msgspec
import numpy as np

from uss_bench.contracts import IGNORE
from uss_bench.data import first_place, read_label
from uss_bench.errors import DataError, UsageError, did_you_mean
from uss_bench.plugins.specs import ClassSpec, Color, Name, decode_toml

SHIPPED = Path(__file__).parent / "classes"

_UNKNOWN = -2
_LARGEST_GRAY = 65535
_VOID = 255
_MUCH = 0.25
"""Share of pixels from which on 255 is hardly the border of objects."""

Value = int | Color


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
        DataError: when a value means two things, is out of range, or gray values meet colors.
    """

    def __init__(self, content: ClassesFile, source: Path) -> None:
        meaning: dict[Value, int] = {}
        listed = [(value, IGNORE) for value in content.ignore_values]
        for position, row in enumerate(content.classes):
            listed += [(value, position) for value in row.values or [position]]
        for value, label in listed:
            if meaning.setdefault(value, label) != label:
                raise DataError(f"{source}: the value {_shown(value)} stands for two things.")
        colors = [value for value in meaning if isinstance(value, tuple)]
        if colors and len(colors) < len(meaning):
            gray = next(value for value in meaning if isinstance(value, int))
            raise DataError(
                f"{source}: the values mix colors with gray values such as {gray}.",
                hint="Give every class 'values' of one sort; a class without them has the gray value of its "
                "position.",
            )
        for value in meaning:
            top, parts = (255, value) if isinstance(value, tuple) else (_LARGEST_GRAY, (value,))
            if not all(0 <= part <= top for part in parts):
                raise DataError(f"{source}: the value {_shown(value)} is not within 0..{top}.")
        self.colored = bool(colors)
        self._classes = len(content.classes)
        known = sorted((value, label) for value, label in meaning.items() if label != IGNORE)
        self._by_position = known == [(position, position) for position in range(self._classes)]
        self.coding = "" if self._by_position else repr(known)
        """Tells what values mean, where they are not the classes' positions."""
        codes = {_code(value): label for value, label in meaning.items()}
        self._codes = np.array(sorted(codes), np.int32)
        self._labels = np.array([codes[code] for code in sorted(codes)], np.int16)
        self._table = np.full(_LARGEST_GRAY + 1, _UNKNOWN, np.int16)
        if not self.colored:
            self._table[self._codes] = self._labels

    def read(self, path: Path, content: bytes | None = None) -> np.ndarray:
        """Return a label file as int16 (H, W): classes 0..C-1, or `IGNORE`.

        Args:
            content: the file's bytes, where they were read already.

        Raises:
            DataError: when it cannot be read, is of the other sort (gray, colored), or holds a value that
                the classes file does not know, naming the value and where it is.
        """
        stored = read_label(path, content)
        label = self._by_color(stored, path) if self.colored else self._by_gray(stored, path)
        wrong = label == _UNKNOWN
        if wrong.any():
            row, column = first_place(wrong)
            value = stored[row, column]
            shown = _shown(tuple(value.tolist()) if self.colored else int(np.ravel(value)[0]))
            hint = "Add it to the 'values' of a class, or to 'ignore_values'."
            if self._by_position and not self.colored and (stored[wrong] == self._classes).all():
                hint += (
                    f" {self._classes} is one beyond the last class: if 0 means unlabeled, as "
                    "in ADE20K, give the first class values = [1] and so on, and ignore_values = [0]."
                )
            raise DataError(
                f"{path} holds the value {shown} at x={column}, y={row}, which is in no class "
                f"({int(wrong.sum())} pixels hold such values).",
                hint=hint,
            )
        return label

    def _by_gray(self, stored: np.ndarray, path: Path) -> np.ndarray:
        if stored.ndim == 3:
            first = stored[..., 0]
            if (stored != first[..., None]).any():
                raise DataError(
                    f"{path} is colored, and the classes file gives gray values.",
                    hint="Give the classes their colors as 'values', such as values = [[128, 64, 128]].",
                )
            stored = first  # gray saved as RGB
        inside = (stored >= 0) & (stored <= _LARGEST_GRAY)
        label: np.ndarray = self._table[stored if inside.all() else np.where(inside, stored, 0)]
        return label if inside.all() else np.where(inside, label, np.int16(_UNKNOWN))

    def _by_color(self, stored: np.ndarray, path: Path) -> np.ndarray:
        if stored.ndim == 2:
            raise DataError(
                f"{path} is grayscale or paletted, and the classes file gives colors.",
                hint="Save the labels as RGB PNG, or give gray values (for a palette: its indices).",
            )
        wide = stored.astype(np.int32)
        codes = (wide[..., 0] << 16) | (wide[..., 1] << 8) | wide[..., 2]
        place = np.minimum(np.searchsorted(self._codes, codes), len(self._codes) - 1)
        found = self._codes[place] == codes
        return np.where(found, self._labels[place], np.int16(_UNKNOWN))


def suggestion(files: Iterable[Path], name: str) -> tuple[str, str]:
    """Return a classes file to start from, and what should be known about it: '' or a sentence.

    It has a class for each of the values found in `files`. By convention 255 is void in grayscale labels,
    and black in colored ones is often a class; where 255 is one of two values it is a class as well.
    """
    pixels = Counter[Value]()
    for path in files:
        stored = read_label(path)
        flat = stored.reshape(-1, 3) if stored.ndim == 3 else stored.reshape(-1)
        for value, count in zip(*np.unique(flat, axis=0, return_counts=True), strict=True):
            pixels[tuple(value.tolist()) if value.ndim else int(value)] += int(count)
    is_void = _VOID in pixels and len(pixels) > 2
    share = pixels[_VOID] / max(1, pixels.total())
    remark = ""
    if _VOID in pixels and not is_void:
        remark = (
            "255 is one of two values, so that it is suggested as a class; if it means unlabeled, write "
            "ignore_values = [255] instead."
        )
    elif share >= _MUCH:
        remark = (
            f"255 covers {share:.0%} of the pixels and is suggested to be ignored; if it is a class, list it "
            "and empty ignore_values."
        )
    lines = [f"# {remark}"] if remark else []
    lines += [f'name = "{name}"', f"ignore_values = [{'255' if is_void else ''}]"]
    values = [value for value in pixels if value != _VOID or not is_void]
    for position, value in enumerate(sorted(values, key=_code)):
        color = value if isinstance(value, tuple) else _hue(position)
        lines += ["", "[[classes]]", f'name = "class {position}"', f"color = {list(color)}"]
        lines.append(f"values = [{_shown(value)}]")
    return "\n".join(lines), remark


def _code(value: Value) -> int:
    return value if isinstance(value, int) else (value[0] << 16) | (value[1] << 8) | value[2]


def _shown(value: Value) -> str:
    return str(list(value)) if isinstance(value, tuple) else str(value)


def _hue(position: int) -> Color:
    """Return one of many colors that differ: steps that share no factor with 256."""
    return (position * 97 + 60) % 256, (position * 157 + 120) % 256, (position * 59 + 180) % 256
