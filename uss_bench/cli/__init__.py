"""The command line. Commands are imported when they are used, so that ``--help`` is instant."""

from __future__ import annotations

import importlib
import os
import sys
import traceback

import click

from uss_bench import __version__
from uss_bench.errors import UsageError, UssBenchError, is_out_of_memory, shortened
from uss_bench.runtime.limits import LARGEST_SEED
from uss_bench.runtime.text import printing_safely, why_no_text

_COMMANDS = {
    "run": "Train a method on unlabeled images, predict, refine, match, score and record.",
    "study": "Run an ablation or a sensitivity study by name, or from a plan file.",
    "tune": "Choose a method's setting by criteria that need no label.",
    "status": "Show how far plans of many cells are: queued, running, done, failed.",
    "diagnose": "Judge a method's parameters without labels, where it offers that.",
    "ls": "List methods, datasets, backbones, protocols and studies.",
    "info": "Show everything about a method, dataset, backbone, protocol or study.",
    "show": "Show records: all of them, or one in full.",
    "board": "Build the boards from records and claims, or show them.",
    "prepare": "Put a dataset in place: download it, or say how to get it.",
    "verify": "Read every file of a dataset and name the first wrong one.",
    "compare": "Test whether one configuration is better than another, or the data cannot tell.",
    "eval": "Score label maps that were made elsewhere.",
    "import-state": "Evaluate an official checkpoint of a method like a run.",
    "predict": "Label any folder of images with a recorded run.",
    "probe": "Train a linear probe on a record's code or on frozen features; it uses labels.",
    "features": "Measure frozen features: k-means, over-clustering, retrieval, linear probe.",
    "claims": "Show what papers claim, and how it was measured.",
    "plot": "Draw a figure of records, for a paper.",
    "report": "Write a page about records, for a paper's appendix.",
    "new": "Write a plugin's folder to start from.",
    "check": "Check a plugin against its contract.",
    "regress": "Say which numbers moved that should not have.",
    "errors": "Attribute the errors of a run to classes.",
    "audit": "Say what differs between protocols or papers, what it costs, and what is wrong in records.",
    "merge": "Join the results of several machines in one folder.",
    "rerun": "Repeat a record from its own command, and check that its numbers are the same.",
    "verify-record": "Evaluate anybody's record again from its state, without training.",
    "cache": "Show, check and empty the cache.",
    "doctor": "Check whether everything that uss-bench needs works here.",
}


class _LazyGroup(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            return None
        module = importlib.import_module(f"uss_bench.cli.commands.{cmd_name.replace('-', '_')}")
        command: click.Command = module.command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(_COMMANDS.items()))

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError as error:
            from uss_bench.errors import did_you_mean

            raise click.UsageError(f"{error.message} {did_you_mean(args[0], _COMMANDS)}", ctx) from None


EPILOG = """\b
Start here:
  uss-bench run --method smooseg --dataset toy3
  uss-bench run --method dino --dataset folder --root PHOTOS --set clusters=8 \\
                --backbone vit_small_patch14_dinov2
  uss-bench show
"""


@click.group(
    cls=_LazyGroup,
    epilog=EPILOG,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(__version__, prog_name="uss-bench")
def cli() -> None:
    """Benchmark methods of unsupervised semantic segmentation.

    Unlabeled images go in, score maps come out; clusters are matched to classes once, at the end.
    """


def main() -> None:
    """Run the command line and exit: 0 done, 1 failed, 2 wrong usage, 3 regression, 130 interrupted."""
    # Threads that wait for work by spinning take the cores from the CRF's threads, and from whatever
    # else runs on the machine; torch reads this when it is imported.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    with printing_safely():
        code = _run(sys.argv[1:])
    sys.exit(code)


def _check_text(arguments: list[str]) -> None:
    """Refuse arguments that a record could not state, and empty values of variables that are not set."""
    for one in arguments:
        if reason := why_no_text(one):
            shown = one.encode(errors="surrogateescape").decode(errors="backslashreplace")
            raise UsageError(f"'{shown}' is not text that a record could state.", hint=reason)
        flag, equals, value = one.partition("=")
        if not one or (flag.startswith("--") and equals and not value):
            raise UsageError(
                f"The value of {flag or 'an argument'} is empty.", hint="A variable may not be set."
            )
        number = value if flag.startswith("--") else one
        if number.isdecimal() and (len(number) > len(str(LARGEST_SEED)) or int(number) > LARGEST_SEED):
            raise UsageError(f"{shortened(number, 40)} is too large: numbers go to {LARGEST_SEED}.")


def _run(arguments: list[str]) -> int:
    debug = "--debug" in arguments or bool(os.environ.get("USS_BENCH_DEBUG"))
    try:
        _check_text(arguments)
        outcome = cli.main(arguments, prog_name="uss-bench", standalone_mode=False)
        return outcome if isinstance(outcome, int) else 0
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        again = "" if "--force" in arguments else "; the same command goes on from there"
        _complain("Interrupted.", f"What was finished is kept{again}.")
        return 130
    except BrokenPipeError:
        # The reader (`head`, a pager) is gone; keep Python from flushing to it.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except UssBenchError as error:
        if debug:
            traceback.print_exc()
        _complain(error.what, error.hint)
        return error.exit_code
    except OSError as error:
        if debug:
            traceback.print_exc()
        where = f"{error.filename}: " if error.filename else ""
        _complain(
            f"The operating system refused an operation: {where}{error.strerror or error}.",
            "Look at free space and permissions (uss-bench doctor), and give the command again.",
        )
        return 1
    except Exception as error:
        if debug:
            traceback.print_exc()
        if is_out_of_memory(error):
            _complain(
                "There is not enough memory for this.",
                "Lower --set batch_size, --workers and --jobs, or use a machine with more. "
                "If much is free, a limit on threads may be the reason (ulimit -u).",
            )
            return 1
        from uss_bench.runtime.installation import import_fault

        if (fault := import_fault(error)) is not None:
            _complain(fault.what, fault.hint)
            return 1
        _complain(
            f"An error that uss-bench did not foresee: {type(error).__name__}: {error}",
            "Repeat the command with --debug for the traceback, and please report it.",
        )
        return 1


def _complain(what: str, hint: str | None) -> None:
    click.echo(f"{click.style('Error:', fg='red', bold=True)} {what}", err=True)
    if hint:
        click.echo(f"{click.style('  Try:', fg='yellow')} {hint}", err=True)
