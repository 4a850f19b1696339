"""Every benchmark, one after another, and one page of what they print.

::

    python benchmarks/all.py [--small] [--out build/bench.md]

Each script runs in a process of its own. The first that fails ends it, with its exit code.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

from uss_bench.files.atomic import atomic_write

HERE = Path(__file__).resolve().parent


def scripts() -> list[Path]:
    """Return the scripts of this folder that measure; the others are parts of these."""
    found = (path for path in sorted(HERE.glob("*.py")) if path != Path(__file__).resolve())
    return [path for path in found if "__main__" in path.read_text(encoding="utf-8")]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--small", action="store_true", help="tiny size: figures mean nothing")
    parser.add_argument("--out", type=Path, default=Path("build/bench.md"), help="where the page goes")
    options = parser.parse_args()
    page = ["Figures of `--small` mean nothing: this shows that the scripts run.\n"] * options.small
    for script in scripts():
        command = [sys.executable, str(script), *["--small"] * options.small]
        done = subprocess.run(command, stdout=subprocess.PIPE, encoding="utf-8")
        print(f"{script.name}\n\n{done.stdout}", flush=True)
        if done.returncode:
            sys.exit(done.returncode)
        page.append(f"## `{script.name}`\n\n```text\n{done.stdout.strip()}\n```\n")
    options.out.parent.mkdir(parents=True, exist_ok=True)
    atomic_write(options.out, "\n".join(page).encode())
    print(f"One page of all: {options.out}")


if __name__ == "__main__":
    main()
