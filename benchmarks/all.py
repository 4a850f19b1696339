"""Every benchmark, one after another, and one table of what they print.

::

    python benchmarks/all.py [--small] [--out build/bench.md]

Each script runs in a process of its own. A row of the table is a row of a script's own table, with the
columns that name it before those that were measured. The first that fails ends it, with its exit code.
"""

from __future__ import annotations

import argparse
import itertools
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from tabulate import tabulate

from uss_bench.paths import atomic_write

HERE = Path(__file__).resolve().parent


def scripts() -> list[Path]:
    """Return the scripts of this folder that measure; the others are parts of these."""
    found = (path for path in sorted(HERE.glob("*.py")) if path != Path(__file__).resolve())
    return [path for path in found if "__main__" in path.read_text(encoding="utf-8")]


def tables(text: str) -> Iterator[tuple[list[str], list[list[str]]]]:
    """Yield the head and the rows of every table that tabulate printed, which a line of dashes tells."""
    lines = text.splitlines()
    for number, line in enumerate(lines):
        if number and re.fullmatch(r"-{2,}( +-{2,})+", line):
            spans = [match.span() for match in re.finditer("-+", line)]
            rows = itertools.takewhile(str.strip, lines[number + 1 :])
            yield _cells(lines[number - 1], spans), [_cells(row, spans) for row in rows]


def _cells(line: str, spans: list[tuple[int, int]]) -> list[str]:
    return [line[start:end].strip() for start, end in spans]


def as_rows(script: str, text: str) -> Iterator[list[str]]:
    """Yield rows (script, case, figures) of what a script printed."""
    for head, rows in tables(text):
        for row in rows:
            pairs = [(name, value) for name, value in zip(head, row, strict=True) if value]
            # The first column names the row, and so does every other that holds words.
            named = [i for i, (_, value) in enumerate(pairs) if not i or re.match("[A-Za-z]", value)]
            case = " · ".join(
                value if re.match("[A-Za-z]", value) else f"{name} {value}"
                for i, (name, value) in enumerate(pairs)
                if i in named
            )
            figures = [f"{name} {value}" for i, (name, value) in enumerate(pairs) if i not in named]
            yield [script, case, " · ".join(figures)]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--small", action="store_true", help="tiny size: figures mean nothing")
    parser.add_argument("--out", type=Path, default=Path("build/bench.md"), help="where the table goes")
    options = parser.parse_args()
    rows = []
    for script in scripts():
        command = [sys.executable, str(script), *(["--small"] if options.small else [])]
        done = subprocess.run(command, stdout=subprocess.PIPE, encoding="utf-8")
        print(f"{script.name}\n\n{done.stdout}", flush=True)
        if done.returncode:
            sys.exit(done.returncode)
        rows += as_rows(script.stem, done.stdout)
    note = "Figures of `--small` mean nothing: this shows that the scripts run.\n\n" if options.small else ""
    table = tabulate(rows, headers=["script", "case", "figures"], tablefmt="github", disable_numparse=True)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    atomic_write(options.out, f"{note}{table}\n".encode())
    print(f"One table of all: {options.out}")


if __name__ == "__main__":
    main()
