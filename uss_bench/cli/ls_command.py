"""``uss-bench ls``: what there is, from the specs alone."""

from __future__ import annotations

import click
from tabulate import tabulate

from uss_bench.cli.options import common
from uss_bench.protocol import SUMMARIES, protocol_names
from uss_bench.registry import Registry
from uss_bench.specs import KINDS, Kind


@click.command("ls", short_help="List methods, datasets, backbones and protocols.")
@click.argument("what", required=False, type=click.Choice([*KINDS, "protocols"]))
@common
def command(registry: Registry, what: str | None) -> None:
    """List methods, datasets, backbones and protocols, or one of these."""
    sections = []
    for kind in KINDS:
        if what in (None, kind):
            sections.append(_section(kind, _plugin_rows(registry, kind)))
    if what in (None, "protocols"):
        sections.append(_section("protocols", [(name, SUMMARIES[name]) for name in protocol_names()]))
    click.echo("\n\n".join(sections))
    if what is None:
        click.echo(f"\n{click.style('uss-bench info NAME', bold=True)} tells more about any of them.")


def _plugin_rows(registry: Registry, kind: Kind) -> list[tuple[str, ...]]:
    return [
        (plugin.name, plugin.spec.summary + ("" if plugin.origin == "built-in" else f"  [{plugin.origin}]"))
        for plugin in registry.all(kind)
    ]


def _section(title: str, rows: list[tuple[str, ...]]) -> str:
    table = tabulate(rows, tablefmt="plain")
    return f"{click.style(title, bold=True)}\n{table}"
