"""``uss-bench check``: whether a plugin keeps its contract, check by check."""

from __future__ import annotations

import collections
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import msgspec

from uss_bench.cli.options import PATH, common
from uss_bench.errors import ContractError
from uss_bench.experiment.command_line import collect_data, parse_pairs
from uss_bench.plugins.registry import Registry

if TYPE_CHECKING:
    from uss_bench.kit import Finding, MethodReport

EPILOG = """\b
Examples:
  uss-bench check method my-method --plugin my_method
  uss-bench check dataset harbour --plugin harbour --root DATA
  uss-bench check backbone my-vit --plugin my_vit --weights FILE
"""

_MARGIN = " " * 25
_WIDTH = 84
_COLORS = {"ok": "green", "note": "cyan", "skipped": "yellow", "failed": "red"}

_weights = click.option("--weights", type=PATH, metavar="FILE", help="Weights file of the backbone.")


@click.group("check", epilog=EPILOG, short_help="Check a plugin against its contract.")
def command() -> None:
    """Check a plugin against its contract, one line per check: ok, note, skipped or failed.

    Exits with 1 when a check fails.
    """


@command.command("method")
@click.argument("name")
@click.option(
    "--set", "set_pairs", multiple=True, metavar="KEY=VALUE", help="Parameter of the method. May be repeated."
)
@click.option(
    "--backbone", metavar="NAME", help="Backbone of the check. Default: a small ViT with random weights."
)
@_weights
@click.option(
    "--json", "as_json", is_flag=True, help="Print one JSON object, including what is known about label use."
)
@common
def method(registry: Registry, name: str, set_pairs: tuple[str, ...], as_json: bool, **backbone: Any) -> None:
    """Train and predict with a method on a small drawn problem, in every way that a run may ask for.

    Parameters called steps, epochs, batch_size and checkpoint_every are small, unless the table [check] of
    its spec.toml or --set states others. Training is killed and resumed, and repeated with other labels on
    disk.
    """
    from uss_bench.kit import MethodReport, run_method_checks

    findings = run_method_checks(name, registry, params=parse_pairs(set_pairs, "--set"), **backbone)
    plugin = registry.find("methods", name)
    _report(f"method '{name}'", findings, (lambda found: MethodReport.of(plugin, found)) if as_json else None)


@command.command("dataset")
@click.argument("name")
@click.option("--root", type=PATH, metavar="DIR", help="The dataset's folder.")
@click.option(
    "--classes", metavar="FILE", help="Classes of a `folder` dataset: a file, or a known name such as camvid."
)
@click.option(
    "--data",
    "data_pairs",
    multiple=True,
    metavar="KEY=VALUE",
    help="Any other option of the dataset (uss-bench info NAME). May be repeated.",
)
@common
def dataset(
    registry: Registry, name: str, root: Path | None, classes: str | None, data_pairs: tuple[str, ...]
) -> None:
    """Open a dataset twice, read some images and labels of the splits in use, and verify it."""
    from uss_bench.kit import run_dataset_checks

    options = collect_data(root, classes, data_pairs)
    _report(f"dataset '{name}'", run_dataset_checks(name, registry, options))


@command.command("backbone")
@click.argument("name")
@_weights
@common
def backbone(registry: Registry, name: str, weights: Path | None) -> None:
    """Load a backbone more than once, and hold its features of drawn images against what it promises."""
    from uss_bench.kit import run_backbone_checks

    _report(f"backbone '{name}'", run_backbone_checks(name, registry, weights))


def _report(
    what: str, findings: Iterator[Finding], summary: Callable[[list[Finding]], MethodReport] | None = None
) -> None:
    """Print findings as they come; or nothing but their `summary`, as JSON.

    Raises:
        ContractError: when a check failed.
    """
    from uss_bench.runtime import progress

    progress.set_quiet(True)  # the many small trainings have nothing to report
    found = []
    for finding in findings:
        found.append(finding)
        if summary:
            continue
        status = click.style(f"{finding.status:8}", fg=_COLORS[finding.status])
        click.echo(_wrapped(f"{status} {finding.check:15} ", finding.text))
        if finding.todo:
            click.echo(_wrapped(_MARGIN, f"→ {finding.todo}"))
    counts = collections.Counter(finding.status for finding in found)
    text = f"\n{what}: " + ", ".join(f"{count} {status}" for status, count in counts.items())
    click.echo(msgspec.json.encode(summary(found)).decode() if summary else text)
    if wrong := [finding.check for finding in found if finding.status == "failed"]:
        raise ContractError(
            f"The {what} does not keep its contract: {', '.join(wrong)}.",
            hint="The arrows above state what to do; docs/plugins.md has the contract.",
        )


def _wrapped(lead: str, text: str) -> str:
    lines = textwrap.wrap(" ".join(text.split()), _WIDTH) or [""]
    return lead + f"\n{_MARGIN}".join(lines)
