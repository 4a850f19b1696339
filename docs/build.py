"""Write docs/cli.md from the command line and the contracts into docs/plugins.md, and check all links.

With ``--check`` nothing is written: the script fails if a page is out of date.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path

import click

from uss_bench import contracts
from uss_bench.cli import cli

ROOT = Path(__file__).parent.parent
_WIDTH = 96


def cli_reference() -> str:
    """Return the Markdown of every command's help."""
    parts = [
        "# Command line\n\n"
        "Exit codes: 0 done, 1 a run failed, 2 wrong usage, 3 a number moved, 130 interrupted.\n"
    ]
    parts += _help_of(cli, "uss-bench", None, 1)
    return "\n".join(parts)


def _help_of(command: click.Command, name: str, parent: click.Context | None, level: int) -> Iterator[str]:
    """Yield the help of a command, and below it that of its commands; the whole line's needs no heading."""
    context = click.Context(
        command, info_name=name, parent=parent, terminal_width=_WIDTH, max_content_width=_WIDTH
    )
    heading = f"{'#' * level} {context.command_path.partition(' ')[2]}\n\n" if parent else ""
    yield f"{heading}```text\n{command.get_help(context)}\n```\n"
    if isinstance(command, click.Group):
        for inner in command.list_commands(context):
            found = command.get_command(context, inner)
            assert found is not None
            yield from _help_of(found, inner, context, level + 1)


def contracts_text() -> str:
    """Return the contracts from their first definition on, as a block of code."""
    source = Path(contracts.__file__).read_text(encoding="utf-8")
    return f"```python\n{source[source.index('IGNORE = ') :].rstrip()}\n```"


def broken_links() -> list[str]:
    """Return links to files of the repository that do not exist, as 'file: link'."""
    broken = []
    for page in sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("m*/**/*.md")]):
        for link in re.findall(r"\]\(([^)#\s]+)[^)]*\)", page.read_text(encoding="utf-8")):
            if "://" not in link and not (page.parent / link).exists():
                broken.append(f"{page.relative_to(ROOT)}: {link}")
    return broken


def main() -> int:
    from parts import regenerated  # lies beside this script

    plugins = (ROOT / "docs" / "plugins.md").read_text(encoding="utf-8")
    pages = {"cli.md": cli_reference(), "plugins.md": regenerated(plugins, {"contracts": contracts_text})}
    problems = [f"broken link in {place}" for place in broken_links()]
    for name, text in pages.items():
        target = ROOT / "docs" / name
        if "--check" not in sys.argv:
            target.write_text(text, encoding="utf-8")
        elif not target.exists() or target.read_text(encoding="utf-8") != text:
            problems.append(f"docs/{name} is out of date: run nox -s docs")
    for problem in problems:
        print(problem, file=sys.stderr)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
