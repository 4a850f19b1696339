"""What the command line costs before it does anything: processor time of commands that answer at once.

::

    python benchmarks/command_line.py [--repeats 9] [--small]

Beside each command stands an interpreter that does nothing, in turns. Two repeat finished cells: one, and
200 that differ in their seeds. The last trains a cell whose features are stored, a new seed each time, and is
timed from the command's start to the first step of its optimizer. That no other command imports torch is not
a matter of time: `tests/plugins/test_plugin_loading.py` and `tests/launch/test_resolutions.py` look at the
modules.
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

FIRST_STEP = "to the first step"
MAIN = "from uss_bench.cli import main; main()"
# torch tells of a step only whom it knows, and the command has to import it by itself.
TO_FIRST_STEP = """
import sys, threading, time
def watch():
    while not hasattr(sys.modules.get("torch.optim.optimizer"), "register_optimizer_step_post_hook"):
        time.sleep(0.01)
    register = sys.modules["torch.optim.optimizer"].register_optimizer_step_post_hook
    register(lambda *arguments: times.append(time.process_time()))
times = []
threading.Thread(target=watch, daemon=True).start()
from uss_bench.cli import main
try:
    main()
finally:
    assert not {"timm", "torchvision"} & sys.modules.keys(), "a backbone was built"
    print(f"\\nfirst step after {times[0]}")
"""
COMMANDS = (["--version"], ["--help"], ["ls"], ["run", "--help"])
RUN = [
    "run",
    "--quiet",
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


def seconds_to_first_step(out: str, seed: int) -> float:
    """Return processor time from the start of a command to the first training step, features being stored."""
    training = ["--method", "smooseg", "--set", "steps=1", "--set", "batch_size=2", "--seed", str(seed)]
    command = [sys.executable, "-c", TO_FIRST_STEP, *RUN, *training, "--out", out]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, encoding="utf-8")
    return float(done.stdout.split()[-1])


def measured(works: dict[str, list[str]], out: str, options: argparse.Namespace) -> list[dict[str, float]]:
    """Return the seconds of every command, round by round, after one that is not counted."""
    rounds = range(1 if options.small else 1 + options.repeats)
    found = [
        {name: processor_seconds(work) for name, work in works.items()}
        | {FIRST_STEP: seconds_to_first_step(out, 1 + number)}
        for number in rounds
    ]
    return found[0 if options.small else 1 :]


def main() -> None:
    options = arguments(__doc__, repeats=9).parse_args()
    works = {"python -c pass": [sys.executable, "-c", "pass"]}
    works |= {f"uss-bench {' '.join(one)}": [sys.executable, "-c", MAIN, *one] for one in COMMANDS}
    many = 2 if options.small else 200
    with tempfile.TemporaryDirectory() as out:
        finished = [sys.executable, "-c", MAIN, *RUN, "--method", "constant", "--out", out, "--seeds"]
        processor_seconds([*finished, str(many)])
        works |= {f"{number} finished": [*finished, str(number)] for number in (1, many)}
        training = ["--method", "smooseg", "--set", "steps=1", "--set", "batch_size=2", "--out", out]
        processor_seconds([sys.executable, "-c", MAIN, *RUN, *training])
        counted = measured(works, out, options)
    rows = [
        [name, statistics.median(taken), max(taken)]
        for name in (*works, FIRST_STEP)
        if (taken := [one[name] for one in counted])
    ]
    title = f"{len(cli.list_commands(click.Context(cli)))} commands, {len(counted)} rounds"
    show(title, rows, ["command", "median, s", "largest, s"], ("", ".3f", ".3f"))


if __name__ == "__main__":
    main()
