"""``uss-bench ls``: the names that a command may use, from the specs alone."""

from __future__ import annotations

from collections.abc import Sequence

import click

from uss_bench.cli.options import common
from uss_bench.cli.output.tables import table
from uss_bench.experiment.studies import known_studies
from uss_bench.plugins.registry import Registry
from uss_bench.plugins.specs import KINDS, Kind
from uss_bench.protocol import SUMMARIES, protocol_names


@click.command("ls", short_help="List methods, datasets, backbones, protocols and studies.")
@click.argument("what", required=False, type=click.Choice([*KINDS, "protocols", "studies"]))
@common
def command(registry: Registry, what: str | None) -> None:
    """List methods, datasets, backbones, protocols and studies, or one of these."""
    sections = []
    for kind in KINDS:
        if what in (None, kind):
            sections.append(_section(kind, _plugin_rows(registry, kind)))
    if what in (None, "protocols"):
        sections.append(_section("protocols", [(name, SUMMARIES[name]) for name in protocol_names()]))
    if what in (None, "studies"):
        studies = [study.plan for study in known_studies(registry).values()]
        rows = [(plan.name, f"{plan.title} ({plan.method}{_of(plan.paper)})") for plan in studies]
        sections.append(_section("studies", rows))
    click.echo("\n\n".join(sections))
    if what is None:
        click.echo(f"\n{click.style('uss-bench info NAME', bold=True)} shows more about any of them.")


def _plugin_rows(registry: Registry, kind: Kind) -> list[tuple[str, ...]]:
    return [
        (plugin.name, plugin.spec.summary + ("" if plugin.origin == "built-in" else f"  [{plugin.origin}]"))
        for plugin in registry.all(kind)
    ]


def _of(paper: str) -> str:
    return f", {paper}" if paper else ""


def _section(title: str, rows: Sequence[tuple[str, ...]]) -> str:
    return f"{click.style(title, bold=True)}\n{table(rows)}"
