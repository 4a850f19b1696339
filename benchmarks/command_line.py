"""What the command line costs before it does anything: processor time of commands that answer at once.

::

    python benchmarks/command_line.py [--repeats 9] [--small]

Beside each command stands an interpreter that does nothing, in turns. The last two repeat finished cells:
one, and 200 that differ in their seeds. That no command here imports torch is not a matter of time:
`tests/plugins/test_plugin_loading.py` and `tests/launch/test_resolutions.py` look at the modules.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import subprocess
import sys
import tempfile

import click
from measuring import arguments, show

from uss_bench.cli import cli

MAIN = "from uss_bench.cli import main; main()"
COMMANDS = (["--version"], ["--help"], ["ls"], ["run", "--help"])
RUN = [
    "run",
    "--quiet",
    "--method",
    "constant",
    "--dataset",
    "toy3",
    "--limit",
    "2",
    "--protocol",
    "stego320@2[eval_side=96]",
]


def processor_seconds(command: list[str]) -> float:
    """Return user and system time of a process and of those that it waited for."""

    def spent() -> float:
        usage = resource.getrusage(resource.RUSAGE_CHILDREN)
        return usage.ru_utime + usage.ru_stime

    before = spent()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return spent() - before


def measured(works: dict[str, list[str]], options: argparse.Namespace) -> list[dict[str, float]]:
    """Return the seconds of every command, round by round, after one that is not counted."""
    rounds = range(1 if options.small else 1 + options.repeats)
    found = [{name: processor_seconds(work) for name, work in works.items()} for _ in rounds]
    return found[0 if options.small else 1 :]


def main() -> None:
    options = arguments(__doc__, repeats=9).parse_args()
    works = {"python -c pass": [sys.executable, "-c", "pass"]}
    works |= {f"uss-bench {' '.join(one)}": [sys.executable, "-c", MAIN, *one] for one in COMMANDS}
    many = 2 if options.small else 200
    with tempfile.TemporaryDirectory() as out:
        finished = [sys.executable, "-c", MAIN, *RUN, "--out", out, "--seeds"]
        processor_seconds([*finished, str(many)])
        works |= {f"{number} finished": [*finished, str(number)] for number in (1, many)}
        counted = measured(works, options)
    rows = [
        [name, statistics.median(taken), max(taken)]
        for name in works
        if (taken := [one[name] for one in counted])
    ]
    title = f"{len(cli.list_commands(click.Context(cli)))} commands, {len(counted)} rounds"
    show(title, rows, ["command", "median, s", "largest, s"], ("", ".3f", ".3f"))


if __name__ == "__main__":
    main()
