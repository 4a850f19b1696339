"""``uss-bench info``: a page about one method, dataset, backbone or protocol."""

from __future__ import annotations

import inspect
import itertools
import textwrap
from typing import Any

import click
import msgspec
from tabulate import tabulate

from uss_bench.cli.options import common
from uss_bench.errors import UsageError, did_you_mean
from uss_bench.protocol import SUMMARIES, get_protocol, protocol_names
from uss_bench.registry import Plugin, Registry
from uss_bench.specs import KINDS, BackboneSpec, DatasetSpec, MethodSpec

_WIDTH = 100


@click.command("info", short_help="Show all that is known of something by name.")
@click.argument("name")
@common
def command(registry: Registry, name: str) -> None:
    """Show all that is known of a method, dataset, backbone or protocol."""
    pages = [_plugin_page(registry.find(kind, name)) for kind in KINDS if name in registry.names(kind)]
    if name.partition("[")[0] in protocol_names():
        pages.append(_protocol_page(name))
    if not pages:
        known = [*protocol_names(), *(known for kind in KINDS for known in registry.names(kind))]
        raise UsageError(f"There is nothing called '{name}'.", hint=did_you_mean(name, known))
    click.echo("\n\n".join(pages))


def _plugin_page(plugin: Plugin) -> str:
    spec = plugin.spec
    lines = [
        f"{click.style(spec.title, bold=True)}  ({spec.group[:-1]} '{spec.name}', {plugin.origin})",
        *textwrap.wrap(_sentence(spec.summary), _WIDTH),
    ]
    facts: list[tuple[str, object]] = []
    if isinstance(spec, MethodSpec):
        if spec.paper:
            paper = spec.paper
            facts.append(
                ("paper", f"{paper.title}. {paper.authors}. {paper.venue} {paper.year}. {paper.url}")
            )
        facts.append(("inputs", ", ".join(spec.inputs)))
        if spec.alpha is not None:
            facts.append(("alpha", f"{spec.alpha:g}, instead of the protocol's"))
    elif isinstance(spec, DatasetSpec):
        facts.append(("splits", f"train on '{spec.train_split}', test on '{spec.test_split}'"))
        facts.append(("five-crop", "yes" if spec.five_crop else "no"))
        facts.append(("backbone", spec.default_backbone or "none by default"))
    elif isinstance(spec, BackboneSpec):
        facts += [
            ("patch", f"{spec.patch} pixels" if spec.patch else ""),
            ("tokens", f"{spec.dim} channels" if spec.dim else ""),
            ("mean, std", f"{spec.mean}, {spec.std}" if spec.mean else ""),
            ("trained on", spec.trained_on),
            ("weights", spec.url),
            ("sha256", spec.sha256),
        ]
    facts += [("source", spec.source), ("licence", spec.licence)]
    lines += ["", _facts(facts)]
    if isinstance(spec, DatasetSpec) and spec.classes:
        rows = [
            (index, row.name, row.kind or "", "#{:02x}{:02x}{:02x}".format(*row.colour))
            for index, row in enumerate(spec.classes)
        ]
        lines += ["", tabulate(rows, headers=["class", "name", "kind", "colour"])]
    if not isinstance(spec, BackboneSpec):
        flag = "--set" if isinstance(spec, MethodSpec) else "--data"
        lines += ["", _options(plugin, flag, skip=0 if isinstance(spec, MethodSpec) else 1)]
    if isinstance(spec, MethodSpec) and spec.presets:
        presets = [
            (
                preset.name,
                ", ".join(f"{key} {value}" for key, value in preset.when.items()) or "--preset only",
                " ".join(f"{key}={value}" for key, value in preset.params.items()),
            )
            for preset in spec.presets
        ]
        lines += ["", tabulate(presets, headers=["preset", "applies to", "parameters"])]
    for note in spec.notes:
        lines += ["", *textwrap.wrap(note, _WIDTH, initial_indent="note  ", subsequent_indent="      ")]
    return "\n".join(lines)


def _protocol_page(name: str) -> str:
    protocol = get_protocol(name)
    fields: dict[str, Any] = msgspec.to_builtins(protocol)
    crf = fields.pop("crf")
    rows = [(key, value) for key, value in fields.items() if key not in ("name", "version")]
    rows += [(f"crf.{key}", value) for key, value in crf.items()]
    summary = SUMMARIES[name.partition("[")[0]]
    title = f"{click.style(protocol.id, bold=True)}  (protocol, hash {protocol.hash})"
    return f"{title}\n{_sentence(summary)}\n\n{tabulate(rows, tablefmt='plain')}"


def _options(plugin: Plugin, flag: str, *, skip: int) -> str:
    """Return the table of keyword options, with the docstrings that follow them in the source."""
    entry = plugin.load()
    docs = _attribute_docs(entry)
    rows = []
    for parameter in list(inspect.signature(entry).parameters.values())[skip:]:
        default = "" if parameter.default is inspect.Parameter.empty else repr(parameter.default)
        rows.append((parameter.name, default, docs.get(parameter.name, "")))
    if not rows:
        return f"It takes no options ({flag})."
    return tabulate(rows, headers=[flag, "default", ""], maxcolwidths=[None, None, 70], disable_numparse=True)


def _attribute_docs(entry: Any) -> dict[str, str]:
    """Read the string after each annotated attribute of a class body: dataclasses keep no docs."""
    import ast

    try:
        (body,) = ast.parse(textwrap.dedent(inspect.getsource(entry))).body
    except (OSError, TypeError, ValueError):
        return {}
    docs: dict[str, str] = {}
    statements = getattr(body, "body", [])
    for statement, following in itertools.pairwise(statements):
        if not (isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name)):
            continue
        if isinstance(following, ast.Expr) and isinstance(following.value, ast.Constant):
            docs[statement.target.id] = " ".join(str(following.value.value).split())
    return docs


def _facts(facts: list[tuple[str, object]]) -> str:
    rows = [(key, value) for key, value in facts if value]
    return tabulate(rows, tablefmt="plain", maxcolwidths=[None, _WIDTH - 14])


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:] + ("" if text.endswith(".") else ".")
