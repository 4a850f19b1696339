"""``uss-bench doctor``: check the installation, and say what to do."""

from __future__ import annotations

import json
import sys
import textwrap
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from uss_bench.cli.options import common, out_option
from uss_bench.plugins.registry import Registry

if TYPE_CHECKING:
    from uss_bench.doctor.finding import DoctorFinding

_COLORS = {"ok": "green", "note": "yellow", "problem": "red"}
_WIDTH = 100


@click.command("doctor", short_help="Check whether everything that uss-bench needs works here.")
@click.option("--json", "as_json", is_flag=True, help="Print the findings as JSON.")
@out_option("Results folder. Default: results.")
@common
def command(registry: Registry, as_json: bool, out: Path) -> None:
    """Check whether everything that uss-bench needs works here, and say what to do where it does not.

    A note is about something that works with a restriction. Exits with 1 when something does not work.
    """
    from uss_bench.doctor import examine
    from uss_bench.errors import RunError

    found: list[DoctorFinding] = []
    for finding in examine(out):
        found.append(finding)
        if not as_json:
            click.echo(_printable(_row(finding)))
    problems = [finding for finding in found if finding.state == "problem"]
    if as_json:
        content = {"works": not problems, "findings": [asdict(finding) for finding in found]}
        click.echo(json.dumps(content, indent=1))
    if problems:
        names = ", ".join(finding.name for finding in problems)
        raise RunError(f"{len(problems)} of {len(found)} checks found a problem: {names}.")
    if not as_json:
        notes = sum(finding.state == "note" for finding in found)
        restricted = f", with {notes} {'note' if notes == 1 else 'notes'}" if notes else ""
        click.echo(f"\nuss-bench works here{restricted}.")


def _row(finding: DoctorFinding) -> str:
    """Return a finding as ``state  name  what was found``, with what to do below it."""
    state = click.style(f"{finding.state:<7}", fg=_COLORS[finding.state], bold=finding.state == "problem")
    margin = " " * 26
    # Commands and paths stay whole, so that they can be copied.
    lines = textwrap.wrap(finding.found, _WIDTH - len(margin), break_long_words=False, break_on_hyphens=False)
    if finding.advice:
        lines += textwrap.wrap(
            f"→ {finding.advice}", _WIDTH - len(margin), break_long_words=False, break_on_hyphens=False
        )
    return f"{state}  {finding.name:<15}  " + f"\n{margin}".join(lines)


def _printable(text: str) -> str:
    """Replace characters that the terminal cannot show, which is one of the findings."""
    encoding = sys.stdout.encoding or "ascii"
    return text.encode(encoding, "replace").decode(encoding)
