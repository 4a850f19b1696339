"""What the command line costs before it does anything: processor time of commands that answer at once.

::

    python benchmarks/command_line.py [--repeats 9] [--small]

Beside each command stands an interpreter that does nothing, in turns. That no command here imports torch
is not a matter of time: `tests/test_plugin_loading.py` looks at the modules.
"""

from __future__ import annotations

import argparse
import platform
import resource
import statistics
import subprocess
import sys

import click
from tabulate import tabulate

from uss_bench.cli import cli
from uss_bench.cores import whole_cores

MAIN = "from uss_bench.cli import main; main()"
COMMANDS = (["--version"], ["--help"], ["ls"], ["run", "--help"])


def processor_seconds(command: list[str]) -> float:
    """Return user and system time of a process and of those that it waited for."""

    def spent() -> float:
        usage = resource.getrusage(resource.RUSAGE_CHILDREN)
        return usage.ru_utime + usage.ru_stime

    before = spent()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return spent() - before


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--repeats", type=int, default=9, help="rounds of timing, after one uncounted")
    parser.add_argument("--small", action="store_true", help="one round: does it run at all")
    options = parser.parse_args()
    works = {"python -c pass": [sys.executable, "-c", "pass"]}
    works |= {f"uss-bench {' '.join(one)}": [sys.executable, "-c", MAIN, *one] for one in COMMANDS}
    rounds = [
        {name: processor_seconds(work) for name, work in works.items()}
        for _ in range(1 if options.small else 1 + options.repeats)
    ]
    counted = rounds if options.small else rounds[1:]
    rows = [
        [name, statistics.median(one[name] for one in counted), max(one[name] for one in counted)]
        for name in works
    ]
    cores = whole_cores()
    print(
        f"{platform.machine()}, {cores} cores, Python {platform.python_version()}, "
        f"{len(cli.list_commands(click.Context(cli)))} commands; {len(counted)} rounds\n"
    )
    headers = ["command", "median, s", "largest, s"]
    print(tabulate(rows, headers, floatfmt=("", ".3f", ".3f")))


if __name__ == "__main__":
    main()
